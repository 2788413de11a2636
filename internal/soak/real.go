package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/program"
	"carrel/internal/visitor"
)

// realActions are what clients of people with a real server do, and how often.
var realActions = []weighted[action]{
	{action{name: "JupyterLab page", do: (*client).loadLab, in: true}, 20},
	{action{name: "kernel", do: (*client).compute}, 35},
	{action{name: "file to and fro", do: (*client).keepFile, in: true}, 20},
	{action{name: "intruder", do: (*client).intrude, asks: true}, 10},
	{action{name: "hub's word", do: (*client).askHub, hub: true}, 10},
	{action{name: "hub's pages", do: (*client).visitHub, hub: true}, 5},
}

// signInForReal goes through the provider's pages and through the ticket to the person's own host.
func (c *client) signInForReal(ctx context.Context) error {
	s := c.run.site
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx, 0) }}
	defer tr.CloseIdleConnections()
	v, err := visitor.New(s.url, tr)
	if err != nil {
		return err
	}
	if err := v.SignIn(ctx, c.who.name.String(), c.who.password); err != nil {
		return err
	}
	if _, err := v.Send(ctx, http.MethodGet, c.who.address(s, "lab"), nil); err != nil {
		return err
	}
	atHub, err := v.Cookie(s.url, hub.CookieSession)
	if err != nil {
		return err
	}
	atOwn, err := v.Cookie(c.who.origin(s)+"/", hub.CookieNotebook)
	c.jar = cookies{hub.NewSecret(atHub), hub.NewSecret(atOwn)}
	return err
}

// reviveAfter does what a person does whose server is gone: starts it again, if it is.
func (c *client) reviveAfter(ctx context.Context) {
	began := time.Now()
	if err := c.revive(ctx, 2*time.Minute); err != nil && ctx.Err() == nil {
		c.run.judge.record("server comes back", began, err, "nothing excuses this")
	}
}

// revive starts the person's server and kernel unless they run. One of the person's clients does.
func (c *client) revive(ctx context.Context, within time.Duration) error {
	c.who.mu.Lock()
	defer c.who.mu.Unlock()
	ctx, done := context.WithTimeout(ctx, within)
	defer done()
	for {
		asked := time.Now()
		err := c.findKernel(ctx)
		if err == nil {
			c.who.seen = asked
			return nil
		}
		if c.who.kernel == "" {
			err = errors.Join(err, c.startServer(ctx))
		}
		if program.Pause(ctx, 500*time.Millisecond) != nil {
			return fmt.Errorf("%s: the server is not back: %w", c.who.name, err)
		}
	}
}

