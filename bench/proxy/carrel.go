package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"carrel/hub"
	"carrel/hub/redisstore"
	"carrel/internal/program"
)

// crowdSize is how many people there are: no session may have more than 300 websockets open.
const crowdSize = 40

// strangers are the people as a proxy sees them that checks nobody: their cookies are of the same
// length as real ones.
func strangers() []person {
	list := make([]person, crowdSize)
	for i := range list {
		name := nameOf(i)
		list[i] = person{
			Host: name + ".localhost:8000", Path: "/user/" + name + "/", Cookie: hub.CookieNotebook + "=" + hub.RandomSecret().Reveal(),
		}
	}
	return list
}

func nameOf(i int) string { return fmt.Sprintf("person%02d", i) }

// carrel is `carrel proxy` as it is run beside a hub, with a Redis of its own that holds real
// sessions and routes. It checks on every request who asks.
type carrel struct {
	binary string
	dir    string
	title  string // "carrel", where there is one only
	size   int    // how many people there are

	port    string
	started time.Duration // from the launch until it served
	crowd   []person
	redisAt string
	store   *redisstore.Store
	redis   *program.Process
	proc    *program.Process
}

func (c *carrel) name() string     { return c.title }
func (c *carrel) at() string       { return "127.0.0.1:" + c.port }
func (c *carrel) pid() int         { return c.proc.PID() }
func (c *carrel) people() []person { return c.crowd }

func (c *carrel) version(ctx context.Context) string {
	v, err := program.Output(ctx, c.binary, "version")
	if err != nil {
		return err.Error()
	}
	return v
}

const configuration = `deployment: bench
state_dir: %s/state
public_url: http://localhost:%s/
listen: ["127.0.0.1:%s"]
redis:
  url: %s
`

func (c *carrel) up(ctx context.Context, backend string) error {
	if err := c.upRedis(ctx); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	c.port = strconv.Itoa(program.FreePort())
	config := filepath.Join(c.dir, "carrel.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, c.dir, c.port, c.port, c.redisAt), 0o600); err != nil {
		return err
	}
	origins, err := hub.NewOrigins(hub.Subdomains, "http://localhost:"+c.port+"/", "")
	if err != nil {
		return err
	}
	if err := c.enrolAll(ctx, origins, "http://127.0.0.1:"+backend); err != nil {
		return err
	}
	began := time.Now()
	c.proc, err = program.Launch(exec.Command(c.binary, "proxy", "--config", config), filepath.Join(c.dir, "log")) //nolint:noctx // ended by Stop
	if err != nil {
		return err
	}
	if err := c.proc.Answers(ctx, time.Minute, func() bool { return c.healthy(ctx) }); err != nil {
		return err
	}
	c.started = time.Since(began)
	return c.guarded(ctx)
}

// enrolAll makes everybody's sessions and routes, several at a time.
func (c *carrel) enrolAll(ctx context.Context, o hub.Origins, endpoint string) error {
	const writers = 16
	c.crowd = make([]person, c.size)
	errs := make([]error, writers)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := w; i < c.size && errs[w] == nil; i += writers {
				c.crowd[i], errs[w] = c.enrol(ctx, o, nameOf(i), endpoint)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// routeOf is the route to a person's default server.
func routeOf(name string, at hub.Endpoint) (hub.Route, error) {
	key, err := hub.ParseServerKey(name, "")
	return hub.Route{Key: key, UserID: hub.UserID("bench-" + name), Generation: 1, Endpoint: at}, err
}

// upRedis starts a Redis that keeps nothing.
func (c *carrel) upRedis(ctx context.Context) error {
	if err := os.MkdirAll(c.dir, 0o711); err != nil { //nolint:gosec // the proxy, as another user, passes through
		return err
	}
	port := strconv.Itoa(program.FreePort())
	c.redisAt = "redis://127.0.0.1:" + port + "/0"
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", c.dir) //nolint:noctx // ended by Stop
	var err error
	if c.redis, err = program.Launch(cmd, filepath.Join(c.dir, "redis.log")); err != nil {
		return err
	}
	c.store, err = redisstore.New(redisstore.Config{URL: c.redisAt, Prefix: "carrel:bench:", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return c.redis.Answers(ctx, time.Minute, func() bool { return c.store.Ping(ctx) == nil })
}

// enrol makes a route, and the sessions of someone who is signed in: the hub's, and under it that of
// their own host, whose cookie their browser has.
func (c *carrel) enrol(ctx context.Context, o hub.Origins, name, endpoint string) (person, error) {
	at, err := hub.ParseEndpoint(endpoint)
	if err != nil {
		return person{}, err
	}
	route, err := routeOf(name, at)
	if err != nil {
		return person{}, err
	}
	key, now := route.Key, time.Now()
	parent := hub.Session{
		Hash: hub.RandomSecret().Hash(), User: key.User, UserID: route.UserID, Provider: "bench", Identity: hub.Identity{Issuer: "http://bench.invalid", Subject: name},
		Groups: []string{"staff"}, Created: now, LastSeen: now, Expires: now.Add(24 * time.Hour), Idle: 12 * time.Hour,
	}
	if err := c.store.CreateSession(ctx, parent); err != nil {
		return person{}, err
	}
	secret := hub.RandomSecret()
	child := hub.Session{Hash: secret.Hash(), Host: o.Host(key.User), Created: now, Expires: parent.Expires}.Under(parent)
	if err := c.store.CreateSession(ctx, child); err != nil {
		return person{}, err
	}
	if err := c.store.PutRoute(ctx, route); err != nil {
		return person{}, err
	}
	return person{Host: child.Host, Path: o.ServerPath(key), Cookie: o.Cookie(hub.CookieNotebook) + "=" + secret.Reveal()}, nil
}

func (c *carrel) healthy(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.at()+"/carrel-health", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// guarded makes sure that what is measured is a proxy that checks: without the cookie, and with
// another's, nothing is had.
func (c *carrel) guarded(ctx context.Context) error {
	for _, cookie := range []string{"", hub.CookieNotebook + "=" + hub.RandomSecret().Reveal(), c.crowd[1].Cookie} {
		who := c.crowd[0]
		who.Cookie = cookie
		k, err := dial(ctx, c.at(), who, 4<<10)
		if err != nil {
			return err
		}
		err = k.fetch()
		k.Close()
		if err == nil {
			return errors.New("the proxy lets strangers in: authentication is off")
		}
	}
	return nil
}

func (c *carrel) down() error {
	err := c.proc.Stop()
	if c.store != nil {
		err = errors.Join(err, c.store.Close())
	}
	return errors.Join(err, c.redis.Stop())
}
