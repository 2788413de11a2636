package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"carrel/hub"
)

const (
	upgradeTimeout = 10 * time.Second
	writeTimeout   = 60 * time.Second // a peer that takes nothing for so long is gone
	closeWait      = time.Second
	halfOpen       = 10 * time.Second // how long one direction goes on after the other's end
	chunkSize      = 32 << 10
)

// tunnel forwards an upgrade with its headers intact; after the 101 both sides are raw, so that
// sub-protocols and permessage-deflate pass end to end.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request, rt *route, who caller) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Method != http.MethodGet {
		return &statusError{http.StatusBadRequest, "only websockets are spoken here", ""}
	}
	back, err := dial(r.Context(), rt.Endpoint)
	if err != nil {
		return unreachable(w, err)
	}
	backReader, res, err := p.upgrade(back, r, rt, who)
	if err != nil {
		back.Close() //nolint:errcheck // of no use
		return unreachable(w, err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer back.Close()     //nolint:errcheck // used up
		defer res.Body.Close() //nolint:errcheck // relayed below
		cleanResponse(res.Header, p.cfg.Origins.ServerPath(rt.Key))
		for k, v := range res.Header {
			w.Header()[k] = v
		}
		for _, k := range hopByHop {
			w.Header().Del(k)
		}
		w.WriteHeader(res.StatusCode)
		_, err := io.Copy(w, io.LimitReader(res.Body, 1<<20))
		return hub.Wrap(hub.Canceled, "relay refusal", err)
	}
	front, frontBuf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		back.Close() //nolint:errcheck // of no use
		return hub.Wrap(hub.Internal, "take connection over", err)
	}
	t := &live{front: front, back: back, session: who.Session, key: rt.Key, gen: rt.Generation, route: rt}
	head := "HTTP/1.1 101 Switching Protocols\r\n"
	cleanResponse(res.Header, p.cfg.Origins.ServerPath(rt.Key))
	var b strings.Builder
	_ = res.Header.Write(&b) // a strings.Builder does not fail
	p.tunnels.add(t)
	// The handler's goroutine goes on as one of the two pumps, whose end is the tunnel's.
	defer p.tunnels.remove(t)
	t.run([]byte(head+b.String()+"\r\n"), buffered(frontBuf.Reader), buffered(backReader))
	return nil
}

// upgrade sends the request on and reads the server's answer.
func (p *Proxy) upgrade(back net.Conn, r *http.Request, rt *route, who caller) (*bufio.Reader, *http.Response, error) {
	out := r.Clone(r.Context())
	out.RequestURI, out.Body, out.ContentLength = "", nil, 0
	protocols, connection := out.Header.Get("Upgrade"), "Upgrade"
	cleanRequest(out.Header)
	p.setForwarded(out.Header, r)
	p.introduce(out.Header, rt, who)
	out.Header.Set("Connection", connection)
	out.Header.Set("Upgrade", protocols)
	out.URL.Scheme, out.URL.Host = "http", "server"
	_ = back.SetDeadline(time.Now().Add(upgradeTimeout))
	defer back.SetDeadline(time.Time{}) //nolint:errcheck // a broken connection shows at once
	if err := out.Write(back); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReaderSize(back, 4<<10)
	res, err := http.ReadResponse(br, out)
	return br, res, err
}

// buffered is what a reader has read ahead; the reader is not used any more.
func buffered(r *bufio.Reader) []byte {
	b, _ := r.Peek(r.Buffered())
	return append([]byte(nil), b...)
}

// live is one open tunnel.
type live struct {
	front, back net.Conn
	session     hub.SecretHash
	key         hub.ServerKey
	gen         hub.Generation
	route       *route

	mu      sync.Mutex // writes to front, toFront, closing
	toFront frames
	closing []byte // a close frame that waits for a boundary
	closed  bool
}

// run carries bytes both ways until both directions have ended.
func (t *live) run(head, fromFront, fromBack []byte) {
	defer t.front.Close() //nolint:errcheck // over
	defer t.back.Close()  //nolint:errcheck // over
	for _, c := range []net.Conn{t.front, t.back} {
		_ = c.SetDeadline(time.Time{})
	}
	if _, err := t.front.Write(head); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		input := frames{}
		send := func(b []byte) error {
			before := input.data
			input.advance(b)
			if input.data != before {
				t.route.touch()
			}
			return write(t.back, b)
		}
		if len(fromFront) == 0 || send(fromFront) == nil {
			pump(t.front, send)
		}
		closeWrite(t.back)
		_ = t.back.SetReadDeadline(time.Now().Add(halfOpen))
	})
	if len(fromBack) == 0 || t.toClient(fromBack) == nil {
		pump(t.back, t.toClient)
	}
	closeWrite(t.front)
	_ = t.front.SetReadDeadline(time.Now().Add(halfOpen))
	wg.Wait()
}

var errClosed = errors.New("the tunnel was closed")

// toClient writes a chunk to the browser; a close frame that waits goes out at the first boundary.
func (t *live) toClient(b []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	if t.closing != nil {
		probe := t.toFront
		for i := range b {
			if probe.advance(b[i:i+1]) == 1 {
				t.closed = true
				return errors.Join(write(t.front, append(append([]byte(nil), b[:i+1]...), t.closing...)), errClosed)
			}
		}
	}
	t.toFront.advance(b)
	return write(t.front, b)
}

