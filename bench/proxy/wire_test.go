package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/internal/program"
)

// startBackend runs a backend until the test ends.
func startBackend(t *testing.T) (at string) {
	t.Helper()
	port := strconv.Itoa(program.FreePort())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveBackend(ctx, port) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for at = "127.0.0.1:" + port; !listens(ctx, at); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("the backend does not listen")
		}
	}
	return at
}

// Every load runs against a backend with nothing between, each answer checked.
func TestLoads(t *testing.T) {
	at := startBackend(t)
	for _, j := range []job{
		{Shape: "http", Conns: 4, For: 50 * time.Millisecond},
		{Shape: "echo", Conns: 4, For: 50 * time.Millisecond},
		{Shape: "crowd", Conns: 4, For: 50 * time.Millisecond, Everyone: true, Active: 1},
		{Shape: "crowd", Conns: 4, For: 50 * time.Millisecond, Settle: time.Millisecond},
		{Shape: "download", Conns: 2, Bodies: 1},
		{Shape: "upload", Conns: 2, Bodies: 1},
		{Shape: "rate", Conns: 4, PerSec: 200, For: 250 * time.Millisecond},
	} {
		t.Run(j.Shape, func(t *testing.T) {
			j.At, j.People, j.PID = at, strangers(), os.Getpid()
			asked, err := json.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := load(t.Context(), bytes.NewReader(asked), &out); err != nil {
				t.Fatal(err)
			}
			var r result
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			if r.Done == 0 || r.Seconds <= 0 {
				t.Errorf("%+v", r)
			}
			if j.Shape == "rate" && (r.Done != 50 || r.P99 <= 0 || r.P99 < r.P50) {
				t.Errorf("%+v", r)
			}
			if j.Bodies > 0 && r.Done != 2*largeBody {
				t.Errorf("%d bytes", r.Done)
			}
		})
	}
}

// Idle websockets stay until they are told to close, and echo meanwhile.
func TestIdleLoadObeys(t *testing.T) {
	asked, err := json.Marshal(job{Shape: "idle", At: startBackend(t), People: strangers(), PID: os.Getpid(), Conns: 10})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := load(t.Context(), strings.NewReader(string(asked)+`"echo" "close"`), &out); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "done"); got != 3 {
		t.Errorf("opened, echoed and closed makes %q", out.String())
	}
	if err := load(t.Context(), bytes.NewReader(asked), &out); err == nil {
		t.Error("without an order to close it ends in peace")
	}
}

// fake answers every connection with the same bytes.
func fake(t *testing.T, answer string) (at string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					req.Body.Close()
					if _, err := c.Write([]byte(answer)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// A wrong answer ends the job with an error that shows it.
func TestWrongAnswersEndTheRun(t *testing.T) {
	who := strangers()[:1]
	right := string(page(who[0].Path + "api/contents"))
	other := string(page("/user/somebody/api/contents"))
	ok := func(length, body string) string {
		return "HTTP/1.1 200 OK\r\nContent-Length: " + length + "\r\n\r\n" + body
	}
	for _, c := range []struct{ name, shape, answer, says string }{
		{"another status", "http", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502"},
		{"another person's page", "http", ok("1024", other+strings.Repeat("x", 1024))[:len(ok("1024", ""))+1024], "wrong answer"},
		{"one byte wrong", "http", ok("1024", right[:1000]+"!"+right[1001:]), "wrong answer"},
		{"too short", "http", ok("10", right[:10]), "10 bytes"},
		{"another encoding", "http", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunked"},
		{"a connection that is not kept", "http", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1024\r\n\r\n" + right, "could be kept"},
		{"at a fixed rate", "rate", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "503"},
		{"no upgrade", "echo", ok("1024", right), "200"},
		{"an upgrade without proof", "echo", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := job{Shape: c.shape, At: fake(t, c.answer), PID: os.Getpid(), People: who, Conns: 2, PerSec: 100, For: 100 * time.Millisecond}
			if _, err := shapes[c.shape](t.Context(), j); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestDrainBodySeesEveryByte(t *testing.T) {
	const n = 3*chunkSize + 100
	var whole bytes.Buffer
	if err := sendBody(&whole, n); err != nil || whole.Len() != n {
		t.Fatalf("%d bytes, %v", whole.Len(), err)
	}
	if err := drainBody(bufio.NewReaderSize(bytes.NewReader(whole.Bytes()), 5000), n); err != nil {
		t.Error(err)
	}
	for _, at := range []int{0, chunkSize - 1, chunkSize, n - 1} {
		broken := bytes.Clone(whole.Bytes())
		broken[at] ^= 1
		if err := drainBody(bufio.NewReaderSize(bytes.NewReader(broken), 5000), n); err == nil {
			t.Errorf("byte %d may be anything", at)
		}
	}
	if err := drainBody(bufio.NewReader(bytes.NewReader(whole.Bytes()[:n-1])), n); err == nil {
		t.Error("a body that ends early passes")
	}
}

// What the backend speaks is what others call websocket.
func TestBackendSpeaksWebsocket(t *testing.T) {
	c, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+startBackend(t)+"/user/a/api/kernels/1/channels", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	defer c.Close()
	sent := bytes.Repeat([]byte("x"), payload)
	if err := c.WriteMessage(websocket.BinaryMessage, sent); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.ReadMessage(); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%q, %v", got, err)
	}
}
