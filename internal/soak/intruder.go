package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
	"carrel/internal/program"
)

// A trick is a way to another person's server.
type trick struct {
	name   string
	victim bool   // on the victim's host, else on one's own
	page   string // raw path below the host
	cookie string
	origin string // of a websocket; empty: it is no websocket
	right  bool   // one's own page by the same way: proves that the others are refused for what they try
}

// intrude tries to get at what is not the client's. Only a refusal is right.
func (c *client) intrude(ctx context.Context) error {
	victim := c.run.people[c.rng.IntN(len(c.run.people))]
	if victim == c.who {
		victim = c.run.people[(slices.Index(c.run.people, victim)+1)%len(c.run.people)]
	}
	theirs, mine := "/user/"+victim.name.String()+"/", "/user/"+c.who.name.String()+"/"
	own := c.jar.notebook.Reveal()
	tricks := []trick{
		{name: "own cookie", victim: true, page: theirs + "lab", cookie: own},
		{name: "own hub cookie", victim: true, page: theirs + "lab", cookie: c.jar.hub.Reveal()},
		{name: "made-up cookie", victim: true, page: theirs + "lab", cookie: hub.RandomSecret().Reveal()},
		{name: "no cookie", victim: true, page: theirs + "lab"},
		{name: "hub cookie on own host", page: mine + "lab", cookie: c.jar.hub.Reveal()},
		{name: "path of another", page: theirs + "lab", cookie: own},
		{name: "dots", page: mine + "../" + victim.name.String() + "/lab", cookie: own},
		{name: "encoded dots", page: mine + "%2e%2e/" + victim.name.String() + "/lab", cookie: own},
		{name: "encoded slash", page: "/user/" + c.who.name.String() + "%2f..%2f" + victim.name.String() + "/lab", cookie: own},
		{name: "two slashes", page: "/user//" + victim.name.String() + "/lab", cookie: own},
		{name: "nothing", page: mine + "lab", cookie: own, right: true},
		{name: "websocket, own cookie", victim: true, page: theirs + "talk", cookie: own, origin: victim.origin(c.run.site)},
		{name: "websocket, foreign page", page: mine + "talk", cookie: own, origin: victim.origin(c.run.site)},
	}
	t := tricks[c.rng.IntN(len(tricks))]
	host := c.who
	if t.victim {
		host = victim
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host.origin(c.run.site)+"/", nil)
	if err != nil {
		return err
	}
	c.dress(req, t.cookie)
	req.URL.Opaque = t.page // as it is, byte for byte
	if t.origin != "" {
		req.Header.Set("Origin", t.origin)
		for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "c29ha3NvYWtzb2Frc29haw=="} {
			req.Header.Set(k, v)
		}
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if t.right {
		return expect(res, http.StatusOK)
	}
	return c.refusal(res, t, victim)
}

// refusal checks that a trick was refused.
func (c *client) refusal(res *http.Response, t trick, victim *person) error {
	switch res.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "owner=") {
			return breachf("%s with %q: status %d, and bytes of a server: %.200q", c.who.name, t.name, res.StatusCode, b)
		}
		return nil
	case http.StatusServiceUnavailable:
		return expect(res, http.StatusUnauthorized) // an honest failure
	}
	return breachf("%s got at %s with %q: status %d", c.who.name, victim.name, t.name, res.StatusCode)
}

// revokeWithin is when a signed-out cookie must open nothing any more. A second is promised; the
// machine that this runs on may be busy with other things.
const revokeWithin = 3 * time.Second

// signOut ends the client's session, as from elsewhere, and signs in anew. The old cookie must be
// refused by both proxies, and the open websocket be cut with the right word.
func (c *client) signOut(ctx context.Context) error {
	if c.chat == nil || c.chat.over() {
		if err := c.openChat(ctx); err != nil {
			return err
		}
	}
	old, open := c.jar, c.chat
	open.leaving.Store(true)
	out := c.run.registry.signOut(ctx, old)
	if began := time.Now(); out == nil {
		out = errors.Join(c.awaitCut(ctx, open, began), c.awaitRefusal(ctx, old, began))
	}
	c.hangUp()
	for {
		fresh, err := c.run.registry.signIn(ctx, c.who)
		if err == nil {
			c.jar, c.proven = fresh, [2]time.Time{}
			return out
		}
		if program.Pause(ctx, time.Second) != nil {
			return err
		}
	}
}

// awaitCut waits until the websocket was closed for the sign-out.
func (c *client) awaitCut(ctx context.Context, open *chat, began time.Time) error {
	select {
	case <-open.ended:
	case <-time.After(revokeWithin):
		return fmt.Errorf("%s: the websocket is open %v after the sign-out", c.who.name, revokeWithin)
	case <-ctx.Done():
		return ctx.Err()
	}
	if !websocket.IsCloseError(open.err, websocket.ClosePolicyViolation) {
		return fmt.Errorf("%s: the sign-out ended the websocket with: %w", c.who.name, open.err)
	}
	c.run.lag(time.Since(began))
	return nil
}

// awaitRefusal waits until neither proxy lets an old cookie in.
func (c *client) awaitRefusal(ctx context.Context, old cookies, began time.Time) error {
	for i := range c.run.site.ports {
		for {
			status, err := c.tryCookie(ctx, i, old)
			if err != nil {
				return err
			}
			if status == http.StatusUnauthorized {
				break
			}
			if time.Since(began) > revokeWithin {
				return fmt.Errorf("%s: proxy %d gives status %d to a cookie %v after its sign-out", c.who.name, i, status, time.Since(began).Round(time.Millisecond))
			}
			if err := program.Pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// tryCookie asks one proxy, on a connection of its own, what a cookie opens.
func (c *client) tryCookie(ctx context.Context, i int, jar cookies) (int, error) {
	c.used.Or(1 << i)
	address := "http://127.0.0.1:" + c.run.site.ports[i] + c.who.key.Path() + "lab"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	c.dress(req, jar.notebook.Reveal())
	req.Host = c.run.site.origins.Host(c.who.name)
	req.Header.Set("Origin", c.who.origin(c.run.site))
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}
