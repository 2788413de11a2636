package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

func session(user string) hub.Session {
	name, err := hub.ParseUserName(user)
	if err != nil {
		panic(err) // a name made up here
	}
	now := time.Now()
	return hub.Session{
		Hash: hub.RandomSecret().Hash(), User: name, Identity: hub.Identity{Issuer: "https://login.example.org", Subject: user},
		SID: "sid-" + user, Created: now, LastSeen: now, Expires: now.Add(time.Hour),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// breaker makes the nth command of a store fail: before it is sent, or with its answer lost.
type breaker struct {
	left   atomic.Int64
	answer bool
}

func (b *breaker) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b *breaker) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if b.left.Add(-1) != 0 {
			return next(ctx, cmd)
		}
		if b.answer {
			_ = next(ctx, cmd) // nobody hears
		}
		err := fmt.Errorf("read tcp: %w", io.EOF)
		cmd.SetErr(err)
		return err
	}
}

func (b *breaker) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestSignOutBrokenOff breaks EndSessions, the only change that takes several steps, at each of its
// commands: what it had ended is told, the logout counts for sign-ins under way from the first step
// on, and asking again ends the rest.
func TestSignOutBrokenOff(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for at := 1; ; at++ {
			s := openStore(t, Config{URL: "redis://" + startMini(t).Addr(), Prefix: fmt.Sprintf("%v-%d:", lost, at)})
			first := session("alice")
			for range 3 {
				x := first
				x.Hash = hub.RandomSecret().Hash()
				must(t, s.CreateSession(t.Context(), x))
			}
			broken := &breaker{answer: lost}
			broken.left.Store(int64(at))
			s.rdb.AddHook(broken)
			q := hub.SessionQuery{Identity: first.Identity}
			ended, err := s.EndSessions(t.Context(), q)
			if broken.left.Load() > 0 { // it takes fewer commands than at
				must(t, err)
				if at < 8 || len(ended) != 3 {
					t.Fatalf("all %d commands went through; ended %d", at-1, len(ended))
				}
				break
			}
			if err == nil || hub.KindOf(err) != hub.Unavailable {
				t.Fatalf("command %d failed, and the answer is %v", at, err)
			}
			for _, h := range ended {
				if _, err := s.Session(t.Context(), h); hub.KindOf(err) != hub.NotFound {
					t.Errorf("command %d: %s was returned and not ended: %v", at, h, err)
				}
			}
			if at > 1 || lost {
				if err := s.CreateSession(t.Context(), first); hub.KindOf(err) != hub.Unauthenticated {
					t.Errorf("command %d: the tombstone is missing: %v", at, err)
				}
			}
			_, err = s.EndSessions(t.Context(), q)
			must(t, err)
			for x, err := range s.Sessions(t.Context()) {
				t.Errorf("command %d: a session was left: %v, %v", at, x.Hash, err)
			}
		}
	}
}

// TestLeaseAnswerLost: go-redis sends a command again when a connection breaks; the lease that the
// first one took must not then be refused to its own holder.
func TestLeaseAnswerLost(t *testing.T) {
	r := startMini(t)
	through := forward(t, r.Addr())
	s := openStore(t, Config{URL: "redis://" + through.addr()})
	must(t, s.Ping(t.Context()))
	l, err := s.Acquire(t.Context(), "warm", time.Hour) // the script is known from here on
	must(t, err)
	must(t, l.Release(t.Context()))
	through.loseAnswer.Store(true)
	l, err = s.Acquire(t.Context(), "name", time.Hour)
	must(t, err)
	if through.loseAnswer.Load() {
		t.Fatal("no answer was lost")
	}
	must(t, l.Extend(t.Context(), time.Hour))
	if _, err := s.Acquire(t.Context(), "name", time.Hour); hub.KindOf(err) != hub.Conflict {
		t.Errorf("a second holder: %v", err)
	}
}

// TestSilentConnection: a firewall that forgets a connection tells neither side.
func TestSilentConnection(t *testing.T) {
	r := startMini(t)
	through := forward(t, r.Addr())
	s := openStore(t, Config{URL: "redis://" + through.addr()})
	s.silence = 200 * time.Millisecond
	events := make(chan hub.Event)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range s.Subscribe(ctx) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		}
	}()
	defer func() { stop(); <-done }()
	wait := func(what string) {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != hub.Reset {
				t.Fatalf("%s: heard %v", what, e)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: no Reset", what)
		}
	}
	wait("at first")
	select { // pings are answered: silence alone is no reason
	case e := <-events:
		t.Fatalf("heard %v", e)
	case <-time.After(5 * s.silence):
	}
	through.swallow()
	wait("after the connection went dead")
}

// forwarder passes TCP connections on, and can spoil them.
type forwarder struct {
	l          net.Listener
	loseAnswer atomic.Bool  // cuts a connection in place of its next answer
	epoch      atomic.Int64 // connections of an earlier one pass nothing on any more

	mu    sync.Mutex
	conns []net.Conn
}

// cut ends all connections.
func (f *forwarder) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func forward(t testing.TB, to string) *forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{l: l}
	t.Cleanup(func() { l.Close(); f.cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			f.mu.Lock()
			f.conns = append(f.conns, in, out)
			f.mu.Unlock()
			epoch := f.epoch.Load()
			both := func() { in.Close(); out.Close() }
			go f.pass(epoch, out, in, false, both)
			go f.pass(epoch, in, out, true, both)
		}
	}()
	return f
}

func (f *forwarder) addr() string { return f.l.Addr().String() }

func (f *forwarder) swallow() { f.epoch.Add(1) }

func (f *forwarder) pass(epoch int64, to io.Writer, from io.Reader, answers bool, end func()) {
	defer end()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || answers && f.loseAnswer.CompareAndSwap(true, false) {
			return
		}
		if f.epoch.Load() != epoch {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestErrorKinds(t *testing.T) {
	s := openStore(t, Config{URL: "redis://127.0.0.1:1"})
	for _, c := range []struct {
		err  error
		want hub.Kind
	}{
		{redis.Nil, hub.NotFound},
		{fmt.Errorf("all sentinels specified in configuration are unreachable: %w", redis.Nil), hub.Unavailable},
		{context.Canceled, hub.Canceled},
		{context.DeadlineExceeded, hub.Unavailable},
		{io.EOF, hub.Unavailable},
		{errors.New("LOADING Redis is loading the dataset in memory"), hub.Unavailable},
		{errors.New("READONLY You can't write against a read only replica"), hub.Unavailable},
	} {
		err := s.fail("try", c.err)
		if hub.KindOf(err) != c.want {
			t.Errorf("%v: got %v, want %v", c.err, hub.KindOf(err), c.want)
		}
		if message, _ := hub.Public(err); c.want == hub.Unavailable && (message == "" || strings.Contains(message, c.err.Error())) {
			t.Errorf("%v: people are shown %q", c.err, message)
		}
	}
	if err := s.fail("try", nil); err != nil {
		t.Error(err)
	}
}
