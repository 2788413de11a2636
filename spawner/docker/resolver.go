package docker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"carrel/hub"
)

const (
	resolveWithin  = 4 * time.Second
	maxResolving   = 256
	maxDNSMessage  = 4096
	resolverRetry  = time.Second
	resolverListen = "53"
)

// resolve answers name lookups on the open bridge's gateway: it forwards each to the configured
// resolvers, which containers can't reach themselves, and refuses answers that name a private
// address, so that no name leads behind the walls (DNS rebinding).
func (d *Driver) resolve(ctx context.Context) error {
	for ctx.Err() == nil {
		b, err := d.networks.ensure(ctx, hub.NetworkOpen)
		if err == nil {
			err = d.serveNames(ctx, b.prefix.Addr().Next())
		}
		if err != nil && ctx.Err() == nil {
			d.cfg.Logger.WarnContext(ctx, "resolver for notebooks not running; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(resolverRetry):
		}
	}
	return ctx.Err()
}

func (d *Driver) serveNames(ctx context.Context, gate netip.Addr) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var lc net.ListenConfig
	address := net.JoinHostPort(gate.String(), resolverListen)
	udp, err := lc.ListenPacket(ctx, "udp4", address)
	if err != nil {
		return err
	}
	tcp, err := lc.Listen(ctx, "tcp4", address)
	if err != nil {
		udp.Close() //nolint:errcheck // unused
		return err
	}
	context.AfterFunc(ctx, func() { udp.Close(); tcp.Close() }) //nolint:errcheck // ends the loops below
	slots := make(chan struct{}, maxResolving)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { defer cancel(); d.serveTCP(ctx, tcp, slots) })
	buf := make([]byte, maxDNSMessage)
	for {
		n, from, err := udp.ReadFrom(buf)
		if err != nil {
			cancel()
			return err
		}
		query := append([]byte(nil), buf[:n]...)
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				if answer, err := d.ask(ctx, "udp", query); err == nil {
					_, _ = udp.WriteTo(answer, from) // who asked will ask again
				}
			})
		default: // a flood: the rest is dropped
		}
	}
}

func (d *Driver) serveTCP(ctx context.Context, l net.Listener, slots chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				defer c.Close() //nolint:errcheck // one question each
				_ = c.SetDeadline(time.Now().Add(2 * resolveWithin))
				if query, err := readTCP(c); err == nil {
					if answer, err := d.ask(ctx, "tcp", query); err == nil {
						_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)) //nolint:gosec // read with a 16-bit length
					}
				}
			})
		default:
			c.Close() //nolint:errcheck // a flood
		}
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

// ask forwards one question to the first upstream that answers.
func (d *Driver) ask(ctx context.Context, network string, query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, errors.New("no question")
	}
	question, err := p.Question()
	if err != nil {
		return nil, errors.New("no question")
	}
	for _, up := range d.upstreams() {
		answer, err := exchange(ctx, network, up, query)
		if err != nil {
			continue
		}
		if !public(answer, head.ID) {
			return refuse(head, question)
		}
		return answer, nil
	}
	return nil, errors.New("no upstream answers")
}

func exchange(ctx context.Context, network, upstream string, query []byte) ([]byte, error) {
	dialer := net.Dialer{Timeout: resolveWithin / 2}
	c, err := dialer.DialContext(ctx, network, upstream)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // one question each
	_ = c.SetDeadline(time.Now().Add(resolveWithin / 2))
	if network == "tcp" {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...) //nolint:gosec // read with a 16-bit length
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	if network == "tcp" {
		return readTCP(c)
	}
	buf := make([]byte, maxDNSMessage)
	n, err := c.Read(buf)
	return buf[:n], err
}

// public tells whether an answer is well-formed, is the question's, and names no private address.
func public(msg []byte, id uint16) bool {
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil || m.ID != id || !m.Response {
		return false
	}
	for _, r := range append(append([]dnsmessage.Resource{}, m.Answers...), m.Additionals...) {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			if !reachable(netip.AddrFrom4(b.A)) {
				return false
			}
		case *dnsmessage.AAAAResource:
			if a := netip.AddrFrom16(b.AAAA); a.Is4In6() && !reachable(a.Unmap()) || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
				return false
			}
		}
	}
	return true
}

// reachable tells whether the packet filter lets containers reach an IPv4 address.
func reachable(a netip.Addr) bool {
	for _, p := range private {
		if netip.MustParsePrefix(p).Contains(a) {
			return false
		}
	}
	return true
}

func refuse(head dnsmessage.Header, q dnsmessage.Question) ([]byte, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: head.ID, Response: true, RCode: dnsmessage.RCodeRefused, RecursionDesired: head.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	return m.Pack()
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
			ups = append(ups, net.JoinHostPort(f[1], "53"))
		}
	}
	return ups
}
