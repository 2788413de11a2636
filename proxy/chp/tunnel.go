package chp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	upgradeTimeout = 30 * time.Second
	drainTimeout   = 30 * time.Second // for one direction, once the other has ended
	tunnelBuffer   = 8 << 10
)

// tunnel forwards an upgrade; after the 101 both sides are raw.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request, m match) {
	if r.Method != http.MethodGet || r.ContentLength != 0 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		panic(http.ErrAbortHandler) // the original drops the connection too; a body would become frames
	}
	back, err := p.dialer.connect(r.Context(), m.to)
	if err != nil {
		p.fail(w, r, http.StatusServiceUnavailable, err)
		return
	}
	defer back.Close()
	forever(back)
	res, reader, err := p.upgrade(r.Context(), back, r, m)
	if err != nil {
		p.fail(w, r, http.StatusServiceUnavailable, err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		relayRefusal(w, res)
		return
	}
	front, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	defer front.Close()
	forever(front)
	_ = front.SetDeadline(time.Time{})
	if !p.tunnels.add(front, back) {
		return // we are going away
	}
	defer p.tunnels.remove(front)
	if _, err := front.Write(switching(res.Header)); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { pass(front, back, reader, nil) })
	pass(back, front, buf.Reader, func() { p.used(m.name) })
	wg.Wait()
}

// upgrade sends the request on and reads the server's answer.
func (p *Proxy) upgrade(ctx context.Context, back net.Conn, r *http.Request, m match) (*http.Response, *bufio.Reader, error) {
	out := r.Clone(ctx)
	out.RequestURI, out.Body, out.ContentLength, out.TransferEncoding, out.Trailer = "", nil, 0, nil, nil
	out.URL, out.Host = m.url(), r.Host
	for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Content-Length"} {
		out.Header.Del(name)
	}
	if !p.cfg.NoXForward {
		setForwarded(out.Header, r, "ws")
	}
	p.introduce(out, m)
	out.Header.Set("Connection", "Upgrade")
	out.Header.Set("Upgrade", "websocket")
	asWritten(out.Header)
	_ = back.SetDeadline(time.Now().Add(p.patience()))
	if err := out.Write(back); err != nil {
		return nil, nil, err
	}
	bound := &io.LimitedReader{R: back, N: maxServerHead}
	reader := bufio.NewReaderSize(bound, 4<<10)
	res, err := http.ReadResponse(reader, out)
	for err == nil && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
		res, err = http.ReadResponse(reader, out)
	}
	if err != nil {
		return nil, nil, err
	}
	bound.N = 1<<63 - 1
	_ = back.SetDeadline(time.Time{})
	return res, reader, nil
}

// patience is how long a server may think about an upgrade.
func (p *Proxy) patience() time.Duration {
	if p.cfg.ProxyTimeout > 0 {
		return p.cfg.ProxyTimeout
	}
	return upgradeTimeout
}

// relayRefusal hands on what a server said instead of an upgrade, and ends the connection.
func relayRefusal(w http.ResponseWriter, res *http.Response) {
	for name, values := range res.Header {
		w.Header()[name] = values
	}
	for _, name := range []string{"Keep-Alive", "Transfer-Encoding", "Upgrade"} {
		w.Header().Del(name)
	}
	w.Header().Set("Connection", "close")
	w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(w, res.Body); err != nil {
		panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
	}
}

// switching is the head that the browser gets.
func switching(h http.Header) []byte {
	h.Del("Content-Length")
	asWritten(h)
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&b) // a strings.Builder does not fail
	b.WriteString("\r\n")
	return []byte(b.String())
}

// asWritten gives headers the names that RFC 6455 writes: some programs compare them to the letter.
func asWritten(h http.Header) {
	for name, values := range h {
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			delete(h, name)
			h["Sec-WebSocket-"+rest] = values
		}
	}
}

// pass copies one direction, what was read ahead first. When it ends the other may finish, for a while.
func pass(dst, src net.Conn, ahead *bufio.Reader, each func()) {
	err := copyBytes(dst, src, ahead, each)
	if half, ok := dst.(interface{ CloseWrite() error }); !ok || err != nil || half.CloseWrite() != nil {
		dst.Close()
		src.Close()
		return
	}
	_ = dst.SetReadDeadline(time.Now().Add(drainTimeout))
}

func copyBytes(dst, src net.Conn, ahead *bufio.Reader, each func()) error {
	buf := make([]byte, tunnelBuffer)
	for {
		from := io.Reader(src)
		if ahead.Buffered() > 0 {
			from = io.LimitReader(ahead, int64(ahead.Buffered()))
		}
		n, err := from.Read(buf)
		if n > 0 {
			if each != nil {
				each()
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tunnels are those open, which end with the proxy.
type tunnels struct {
	mu    sync.Mutex
	ended bool
	open  map[net.Conn]net.Conn
}

func (t *tunnels) add(front, back net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	if t.open == nil {
		t.open = map[net.Conn]net.Conn{}
	}
	t.open[front] = back
	return true
}

func (t *tunnels) remove(front net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, front)
}

func (t *tunnels) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for front, back := range t.open {
		front.Close()
		back.Close()
	}
}