// findKernel makes sure of a kernel. It is called with the person's lock held.
func (c *client) findKernel(ctx context.Context) error {
	if c.who.kernel != "" {
		req, err := c.request(ctx, http.MethodGet, "api/kernels/"+c.who.kernel, nil)
		if err != nil {
			return err
		}
		res, err := c.send(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		switch res.StatusCode {
		case http.StatusOK:
			return nil
		case http.StatusNotFound, http.StatusFailedDependency, http.StatusServiceUnavailable:
			c.who.kernel = "" // of a server that is gone
		}
	}
	b, err := c.read(ctx, http.MethodPost, "api/kernels", strings.NewReader("{}"), http.StatusCreated)
	if err != nil {
		return err
	}
	var k struct{ ID string }
	if err := json.Unmarshal(b, &k); err != nil || k.ID == "" {
		return fmt.Errorf("a new kernel reads %.100q: %w", b, err)
	}
	c.who.kernel = k.ID
	return nil
}

// startServer asks for the server; that it is coming already, or there, is no fault.
func (c *client) startServer(ctx context.Context) error {
	body := fmt.Sprintf(`{"profile":%q}`, c.who.profile)
	req, err := c.hubRequest(ctx, http.MethodPost, "api/users/"+c.who.name.String()+"/server", strings.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil || res.StatusCode == http.StatusCreated || res.StatusCode == http.StatusAccepted {
		return err
	}
	return fmt.Errorf("start: status %d: %.200s", res.StatusCode, b)
}

var assetIn = regexp.MustCompile(`src="([^"]+\.js[^"]*)"`)

// loadLab opens the page, as a person follows a link, and some of what belongs to it.
func (c *client) loadLab(ctx context.Context) error {
	req, err := c.request(ctx, http.MethodGet, "lab", nil)
	if err != nil {
		return err
	}
	for _, name := range []string{"Mode", "Dest"} {
		req.Header.Set("Sec-Fetch-"+name, map[string]string{"Mode": "navigate", "Dest": "document"}[name])
	}
	req.Header.Del("Origin")
	b, err := c.whole(req, http.StatusOK, 4<<20)
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(`"`+c.who.key.Path()+`"`)) {
		return wrongf("%s's page does not name their server: %.300q", c.who.name, b)
	}
	for _, m := range assetIn.FindAllSubmatch(b, -1) {
		if err := c.loadLabAsset(ctx, string(m[1])); err != nil {
			return err
		}
	}
	return nil
}

// loadLabAsset loads a script: under one name every server has the same.
func (c *client) loadLabAsset(ctx context.Context, address string) error {
	page, own := strings.CutPrefix(address, c.who.key.Path())
	if !own {
		return wrongf("%s's page leads to %s", c.who.name, address)
	}
	b, err := c.read(ctx, http.MethodGet, page, nil, http.StatusOK)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	name, _, _ := strings.Cut(path.Base(page), "?")
	if before, again := c.run.scripts.LoadOrStore(name, sum); again && before != sum {
		return wrongf("%s was given another %s than others: %d bytes", c.who.name, page, len(b))
	}
	return nil
}

// compute has the kernel say whose it is.
func (c *client) compute(ctx context.Context) error {
	c.who.mu.Lock()
	kernel := c.who.kernel
	c.who.mu.Unlock()
	if kernel == "" {
		return &refused{0, "the server is being started again"}
	}
	conn, err := c.dialWS(ctx, "api/kernels/"+kernel+"/channels", false)
	if err != nil {
		return err
	}
	defer conn.Close()
	c.used.Store(1 << c.entry(conn.NetConn()))
	nonce := c.rng.Uint64()
	for range 1 + c.rng.IntN(4) {
		nonce++
		out, err := visitor.Execute(conn, fmt.Sprintf(`import os; print(os.environ["JUPYTERHUB_USER"], %d)`, nonce), patience)
		if err != nil {
			return fmt.Errorf("%s's kernel: %w", c.who.name, err)
		}
		if owner, _, _ := strings.Cut(out, " "); owner != c.who.name.String() {
			return breachf("%s's kernel says %q", c.who.name, out)
		}
		if want := fmt.Sprintf("%s %d", c.who.name, nonce); out != want {
			return wrongf("%s's kernel says %q in place of %q", c.who.name, out, want)
		}
	}
	return nil
}

// keepFile writes a file of the client's own and reads it back.
func (c *client) keepFile(ctx context.Context) error {
	p := payload{c.who.name.String(), c.rng.Uint64(), min(c.size(), 256<<10)}
	name := fmt.Sprintf("of-%d.bin", c.id)
	model := fmt.Sprintf(`{"type":"file","format":"base64","content":%q}`, base64.StdEncoding.EncodeToString(p.bytes()))
	req, err := c.request(ctx, http.MethodPut, "api/contents/"+name, strings.NewReader(model))
	if err != nil {
		return err
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		if err := expect(res, http.StatusOK); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if req, err = c.request(ctx, http.MethodGet, "files/"+name, nil); err != nil {
		return err
	}
	back, err := c.answered(req, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return err
	}
	defer back.Body.Close()
	return c.take(back.Body, p)
}

// visitHub opens the home page, which names who is signed in.
func (c *client) visitHub(ctx context.Context) error {
	req, err := c.hubRequest(ctx, http.MethodGet, "home", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/html")
	b, err := c.whole(req, http.StatusOK, 1<<20)
	if err == nil && !bytes.Contains(b, []byte(c.who.name.String())) {
		return wrongf("the hub's page for %s does not name them: %.300q", c.who.name, b)
	}
	return err
}
