package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"carrel/internal/program"

	"github.com/gorilla/websocket"
)

// A client is one browser: its cookies, its connections, and what it does next.
type client struct {
	run  *run
	id   int
	rng  *rand.Rand
	who  *person
	home int // the proxy that it is kept at
	http *http.Client
	jar  cookies
	chat *chat

	used   atomic.Uint32 // which proxies the present action went through, a bit for each
	proven [2]time.Time  // when each last let the cookies through
}

// patience is how long one answer may take; all that is asked for comes in a fraction of it.
const patience = time.Minute

func (r *run) newClient(id int, who *person) *client {
	c := &client{run: r, id: id, who: who, home: id % 2, rng: rand.New(rand.NewPCG(r.o.seed, uint64(id)+1))}
	c.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx, 0) },
			// Sooner than the proxy's own, which closes a connection just as something is sent on it.
			IdleConnTimeout: 40 * time.Second, MaxIdleConnsPerHost: 6, DisableCompression: true,
			ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
		},
	}
	return c
}

// dial reaches the proxy that the client is kept at, or the other while that refuses connections.
// receive is the size of the socket's buffer, in bytes; 0 is the system's.
func (c *client) dial(ctx context.Context, receive int) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if receive > 0 {
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var err error
			return errors.Join(raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive)
			}), err)
		}
	}
	var last error
	for _, i := range []int{c.home, 1 - c.home} {
		c.used.Or(1 << i)
		conn, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+c.run.site.ports[i])
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}

// entry tells which proxy a connection leads to.
func (c *client) entry(conn net.Conn) int {
	if strings.HasSuffix(conn.RemoteAddr().String(), ":"+c.run.site.ports[1]) {
		return 1
	}
	return 0
}

// origin is that of the person's notebooks.
func (p *person) origin(s *site) string { return s.origins.ServerOrigin(p.name) }

// address is a page of the person's server.
func (p *person) address(s *site, page string) string { return s.origins.ServerURL(p.key, page) }

// request is what a page of the client's own notebook sends.
func (c *client) request(ctx context.Context, method, page string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.who.address(c.run.site, page), body)
	if err != nil {
		return nil, err
	}
	c.dress(req, c.jar.notebook.Reveal())
	return req, nil
}

// dress gives a request a page's headers and a notebook cookie.
func (c *client) dress(req *http.Request, cookie string) {
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	if cookie != "" {
		req.Header.Set("Cookie", "theme=dark; carrel-notebook="+cookie)
	}
}

// send makes a request and notes which proxy it went through.
func (c *client) send(req *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { c.used.Or(1 << c.entry(i.Conn)) }}
	return c.http.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

// ask makes a request and wants a status; the body is the caller's to close.
func (c *client) ask(ctx context.Context, method, page string, body io.Reader, want int) (*http.Response, error) {
	req, err := c.request(ctx, method, page, body)
	if err != nil {
		return nil, err
	}
	return c.answered(req, want)
}

// answered sends a request and wants a status, as expect does; the body is the caller's to close.
func (c *client) answered(req *http.Request, want int, gone ...int) (*http.Response, error) {
	res, err := c.send(req)
	if err != nil {
		return nil, err
	}
	if err := expect(res, want, gone...); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// whole sends a request, wants a status, and reads the answer to at most so many bytes.
func (c *client) whole(req *http.Request, want int, most int64) ([]byte, error) {
	res, err := c.answered(req, want)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, most))
}

// read makes a request and reads the whole of a small answer.
func (c *client) read(ctx context.Context, method, page string, body io.Reader, want int) ([]byte, error) {
	res, err := c.ask(ctx, method, page, body, want)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, 8<<20))
}

// refused is an honest failure: one of ours, that says what it is.
type refused struct {
	status  int
	message string
}

func (r *refused) Error() string { return fmt.Sprintf("status %d: %s", r.status, r.message) }

