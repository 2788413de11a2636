package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEventStreams: events go out as they come.
func TestEventStreams(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	next := make(chan string)
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for e := range next {
			io.WriteString(rw, e)
			rw.(http.Flusher).Flush()
		}
	}))
	go func() { next <- "data: 0\n" }()
	res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", "events"), "", w.as(alice)))
	must(t, err)
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 5 {
		if i > 0 {
			next <- "data: " + strconv.Itoa(i) + "\n"
		}
		if line, err := br.ReadString('\n'); err != nil || line != "data: "+strconv.Itoa(i)+"\n" {
			t.Fatalf("%q %v", line, err)
		}
	}
	close(next)
	if _, err := br.ReadByte(); err != io.EOF {
		t.Error(err)
	}
}

// TestLargeBodies pass in both directions, and little of them is ever here.
func TestLargeBodies(t *testing.T) {
	const size = 128 << 20
	w := newWorld(t, setup{})
	alice := w.person("alice")
	sums := make(chan string, 1)
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			sums <- strconv.FormatInt(n, 10) + string(h.Sum(nil))
			if err != nil {
				t.Error(err)
			}
			return
		}
		if strings.HasSuffix(r.URL.Path, "/sized") {
			rw.Header().Set("Content-Length", strconv.Itoa(size))
		}
		io.Copy(rw, io.LimitReader(&counter{}, size))
	}))
	want := sha256.New()
	_, _ = io.Copy(want, io.LimitReader(&counter{}, size))
	whole := strconv.Itoa(size) + string(want.Sum(nil))
	most := peak(t, func() {
		for _, page := range []string{"sized", "chunked"} {
			res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", page), "", w.as(alice)))
			must(t, err)
			h := sha256.New()
			n, err := io.Copy(h, res.Body)
			res.Body.Close()
			if err != nil || strconv.FormatInt(n, 10)+string(h.Sum(nil)) != whole || (page == "sized") != (res.ContentLength == size) {
				t.Errorf("%s: %d bytes, announced %d, %v", page, n, res.ContentLength, err)
			}
		}
		for _, length := range []int64{size, -1} {
			r := w.request("PUT", w.url("alice", "x"), "", w.as(alice), ownOrigin(w, "alice"))
			r.Body, r.ContentLength = io.NopCloser(io.LimitReader(&counter{}, size)), length
			res, err := w.transport().RoundTrip(r)
			must(t, err)
			res.Body.Close()
			if got := <-sums; res.StatusCode != http.StatusOK || got != whole {
				t.Errorf("upload of length %d: %d", length, res.StatusCode)
			}
		}
	})
	if most > 24<<20 {
		t.Errorf("%d MiB of heap", most>>20)
	}
}

// counter is an endless pattern.
type counter struct{ n byte }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.n
		c.n++
	}
	return len(b), nil
}

// peak is how much the heap grows at most while do runs.
func peak(t testing.TB, do func()) int64 {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	base, most := int64(m.HeapAlloc), int64(0)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, int64(m.HeapAlloc)-base)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	do()
	stop()
	<-done
	return most
}

func TestExpectContinue(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/no") {
			rw.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		b, _ := io.ReadAll(r.Body)
		rw.Write(b)
	}))
	ask := func(page string, who option) (*bufio.Reader, net.Conn) {
		c, err := w.dial(t.Context(), "", "")
		must(t, err)
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(patience)))
		r := w.request("PUT", w.url("alice", page), "", who, ownOrigin(w, "alice"), header("Expect", "100-continue"))
		var head bytes.Buffer
		must(t, r.Write(&head))
		io.WriteString(c, strings.Replace(head.String(), "Content-Length: 0", "Content-Length: 4", 1))
		return bufio.NewReader(c), c
	}
	br, c := ask("yes", w.as(alice))
	if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	br.ReadString('\n')
	io.WriteString(c, "body")
	res, err := http.ReadResponse(br, nil)
	must(t, err)
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "body" {
		t.Errorf("%q %v", b, err)
	}
	for page, want := range map[string]string{"no": "HTTP/1.1 413", "nobody": "HTTP/1.1 401"} {
		who := w.as(alice)
		if page == "nobody" {
			who = kinds["program"]
		}
		br, _ := ask(page, who)
		if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
			t.Errorf("%s: %q %v", page, line, err)
		}
	}
}

