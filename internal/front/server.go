package front

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves what Listeners give: plain requests of HTTP/1.1 in a loop of its own, everything else
// by net/http, which a connection is left to with its first request that is not plain. Both call the
// same handler.
//
// A request is plain if its head is written in the plainest way and fits a buffer, its method is one
// that browsers send, its target a path, its body's length told, and if it asks for nothing of the
// connection but that it be kept or closed. What is at fault is never plain: every refusal is
// net/http's.
type Server struct {
	std    *http.Server
	others *handover

	began time.Time // what times of visits count from
	begin func()    // starts net/http's side and the looking after, once
	over  chan struct{}
	end   func()
	wg    sync.WaitGroup // both

	leaving atomic.Bool // answers are the last ones of their connections

	mu        sync.Mutex
	listeners map[net.Listener]bool
	visits    []*visit
	ended     bool // nothing new is begun
}

// NewServer takes what net/http is told for both. It starts nothing. Of the server's timeouts the
// header's and the idle one are kept, and its ConnContext is asked for each connection; without an ErrorLog nothing is logged.
func NewServer(std *http.Server) *Server {
	if std.ErrorLog == nil {
		std.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	}
	s := &Server{std: std, others: newHandover(), began: time.Now(), over: make(chan struct{}), listeners: map[net.Listener]bool{}}
	s.begin = sync.OnceFunc(func() {
		s.wg.Go(func() { _ = std.Serve(s.others) }) // it ends with the handover
		s.wg.Go(s.lookAfter)
	})
	s.end = sync.OnceFunc(func() { close(s.over) })
	return s
}

// Serve accepts until the listener ends, which it closes. What was accepted is served on: see Shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.begin()
	defer l.Close()
	s.mu.Lock()
	s.listeners[l] = true
	s.mu.Unlock()
	for wait := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			s.welcome(c)
		case passes(err):
			wait = min(max(5*time.Millisecond, 2*wait), time.Second)
			s.logf("http: Accept error: %v; retrying in %v", err, wait)
			time.Sleep(wait)
		case s.leaving.Load():
			return http.ErrServerClosed
		default:
			return err
		}
	}
}

// passes tells whether Accept may do better a moment later, as without free descriptors.
func passes(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

// welcome begins to serve a connection.
func (s *Server) welcome(c net.Conn) {
	v := newVisit(s, c)
	if v == nil {
		s.others.give(c)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = c.Close()
		return
	}
	v.at = len(s.visits)
	s.visits = append(s.visits, v)
	go v.serve() // it is in visits as long as it lasts
}

// left forgets a visit.
func (s *Server) left(v *visit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.visits) - 1
	s.visits[v.at] = s.visits[last]
	s.visits[v.at].at = v.at
	s.visits[last] = nil
	s.visits = s.visits[:last]
}

// all are the visits of now, in a slice that is used again.
func (s *Server) all(list []*visit) []*visit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(list[:0], s.visits...)
}

// endIfDone begins nothing new once no visit is left, and tells whether it is so.
func (s *Server) endIfDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.ended || len(s.visits) == 0
	return s.ended
}

const shutdownPoll = 5 * time.Millisecond

// Shutdown ends as [http.Server.Shutdown] does: the listeners and idle connections at once, others with
// their request.
func (s *Server) Shutdown(ctx context.Context) error {
	s.begin() // so that both have an end
	s.refuse()
	tick := time.NewTicker(shutdownPoll)
	defer tick.Stop()
	for !s.endIfDone() {
		for _, v := range s.all(nil) {
			v.leave()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.std.Shutdown(ctx))
		case <-tick.C:
		}
	}
	if err := s.std.Shutdown(ctx); err != nil {
		return err
	}
	s.end()
	s.wg.Wait()
	return nil
}

// refuse ends the listeners.
func (s *Server) refuse() {
	s.leaving.Store(true)
	s.mu.Lock()
	list := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range list {
		_ = l.Close() // it may be closed
	}
}

// Close cuts every connection and ends the listeners. As with [http.Server.Close], handlers may still be at work then.
func (s *Server) Close() error {
	s.begin()
	s.refuse()
	s.mu.Lock()
	s.ended = true
	list := append([]*visit(nil), s.visits...)
	s.mu.Unlock()
	for _, v := range list {
		v.cut()
	}
	err := s.std.Close()
	s.end()
	s.wg.Wait()
	return err
}

func (s *Server) logf(format string, args ...any) { s.std.ErrorLog.Printf(format, args...) }

// handover is the listener that net/http gets its connections from.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	end   func()
}

func newHandover() *handover {
	h := &handover{conns: make(chan net.Conn), done: make(chan struct{})}
	h.end = sync.OnceFunc(func() { close(h.done) })
	return h
}

// give waits until net/http has the connection, or closes it at the end.
func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// Accept implements [net.Listener].
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handover) Close() error {
	h.end()
	return nil
}

// Addr implements [net.Listener].
func (h *handover) Addr() net.Addr { return nowhere{} }

// nowhere is the address of what nobody can dial.
type nowhere struct{}

// Network implements [net.Addr].
func (nowhere) Network() string { return "handover" }

// String implements [net.Addr].
func (nowhere) String() string { return "handover" }