// expect takes an answer apart whose status is not the wanted one: honest is 424, 502, 503 or 504
// with our own body, which tells a program the status again, and a person's page to start a server.
// So are the statuses in gone, by which a new server tells that something was the one's before it.
func expect(res *http.Response, want int, gone ...int) error {
	if res.StatusCode == want {
		return nil
	}
	if slices.Contains(gone, res.StatusCode) {
		return &refused{res.StatusCode, "it is gone"}
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 8<<10))
	if err != nil {
		return err
	}
	switch res.StatusCode {
	case http.StatusFailedDependency, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		var problem struct {
			Status          int
			Message, Remedy string
		}
		if json.Unmarshal(b, &problem) == nil && problem.Status == res.StatusCode && problem.Message != "" {
			return &refused{res.StatusCode, problem.Message}
		}
		if strings.Contains(string(b), "<main") && strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
			return &refused{res.StatusCode, "a page"}
		}
		return wrongf("status %d in place of %d with a body that is not ours: %.200q", res.StatusCode, want, b)
	case http.StatusFound:
		if at, err := res.Location(); err == nil && strings.Contains(at.Path, "/hub/spawn/") {
			return &refused{res.StatusCode, "led to the start page"}
		}
	}
	return wrongf("%s %s: status %d in place of %d: %.200q", res.Request.Method, res.Request.URL, res.StatusCode, want, b)
}

// An action is one thing that people do.
type action struct {
	name string
	do   func(*client, context.Context) error
	hub  bool // needs the hub, and Redis with it
	long bool // may take longer than requests may when a proxy goes away
	asks bool // shows cookies that the proxy has to ask Redis for
	in   bool // succeeds only when the proxy has let the cookie through
}

// act does one thing and has it judged.
func (c *client) act(ctx context.Context, a action) {
	began := time.Now()
	c.used.Store(0)
	doing, done := context.WithTimeout(ctx, patience)
	err := a.do(c, doing)
	done()
	var f *finding
	if ctx.Err() != nil && !errors.As(err, &f) {
		return // the run is over
	}
	c.run.actions.Add(1)
	failed := c.run.judge.record(a.name, began, err, c.needs(a, err)...)
	for i := range c.proven {
		if !failed && c.used.Load() == 1<<i && a.in {
			c.proven[i] = began
		}
	}
	if failed && c.who.real {
		c.reviveAfter(ctx)
	}
}

// known is how long a proxy honours a session that it knows with Redis away, less some.
const known = 4 * time.Minute

// needs lists what an action's success hung on. A session that its proxy knows needs no Redis.
func (c *client) needs(a action, err error) []string {
	needs := []string{c.who.scope()}
	if a.hub {
		needs = append(needs, "hub", "redis")
	}
	if a.asks {
		needs = append(needs, "redis")
	}
	for i := range c.proven {
		if c.used.Load()&(1<<i) == 0 {
			continue
		}
		needs = append(needs, proxyScope(i))
		if a.long || goesAway(err) {
			needs = append(needs, toldScope(i))
		}
		if c.proven[i].Before(c.run.site.began(i)) || time.Since(c.proven[i]) > known {
			needs = append(needs, "redis")
		}
	}
	return needs
}

func proxyScope(i int) string { return fmt.Sprintf("proxy %d", i) }

// toldScope is disturbed while a proxy is upgraded in place: websockets are told to come back, and
// what takes too long is cut.
func toldScope(i int) string { return fmt.Sprintf("upgrade of proxy %d", i) }

// goesAway tells whether a websocket was told that the proxy goes away.
func goesAway(err error) bool {
	closed, is := errors.AsType[*websocket.CloseError](err)
	return is && closed.Code == websocket.CloseGoingAway
}

// live acts and thinks by turns until ctx ends.
func (c *client) live(ctx context.Context) {
	defer c.http.CloseIdleConnections()
	actions := madeUpActions
	if c.who.real {
		actions = realActions
	}
	wait := time.Duration(c.rng.Float64() * float64(c.run.ramp)) // not all at once
	for program.Pause(ctx, wait) == nil {
		c.goHome()
		c.act(ctx, pick(c.rng, actions))
		wait = time.Duration(min(c.rng.ExpFloat64(), 4) * float64(c.run.o.think))
	}
	c.hangUp()
}

// goHome leaves the proxy that was a refuge, now that one's own has been back for a while: so would a
// load balancer have it, and both carry the same again.
func (c *client) goHome() {
	if time.Since(c.run.site.began(c.home)) < 2*settle || c.used.Load()&(1<<(1-c.home)) == 0 {
		return
	}
	c.http.CloseIdleConnections()
	if c.chat != nil && c.chat.entry != c.home {
		c.hangUp()
	}
}
