package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/front"
)

const (
	// Jupyter's answer to a kernel's websocket waits until the kernel has said how it is, for a minute at most.
	upgradeTimeout = 75 * time.Second
	refusalTimeout = 10 * time.Second
	maxRefusal     = 1 << 20 // of a server's answer that is no upgrade
	maxInformed    = 4       // informational answers before the one that counts
)

// tunnel forwards an upgrade with its headers intact; after the 101 both sides are raw, so that
// sub-protocols and permessage-deflate pass end to end.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request, rt *route, who caller) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Method != http.MethodGet || r.ContentLength != 0 {
		return &statusError{http.StatusBadRequest, "only websockets are spoken here", ""}
	}
	if p.tunnels.full(who.Session) {
		return &hub.Error{Kind: hub.TooMany, Op: "open tunnel", Message: "too many websockets are open", Remedy: "close some tabs"}
	}
	back, err := dial(r.Context(), rt.Endpoint)
	if err != nil {
		return unreachable(w, err)
	}
	a, err := p.upgrade(back, r, rt, who)
	if err != nil {
		back.Close()
		return unreachable(w, err)
	}
	p.receive(a.res, rt)
	if a.res.StatusCode != http.StatusSwitchingProtocols {
		defer back.Close()
		return relayRefusal(w, a)
	}
	taken, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		back.Close()
		return hub.Wrap(hub.Internal, "take connection over", err)
	}
	if rec, ok := w.(*recorder); ok {
		rec.status = http.StatusSwitchingProtocols
	}
	client, ahead := front.Release(taken)
	t := newLive(client, back, credential{who.Session, who.byToken}, rt)
	t.meter = &p.metrics.tunnels
	t.awake = p.awakeForTunnel
	p.loops.take(t)
	p.tunnels.add(t)
	p.metrics.begun(t)
	p.confirm(r, t)
	// The handler returns, and net/http's buffers with it: a tunnel may be silent for days.
	t.start(switching(a.res.Header), append(buffered(buf.Reader), ahead...), buffered(a.reader), p.tunnelEnded)
	return nil
}

func (p *Proxy) tunnelEnded(t *live) {
	p.tunnels.remove(t)
	p.metrics.ended(t)
}

// confirm looks again at what let the tunnel through, now that an event would find it: what ended
// between the check and the entry in the index was told to nobody.
func (p *Proxy) confirm(r *http.Request, t *live) {
	if now := p.routes.get(t.route.Key); now != t.route && !t.follows(now) {
		t.cut(closeGoingAway, "the server was stopped")
	}
	if live, err := p.live(r.Context(), t.who); err == nil && !live {
		t.cut(closePolicy, "you were signed out")
	}
}

// answer is what a server said to an upgrade.
type answer struct {
	res    *http.Response
	reader *bufio.Reader // has read on
	bound  *io.LimitedReader
	conn   net.Conn
}

// upgrade sends the request on and reads the server's answer, of which no more than is reasonable.
func (p *Proxy) upgrade(back net.Conn, r *http.Request, rt *route, who caller) (answer, error) {
	out := r.Clone(r.Context())
	out.RequestURI, out.Body, out.ContentLength, out.Trailer = "", nil, 0, nil
	cleanRequest(out.Header)
	p.setForwarded(out.Header, r)
	p.introduce(out.Header, rt, who)
	out.Header.Set("Connection", "Upgrade")
	out.Header.Set("Upgrade", "websocket")
	out.Header.Del("Accept-Encoding") // a refusal may be a page
	out.URL.Scheme, out.URL.Host = "http", "server"
	_ = back.SetDeadline(time.Now().Add(upgradeTimeout))
	if err := out.Write(back); err != nil {
		return answer{}, err
	}
	a := answer{bound: &io.LimitedReader{R: back, N: maxServerHead}, conn: back}
	a.reader = bufio.NewReaderSize(a.bound, 4<<10)
	for range maxInformed {
		res, err := http.ReadResponse(a.reader, out) //nolint:bodyclose // the caller's, or there is none
		switch {
		case err != nil:
			return answer{}, err
		case res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(res.Header.Get("Upgrade"), "websocket"):
			a.res = res
			return a, nil
		case res.StatusCode < 100 || res.StatusCode == http.StatusSwitchingProtocols:
			return answer{}, errNonsense
		}
	}
	return answer{}, errNonsense
}

// relayRefusal hands on what a server said instead of an upgrade.
func relayRefusal(w http.ResponseWriter, a answer) error {
	a.bound.N = maxRefusal
	_ = a.conn.SetDeadline(time.Now().Add(refusalTimeout))
	defer a.res.Body.Close()
	for k, v := range a.res.Header {
		w.Header()[k] = v
	}
	dropHops(w.Header())
	w.WriteHeader(a.res.StatusCode)
	if _, err := io.Copy(w, a.res.Body); err != nil {
		panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
	}
	return nil
}

// switching is the head that the browser gets, with the names of RFC 6455: some clients compare
// them to the letter.
func switching(h http.Header) []byte {
	h.Del("Content-Length")
	h.Set("Connection", "Upgrade")
	for name, values := range h {
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			delete(h, name)
			h["Sec-WebSocket-"+rest] = values
		}
	}
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&b) // a strings.Builder does not fail
	b.WriteString("\r\n")
	return []byte(b.String())
}

// buffered is what a reader has read ahead; the reader is not used any more.
func buffered(r *bufio.Reader) []byte {
	b, _ := r.Peek(r.Buffered())
	return append([]byte(nil), b...)
}

var errEnding = errors.New("the tunnel ends")
