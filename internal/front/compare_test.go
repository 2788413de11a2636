package front

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pages is a handler that does whatever handlers do, by path.
func pages(file string) http.Handler {
	mux := map[string]func(http.ResponseWriter, *http.Request){
		"/":      func(http.ResponseWriter, *http.Request) {},
		"/small": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "small") },
		"/html": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "<!")
			io.WriteString(w, "doctype html>")
		},
		"/coded": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, "<html>")
		},
		"/big": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, digits(70_000)) },
		"/many": func(w http.ResponseWriter, _ *http.Request) {
			for range 3000 {
				io.WriteString(w, "abc")
			}
		},
		"/told": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9000")
			w.Header().Set("Content-Type", "text/x")
			io.WriteString(w, digits(9000))
		},
		"/html-told": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "6")
			io.WriteString(w, "<html>")
		},
		"/short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "short")
		},
		"/over": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "exact")
			io.WriteString(w, "over")
		},
		"/204": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			io.WriteString(w, "nothing")
		},
		"/304": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("Content-Length", "7")
			w.Header().Set("Etag", `"a"`)
			w.WriteHeader(http.StatusNotModified)
			io.WriteString(w, "nothing")
		},
		"/404": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "none", http.StatusNotFound)
			w.WriteHeader(http.StatusOK)
		},
		"/599": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(599) },
		"/late": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("X-Late", "1")
		},
		"/hints": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "x")
		},
		"/flush": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "one")
			http.NewResponseController(w).Flush()
			io.WriteString(w, "two")
		},
		"/flush-first": func(w http.ResponseWriter, _ *http.Request) {
			http.NewResponseController(w).Flush()
			io.WriteString(w, digits(5000))
		},
		"/trailers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-One")
			io.WriteString(w, "x")
			w.Header().Set("X-One", "1")
			w.Header().Set(http.TrailerPrefix+"X-Two", "2")
		},
	}
	maps.Copy(mux, requests(file))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if do := mux[r.URL.Path]; do != nil {
			do(w, r)
			return
		}
		fmt.Fprintf(w, "%s %s %q %q %q %s %d %v %v", r.Method, r.RequestURI, r.URL, r.URL.RawPath, r.Host, r.Proto, r.ContentLength, r.Close, r.TransferEncoding)
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			fmt.Fprintf(w, "\n%s=%q", name, r.Header[name])
		}
	})
}

// digits are n bytes.
func digits(n int) string { return strings.Repeat("0123456789", n/10) }

// requests are the pages that end oddly, or have to do with the request's body or a file.
func requests(file string) map[string]func(http.ResponseWriter, *http.Request) {
	return map[string]func(http.ResponseWriter, *http.Request){
		"/close": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			io.WriteString(w, "x")
		},
		"/split": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", "a\r\nSet-Cookie: b")
			w.Header()["Bad name"] = []string{"x"}
			w.Header().Set("Date", "long ago")
			io.WriteString(w, "x")
		},
		"/abort": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"/abort-said": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			panic(http.ErrAbortHandler)
		},
		"/abort-half": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, digits(5000))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"/panic": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x"); panic("on purpose") },
		"/echo": func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			fmt.Fprint(w, len(b), err, r.ContentLength)
		},
		"/some": func(w http.ResponseWriter, r *http.Request) {
			b := make([]byte, 3)
			n, err := io.ReadFull(r.Body, b)
			fmt.Fprint(w, n, err)
		},
		"/shut": func(w http.ResponseWriter, r *http.Request) { r.Body.Close(); fmt.Fprint(w, r.ContentLength) },
		"/file": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) },
		"/copy": func(w http.ResponseWriter, _ *http.Request) {
			f, err := os.Open(file)
			if err != nil {
				return
			}
			defer f.Close()
			io.Copy(w, f) // its length is not told
		},
		"/copy-short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			io.CopyN(w, strings.NewReader(digits(2000)), 100_000)
		},
	}
}

// said is one answer as a client understands it.
type said struct {
	status  int
	header  string
	length  int64
	coding  string
	closes  bool
	body    string
	trailer string
	broken  bool // its body ended before its end
}

// String is what a failure shows.
func (s said) String() string {
	type plain said
	short := plain(s)
	short.body = fmt.Sprintf("%.60s (%d)", s.body, len(s.body))
	return fmt.Sprintf("%+v", short)
}

// exchange sends a stream in pieces, ends it, and reads all answers; reset tells that the end of them may
// be lost, as it is where a server closes with something unread.
func exchange(t *testing.T, addr, stream string, cuts []int, heads map[int]bool) (all []said, reset bool) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	wrote := make(chan error, 1)
	go func() {
		var err error
		at := 0
		for _, cut := range slices.Concat(cuts, []int{len(stream)}) {
			if _, err = io.WriteString(c, stream[at:cut]); err != nil {
				break // it may close early
			}
			at = cut
		}
		c.(*net.TCPConn).CloseWrite()
		wrote <- err
	}()
	answers, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("no end of the answers to %q", stream)
	}
	reset = errors.Is(err, syscall.ECONNRESET) || <-wrote != nil
	br := bufio.NewReader(bytes.NewReader(answers))
	for i := 0; ; i++ {
		method := http.MethodGet
		if heads[i] {
			method = http.MethodHead
		}
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			if rest, _ := io.ReadAll(br); len(rest) > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%v in the answers to %q: %q", err, stream, answers)
			}
			return all, reset
		}
		if res.StatusCode < 200 {
			i-- // it belongs to the next
		}
		b, err := io.ReadAll(res.Body)
		if res.Header.Get("Date") != "long ago" {
			res.Header.Del("Date")
		}
		all = append(all, said{res.StatusCode, fmt.Sprint(res.Header), res.ContentLength, fmt.Sprint(res.TransferEncoding), res.Close, string(b), fmt.Sprint(res.Trailer), err != nil})
	}
}

