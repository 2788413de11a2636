package proxy

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"carrel/hub"
)

// TestWhatAServerHears sends what a client could lie with (attacks 32, 37, 38).
func TestWhatAServerHears(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := &inbox{}
	key := w.serve("alice", echo(got))
	for _, kind := range []string{"program", "websocket"} {
		t.Run(kind, func(t *testing.T) {
			opts := []option{kinds[kind], w.as(alice), ownOrigin(w, "alice"), header("Cookie", "carrel-session=a; _xsrf=2|x; __Host-carrel-sign-in-9=b; carrel-ticket = c; __Secure-carrel-notebook=d; carrel-notebook")}
			for _, name := range []string{
				"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Forwarded-User", "Forwarded", "X-Real-Ip", "X-Scheme", "X-Carrel-User",
				"X_Forwarded_For", "X-Forwarded_Host", "X_Carrel-User", "X_scheme", "Remote_User", "X-Remote-User", "X-Original-Url", "X-Rewrite-Url", "Proxy-Authorization", "Te",
			} {
				opts = append(opts, header(name, "6.6.6.6"))
			}
			opts = append(opts, header("X-Mine", "kept"), header("X-Hop", "dropped"), header("Keep-Alive", "9"))
			if kind == "program" {
				opts = append(opts, header("Connection", "X-Hop, Authorization, X-Forwarded-For, X-Carrel-User"), header("Connection", "cookie"))
			} else {
				opts = append(opts, header("Connection", "X-Hop, Authorization, X-Forwarded-For, Cookie, X-Carrel-User, Sec-WebSocket-Key2"))
			}
			before := len(got.all())
			tr := w.transport()
			res, err := tr.RoundTrip(w.request("GET", w.url("alice", "api/x"), "", opts...))
			must(t, err)
			res.Body.Close()
			if len(got.all()) != before+1 {
				t.Fatalf("status %d; the server got nothing", res.StatusCode)
			}
			r := got.last(t)
			want := map[string]string{
				"Authorization": "token " + w.serverToken(key), "X-Carrel-User": "alice", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https",
				"X-Forwarded-Host": "alice.hub.test", "X-Mine": "kept", "Cookie": "_xsrf=2|x", "Origin": "https://alice.hub.test",
			}
			for name, v := range want {
				if got := strings.Join(r.Header.Values(name), ", "); got != v {
					t.Errorf("%s: %q, want %q", name, got, v)
				}
			}
			if r.Host != "alice.hub.test" {
				t.Errorf("Host %q", r.Host)
			}
			for name, values := range r.Header {
				if _, known := want[name]; !known && strings.Contains(strings.Join(values, " "), "6.6.6.6") {
					t.Errorf("%s: %q got through", name, values)
				}
				if strings.Contains(strings.Join(values, " "), alice.cookie.Reveal()) || name == "X-Hop" || strings.Contains(name, "_") {
					t.Errorf("%s: %q got through", name, values)
				}
			}
		})
	}
}

