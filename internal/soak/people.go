package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"carrel/hub"
	"carrel/hub/redisstore"
)

// A person owns one server: a real one in a container, or a made-up one of the backends'.
type person struct {
	name     hub.UserName
	id       hub.UserID
	key      hub.ServerKey
	real     bool
	endpoint hub.Endpoint // of a made-up one
	password string       // of a real one, as is what follows
	profile  string

	mu     sync.Mutex
	kernel string
	seen   time.Time // when the server last proved to be there
}

// scope names the person's own server among what can be disturbed.
func (p *person) scope() string {
	if p.real {
		return "server of " + p.name.String()
	}
	return "backends"
}

func newPerson(name string) (*person, error) {
	u, err := hub.ParseUserName(name)
	return &person{name: u, key: hub.ServerKey{User: u}}, err
}

// madeUp is made-up person i; dir is the run's directory.
func madeUp(i int, dir string) (*person, error) {
	p, err := newPerson(fmt.Sprintf("made%04d", i))
	if err != nil {
		return nil, err
	}
	p.id = hub.UserID("u-" + p.name.String())
	p.endpoint, err = hub.ParseEndpoint("unix://" + filepath.Join(dir, "b", p.name.String()+".sock"))
	return p, err
}

// A registry puts made-up people into Redis, as sign-ins and starts would.
type registry struct {
	store   *redisstore.Store
	origins hub.Origins
}

func (p *person) identity() hub.Identity {
	return hub.Identity{Issuer: "https://soak.invalid/", Subject: p.name.String()}
}

// settleIn gives a made-up person a record, and a route to the backend. The record's handle is of a
// driver that the hub does not have, so that it can't look after the server, and lets it be.
func (g registry) settleIn(ctx context.Context, p *person) error {
	now := time.Now()
	if _, err := g.store.BindUser(ctx, hub.User{ID: p.id, Name: p.name, Identity: p.identity(), Provider: "soak", Created: now, LastSeen: now}); err != nil {
		return err
	}
	_, err := g.store.PutServer(ctx, hub.Server{
		Key: p.key, UserID: p.id, Generation: 1, Phase: hub.Ready, Intent: hub.WantRunning, Profile: "soak",
		Handle: hub.Handle{Driver: "soak", Version: 1, Data: []byte("{}")}, Endpoint: p.endpoint, Since: now, Started: now,
	})
	if err != nil {
		return err
	}
	return g.store.PutRoute(ctx, hub.Route{Key: p.key, UserID: p.id, Generation: 1, Endpoint: p.endpoint})
}

// moveOut removes all that is kept of a made-up person.
func (g registry) moveOut(ctx context.Context, p *person) error {
	_, err := g.store.EndSessions(ctx, hub.SessionQuery{User: p.name})
	rec, recErr := g.store.Server(ctx, p.key)
	if recErr == nil {
		recErr = g.store.DeleteServer(ctx, rec)
	}
	return errors.Join(err, recErr, g.store.DeleteRoute(ctx, p.key, 1), g.store.DeleteUser(ctx, p.name))
}

// cookies are what a signed-in browser has: for the hub's host and for the person's own.
type cookies struct{ hub, notebook hub.Secret }

// signIn makes a made-up person's browser a session, as a sign-in and a ticket would.
func (g registry) signIn(ctx context.Context, p *person) (cookies, error) {
	c := cookies{hub.RandomSecret(), hub.RandomSecret()}
	now := time.Now()
	parent := hub.Session{
		Hash: c.hub.Hash(), User: p.name, UserID: p.id, Provider: "soak", Identity: p.identity(), Created: now, LastSeen: now,
		Expires: now.Add(24 * time.Hour), Idle: 12 * time.Hour,
	}
	if err := g.store.CreateSession(ctx, parent); err != nil {
		return c, err
	}
	child := hub.Session{Hash: c.notebook.Hash(), Host: g.origins.Host(p.name), Created: now, Expires: parent.Expires}.Under(parent)
	return c, g.store.CreateSession(ctx, child)
}

// signOut ends a browser's sessions, as a back-channel logout would.
func (g registry) signOut(ctx context.Context, c cookies) error {
	_, err := g.store.EndSessions(ctx, hub.SessionQuery{Hash: c.hub.Hash()})
	return err
}

// pick chooses one of weighted things.
func pick[T any](rng *rand.Rand, things []weighted[T]) T {
	total := 0
	for _, t := range things {
		total += t.weight
	}
	n := rng.IntN(total)
	for _, t := range things {
		if n -= t.weight; n < 0 {
			return t.thing
		}
	}
	panic("unreachable")
}

type weighted[T any] struct {
	thing  T
	weight int
}