func TestAnswersWithoutABody(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Etag", `"1"`)
		rw.Header().Set("Content-Type", "text/html")
		switch {
		case r.Header.Get("If-None-Match") == `"1"`:
			rw.WriteHeader(http.StatusNotModified)
		case r.Method == "DELETE":
			rw.WriteHeader(http.StatusNoContent)
		default:
			rw.Header().Set("Content-Length", "7")
			io.WriteString(rw, "content")
		}
	}))
	tr := w.transport()
	for range 2 { // on one connection: what is left over would be taken for the next answer
		for _, c := range []struct {
			method string
			opt    option
			status int
			body   string
		}{{"HEAD", navigation, 200, ""}, {"GET", header("If-None-Match", `"1"`), 304, ""}, {"DELETE", ownOrigin(w, "alice"), 204, ""}, {"GET", navigation, 200, "content"}} {
			res, err := tr.RoundTrip(w.request(c.method, w.url("alice", "x"), "", w.as(alice), c.opt))
			must(t, err)
			b, err := io.ReadAll(res.Body)
			must(t, err)
			res.Body.Close()
			if res.StatusCode != c.status || string(b) != c.body || res.Header.Get("Etag") != `"1"` {
				t.Errorf("%s: %d %q %v", c.method, res.StatusCode, b, res.Header)
			}
		}
	}
}

// TestAServerThatDiesInTheMiddle: half an answer never passes for a whole one.
func TestAServerThatDiesInTheMiddle(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", r.URL.Query().Get("type"))
		if strings.HasSuffix(r.URL.Path, "/sized") {
			rw.Header().Set("Content-Length", "100000")
		}
		io.WriteString(rw, "half of it")
		rw.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	for _, page := range []string{"sized?type=text/plain", "chunked?type=text/plain", "sized?type=text/html", "chunked?type=text/html"} {
		res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", page), "", w.as(alice)))
		if err != nil {
			continue // cut before the head was sent
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil {
			t.Errorf("%s: a whole answer %q", page, b)
		}
	}
	w.until("it is logged", func() bool { return strings.Contains(w.log.String(), "before its end") })
}

// TestAFullBacklog: a unix socket that says EAGAIN is tried again.
func TestAFullBacklog(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	path := filepath.Join(socketDir(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	must(t, unix.Listen(fd, 0))
	var held []int
	for { // until the backlog is full
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		held = append(held, c)
		if err := unix.Connect(c, &unix.SockaddrUnix{Name: path}); err == syscall.EAGAIN { //nolint:errorlint // an errno
			break
		}
	}
	w.route(serverKey(t, "alice", ""), 1, endpoint(t, "unix://"+path))
	answered := make(chan reply, 1)
	go func() { answered <- w.get(w.url("alice", ""), w.as(alice)) }()
	select {
	case r := <-answered:
		t.Fatalf("answered %d with a full backlog", r.status)
	case <-time.After(200 * time.Millisecond):
	}
	l, err := listenerOf(fd, path)
	must(t, err)
	for _, c := range held {
		unix.Close(c)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: echo(nil), ReadHeaderTimeout: time.Minute}}
	s.Start()
	defer s.Close()
	if r := <-answered; r.status != 200 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAServerThatIsAway(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	key := serverKey(t, "alice", "")
	for _, at := range []string{"unix:///tmp/px-none/s", "http://127.0.0.1:1"} {
		must(t, w.store.PutRoute(t.Context(), hubRoute(key, endpoint(t, at))))
		w.until("it is routed", func() bool { r := w.proxy.routes.get(key); return r != nil && r.Endpoint == endpoint(t, at) })
		for kind, as := range kinds {
			got := w.get(w.url("alice", ""), as, w.as(alice), ownOrigin(w, "alice"))
			if got.status != 503 || got.header.Get("Retry-After") == "" || strings.Contains(got.body, "127.0.0.1") || strings.Contains(got.body, "px-none") {
				t.Errorf("%s: %d %v %s", kind, got.status, got.header, got.body)
			}
		}
	}
}