// TestTheHubKnowsWhoAsks: Connection takes no identity away on the way to the hub, and lies end here.
func TestTheHubKnowsWhoAsks(t *testing.T) {
	w := newWorld(t, setup{})
	w.get("https://hub.test/hub/api/user", header("Authorization", "token t"), header("Cookie", "__Host-carrel-session=s"), header("Origin", "https://evil.test"),
		header("Sec-Fetch-Site", "cross-site"), header("Connection", "Authorization, Cookie, Origin, Sec-Fetch-Site, X-Forwarded-For"),
		header("X-Forwarded-For", "6.6.6.6"), header("X_Forwarded_For", "6.6.6.6"), header("X-Carrel-User", "root"), header("X-Carrel-Poll", "1"))
	r := w.hubGot.last(t)
	for name, want := range map[string]string{
		"Authorization": "token t", "Cookie": "__Host-carrel-session=s", "Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site",
		"X-Forwarded-For": "127.0.0.1", "X-Carrel-User": "", "X-Carrel-Poll": "1", "X_forwarded_for": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestTheClientsAddress(t *testing.T) {
	p := &Proxy{cfg: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}}
	for _, c := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"nobody between", "192.0.2.1:9", nil, "192.0.2.1"},
		{"a liar", "192.0.2.1:9", []string{"6.6.6.6"}, "192.0.2.1"},
		{"a proxy of ours", "10.0.0.1:9", []string{"192.0.2.1"}, "192.0.2.1"},
		{"a liar behind it", "10.0.0.1:9", []string{"6.6.6.6, 192.0.2.1"}, "192.0.2.1"},
		{"two proxies of ours", "10.0.0.1:9", []string{"6.6.6.6", "192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		{"only proxies of ours", "10.0.0.1:9", []string{"10.0.0.2"}, "10.0.0.2"},
		{"with a port", "10.0.0.1:9", []string{"192.0.2.1:4711"}, "192.0.2.1"},
		{"brackets", "10.0.0.1:9", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"brackets with a port", "10.0.0.1:9", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"mapped", "[::ffff:10.0.0.1]:9", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{"a proxy of ours with a zone", "[fd00::1%eth0]:9", []string{"192.0.2.1"}, "192.0.2.1"},
		{"garbage", "10.0.0.1:9", []string{"192.0.2.1, unknown"}, "10.0.0.1"},
		{"nothing", "10.0.0.1:9", []string{""}, "10.0.0.1"},
		{"a unix socket", "@", []string{"192.0.2.1"}, "::"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.forwarded}}
			if got := p.client(r).String(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestBehindATrustedProxy(t *testing.T) {
	w := newWorld(t, setup{trusted: []string{"127.0.0.0/8"}})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	w.get(w.url("alice", ""), w.as(alice), header("X-Forwarded-For", "6.6.6.6, 192.0.2.9"), header("X-Forwarded-Proto", "http"), header("X-Forwarded-Host", "evil.test"))
	r := got.last(t)
	if r.Header.Get("X-Forwarded-For") != "192.0.2.9" || r.Header.Get("X-Forwarded-Proto") != "https" || r.Header.Get("X-Forwarded-Host") != "alice.hub.test" {
		t.Errorf("%v", r.Header)
	}
}

func TestWhatAServerMaySay(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	key := serverKey(t, "alice", "")
	token := w.serverToken(key)
	say := func(h http.Header) {
		for name, v := range map[string]string{
			"Service-Worker-Allowed": "/", "Clear-Site-Data": `"*"`, "Strict-Transport-Security": "max-age=1", "Alt-Svc": `h3=":1"`, "Set-Cookie2": "a=b", "Public-Key-Pins": "x",
			"X-Accel-Redirect": "/etc", "X-Accel-Buffering": "no", "X-Carrel-User": "root", "X-Kept": "yes", "Content-Security-Policy": "frame-ancestors 'self'", "X-Leak": "a " + token,
		} {
			h.Set(name, v)
		}
		h.Add("Set-Cookie", "mine=1; Path=/")
		h.Add("Set-Cookie", "__Host-carrel-notebook=x; Path=/; Secure")
	}
	up := echo(nil)
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/ws") {
			hj, _ := rw.(http.Hijacker)
			c, _, err := hj.Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			h := http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {"x"}}
			say(h)
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n")
			h.Write(c)
			io.WriteString(c, "\r\n")
			return
		}
		say(rw.Header())
		up.ServeHTTP(rw, r)
	}))
	check := func(t *testing.T, h http.Header) {
		t.Helper()
		for _, name := range []string{"Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", "Set-Cookie2", "Public-Key-Pins", "X-Accel-Redirect", "X-Accel-Buffering", "X-Carrel-User"} {
			if h.Get(name) != "" {
				t.Errorf("%s got out", name)
			}
		}
		if h.Get("X-Kept") != "yes" || h.Get("Content-Security-Policy") != "frame-ancestors 'self'" || h.Get("X-Leak") != "a" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%v", h)
		}
		if c := h.Values("Set-Cookie"); len(c) != 1 || c[0] != "mine=1; Path=/user/alice/" {
			t.Errorf("cookies %q", c)
		}
	}
	t.Run("page", func(t *testing.T) { check(t, w.get(w.url("alice", "x"), w.as(alice)).header) })
	t.Run("upgrade", func(t *testing.T) {
		res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", "ws"), "", kinds["websocket"], w.as(alice), ownOrigin(w, "alice")))
		must(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status %d", res.StatusCode)
		}
		check(t, res.Header)
	})
}

