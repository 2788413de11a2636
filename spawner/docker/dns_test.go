package docker

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestReachable(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "203.0.113.10": true, "172.15.255.255": true, "172.32.0.0": true, "100.63.255.255": true, "100.128.0.0": true, "11.0.0.0": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "100.64.0.1": false, "127.0.0.1": false, "127.255.255.254": false, "169.254.169.254": false, "172.16.0.1": false,
		"172.31.255.255": false, "192.0.0.170": false, "192.168.0.1": false, "198.18.0.1": false, "198.19.255.255": false, "224.0.0.1": false, "239.1.2.3": false, "240.0.0.1": false, "255.255.255.255": false,
		"2606:4700:4700::1111": true, "2a00:1450::1": true, "::ffff:1.1.1.1": true, "64:ff9b::101:101": true, "2002:101:101::1": true,
		"::": false, "::1": false, "::a9fe:a9fe": false, "::ffff:10.0.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::a00:1": false, "64:ff9b:1::1": false,
		"100::1": false, "2001::1": false, "2001:db8::1": false, "2002:a9fe:a9fe::1": false, "2002:c0a8:1::": false, "fc00::1": false, "fd12:3456::1": false, "fd00:ec2::254": false, "fe80::1": false, "fec0::1": false, "ff02::1": false, "3fff::1": false, "4000::1": false,
	} {
		if got := reachable(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is reachable: %v", address, got)
		}
	}
}

func hints(key dnsmessage.SVCParamKey, raw ...byte) dnsmessage.SVCBResource {
	return dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName("."), Params: []dnsmessage.SVCParam{{Key: dnsmessage.SVCParamALPN, Value: []byte{2, 'h', '2'}}, {Key: key, Value: raw}}}
}

func TestPublic(t *testing.T) {
	ula := netip.MustParseAddr("fd00::1").As16()
	global := netip.MustParseAddr("2606:4700::1").As16()
	svcb := func(h dnsmessage.SVCBResource) dnsmessage.Resource { return record("s.", dnsmessage.TypeSVCB, &h) }
	https := func(h dnsmessage.SVCBResource) dnsmessage.Resource {
		return record("s.", dnsmessage.TypeHTTPS, &dnsmessage.HTTPSResource{SVCBResource: h})
	}
	v4, v6 := dnsmessage.SVCParamIPv4Hint, dnsmessage.SVCParamIPv6Hint
	for _, c := range []struct {
		name    string
		records []dnsmessage.Resource
		want    bool
	}{
		{"nothing", nil, true},
		{"public", []dnsmessage.Resource{aRecord("a.", "1.1.1.1"), aRecord("a.", "2606:4700::1")}, true},
		{"one of two is private", []dnsmessage.Resource{aRecord("a.", "1.1.1.1"), aRecord("a.", "10.1.2.3")}, false},
		{"metadata", []dnsmessage.Resource{aRecord("a.", "169.254.169.254")}, false},
		{"mapped", []dnsmessage.Resource{aRecord("a.", "::ffff:7f00:1")}, false},
		{"translated", []dnsmessage.Resource{aRecord("a.", "64:ff9b::7f00:1")}, false},
		{"at the end of a chain", []dnsmessage.Resource{cname("a.", "b."), cname("b.", "c."), aRecord("c.", "fe80::1")}, false},
		{"a chain to the outside", []dnsmessage.Resource{cname("a.", "b."), aRecord("b.", "1.1.1.1")}, true},
		{"a name alone", []dnsmessage.Resource{cname("a.", "internal.corp.")}, true},
		{"text", []dnsmessage.Resource{record("a.", dnsmessage.TypeTXT, &dnsmessage.TXTResource{TXT: []string{"10.0.0.1"}})}, true},
		{"a hint", []dnsmessage.Resource{https(hints(v4, 1, 1, 1, 1))}, true},
		{"a private hint", []dnsmessage.Resource{https(hints(v4, 10, 0, 0, 1))}, false},
		{"the second hint is private", []dnsmessage.Resource{svcb(hints(v4, 1, 1, 1, 1, 192, 168, 0, 1))}, false},
		{"a torn hint", []dnsmessage.Resource{https(hints(v4, 1, 1, 1))}, false},
		{"a hint by IPv6", []dnsmessage.Resource{svcb(hints(v6, global[:]...))}, true},
		{"a private hint by IPv6", []dnsmessage.Resource{https(hints(v6, ula[:]...))}, false},
	} {
		if got := public(c.records); got != c.want {
			t.Errorf("%s: public is %v", c.name, got)
		}
	}
}

