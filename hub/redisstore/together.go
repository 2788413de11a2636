package redisstore

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// changeRoutes makes many changes in one script: what one costs is its way there and back, not the work.
// KEYS channel, change, routes, and each change's route; ARGV of each change: generation, value (none:
// it goes), label, event, change. It answers for each 1, 0 where a higher generation is there or there
// is nothing to remove, or what went wrong with that one alone.
var changeRoutes = redis.NewScript(tell + `
local function one(key, generation, value, label, event, name)
  local have = redis.call('GET', key)
  if have and tonumber(string.match(have, '"generation":(%d+)')) > tonumber(generation) then return 0 end
  if value ~= '' then
    redis.call('SET', key, value)
    redis.call('ZADD', KEYS[3], 0, label)
  elseif have then
    redis.call('DEL', key)
    redis.call('ZREM', KEYS[3], label)
  else
    return 0
  end
  tell(KEYS[1], KEYS[2], event, name)
  return 1
end
local said = {}
for i = 4, #KEYS do
  local at = (i - 4) * 5
  local fine, answer = pcall(one, KEYS[i], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
  if not fine then answer = type(answer) == 'table' and answer.err or tostring(answer) end
  said[i - 3] = answer
end
return said`)

// maxTogether bounds how long a script holds Redis up.
const maxTogether = 64

// A routeChange is one call that waits for its change.
type routeChange struct {
	op         string
	generation hub.Generation
	value      string // "": the route goes
	event      hub.Event
	done       chan error // holds one

	in   *batch // whose script makes it; nil: none yet
	left bool   // its call has ended
}

// A batch is what one script makes.
type batch struct {
	changes []*routeChange
	waiting int    // calls
	abandon func() // called when none is left
}

// together gathers the changes of calls that come while a script is under way. Whoever has the turn runs
// the next, for all who wait; it is handed on from call to call, so that no goroutine is needed.
type together struct {
	turn chan struct{} // holds one

	mu      sync.Mutex
	waiting []*routeChange // and of each the last two fields
}

func (t *together) add(c *routeChange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, c)
}

// take removes those whose turn it is; abandon is called if all of their calls end before it is done.
func (t *together) take(abandon func()) *batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.waiting), maxTogether)
	b := &batch{changes: slices.Clone(t.waiting[:n]), waiting: n, abandon: abandon}
	t.waiting = slices.Delete(t.waiting, 0, n)
	for _, c := range b.changes {
		c.in = b
	}
	return b
}

// leave tells that a call ended: its change is taken back, where no script makes it yet.
func (t *together) leave(c *routeChange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.left {
		return
	}
	c.left = true
	if c.in == nil {
		t.waiting = slices.DeleteFunc(t.waiting, func(x *routeChange) bool { return x == c })
		return
	}
	if c.in.waiting--; c.in.waiting == 0 {
		c.in.abandon()
	}
}

// changeRoute makes a change, together with those of others who are here at the same time.
func (s *Store) changeRoute(ctx context.Context, op string, g hub.Generation, value string, e hub.Event) error {
	if err := ctx.Err(); err != nil {
		return s.fail(op, err)
	}
	c := &routeChange{op: op, generation: g, value: value, event: changed(e), done: make(chan error, 1)}
	s.routes.add(c)
	stop := context.AfterFunc(ctx, func() { s.routes.leave(c) }) // also while it runs a script itself
	defer stop()
	for {
		select {
		case err := <-c.done:
			return err
		case <-ctx.Done():
			s.routes.leave(c)
			return s.fail(op, ctx.Err())
		case s.routes.turn <- struct{}{}:
			s.runRoutes(ctx)
			<-s.routes.turn
		}
	}
}

// runRoutes runs the script for all who wait, be it that ctx ends meanwhile, and gives each their answer.
func (s *Store) runRoutes(ctx context.Context) {
	ctx, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	b := s.routes.take(abandon)
	if len(b.changes) == 0 {
		return
	}
	keys := []string{s.channel(), s.key("change"), s.key("routes")}
	var args []any
	for _, c := range b.changes {
		label := c.event.Key.Label()
		keys = append(keys, s.key("route", label))
		args = append(args, uint64(c.generation), c.value, label, encode(c.event), c.event.Change)
	}
	said, err := changeRoutes.Run(ctx, s.rdb, keys, args...).Slice()
	if err == nil && len(said) != len(b.changes) {
		err = errors.New("the script answered for others")
	}
	for i, c := range b.changes {
		if err != nil {
			c.done <- s.fail(c.op, err)
			continue
		}
		c.done <- s.routeAnswer(c, said[i])
	}
}

func (s *Store) routeAnswer(c *routeChange, said any) error {
	switch answer := said.(type) {
	case int64:
		if answer == 0 && c.value != "" {
			return conflict(c.op, "a newer start of this server has a route")
		}
		return nil
	case string:
		return s.fail(c.op, errors.New(answer))
	}
	return s.fail(c.op, errors.New("the script's answer is not understood"))
}
