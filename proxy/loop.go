package proxy

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	events   = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	perTurn  = 256 // events
	haveMore = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

	turnsAtOnce = 16
)

// loop carries the messages of many tunnels in one goroutine, for as long as nothing has to be waited
// for: it reads what has come, and writes it at once. What can't be done so it leaves to a goroutine for
// that one way.
//
// Each socket has one turn of one chunk at a time, so that no tunnel holds up another, however much it
// brings, and nothing is kept but the chunk in hand.
type loop struct {
	file *os.File // the epoll instance, which Go's poller waits for
	fd   int

	// The loop's own:
	buf          *[]byte
	again, spare []token // of sockets to which more may have come than was read, each once
	n            uint64  // turns, from 1
	came         [perTurn]unix.EpollEvent

	mu    sync.Mutex
	ended bool
	slots []slot
	free  []int32 // indices
}

// token names a socket among a loop's. A number that was used before has another generation, so that an
// event which is late is nobody's.
type token struct {
	index      int32
	generation int32
}

// visits are what a loop knows of a socket of its.
type visits struct {
	turn   uint64 // the last in which it was read
	queued bool   // it is among those that have another turn
	over   bool   // besides bytes an end has come, or a fault
}

type slot struct {
	socket     *socket // nil: free
	generation int32
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go's poller takes it
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &loop{file: os.NewFile(uintptr(fd), "tunnels"), fd: fd, buf: borrow(), n: 1}
	if err := l.file.SetReadDeadline(time.Time{}); err != nil { // it did not
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// run carries until end.
func (l *loop) run() error {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(uintptr) bool { l.turns(); return false })
	if !l.takes() {
		return nil
	}
	return err
}

// end ends run. No tunnel is left, or has its deadlines.
func (l *loop) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.file.Close()
}

// takes tells whether the loop goes on.
func (l *loop) takes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.ended
}

// turns does what there is to do. Now and then it lets others have their turn, who may have no other
// processor; not each time, or it would come behind all those whom it woke.
func (l *loop) turns() {
	for n := 1; l.turn(); n++ {
		if n%turnsAtOnce == 0 {
			runtime.Gosched()
		}
	}
}

// turn gives each socket that has something one chunk's time. It is false if there was nothing to do.
func (l *loop) turn() bool {
	n, _ := epollNow(l.fd, l.came[:]) // it fails for nothing that another look would not show
	if n == 0 && len(l.again) == 0 {
		return false
	}
	l.n++
	now := time.Now().UnixNano()
	again := l.again
	l.again = l.spare[:0]
	for _, k := range again {
		if s := l.find(k); s != nil {
			s.visits.queued = false
			l.carry(s, now)
		}
	}
	l.spare = again
	for i := range n {
		l.event(&l.came[i], now)
	}
	return true
}

func (l *loop) event(e *unix.EpollEvent, now int64) {
	s := l.find(token{e.Fd, e.Pad})
	if s == nil {
		return
	}
	if e.Events&^(unix.EPOLLIN|unix.EPOLLRDHUP) != 0 {
		s.in.tell(toWrite)
	}
	if e.Events&haveMore != 0 {
		s.visits.over = true
	}
	if e.Events&^unix.EPOLLOUT != 0 {
		l.carry(s, now)
	}
}

// onceMore gives a socket another turn.
func (l *loop) onceMore(s *socket) {
	if !s.visits.queued {
		s.visits.queued = true
		l.again = append(l.again, s.token)
	}
}

