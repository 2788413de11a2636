package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"time"

	"carrel/internal/program"
)

// madeUpActions are what clients of made-up people do, and how often.
var madeUpActions = []weighted[action]{
	{action{name: "page load", do: (*client).loadPage, in: true}, 30},
	{action{name: "download", do: (*client).download, in: true}, 12},
	{action{name: "upload", do: (*client).upload, in: true}, 10},
	{action{name: "websocket", do: (*client).talk}, 30},
	{action{name: "slow reader", do: (*client).readSlowly, long: true}, 3},
	{action{name: "gone midway", do: (*client).vanish}, 4},
	{action{name: "intruder", do: (*client).intrude, asks: true}, 7},
	{action{name: "hub's word", do: (*client).askHub, hub: true}, 3},
	{action{name: "sign-out", do: (*client).signOut, hub: true}, 1},
}

const (
	assets    = 6
	assetSize = 24 << 10
	maxBody   = 4 << 20
)

// size draws the size of a body: small ones mostly, up to 4 MiB.
func (c *client) size() int64 { return int64(math.Exp(c.rng.Float64() * math.Log(maxBody))) }

// loadPage loads a page and what belongs to it; half of that is known from the last time.
func (c *client) loadPage(ctx context.Context) error {
	b, err := c.read(ctx, http.MethodGet, "lab", nil, http.StatusOK)
	if err != nil {
		return err
	}
	if want := "<!doctype html><title>owner=" + c.who.name.String() + "</title>"; string(b) != want {
		return (&checker{want: payload{owner: c.who.name.String()}.stream()}).differs(b)
	}
	for i := range assets {
		if err := c.loadAsset(ctx, payload{c.who.name.String(), uint64(i), assetSize}, c.rng.IntN(2) == 0); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) loadAsset(ctx context.Context, p payload, known bool) error {
	req, err := c.request(ctx, http.MethodGet, fmt.Sprintf("assets/a.js?seed=%x&size=%d", p.seed, p.size), nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	tag := fmt.Sprintf("%q", fmt.Sprintf("%s-%x-%d", p.owner, p.seed, p.size))
	if known {
		req.Header.Set("If-None-Match", tag)
		want, p.size = http.StatusNotModified, 0
	}
	res, err := c.answered(req, want)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if got := res.Header.Get("Etag"); got != tag {
		return wrongf("%s: the tag of an asset is %q, not %q", p.owner, got, tag)
	}
	return c.take(res.Body, p)
}

// take reads a payload to its end and checks every byte.
func (c *client) take(body io.Reader, p payload) error {
	check := p.checker()
	if _, err := io.Copy(check, body); err != nil {
		return err
	}
	return check.whole()
}

func (c *client) some() payload { return payload{c.who.name.String(), c.rng.Uint64(), c.size()} }

func (c *client) download(ctx context.Context) error {
	p := c.some()
	res, err := c.ask(ctx, http.MethodGet, dataOf(p, c.rng.IntN(2) == 0), nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return c.take(res.Body, p)
}

// dataOf is the page that serves a payload, with its length told or in chunks.
func dataOf(p payload, length bool) string {
	page := fmt.Sprintf("files/data?seed=%x&size=%d", p.seed, p.size)
	if length {
		page += "&length=1"
	}
	return page
}

func (c *client) upload(ctx context.Context) error {
	p := c.some()
	sum := sha256.New()
	req, err := c.request(ctx, http.MethodPut, "upload", io.TeeReader(p.stream(), sum))
	if err != nil {
		return err
	}
	if c.rng.IntN(2) == 0 {
		req.ContentLength = p.size
	}
	b, err := c.whole(req, http.StatusCreated, 4<<10)
	if err != nil {
		return err
	}
	var got received
	if err := json.Unmarshal(b, &got); err != nil {
		return wrongf("%s: the answer to an upload reads %.200q", p.owner, b)
	}
	switch want := (received{p.owner, p.size, hex.EncodeToString(sum.Sum(nil))}); {
	case got.Owner != want.Owner:
		return breachf("an upload of %s reached %s", want.Owner, got.Owner)
	case got != want:
		return wrongf("%s: an upload arrived as %v, not %v", p.owner, got, want)
	}
	return nil
}

// raw sends a request by hand, on a connection that the caller closes, however it likes.
func (c *client) raw(ctx context.Context, req *http.Request, receive int) (net.Conn, error) {
	conn, err := c.dial(ctx, receive)
	if err != nil {
		return nil, err
	}
	c.used.Store(1 << c.entry(conn))
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // a broken connection shows at once
	}
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// readSlowly takes a few bytes a second of a large download for a while, and leaves.
func (c *client) readSlowly(ctx context.Context) error {
	p := payload{c.who.name.String(), c.rng.Uint64(), maxBody}
	req, err := c.request(ctx, http.MethodGet, dataOf(p, true), nil)
	if err != nil {
		return err
	}
	conn, err := c.raw(ctx, req, 4<<10)
	if err != nil {
		return err
	}
	defer conn.Close()
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := expect(res, http.StatusOK); err != nil {
		return err
	}
	check := p.checker()
	for range 5 + c.rng.IntN(20) {
		if _, err := io.CopyN(check, res.Body, 48); err != nil {
			return err
		}
		if err := program.Pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// vanish leaves in the middle of something, sometimes without a word, as a machine does that sleeps.
func (c *client) vanish(ctx context.Context) error {
	p := payload{c.who.name.String(), c.rng.Uint64(), maxBody}
	req, err := c.request(ctx, http.MethodGet, dataOf(p, c.rng.IntN(2) == 0), nil)
	up := c.rng.IntN(2) == 0
	if up {
		half := io.LimitReader(p.stream(), int64(c.rng.IntN(maxBody)))
		if req, err = c.request(ctx, http.MethodPut, "upload", half); err == nil {
			req.ContentLength = maxBody
		}
	}
	if err != nil {
		return err
	}
	conn, err := c.raw(ctx, req, 0)
	if up && err != nil {
		return nil //nolint:nilerr // there was not so much to send: it leaves here
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok && c.rng.IntN(2) == 0 {
		_ = tcp.SetLinger(0) // a reset in place of an end
	}
	if up {
		return nil
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := expect(res, http.StatusOK); err != nil {
		return err
	}
	_, err = io.CopyN(p.checker(), res.Body, int64(c.rng.IntN(maxBody/2)))
	return err
}

// hubRequest is what a page of the hub's sends.
func (c *client) hubRequest(ctx context.Context, method, page string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.run.site.origins.HubURL(page), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	req.Header.Set("Origin", c.run.site.origins.HubOrigin())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Cookie", "carrel-session="+c.jar.hub.Reveal())
	return req, nil
}

// askHub asks the hub who is signed in.
func (c *client) askHub(ctx context.Context) error {
	req, err := c.hubRequest(ctx, http.MethodGet, "api/user", nil)
	if err != nil {
		return err
	}
	b, err := c.whole(req, http.StatusOK, 64<<10)
	if err != nil {
		return err
	}
	var user struct{ Name string }
	if err := json.Unmarshal(b, &user); err != nil {
		return wrongf("the hub's answer to %s reads %.200q", c.who.name, b)
	}
	if user.Name != c.who.name.String() {
		return breachf("the hub takes %s for %q", c.who.name, user.Name)
	}
	return nil
}
