package hubtest

import (
	"context"
	"fmt"
	"iter"

	"carrel/hub"
)

// Server implements [hub.ServerStore].
func (s *Store) Server(ctx context.Context, key hub.ServerKey) (x hub.Server, err error) {
	const op = "Server"
	err = s.do(ctx, op, func() error {
		have, ok := s.servers[key]
		if !ok {
			return notFound(op)
		}
		x = copied(have)
		return nil
	})
	return x, err
}

// PutServer implements [hub.ServerStore].
func (s *Store) PutServer(ctx context.Context, x hub.Server) (hub.Server, error) {
	const op = "PutServer"
	err := s.do(ctx, op, func() error {
		if s.servers[x.Key].Revision != x.Revision {
			return conflict(op, "this server's record changed meanwhile")
		}
		s.revision++
		x.Revision = s.revision
		s.servers[x.Key] = copied(x)
		told := x
		told.LogTail = nil
		s.tellChange(hub.Event{Kind: hub.ServerChanged, Key: x.Key, Server: &told})
		return nil
	})
	if err != nil {
		return hub.Server{}, err
	}
	return copied(x), nil
}

// DeleteServer implements [hub.ServerStore].
func (s *Store) DeleteServer(ctx context.Context, x hub.Server) error {
	const op = "DeleteServer"
	return s.do(ctx, op, func() error {
		have, ok := s.servers[x.Key]
		if !ok || have.Revision != x.Revision {
			return conflict(op, "this server's record changed meanwhile")
		}
		delete(s.servers, x.Key)
		if x.Key.User.IsVisitor() {
			delete(s.generations, x.Key)
		}
		s.tellChange(hub.Event{Kind: hub.ServerChanged, Key: x.Key})
		return nil
	})
}

// NextGeneration implements [hub.ServerStore].
func (s *Store) NextGeneration(ctx context.Context, key hub.ServerKey, least hub.Generation) (g hub.Generation, err error) {
	err = s.do(ctx, "NextGeneration", func() error {
		g = max(s.generations[key], least) + 1
		s.generations[key] = g
		return nil
	})
	return g, err
}

// Servers implements [hub.ServerStore].
func (s *Store) Servers(ctx context.Context) iter.Seq2[hub.Server, error] {
	return yieldAll(ctx, s, "Servers", func() (all []hub.Server) {
		for _, x := range s.servers {
			all = append(all, copied(x))
		}
		return all
	})
}

// ServerLabels implements [hub.ServerNames].
func (s *Store) ServerLabels(ctx context.Context) iter.Seq2[string, error] {
	return yieldAll(ctx, s, "ServerLabels", func() (all []string) {
		for key := range s.servers {
			all = append(all, key.Label())
		}
		return all
	})
}

// tellChange names a change, and tells of it. It is called with the lock held.
func (s *Store) tellChange(e hub.Event) {
	s.changes++
	e.Change, e.After = fmt.Sprint("change-", s.changes), s.change
	s.change = e.Change
	s.tell(e)
}

// LastChange implements [hub.Changes].
func (s *Store) LastChange(ctx context.Context) (last string, err error) {
	err = s.do(ctx, "LastChange", func() error {
		last = s.change
		return nil
	})
	return last, err
}

// PutRoute implements [hub.RouteStore].
func (s *Store) PutRoute(ctx context.Context, r hub.Route) error {
	const op = "PutRoute"
	return s.do(ctx, op, func() error {
		if have, ok := s.routes[r.Key]; ok && have.Generation > r.Generation {
			return conflict(op, "a newer start of this server has a route")
		}
		s.routes[r.Key] = r
		s.tellChange(hub.Event{Kind: hub.RouteChanged, Key: r.Key, Route: &r})
		return nil
	})
}

// DeleteRoute implements [hub.RouteStore].
func (s *Store) DeleteRoute(ctx context.Context, key hub.ServerKey, g hub.Generation) error {
	return s.do(ctx, "DeleteRoute", func() error {
		if have, ok := s.routes[key]; !ok || have.Generation > g {
			return nil
		}
		delete(s.routes, key)
		s.tellChange(hub.Event{Kind: hub.RouteChanged, Key: key})
		return nil
	})
}

// Routes implements [hub.RouteStore].
func (s *Store) Routes(ctx context.Context) iter.Seq2[hub.Route, error] {
	return yieldAll(ctx, s, "Routes", func() (all []hub.Route) {
		for _, r := range s.routes {
			all = append(all, r)
		}
		return all
	})
}

// RecordActivity implements [hub.RouteStore].
func (s *Store) RecordActivity(ctx context.Context, acts []hub.Activity) error {
	return s.do(ctx, "RecordActivity", func() error {
		for _, a := range acts {
			if last, ok := s.activity[a.Key]; !ok || a.Last.After(last) {
				s.activity[a.Key] = a.Last
			}
		}
		return nil
	})
}

// Activities implements [hub.RouteStore].
func (s *Store) Activities(ctx context.Context) iter.Seq2[hub.Activity, error] {
	return yieldAll(ctx, s, "Activities", func() (all []hub.Activity) {
		for key, last := range s.activity {
			all = append(all, hub.Activity{Key: key, Last: last})
		}
		return all
	})
}
