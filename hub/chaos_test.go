package hub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// chaos is a deployment in which anything happens to anyone, reproducibly.
type chaos struct {
	*world
	rand  *rand.Rand
	hubs  [2]*process
	keys  []hub.ServerKey
	story []string
}

func (c *chaos) key() hub.ServerKey { return c.keys[c.rand.IntN(len(c.keys))] }

func (c *chaos) hub() *process { return c.hubs[c.rand.IntN(len(c.hubs))] }

// ask makes a call of a person, who waits 5 s for the answer.
func (c *chaos) ask(call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	go func() {
		defer cancel()
		_ = call(ctx) // what it says, nobody knows in all this
	}()
}

// happen makes one thing happen, and tells what.
func (c *chaos) happen() string {
	key, n := c.key(), c.rand.IntN(len(c.hubs))
	points := []hubtest.Point{hubtest.AtStart, hubtest.AtCreated, hubtest.AtRunning, hubtest.AtStop, hubtest.AtStopped, hubtest.AtInspect, hubtest.AtList}
	point := points[c.rand.IntN(len(points))]
	away := time.Duration(c.rand.IntN(20)) * time.Second
	switch c.rand.IntN(18) {
	case 0, 1, 2, 3:
		h := c.hubs[n]
		c.ask(func(ctx context.Context) error { _, err := h.Start(ctx, ask(key)); return err })
		return fmt.Sprintf("start %s at %d", key, n)
	case 4, 5, 6:
		h := c.hubs[n]
		c.ask(func(ctx context.Context) error { _, err := h.Stop(ctx, key, "chaos"); return err })
		return fmt.Sprintf("stop %s at %d", key, n)
	case 7:
		c.hubs[n].kill()
		c.hubs[n] = c.world.hub()
		return fmt.Sprintf("hub %d is killed", n)
	case 8:
		c.hubs[n].quit()
		c.hubs[n] = c.world.hub()
		return fmt.Sprintf("hub %d is restarted", n)
	case 9:
		c.store.Away(true)
		time.AfterFunc(away, func() { c.store.Away(false) })
		return "the store is away for " + away.String()
	case 10:
		c.machine.SetAway(true)
		time.AfterFunc(away, func() { c.machine.SetAway(false) })
		return "the machine is away for " + away.String()
	case 11:
		c.machine.Die(key, "chaos")
		return fmt.Sprintf("%s ends by itself", key)
	case 12:
		c.machine.On(point, hubtest.Times(2, hubtest.Fail(errors.New("chaos"))))
		return "the driver fails at " + string(point)
	case 13:
		c.machine.On(point, hubtest.Times(3, hubtest.Slow(away)))
		return "the driver is slow at " + string(point)
	case 14:
		c.notebook.Set(key, hubtest.Mood{After: time.Duration(c.rand.IntN(20)) * time.Second, Broken: c.rand.IntN(4) == 0, Deaf: c.rand.IntN(4) == 0})
		return fmt.Sprintf("%s has a mood", key)
	case 15:
		if c.rand.IntN(4) > 0 {
			return "nothing"
		}
		c.store.Away(false)
		c.store.Wipe()
		c.person("alice")
		c.person("bob")
		return "the store is wiped"
	case 16:
		c.calm()
		return "calm"
	default:
		c.hubs[n].loseLeases(c.t.Context())
		return fmt.Sprintf("hub %d loses its leases", n)
	}
}

// calm puts everything right, but what the hubs have to put right themselves.
func (c *chaos) calm() {
	c.store.Away(false)
	c.machine.SetAway(false)
	for _, p := range []hubtest.Point{hubtest.AtStart, hubtest.AtCreated, hubtest.AtRunning, hubtest.AtStop, hubtest.AtStopped, hubtest.AtInspect, hubtest.AtList} {
		c.machine.On(p, nil)
	}
	for _, key := range c.keys {
		c.notebook.Set(key, hubtest.Mood{})
	}
}

// Whatever happens, when it is over every server is ready with one container and one route, or it
// is not and has none; it never had two containers, and it starts again.
func TestChaos(t *testing.T) {
	for seed := range uint64(25) {
		inWorld(t, func(t *testing.T, w *world) {
			c := &chaos{world: w, rand: rand.New(rand.NewPCG(seed, 1)), keys: []hub.ServerKey{keyOf(t, "alice", ""), keyOf(t, "alice", "gpu"), keyOf(t, "bob", "")}}
			for i := range c.hubs {
				c.hubs[i] = w.hub()
			}
			for range 150 {
				c.story = append(c.story, c.happen())
				time.Sleep(time.Duration(c.rand.IntN(8000)) * time.Millisecond)
			}
			c.calm()
			settle()
			settle()
			for _, key := range c.keys {
				rec := w.record(key)
				if rec.Phase.Pending() {
					t.Errorf("%s is %s for ever: %+v", key, rec.Phase, rec)
				}
				w.agrees(key, rec.Phase)
				if wants := rec.Intent == hub.WantRunning; rec.Revision > 0 && wants != (rec.Phase == hub.Ready) {
					t.Errorf("%s is wanted %s, and is %s", key, rec.Intent, rec.Phase)
				}
				if _, err := c.hub().Start(t.Context(), ask(key)); err != nil {
					t.Errorf("start %s after it all: %v", key, err)
				}
			}
			time.Sleep(5 * time.Second)
			for _, key := range c.keys {
				w.agrees(key, hub.Ready)
			}
			if t.Failed() {
				for i, s := range c.story {
					t.Log(i, s)
				}
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