func query(t testing.TB, head dnsmessage.Header, name string, kind dnsmessage.Type, class dnsmessage.Class, udpSize int) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: head, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: class}}}
	if udpSize > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(udpSize, 0, true); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 65001, Data: []byte("smuggled")}}}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWhatIsAsked: only plain questions go out, in words of our own.
func TestWhatIsAsked(t *testing.T) {
	in, a := dnsmessage.ClassINET, dnsmessage.TypeA
	two := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a."), Type: a, Class: in}, {Name: dnsmessage.MustNewName("b."), Type: a, Class: in}}}
	twoRaw, _ := two.Pack()
	none, _ := (&dnsmessage.Message{}).Pack()
	for name, msg := range map[string][]byte{
		"a transfer":              query(t, dnsmessage.Header{}, "corp.", dnsmessage.TypeAXFR, in, 0),
		"an incremental transfer": query(t, dnsmessage.Header{}, "corp.", 251, in, 0),
		"an update":               query(t, dnsmessage.Header{OpCode: 5}, "corp.", dnsmessage.TypeSOA, in, 0),
		"a notification":          query(t, dnsmessage.Header{OpCode: 4}, "corp.", dnsmessage.TypeSOA, in, 0),
		"chaos":                   query(t, dnsmessage.Header{}, "version.bind.", dnsmessage.TypeTXT, dnsmessage.ClassCHAOS, 0),
		"any class":               query(t, dnsmessage.Header{}, "a.", a, dnsmessage.ClassANY, 0),
		"an answer":               query(t, dnsmessage.Header{Response: true}, "a.", a, in, 0),
		"two questions":           twoRaw, "no question": none, "nothing": nil, "garbage": []byte("GET / HTTP/1.1\r\n"),
	} {
		if l, err := parseLookup(msg); err == nil {
			t.Errorf("%s is asked: %+v", name, l)
		}
	}
	for size, want := range map[int]int{0: 512, 100: 512, 1000: 1000, 4096: 1232, 65535: 1232} {
		l, err := parseLookup(query(t, dnsmessage.Header{ID: 5, RecursionDesired: true}, "A.example.", a, in, size))
		if err != nil || l.size != want || l.id != 5 || !l.recurse {
			t.Fatalf("with %d bytes: %+v, %v", size, l, err)
		}
		raw, err := l.query(77)
		if err != nil || strings.Contains(string(raw), "smuggled") {
			t.Errorf("what is sent: %q, %v", raw, err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(raw); err != nil || m.ID != 77 || !m.RecursionDesired || len(m.Questions) != 1 || m.Questions[0] != l.question || len(m.Additionals) != 1 {
			t.Errorf("what is sent: %+v, %v", m, err)
		}
	}
}

func TestRefusedQuestions(t *testing.T) {
	for name, want := range map[string]bool{
		"example.org.": false, "1.1.1.1.in-addr.arpa.": false, "in-addr.arpa.": false, "x.ip6.arpa.": true, "1.0.6.2.ip6.arpa.": false,
		"5.0.201.10.in-addr.arpa.": true, "254.169.254.169.IN-ADDR.arpa.": true, "1.0.0.127.in-addr.arpa.": true, "10.in-addr.arpa.": true, "168.192.in-addr.arpa.": true,
		"b._dns-sd._udp.0.0.168.192.in-addr.arpa.": true, "1.d.f.ip6.arpa.": true, "1.0.8.e.f.ip6.arpa.": true,
	} {
		l := lookup{question: dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypePTR}}
		if got := l.refused(); got != want {
			t.Errorf("%s: refused is %v", name, got)
		}
	}
}

// FuzzAnswer: whatever a resolver says, a container is told no private address, and the answer is
// the question's.
func FuzzAnswer(f *testing.F) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	for _, r := range [][]dnsmessage.Resource{
		{aRecord("a.example.", "1.1.1.1")}, {aRecord("a.example.", "10.0.0.1")}, {cname("a.example.", "b."), aRecord("b.", "::ffff:a00:1")},
		{record("a.example.", dnsmessage.TypeHTTPS, &dnsmessage.HTTPSResource{SVCBResource: hints(dnsmessage.SVCParamIPv4Hint, 10, 0, 0, 1)})},
	} {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 9, Response: true}, Questions: []dnsmessage.Question{q}, Answers: r, Additionals: r, Authorities: r}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, uint16(512))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size uint16) {
		l := lookup{id: 3, question: q, size: int(max(size, 512))}
		var m dnsmessage.Message
		if m.Unpack(raw) != nil || !l.answers(&m, 9) {
			return
		}
		out, err := l.pack(l.reply(&m), l.size)
		if err != nil {
			return // the container is told nothing
		}
		var told dnsmessage.Message
		if err := told.Unpack(out); err != nil || told.ID != 3 || !told.Response || len(told.Questions) != 1 || told.Questions[0] != q || len(out) > l.size {
			t.Fatalf("told %x of %d bytes: %+v, %v", out, len(out), told, err)
		}
		for _, r := range append(append(told.Answers, told.Additionals...), told.Authorities...) {
			if b, ok := r.Body.(*dnsmessage.AResource); ok && !reachable(netip.AddrFrom4(b.A)) {
				t.Fatalf("told of %v", b.A)
			}
			if b, ok := r.Body.(*dnsmessage.AAAAResource); ok && !reachable(netip.AddrFrom16(b.AAAA)) {
				t.Fatalf("told of %v", b.AAAA)
			}
		}
	})
}