// cut ends the tunnel with a clean close frame, between two frames where the stream reaches such a
// place in time.
func (t *live) cut(code uint16, reason string) {
	t.mu.Lock()
	if t.closed || t.closing != nil {
		t.mu.Unlock()
		return
	}
	frame := closeFrame(code, reason)
	if t.toFront.atBoundary() {
		t.closed = true
		_ = t.front.SetWriteDeadline(time.Now().Add(closeWait))
		_, _ = t.front.Write(frame) // the connection ends either way
	} else {
		t.closing = frame
	}
	t.mu.Unlock()
	closeWrite(t.back)
	_ = t.back.SetReadDeadline(time.Now().Add(closeWait))
	_ = t.front.SetReadDeadline(time.Now().Add(closeWait)) // the browser's close frame, or enough
}

func write(c net.Conn, b []byte) error {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Write(b)
	return err
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// pump reads from a connection until its end and gives each chunk to send. While the connection is
// silent no buffer is held: one is borrowed only once there is something to read.
func pump(src net.Conn, send func([]byte) error) {
	sc, ok := src.(syscall.Conn)
	if !ok {
		pumpPlain(src, send)
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf, _ = chunks.Get().(*[]byte)
			for {
				n, rerr = unix.Read(int(fd), *buf) //nolint:gosec // a descriptor
				if rerr != unix.EINTR {            //nolint:errorlint // an errno
					break
				}
			}
			if rerr == unix.EAGAIN { //nolint:errorlint // an errno
				chunks.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err != nil || rerr != nil || n <= 0 {
			if buf != nil {
				chunks.Put(buf)
			}
			return
		}
		err = send((*buf)[:n])
		chunks.Put(buf)
		if err != nil {
			return
		}
	}
}

// pumpPlain is for connections that are no plain sockets, such as TLS.
func pumpPlain(src net.Conn, send func([]byte) error) {
	buf := make([]byte, 4<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && send(buf[:n]) != nil || err != nil {
			return
		}
	}
}

// tunnels are the open ones, by session and by server.
type tunnels struct {
	mu        sync.Mutex
	bySession map[hub.SecretHash]map[*live]bool
	byServer  map[hub.ServerKey]map[*live]bool
	gone      sync.Cond
	n         int
}

func (s *tunnels) add(t *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySession == nil {
		s.bySession, s.byServer = map[hub.SecretHash]map[*live]bool{}, map[hub.ServerKey]map[*live]bool{}
		s.gone.L = &s.mu
	}
	if s.bySession[t.session] == nil {
		s.bySession[t.session] = map[*live]bool{}
	}
	if s.byServer[t.key] == nil {
		s.byServer[t.key] = map[*live]bool{}
	}
	s.bySession[t.session][t], s.byServer[t.key][t] = true, true
	s.n++
}

func (s *tunnels) remove(t *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.bySession[t.session], t); len(s.bySession[t.session]) == 0 {
		delete(s.bySession, t.session)
	}
	if delete(s.byServer[t.key], t); len(s.byServer[t.key]) == 0 {
		delete(s.byServer, t.key)
	}
	s.n--
	s.gone.Broadcast()
}

func (s *tunnels) sessions() []hub.SecretHash {
	s.mu.Lock()
	defer s.mu.Unlock()
	hashes := make([]hub.SecretHash, 0, len(s.bySession))
	for h := range s.bySession {
		hashes = append(hashes, h)
	}
	return hashes
}

// pick copies tunnels out of the lock.
func (s *tunnels) pick(add func(take func(map[*live]bool))) []*live {
	s.mu.Lock()
	defer s.mu.Unlock()
	var picked []*live
	add(func(m map[*live]bool) {
		for t := range m {
			picked = append(picked, t)
		}
	})
	return picked
}

func (s *tunnels) cutSessions(hashes []hub.SecretHash, reason string) {
	for _, t := range s.pick(func(take func(map[*live]bool)) {
		for _, h := range hashes {
			take(s.bySession[h])
		}
	}) {
		t.cut(closePolicy, reason)
	}
}

// cutRoute ends the tunnels of a server whose generation is another than keep.
func (s *tunnels) cutRoute(key hub.ServerKey, keep hub.Generation, reason string) {
	for _, t := range s.pick(func(take func(map[*live]bool)) { take(s.byServer[key]) }) {
		if t.gen != keep {
			t.cut(closeGoingAway, reason)
		}
	}
}

func (s *tunnels) cutAll(code uint16, reason string) {
	for _, t := range s.pick(func(take func(map[*live]bool)) {
		for _, m := range s.byServer {
			take(m)
		}
	}) {
		t.cut(code, reason)
	}
}

// wait waits until no tunnel is open, or ctx ends; then those left are cut off.
func (s *tunnels) wait(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		for _, t := range s.pick(func(take func(map[*live]bool)) {
			for _, m := range s.byServer {
				take(m)
			}
		}) {
			t.front.Close() //nolint:errcheck // over
			t.back.Close()  //nolint:errcheck // over
		}
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n > 0 {
		s.gone.Wait()
	}
}
