package docker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"carrel/hub"
)

const (
	resolveWithin = 4 * time.Second
	maxResolving  = 256 // lookups at work, of all containers
	maxPerServer  = 32  // and of one
	maxDNSMessage = 4096
	resolverRetry = 2 * time.Second // another hub of this machine may be answering
	dnsPort       = "53"
)

// resolve answers name lookups on the open bridge's gateway until ctx ends: each is asked of the
// configured resolvers, which containers can't reach themselves, and an answer that names a private
// address is refused, so that no name leads behind the walls (DNS rebinding).
func (d *Driver) resolve(ctx context.Context) {
	broken := false
	for ctx.Err() == nil {
		err := d.resolveAlone(ctx)
		if ctx.Err() == nil && (err != nil) != broken {
			broken = err != nil
			d.cfg.Logger.WarnContext(ctx, "resolver for notebooks", "running", !broken, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(resolverRetry):
		}
	}
}

// resolveAlone answers for as long as it can, or returns at once where another hub of this machine
// does. The packet filter sends lookups to the port on which this one listens, and forgets it with
// the listener: what else this machine may have on port 53, or later on that port, is never asked.
func (d *Driver) resolveAlone(ctx context.Context) error {
	unlock, err := tryLockFile(filepath.Join(d.cfg.StateDir, "resolver.lock"))
	if unlock == nil || err != nil {
		return err
	}
	defer unlock()
	callCtx, done := outlast(ctx)
	b, err := d.networks.ensure(callCtx, hub.NetworkOpen)
	done()
	if err != nil {
		return err
	}
	gate := b.prefix.Addr().Next()
	l, err := listenForNames(ctx, gate, resolverPorts(d.cfg.Deployment))
	if err != nil {
		return err
	}
	if err := d.tellPort(ctx, l.port); err != nil {
		l.close()
		return err
	}
	err = d.serveNames(ctx, l, func() bool { return d.gateIs(ctx, gate) })
	return errors.Join(err, d.tellPort(context.WithoutCancel(ctx), 0))
}

// tellPort has the filter send lookups to a port of the gateway; 0 is none.
func (d *Driver) tellPort(ctx context.Context, port uint16) error {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	if err := d.networks.writePort(port); err != nil {
		return err
	}
	return d.networks.enforce(ctx)
}

// nameListener is a port of the gateway, by UDP and by TCP.
type nameListener struct {
	port uint16
	udp  net.PacketConn
	tcp  net.Listener
}

func (l nameListener) close() {
	l.udp.Close() //nolint:errcheck // ends its loop
	l.tcp.Close() // likewise
}

// Where the resolver listens: beneath the ports that Linux gives to whoever asks for any (32768 and
// above), so that no other program comes by one of these by chance.
const (
	firstResolverPort = 20000
	resolverPortCount = 10000
	resolverPortTries = 64
)

// resolverPorts are those that a deployment's resolver tries, the same ones in the same order always.
func resolverPorts(deployment string) []uint16 {
	sum := sha256.Sum256([]byte("carrel resolver " + deployment))
	start := binary.BigEndian.Uint32(sum[:4])
	ports := make([]uint16, resolverPortTries)
	for i := range ports {
		ports[i] = uint16(firstResolverPort + (start%resolverPortCount+uint32(i))%resolverPortCount)
	}
	return ports
}

// listenForNames takes the first port that nobody has.
func listenForNames(ctx context.Context, gate netip.Addr, ports []uint16) (nameListener, error) {
	var failure error
	for _, p := range ports {
		l, err := listenBoth(ctx, netip.AddrPortFrom(gate, p))
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
		failure = err
	}
	return nameListener{}, failure
}

func listenBoth(ctx context.Context, at netip.AddrPort) (l nameListener, err error) {
	var lc net.ListenConfig
	l.port = at.Port()
	if l.udp, err = lc.ListenPacket(ctx, "udp4", at.String()); err != nil {
		return l, err
	}
	if l.tcp, err = lc.Listen(ctx, "tcp4", at.String()); err != nil {
		l.udp.Close() //nolint:errcheck // unused
	}
	return l, err
}

// gateIs tells whether the gateway is where it was; not being able to tell is no reason to move.
func (d *Driver) gateIs(ctx context.Context, gate netip.Addr) bool {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	now, err := d.networks.gateway(ctx)
	return err != nil || now == gate
}

// nameServer is one run of the resolver.
type nameServer struct {
	upstreams func() []string
	mu        sync.Mutex
	at        map[netip.Addr]int // lookups at work, by who asks
	total     int
}

// serveNames answers until ctx ends, a socket breaks, or stay says no: then nil. It closes l.
func (d *Driver) serveNames(ctx context.Context, l nameListener, stay func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &nameServer{upstreams: d.upstreams, at: map[netip.Addr]int{}}
	var wg sync.WaitGroup
	var udpErr, tcpErr error
	wg.Go(func() { defer cancel(); udpErr = s.serveUDP(ctx, l.udp) })
	wg.Go(func() { defer cancel(); tcpErr = s.serveTCP(ctx, l.tcp) })
	wg.Go(func() { defer cancel(); awaitNot(ctx, stay) })
	<-ctx.Done()
	l.close()
	wg.Wait()
	for _, err := range []error{udpErr, tcpErr} {
		if !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

func awaitNot(ctx context.Context, stay func() bool) {
	tick := time.NewTicker(wallsEvery)
	defer tick.Stop()
	for stay() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// admit counts a lookup; false when there are too many: whoever asks asks again. No server takes
// the others' share.
func (s *nameServer) admit(from net.Addr) (leave func(), ok bool) {
	ap, _ := netip.ParseAddrPort(from.String())
	who := ap.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxResolving || s.at[who] >= maxPerServer {
		return nil, false
	}
	s.total++
	s.at[who]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total--
		if s.at[who]--; s.at[who] == 0 {
			delete(s.at, who)
		}
	}, true
}

func (s *nameServer) serveUDP(ctx context.Context, c net.PacketConn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	buf := make([]byte, maxDNSMessage)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		l, err := parseLookup(buf[:n])
		if err != nil {
			continue
		}
		if leave, ok := s.admit(from); ok {
			wg.Go(func() {
				defer leave()
				if answer, err := l.pack(s.ask(ctx, l), l.size); err == nil {
					_, _ = c.WriteTo(answer, from) // who asked will ask again
				}
			})
		}
	}
}

func (s *nameServer) serveTCP(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		leave, ok := s.admit(c.RemoteAddr())
		if !ok {
			c.Close() // a flood
			continue
		}
		wg.Go(func() {
			defer leave()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close() // one question each
			_ = c.SetDeadline(time.Now().Add(2 * resolveWithin))
			s.answerTCP(ctx, c)
		})
	}
}

func (s *nameServer) answerTCP(ctx context.Context, c net.Conn) {
	msg, err := readTCP(c)
	if err != nil {
		return
	}
	l, err := parseLookup(msg)
	if err != nil {
		return
	}
	if answer, err := l.pack(s.ask(ctx, l), 1<<16-1); err == nil {
		_, _ = c.Write(withLength(answer))
	}
}

func readTCP(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func withLength(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...) // packed within 16 bits
}

// ask puts a question to the first upstream that answers.
func (s *nameServer) ask(ctx context.Context, l lookup) dnsmessage.Message {
	if l.refused() {
		return l.fail(dnsmessage.RCodeRefused)
	}
	for _, up := range s.upstreams() {
		m, err := l.exchange(ctx, "udp", up)
		if err == nil && m.Truncated {
			m, err = l.exchange(ctx, "tcp", up)
		}
		if err == nil {
			return l.reply(m)
		}
	}
	return l.fail(dnsmessage.RCodeServerFailure)
}

// exchange asks one resolver, with an id of our own, and waits for the answer to it.
func (l lookup) exchange(ctx context.Context, network, upstream string) (*dnsmessage.Message, error) {
	var random [2]byte
	_, _ = rand.Read(random[:]) // never fails
	id := binary.BigEndian.Uint16(random[:])
	query, err := l.query(id)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: resolveWithin / 2}
	c, err := dialer.DialContext(ctx, network, upstream)
	if err != nil {
		return nil, err
	}
	defer c.Close() // one question each
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(resolveWithin / 2))
	if network == "tcp" {
		query = withLength(query)
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxDNSMessage)
	for {
		var msg []byte
		if network == "tcp" {
			msg, err = readTCP(c)
		} else {
			var n int
			n, err = c.Read(buf)
			msg = buf[:n]
		}
		if err != nil {
			return nil, err
		}
		m := &dnsmessage.Message{}
		if m.Unpack(msg) == nil && l.answers(m, id) {
			return m, nil
		}
	}
}

// upstreams are the configured resolvers, or those of the host's resolv.conf as it stands.
func (d *Driver) upstreams() []string {
	if len(d.cfg.Upstreams) > 0 {
		return d.cfg.Upstreams
	}
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	var ups []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			ups = append(ups, net.JoinHostPort(f[1], dnsPort))
		}
	}
	return ups
}