// FuzzLookup: no query makes the resolver fall over, and what is asked for it is one question.
func FuzzLookup(f *testing.F) {
	f.Add(query(f, dnsmessage.Header{ID: 1, RecursionDesired: true}, "a.example.", dnsmessage.TypeA, dnsmessage.ClassINET, 1232))
	f.Add(query(f, dnsmessage.Header{}, "5.0.201.10.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.ClassINET, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseLookup(raw)
		if err != nil {
			return
		}
		_ = l.refused()
		sent, err := l.query(1)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(sent); err != nil || len(m.Questions) != 1 || m.OpCode != 0 || m.Questions[0].Type == dnsmessage.TypeAXFR {
			t.Errorf("%x becomes %x: %v", raw, sent, err)
		}
		if l.size < plainSize || l.size > ednsSize {
			t.Errorf("an answer of %d bytes", l.size)
		}
	})
}

// serving runs a resolver on loopback, and asks it.
func serving(t *testing.T, upstreams ...string) (ask func(network string, raw []byte) (dnsmessage.Message, error), s *nameServer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s = &nameServer{upstreams: func() []string { return upstreams }, at: map[netip.Addr]int{}}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.serveUDP(ctx, u) })
	wg.Go(func() { _ = s.serveTCP(ctx, l) })
	t.Cleanup(func() { cancel(); u.Close(); l.Close(); wg.Wait() })
	return func(network string, raw []byte) (m dnsmessage.Message, err error) {
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			return m, err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if network == "tcp" {
			raw = withLength(raw)
		}
		if _, err := c.Write(raw); err != nil {
			return m, err
		}
		buf := make([]byte, 65536)
		if network == "tcp" {
			buf, err = readTCP(c)
		} else {
			var n int
			n, err = c.Read(buf)
			buf = buf[:n]
		}
		if err == nil {
			err = m.Unpack(buf)
		}
		return m, err
	}, s
}