func TestServersCookiesStayTheirs(t *testing.T) {
	const path = "/user/alice/"
	for _, c := range []struct{ line, want string }{
		{"a=1", "a=1; Path=/user/alice/"},
		{"a=1; Path=/", "a=1; Path=/user/alice/"},
		{"a=1; Path=/user/alice/lab; HttpOnly; SameSite=Strict", "a=1; Path=/user/alice/lab; HttpOnly; SameSite=Strict"},
		{"a=1; Path=/user/alicia/", "a=1; Path=/user/alice/"},
		{"a=1; Path=/user/alice", "a=1; Path=/user/alice/"},
		{"a=1; Domain=hub.test; Path=/user/alice/", "a=1; Path=/user/alice/"},
		{`username-x="2|1:0|10:1|a:b"; Path=/user/alice/`, `username-x="2|1:0|10:1|a:b"; Path=/user/alice/`},
		{"a=1; Path=/user/bob/; Path=/user/alice/", "a=1; Path=/user/alice/"},
		{"a=; Max-Age=0; Path=/user/alice/", "a=; Path=/user/alice/; Max-Age=0"},
		{"carrel-session=1", ""}, {"__Host-carrel-notebook=1; Secure; Path=/", ""}, {"__Secure-carrel-ticket=1", ""}, {"carrel-sign-in-7=1", ""}, {"__Host-carrel-sign-in-7=1", ""},
		{"__Host-other=1; Secure; Path=/", ""}, {"__host-Carrel-session=1", ""}, {"__SECURE-x=1", ""},
		{"=carrel-session=1", ""}, {"carrel-session", ""}, {"", ""}, {"a b=1", ""}, {"a=\x01", ""},
	} {
		if got, _ := confine(c.line, path); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.line, got, c.want)
		}
	}
}

// TestTheServersTokenStaysInside looks for it in every way that a page can come.
func TestTheServersTokenStaysInside(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	key := serverKey(t, "alice", "")
	token := w.serverToken(key)
	text := `<html><script id="jupyter-config-data">{"token": "` + token + `", "x": 1}</script></html>`
	scrubbed := strings.ReplaceAll(text, token, "")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h, name := rw.Header(), strings.TrimPrefix(r.URL.Path, "/user/alice/")
		h.Set("Content-Type", "text/html; charset=utf-8")
		switch name {
		case "capitals":
			h.Set("Content-Type", "TEXT/HTML")
		case "xhtml":
			h.Set("Content-Type", "application/xhtml+xml")
		case "broken":
			h.Set("Content-Type", "text/html; charset")
		case "file":
			h.Set("Content-Type", "text/plain")
		case "redirect":
			h.Set("Location", "/user/alice/lab?token="+token)
			rw.WriteHeader(http.StatusFound)
			return
		case "refusal":
			rw.WriteHeader(http.StatusForbidden)
		}
		switch {
		case name == "chunked":
			for i := range len(text) {
				io.WriteString(rw, text[i:i+1])
				rw.(http.Flusher).Flush()
			}
			return
		case name == "large":
			for range 1000 {
				io.WriteString(rw, strings.Repeat(" ", 8000)+text)
			}
			return
		case name == "gzip" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"):
			h.Set("Content-Encoding", "gzip")
			zw := gzip.NewWriter(rw)
			io.WriteString(zw, text)
			zw.Close()
			return
		}
		io.WriteString(rw, text)
	}))
	for _, c := range []struct {
		name   string
		opts   []option
		status int
		want   string
	}{
		{"plain", nil, 200, scrubbed}, {"plain", []option{navigation}, 200, scrubbed}, {"plain", []option{byToken(alice)}, 200, scrubbed},
		{"capitals", nil, 200, scrubbed}, {"xhtml", nil, 200, scrubbed}, {"broken", nil, 200, scrubbed}, {"chunked", nil, 200, scrubbed},
		{"gzip", []option{header("Accept-Encoding", "br, gzip")}, 200, scrubbed}, {"gzip", []option{navigation, header("Accept-Encoding", "gzip")}, 200, scrubbed},
		{"gzip", []option{header("Accept-Encoding", "br")}, 200, scrubbed}, {"gzip", []option{header("Accept-Encoding", "gzip;q=0")}, 200, scrubbed},
		{"large", nil, 200, strings.Repeat(strings.Repeat(" ", 8000)+scrubbed, 1000)},
		{"refusal", nil, 403, scrubbed}, {"refusal", []option{kinds["websocket"], ownOrigin(w, "alice")}, 403, scrubbed}, {"plain", []option{kinds["websocket"], ownOrigin(w, "alice")}, 200, scrubbed},
		{"redirect", []option{navigation}, 302, ""}, {"file", nil, 200, text},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.get(w.url("alice", c.name), append(c.opts, w.as(alice))...)
			if got.status != c.status || got.body != c.want || got.header.Get("Content-Encoding") != "" {
				t.Errorf("%d, encoded %q, %d bytes %.200s", got.status, got.header.Get("Content-Encoding"), len(got.body), got.body)
			}
			if strings.Contains(got.header.Get("Location"), token) {
				t.Errorf("leads to %s", got.header.Get("Location"))
			}
		})
	}
	if got := w.send("HEAD", w.url("alice", "plain"), "", w.as(alice)); got.status != 200 || got.body != "" {
		t.Errorf("HEAD: %d %q", got.status, got.body)
	}
}