// pair is the same handler behind the loop and behind net/http, the scanner in front of both.
func pair(t *testing.T) (loop, std string) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, bytes.Repeat([]byte("file "), 40_000), 0o600); err != nil {
		t.Fatal(err)
	}
	handler := pages(file)
	serve := func(start func(*http.Server, net.Listener) (end func())) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		end := start(&http.Server{Handler: handler, ReadHeaderTimeout: patience, MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}, New(l, Options{}))
		t.Cleanup(end)
		return l.Addr().String()
	}
	loop = serve(func(std *http.Server, l net.Listener) func() {
		s := NewServer(std)
		go s.Serve(l)
		return func() { s.Close() }
	})
	std = serve(func(std *http.Server, l net.Listener) func() {
		go std.Serve(l)
		return func() { std.Close() }
	})
	return loop, std
}

// compare has both answer a stream. What may differ is told in docs/threat-model-edge.md: a refusal
// behind an answered request is answered, where net/http only closes; and an answer to a request whose
// body was cut short says that the connection ends.
func compare(t *testing.T, loop, std, stream string, cuts []int, heads map[int]bool) {
	t.Helper()
	var got, want []said
	for range 10 {
		var lost, lostToo bool
		got, lost = exchange(t, loop, stream, cuts, heads)
		want, lostToo = exchange(t, std, stream, cuts, heads)
		if !lost && !lostToo {
			break
		}
		n := max(min(len(got), len(want))-1, 0) // what is the same of both at least, should it go on so
		got, want = got[:n], want[:n]
	}
	if n := len(want); n > 0 && len(got) == n+1 && got[n].status == http.StatusBadRequest && got[n].closes {
		got = got[:n]
	}
	for i, a := range want {
		want[i].closes = a.closes || strings.Contains(a.body, "unexpected EOF")
	}
	if !slices.Equal(got, want) {
		t.Errorf("%.3000q, cut at %v:\n got %q\nwant %q", stream, cuts, fmt.Sprint(got), fmt.Sprint(want))
	}
}

// TestLikeNetHTTP: whatever a client sends and a handler does, the loop's answers are net/http's.
func TestLikeNetHTTP(t *testing.T) {
	loop, std := pair(t)
	const end = "GET /after HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
	for path := range strings.FieldsSeq("/ /small /html /coded /big /many /told /html-told /short /over /204 /304 /404 /599 /late /hints /flush /flush-first " +
		"/trailers /close /split /abort /abort-said /abort-half /panic /echo /some /shut /file /copy /copy-short /other") {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			t.Run(method+path, func(t *testing.T) {
				heads := map[int]bool{0: method == "HEAD"}
				compare(t, loop, std, request(method+" "+path, "", "")+end, nil, heads)
				compare(t, loop, std, request(method+" "+path, "Content-Length: 5\r\n", "12345")+end, nil, heads)
				compare(t, loop, std, request(method+" "+path, "Connection: close\r\n", "")+end, nil, heads)
				compare(t, loop, std, request(method+" "+path, "Content-Length: 600000\r\n", strings.Repeat("x", 600_000))+end, nil, heads)
				compare(t, loop, std, request(method+" "+path, "Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n0\r\n\r\n")+end, nil, heads)
			})
		}
	}
	for name, stream := range odd {
		t.Run(name, func(t *testing.T) {
			compare(t, loop, std, stream, nil, nil)
			compare(t, loop, std, stream+end, []int{len(stream) / 2, len(stream)}, nil)
			compare(t, loop, std, request("GET /small", "", "")+stream+end, nil, nil)
		})
	}
}

// TestRandomStreams: requests, odd ones among them, one after another on a connection, and cut into
// reads anywhere.
func TestRandomStreams(t *testing.T) {
	loop, std := pair(t)
	rnd := rand.New(rand.NewPCG(4, 17))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	names := slices.Sorted(maps.Keys(odd))
	for range 300 {
		var b strings.Builder
		heads := map[int]bool{}
		for i := range 1 + rnd.IntN(6) {
			if rnd.IntN(10) == 0 {
				b.WriteString(odd[names[rnd.IntN(len(names))]])
				continue
			}
			method := pick("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
			heads[i] = method == "HEAD"
			path := pick("/", "/small", "/html", "/big", "/told", "/short", "/204", "/304", "/404", "/flush", "/trailers", "/close", "/abort", "/echo", "/some", "/shut", "/file", "/x?y=z")
			more := pick("", "", "Connection: keep-alive\r\n", "Cookie: a=b\r\nCookie: c=d\r\n", "Accept: */*\r\nX:\r\n", "Connection: close\r\n", "A: b\n")
			switch body := strings.Repeat("y", rnd.IntN(20_000)); rnd.IntN(4) {
			case 0:
				b.WriteString(request(method+" "+path, fmt.Sprintf("%sContent-Length: %d\r\n", more, len(body)), body))
			case 1:
				b.WriteString(request(method+" "+path, more+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body)+1, body+"z")))
			default:
				b.WriteString(request(method+" "+path, more, ""))
			}
		}
		stream := b.String()
		var cuts []int
		for range rnd.IntN(4) {
			cuts = append(cuts, rnd.IntN(len(stream)+1))
		}
		slices.Sort(cuts)
		compare(t, loop, std, stream, cuts, heads)
	}
}