func TestResolver(t *testing.T) {
	up := serveDNS(t, func(q dnsmessage.Question, tcp bool) dnsmessage.Message {
		name := q.Name.String()
		switch name {
		case "good.":
			m := answer(aRecord(name, "1.1.1.1"))
			m.Additionals = []dnsmessage.Resource{aRecord("glue.", "10.0.0.1")}
			m.Authorities = []dnsmessage.Resource{record("good.", dnsmessage.TypeNS, &dnsmessage.NSResource{NS: dnsmessage.MustNewName("ns.internal.")})}
			return m
		case "bad.":
			return answer(aRecord(name, "10.0.0.1"))
		case "long.":
			if !tcp {
				return dnsmessage.Message{Header: dnsmessage.Header{Truncated: true}}
			}
			var all []dnsmessage.Resource
			for i := range 200 {
				all = append(all, aRecord(name, netip.AddrFrom4([4]byte{1, 2, 3, byte(i)}).String()))
			}
			return answer(all...)
		}
		return dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}}
	})
	dead, err := net.Listen("tcp", "127.0.0.1:0") // nobody hears UDP there
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	ask, _ := serving(t, dead.Addr().String(), up)
	q := func(name string, size int) []byte {
		return query(t, dnsmessage.Header{ID: 7, RecursionDesired: true}, name, dnsmessage.TypeA, dnsmessage.ClassINET, size)
	}
	for _, network := range []string{"udp", "tcp"} {
		m, err := ask(network, q("good.", 1232))
		if err != nil || m.ID != 7 || !m.RecursionAvailable || len(m.Answers) != 1 || len(m.Additionals)+len(m.Authorities) != 0 {
			t.Errorf("%s: %+v, %v", network, m, err)
		}
		if m, err := ask(network, q("bad.", 0)); err != nil || m.RCode != dnsmessage.RCodeRefused || len(m.Answers) != 0 {
			t.Errorf("%s: %+v, %v", network, m, err)
		}
		if m, err := ask(network, q("none.", 0)); err != nil || m.RCode != dnsmessage.RCodeNameError {
			t.Errorf("%s: %+v, %v", network, m, err)
		}
		if m, err := ask(network, q("5.0.201.10.in-addr.arpa.", 0)); err != nil || m.RCode != dnsmessage.RCodeRefused {
			t.Errorf("%s: %+v, %v", network, m, err)
		}
		m, err = ask(network, q("long.", 4096))
		if want := map[string]int{"udp": 0, "tcp": 200}[network]; err != nil || len(m.Answers) != want || m.Truncated != (network == "udp") {
			t.Errorf("%s: a long answer of %d records, cut %v, %v", network, len(m.Answers), m.Truncated, err)
		}
	}
	mute, _ := serving(t, dead.Addr().String())
	if m, err := mute("udp", q("good.", 0)); err != nil || m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("with no resolver: %+v, %v", m, err)
	}
}

// TestResolverIgnoresForgeries: an answer that does not belong to the question is waited past.
func TestResolverIgnoresForgeries(t *testing.T) {
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() { // ends with the socket
		buf := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:n]) != nil {
				return
			}
			q.Response, q.Additionals = true, nil
			send := func(m dnsmessage.Message) { raw, _ := m.Pack(); _, _ = u.WriteTo(raw, from) }
			wrong := q
			wrong.ID++
			wrong.Answers = []dnsmessage.Resource{aRecord("a.", "6.6.6.6")}
			send(wrong)
			other := q
			other.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("b."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
			other.Answers = wrong.Answers
			send(other)
			_, _ = u.WriteTo([]byte("garbage"), from)
			q.Answers = []dnsmessage.Resource{aRecord("a.", "1.1.1.1")}
			send(q)
		}
	}()
	ask, _ := serving(t, u.LocalAddr().String())
	m, err := ask("udp", query(t, dnsmessage.Header{ID: 1}, "a.", dnsmessage.TypeA, dnsmessage.ClassINET, 0))
	if err != nil || len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.AResource).A != [4]byte{1, 1, 1, 1} {
		t.Errorf("told %+v, %v", m, err)
	}
}

// TestFlood: one who asks too much takes nobody else's turn.
func TestFlood(t *testing.T) {
	s := &nameServer{at: map[netip.Addr]int{}}
	from := func(a string) net.Addr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a + ":5")) }
	var leave []func()
	for range 1000 {
		if l, ok := s.admit(from("10.0.0.1")); ok {
			leave = append(leave, l)
		}
	}
	if len(leave) != maxPerServer {
		t.Errorf("%d of one were let in", len(leave))
	}
	if _, ok := s.admit(from("10.0.0.2")); !ok {
		t.Error("another was not let in")
	}
	for _, l := range leave {
		l()
	}
	if s.total != 1 || len(s.at) != 1 {
		t.Errorf("%d are counted, of %d", s.total, len(s.at))
	}
}

func TestTCPQuery(t *testing.T) {
	ask, _ := serving(t)
	for _, raw := range [][]byte{nil, []byte("x"), make([]byte, 12), binary.BigEndian.AppendUint16(nil, 9)} {
		if m, err := ask("tcp", raw); err == nil {
			t.Errorf("%x was answered: %+v", raw, m)
		}
	}
}