func TestAPageThatComesBitByBitGoesOutSo(t *testing.T) {
	pr, pw := io.Pipe()
	s := &scrubbed{src: pr, close: pr, token: []byte("secret")}
	go pw.Write([]byte("<p>se"))
	b := make([]byte, 100)
	if n, err := s.Read(b); err != nil || string(b[:n]) != "<p>" {
		t.Errorf("%q %v", b[:n], err)
	}
	go func() { pw.Write([]byte("cret!")); pw.Close() }()
	if rest, err := io.ReadAll(s); err != nil || string(rest) != "!" {
		t.Errorf("%q %v", rest, err)
	}
}

// FuzzScrub: however a page is cut in pieces, the token is not in it, and nothing else is missing.
func FuzzScrub(f *testing.F) {
	f.Add("a secretsecret b", uint8(3))
	f.Add("secsecretret", uint8(1))
	f.Fuzz(func(t *testing.T, page string, size uint8) {
		const token = "secret"
		s := &scrubbed{src: &pieces{[]byte(page), int(size%16) + 1}, close: io.NopCloser(nil), token: []byte(token)}
		got, err := io.ReadAll(s)
		if want := strings.ReplaceAll(page, token, ""); err != nil || strings.Contains(page, token) == false && string(got) != want {
			t.Fatalf("%q becomes %q, want %q (%v)", page, got, want, err)
		}
		if strings.Count(page, token) > 0 && len(got) > len(page)-len(token) {
			t.Fatalf("%q becomes %q", page, got)
		}
	})
}

// pieces is a reader that gives a few bytes at a time.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// FuzzRequestHeaders: no header by which a client could lie, and no cookie of ours, gets through.
func FuzzRequestHeaders(f *testing.F) {
	f.Add("X-Forwarded-For", "1", "X-Forwarded-For", "carrel-session=1; a=b")
	f.Add("X_Forwarded-For", "1", "keep-alive, Cookie", "a; __Host-carrel-notebook = x;; b=c")
	f.Add("X-Carrel_User", "1", "Authorization,X-Carrel-User", `a="x; carrel-ticket=1; b=y"`)
	f.Fuzz(func(t *testing.T, name, value, connection, cookie string) {
		h := http.Header{}
		h.Add(name, value)
		h.Add("Connection", connection)
		h.Add("Cookie", cookie)
		h.Set("Authorization", "token t")
		cleanRequest(h)
		if h.Get("Authorization") != "token t" && !strings.EqualFold(name, "Authorization") {
			t.Fatal("Connection took the identity away")
		}
		dropOurCookies(h)
		for n := range h {
			if l := strings.ToLower(n); strings.Contains(n, "_") || slices.Contains(hopByHop, n) || strings.HasPrefix(l, "x-forwarded-") || strings.HasPrefix(l, "x-carrel-") && l != pollHeader || l == "forwarded" || l == "x-real-ip" || l == "x-scheme" {
				t.Fatalf("%q got through", n)
			}
		}
		for _, c := range (&http.Request{Header: h}).Cookies() {
			if bare := strings.TrimPrefix(strings.TrimPrefix(c.Name, "__Host-"), "__Secure-"); strings.HasPrefix(bare, hub.CookieSignIn+"-") || slices.Contains([]string{hub.CookieSession, hub.CookieNotebook, hub.CookieTicket, hub.CookieSignIn}, bare) {
				t.Fatalf("%q got through in %q", c.Name, h["Cookie"])
			}
		}
	})
}

