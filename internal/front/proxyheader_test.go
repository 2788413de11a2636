package front

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// v2 is a header of version 2 for a client, with extensions of so many bytes.
func v2(t *testing.T, client string, extensions int) []byte {
	t.Helper()
	from := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client))
	to := &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 443}
	if from.IP.To4() == nil {
		to.IP = net.ParseIP("2001:db8::1")
	}
	h := proxyproto.HeaderProxyFromAddrs(2, from, to)
	if extensions > 0 {
		if err := h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_MIN_CUSTOM, Value: make([]byte, extensions)}}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPROXY: a trusted proxy tells the client's address, which is what counts from then on; what is
// no header in order ends the connection with nothing served.
func TestPROXY(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
	local := append([]byte(nil), v2(t, "203.0.113.7:1", 0)...)
	local[12] = 0x20 // LOCAL
	udp := append([]byte(nil), v2(t, "203.0.113.7:1", 0)...)
	udp[13] = 0x12
	long := append([]byte(nil), v2(t, "203.0.113.7:1", 0)...)
	long[14], long[15] = 0xff, 0xff
	for _, c := range []struct {
		name   string
		header []byte
		client string // "" for none
	}{
		{"v1", []byte("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"), "203.0.113.7:56324"},
		{"v1 of IPv6", []byte("PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"), "[2001:db8::7]:56324"},
		{"v1 unknown", []byte("PROXY UNKNOWN\r\n"), "127.0.0.1"},
		{"v1 unknown with more", []byte("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), "127.0.0.1"},
		{"v2", v2(t, "203.0.113.7:56324", 0), "203.0.113.7:56324"},
		{"v2 of IPv6", v2(t, "[2001:db8::7]:56324", 0), "[2001:db8::7]:56324"},
		{"v2 with extensions", v2(t, "203.0.113.7:56324", 3000), "203.0.113.7:56324"},
		{"v2 of the proxy itself", local, "127.0.0.1"},

		{"none", nil, ""},
		{"v2 of UDP", udp, ""},
		{"v2 beyond all", long, ""},
		{"v2 with too many extensions", v2(t, "203.0.113.7:1", maxProxyV2+1), ""},
		{"v1 with LF alone", []byte("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\n"), ""},
		{"v1 without end", []byte("PROXY TCP4 203.0.113.7 " + strings.Repeat("1", 200) + "\r\n"), ""},
		{"v1 of no address", []byte("PROXY TCP4 example.org 192.0.2.1 56324 443\r\n"), ""},
		{"v1 of a mixed family", []byte("PROXY TCP4 2001:db8::7 192.0.2.1 56324 443\r\n"), ""},
		{"v1 of no port", []byte("PROXY TCP4 203.0.113.7 192.0.2.1 66666 443\r\n"), ""},
		{"v1 in small letters", []byte("proxy TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"), ""},
		{"twice", bytes.Repeat([]byte("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"), 2), ""},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, ", tls ", secure), func(t *testing.T) {
				s := openPROXY(t, secure, "127.0.0.0/8")
				for _, step := range []int{1 << 20, 1} {
					answer := s.ask(t, c.header, step, request)
					if c.client == "" && strings.Contains(answer, "200 OK") || c.client != "" && !strings.Contains(answer, "\r\n\r\n"+c.client) {
						t.Errorf("in steps of %d: %q, want %q", step, answer, c.client)
					}
				}
				within(t, "nobody is counted", func() bool { return s.count.Load() == 0 })
				if c.client != "" && !strings.HasPrefix(s.counted.Load().(string), c.client) {
					t.Errorf("%v was counted", s.counted.Load())
				}
			})
		}
	}
	t.Run("from a stranger", func(t *testing.T) {
		s := openPROXY(t, false, "10.0.0.0/8")
		if answer := s.ask(t, v2(t, "203.0.113.7:1", 0), 1<<20, request); answer != "" {
			t.Errorf("%q", answer)
		}
	})
}

type proxySite struct {
	site

	counted atomic.Value
}

func openPROXY(t *testing.T, secure bool, trusted string) *proxySite {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &proxySite{site: site{addr: l.Addr().String()}}
	opt := Options{Proxies: netip.MustParsePrefix(trusted).Contains}
	if secure {
		opt.TLS, s.client = certificate(t), &tls.Config{InsecureSkipVerify: true}
	}
	f := New(l, opt)
	f.Admit(func(a net.Addr) (func(), bool) {
		s.counted.Store(a.String())
		s.count.Add(1)
		return func() { s.count.Add(-1) }, true
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }), ReadHeaderTimeout: patience}
	go server.Serve(f)
	t.Cleanup(func() { server.Close() })
	return s
}

// ask sends a header in steps and then a request, and gives the answer.
func (s *proxySite) ask(t *testing.T, header []byte, step int, request string) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if s.client == nil && step > 1 {
		header, request = append(header[:len(header):len(header)], request...), "" // in one segment
	}
	for rest := header; len(rest) > 0; rest = rest[min(step, len(rest)):] {
		if _, err := c.Write(rest[:min(step, len(rest))]); err != nil {
			break
		}
	}
	if s.client != nil {
		c = tls.Client(c, s.client)
	}
	io.WriteString(c, request)
	answer, _ := io.ReadAll(c) // a reset is an end, too
	return string(answer)
}

// TestReleaseBehindPROXY: not one byte of what follows the header was taken by the reader of it.
func TestReleaseBehindPROXY(t *testing.T) {
	b := &base{Conn: &from{bytes.NewReader(append(v2(t, "203.0.113.7:1", 10), "rest"...))}}
	l := New(nil, Options{Proxies: func(netip.Addr) bool { return true }})
	if err := l.readProxy(b); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(b); string(rest) != "rest" {
		t.Errorf("%q is left", rest)
	}
}

// from is a connection of which only what it brings counts.
type from struct{ *bytes.Reader }

func (f *from) Read(b []byte) (int, error)       { return f.Reader.Read(b) }
func (f *from) Write(b []byte) (int, error)      { return len(b), nil }
func (f *from) Close() error                     { return nil }
func (f *from) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4zero} }
func (f *from) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4zero, Port: 1} }
func (f *from) SetDeadline(time.Time) error      { return nil }
func (f *from) SetReadDeadline(time.Time) error  { return nil }
func (f *from) SetWriteDeadline(time.Time) error { return nil }

// FuzzPROXY: whatever a proxy sends, the reader ends, and gives an address only of a header in order.
func FuzzPROXY(f *testing.F) {
	f.Add([]byte("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\nGET"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\xdc\x04\x01\xbbGET"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := &base{Conn: &from{bytes.NewReader(raw)}}
		l := New(nil, Options{Proxies: func(netip.Addr) bool { return true }})
		if l.readProxy(b) != nil {
			return
		}
		if b.remote != nil && b.remote.(*net.TCPAddr).IP == nil {
			t.Errorf("%q gives no address", raw)
		}
	})
}
