package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// A chat is an open websocket to a made-up server. What comes is checked as it comes.
type chat struct {
	c       *client
	entry   int // the proxy that it leads through
	conn    *websocket.Conn
	sent    chan payload // what is to be echoed, in this order
	echoed  chan struct{}
	ended   chan struct{}
	err     error       // why, once it ended
	leaving atomic.Bool // its end is the client's own doing
}

const (
	maxMessage = 64 << 10
	burst      = 8
	// silence is longer than a backend is ever silent for.
	silence = 6 * tickEvery
)

// talk sends a few messages and waits for their echoes; now and then it hangs up.
func (c *client) talk(ctx context.Context) error {
	if c.chat == nil || c.chat.over() {
		if err := c.openChat(ctx); err != nil {
			return err
		}
	}
	open := c.chat
	c.used.Store(1 << open.entry)
	for range 1 + c.rng.IntN(burst) {
		p := payload{c.who.name.String(), c.rng.Uint64(), min(c.size(), maxMessage)}
		select {
		case open.sent <- p:
		case <-open.ended:
			return nil // judged where it was heard of
		}
		_ = open.conn.SetWriteDeadline(time.Now().Add(patience)) // a broken connection shows at once
		if err := open.conn.WriteMessage(websocket.BinaryMessage, p.bytes()); err != nil {
			return nil //nolint:nilerr // likewise
		}
		select {
		case <-open.echoed:
		case <-open.ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%s: no echo: %w", c.who.name, ctx.Err())
		}
	}
	if c.rng.IntN(20) == 0 {
		c.hangUp()
	}
	return nil
}

func (o *chat) over() bool {
	select {
	case <-o.ended:
		return true
	default:
		return false
	}
}

// dialWS opens a websocket below the client's server.
func (c *client) dialWS(ctx context.Context, page string, compress bool, protocols ...string) (*websocket.Conn, error) {
	d := websocket.Dialer{
		NetDialContext:   func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx, 0) },
		HandshakeTimeout: patience, EnableCompression: compress, Subprotocols: protocols, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
	}
	h := http.Header{"Origin": {c.who.origin(c.run.site)}, "Cookie": {"carrel-notebook=" + c.jar.notebook.Reveal()}}
	conn, res, err := d.DialContext(ctx, "ws"+strings.TrimPrefix(c.who.address(c.run.site, page), "http"), h)
	if errors.Is(err, websocket.ErrBadHandshake) && res != nil {
		defer res.Body.Close()
		if honest := expect(res, http.StatusSwitchingProtocols, c.gone()...); honest != nil {
			return nil, honest
		}
	}
	return conn, err
}

// gone are the statuses by which a real server says that a kernel was the one's before it.
func (c *client) gone() []int {
	if c.who.real {
		return []int{http.StatusNotFound}
	}
	return nil
}

func (c *client) openChat(ctx context.Context) error {
	conn, err := c.dialWS(ctx, "talk", c.rng.IntN(2) == 0, "soak.v1")
	if err != nil {
		return err
	}
	if got := conn.Subprotocol(); got != "soak.v1" {
		conn.Close()
		return wrongf("%s: the websocket's protocol is %q", c.who.name, got)
	}
	o := &chat{c: c, entry: c.entry(conn.NetConn()), conn: conn, sent: make(chan payload, 1), echoed: make(chan struct{}, 1), ended: make(chan struct{})}
	c.chat = o
	c.run.readers.Go(o.listen)
	c.run.chats.Add(1)
	return nil
}

// listen checks what comes until the end, and has that judged.
func (o *chat) listen() {
	defer o.c.run.chats.Add(-1)
	defer o.conn.Close()
	ticks, echoes := 0, 0
	for o.err == nil {
		_ = o.conn.SetReadDeadline(time.Now().Add(silence)) // a broken connection shows at once
		_, message, err := o.conn.ReadMessage()
		if err != nil {
			o.err = err
			break
		}
		text, body, _ := bytes.Cut(message, []byte("\n"))
		if string(text) == fmt.Sprintf("tick %s %d", o.c.who.name, ticks) && len(body) == 0 {
			ticks++
			continue
		}
		o.err = o.echo(string(text), body, echoes)
		echoes++
	}
	close(o.ended)
	var f *finding
	if !errors.As(o.err, &f) && (o.leaving.Load() || o.c.run.over.Load()) {
		o.c.run.judge.record("websocket stays", time.Now(), nil)
		return
	}
	needs := []string{o.c.who.scope(), proxyScope(o.entry)}
	if goesAway(o.err) {
		needs = append(needs, toldScope(o.entry))
	}
	o.c.run.judge.record("websocket stays", time.Now(), fmt.Errorf("%s: %w", o.c.who.name, o.err), needs...)
}

// echo checks the echo of the message that was sent last.
func (o *chat) echo(text string, body []byte, n int) error {
	me := o.c.who.name.String()
	if kind, rest, _ := strings.Cut(text, " "); kind == "tick" || kind == "echo" {
		if owner, _, _ := strings.Cut(rest, " "); owner != me {
			return breachf("%s's websocket brought %.100q", me, text)
		}
	}
	select {
	case p := <-o.sent:
		if want := fmt.Sprintf("echo %s %d", me, n); text != want {
			return wrongf("%s's websocket brought %.100q in place of %q", me, text, want)
		}
		check := p.checker()
		if _, err := check.Write(body); err != nil {
			return err
		}
		if err := check.whole(); err != nil {
			return err
		}
		o.echoed <- struct{}{}
		return nil
	default:
		return wrongf("%s's websocket brought %.100q, for which nothing was sent", me, text)
	}
}

// hangUp closes the websocket, if there is one, as browsers do.
func (c *client) hangUp() {
	if c.chat == nil {
		return
	}
	c.chat.leaving.Store(true)
	_ = c.chat.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second)) // it may be over
	select {
	case <-c.chat.ended:
	case <-time.After(2 * time.Second):
		c.chat.conn.Close()
	}
	c.chat = nil
}
