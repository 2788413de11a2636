package docker

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS is a resolver on loopback, by UDP and TCP; it gives its address.
func serveDNS(t *testing.T, tell func(q dnsmessage.Question, tcp bool) dnsmessage.Message) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); u.Close(); wg.Wait() })
	reply := func(msg []byte, tcp bool) []byte {
		var q dnsmessage.Message
		if err := q.Unpack(msg); err != nil || len(q.Questions) != 1 {
			t.Errorf("asked %x: %v", msg, err)
			return nil
		}
		m := tell(q.Questions[0], tcp)
		m.ID, m.Response, m.Questions = q.ID, true, q.Questions
		b, err := m.Pack()
		if err != nil {
			t.Errorf("pack: %v", err)
		}
		return b
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if msg, err := readTCP(c); err == nil {
				_, _ = c.Write(withLength(reply(msg, true)))
			}
			c.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(reply(buf[:n], false), from)
		}
	})
	return l.Addr().String()
}

func answer(records ...dnsmessage.Resource) dnsmessage.Message {
	return dnsmessage.Message{Answers: records}
}

func record(name string, kind dnsmessage.Type, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET, TTL: 60}, Body: body}
}

// aRecord is an A or AAAA record.
func aRecord(name, address string) dnsmessage.Resource {
	a := netip.MustParseAddr(address)
	if a.Is4() {
		return record(name, dnsmessage.TypeA, &dnsmessage.AResource{A: a.As4()})
	}
	return record(name, dnsmessage.TypeAAAA, &dnsmessage.AAAAResource{AAAA: a.As16()})
}

func cname(name, to string) dnsmessage.Resource {
	return record(name, dnsmessage.TypeCNAME, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)})
}