// carry reads once what has come to a socket, and writes it to the other end. There may be more of it
// where the chunk is full, or something besides bytes has come. In one turn it does so once.
func (l *loop) carry(s *socket, now int64) {
	w := s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.looped {
		w.came[toRead] = true
		w.ring()
		return
	}
	if s.visits.turn == l.n {
		l.onceMore(s)
		return
	}
	s.visits.turn = l.n
	n, err := receive(s.fd, *l.buf)
	if err == unix.EAGAIN { //nolint:errorlint // a bare number, for each message
		return
	}
	if n == 0 { // its end, or a fault: the goroutine finds the same
		s.recall(handed{})
		return
	}
	left := s.tun.pass(s, (*l.buf)[:n], now)
	if left.stage == done {
		if s.visits.over || n == chunkSize {
			l.onceMore(s)
		}
		return
	}
	if len(left.chunk) > 0 {
		left.buf, l.buf = l.buf, borrow()
	}
	s.recall(left)
}

// find gives a token's socket, or nil.
func (l *loop) find(k token) *socket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := &l.slots[k.index]; s.generation == k.generation {
		return s.socket
	}
	return nil
}

var errLoopEnded = errors.New("the loop has ended")

// add enters a socket.
func (l *loop) add(s *socket) error {
	l.mu.Lock()
	if len(l.free) == 0 {
		l.slots = append(l.slots, slot{})
		l.free = append(l.free, int32(len(l.slots)-1))
	}
	i := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.slots[i].socket = s
	s.loop, s.token = l, token{i, l.slots[i].generation}
	l.mu.Unlock()
	return l.interest(s, unix.EPOLL_CTL_ADD, events)
}

// drop takes a socket out.
func (l *loop) drop(s *socket) {
	_ = l.interest(s, unix.EPOLL_CTL_DEL, 0) // with the descriptor it would go, too, unless a child has it
	l.mu.Lock()
	defer l.mu.Unlock()
	at := &l.slots[s.token.index]
	at.socket = nil
	at.generation++
	l.free = append(l.free, s.token.index)
}

// interest says what is to be told of a socket, by whoever holds its descriptor.
func (l *loop) interest(s *socket, op int, what uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return errLoopEnded
	}
	return unix.EpollCtl(l.fd, op, s.fd, &unix.EpollEvent{Events: what, Fd: s.token.index, Pad: s.token.generation})
}

// take has the loop carry a tunnel that nobody carries yet, where both its ends are plain sockets. Where
// it can't, the tunnel stays as it is.
func (l *loop) take(t *live) {
	if !plain(t.front) || !plain(t.back) {
		return
	}
	front, err := duplicate(t.front)
	if err != nil {
		return
	}
	back, err := duplicate(t.back)
	if err != nil {
		_ = unix.Close(front)
		return
	}
	pair := &[2]socket{{tun: t, fd: front, out: &t.up, in: &t.down}, {tun: t, fd: back, out: &t.down, in: &t.up}}
	pair[0].other, pair[1].other = &pair[1], &pair[0]
	for i := range pair {
		if err = l.add(&pair[i]); err != nil {
			break
		}
	}
	if err != nil {
		for i := range pair {
			pair[i].release()
		}
		return
	}
	t.close() // the originals, which share the sockets
	t.front, t.back, t.pair = &pair[0], &pair[1], pair
}

// loops are a proxy's, each with some of its tunnels. Without any, goroutines carry all.
type loops struct {
	list []*loop
	next atomic.Uint32
}

// newLoops makes n that do not run yet.
func newLoops(n int) (*loops, error) {
	s := &loops{}
	for range n {
		l, err := newLoop()
		if err != nil {
			s.end()
			return nil, err
		}
		s.list = append(s.list, l)
	}
	return s, nil
}

// run carries until end, or until one of them fails.
func (s *loops) run() error {
	errs := make([]error, len(s.list))
	var all sync.WaitGroup
	for i, l := range s.list {
		all.Go(func() {
			if errs[i] = l.run(); errs[i] != nil {
				s.end()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (s *loops) end() {
	for _, l := range s.list {
		l.end()
	}
}

// take gives a tunnel to one of them.
func (s *loops) take(t *live) {
	if s != nil && len(s.list) > 0 {
		s.list[int(s.next.Add(1))%len(s.list)].take(t)
	}
}