// FuzzSetCookie: what a browser makes of a confined line is no cookie of ours, on no path but the
// server's, for no other host.
func FuzzSetCookie(f *testing.F) {
	for _, s := range []string{"a=1; Path=/", "__Host-carrel-session=1", "a=1; domain=.hub.test; PATH=/user/alice/../bob", "a=1;path=/user/alice/\t;x", "\tcarrel-session=1", "a=1\r\nSet-Cookie: b=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, ok := confine(line, "/user/alice/")
		if !ok {
			return
		}
		if strings.ContainsAny(got, "\r\n\x00") {
			t.Fatalf("%q splits the header", got)
		}
		pair, rest, _ := strings.Cut(got, ";") // as RFC 6265, section 5.2, reads it
		name, _, eq := strings.Cut(pair, "=")
		name = strings.Trim(name, " \t")
		if l := strings.ToLower(name); !eq || name == "" || isOurs(name) || strings.HasPrefix(l, "__host-") || strings.HasPrefix(l, "__secure-") {
			t.Fatalf("%q is a cookie that is not the server's", got)
		}
		attributes := map[string]string{}
		for a := range strings.SplitSeq(rest, ";") {
			k, v, _ := strings.Cut(a, "=")
			attributes[strings.ToLower(strings.Trim(k, " \t"))] = strings.Trim(v, " \t")
		}
		if _, domain := attributes["domain"]; domain || !strings.HasPrefix(attributes["path"], "/user/alice/") {
			t.Fatalf("%q from %q: %v", got, line, attributes)
		}
	})
}

func TestTrailers(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got.take(r)
		rw.Header().Set("Trailer", "X-Sum")
		io.WriteString(rw, "body")
		rw.Header().Set("X-Sum", "4")
		for _, name := range []string{"Set-Cookie", "Clear-Site-Data", "X-Accel-Redirect"} {
			rw.Header().Set(http.TrailerPrefix+name, "evil")
		}
	}))
	r := w.request("POST", w.url("alice", "x"), "", w.as(alice), ownOrigin(w, "alice"))
	r.Body, r.ContentLength, r.Trailer = io.NopCloser(strings.NewReader("sent")), -1, http.Header{"X-Mine": {"1"}, "X-Forwarded-For": {"6.6.6.6"}, "Authorization": {"token t"}, "Cookie": {"a=b"}, "X-Carrel-User": {"root"}, "X_Mine": {"1"}}
	res, err := w.transport().RoundTrip(r)
	must(t, err)
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "body" {
		t.Errorf("%q %v", b, err)
	}
	if !maps.EqualFunc(res.Trailer, http.Header{"X-Sum": {"4"}}, slices.Equal) {
		t.Errorf("trailers %v", res.Trailer)
	}
	if g := got.last(t); !maps.EqualFunc(g.Trailer, http.Header{"X-Mine": {"1"}}, slices.Equal) {
		t.Errorf("the server got trailers %v", g.Trailer)
	}
}

func TestInformationalAnswersEndHere(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Link", "</x>")
		rw.Header().Set("Clear-Site-Data", `"*"`)
		rw.WriteHeader(http.StatusEarlyHints)
		io.WriteString(rw, "body")
	}))
	c, err := w.dial(t.Context(), "", "")
	must(t, err)
	defer c.Close()
	r := w.request("GET", w.url("alice", "x"), "", w.as(alice), header("Connection", "close"))
	must(t, r.Write(c))
	b, err := io.ReadAll(c)
	must(t, err)
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 200")) || bytes.Contains(b, []byte("Clear-Site-Data")) {
		t.Errorf("%s", b)
	}
}

// TestNonsenseFromAServer: an answer out of the protocol is a fault of that server's, no more.
func TestNonsenseFromAServer(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	say := ""
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		hj, _ := rw.(http.Hijacker)
		c, _, err := hj.Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, say)
	}))
	defer s.Close()
	w.route(serverKey(t, "alice", ""), 1, endpoint(t, s.URL))
	endless := "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 2000)
	for name, text := range map[string]string{
		"a switch nobody asked for": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw", "a bare switch": "HTTP/1.1 101 X\r\n\r\nraw",
		"status 099": "HTTP/1.1 099 X\r\n\r\n", "no HTTP": "hello\r\n\r\n", "nothing": "", "endless headers": endless, "half a head": "HTTP/1.1 200 OK\r\nContent-",
	} {
		for kind, as := range map[string]option{"program": kinds["program"], "websocket": kinds["websocket"]} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				say = text
				res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", "x"), "", as, w.as(alice), ownOrigin(w, "alice")))
				must(t, err)
				defer res.Body.Close()
				b, _ := io.ReadAll(res.Body)
				if res.StatusCode != http.StatusServiceUnavailable || bytes.Contains(b, []byte("raw")) || res.Header.Get("Retry-After") == "" {
					t.Errorf("%d %v %s", res.StatusCode, res.Header, b)
				}
			})
		}
	}
	if strings.Contains(w.log.String(), `"panic"`) {
		t.Error("a server can make us panic")
	}
}
