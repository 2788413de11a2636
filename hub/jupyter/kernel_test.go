package jupyter

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

// kernels is a Jupyter server that has nothing but kernels. The zero value's answer as they should.
type kernels struct {
	talk   func(*websocket.Conn, message) // in place of a right answer, to the hub's request
	booted func(http.ResponseWriter)      // in place of the right answer to a start

	mu      sync.Mutex
	running int
	started int
	paths   []string
}

var upgrader = websocket.Upgrader{Subprotocols: []string{"v1.kernel.websocket.jupyter.org"}}

func (k *kernels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.paths = append(k.paths, r.Method+" "+r.URL.Path)
	k.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/user/alice/api")
	switch {
	case r.Header.Get("Authorization") != "token "+token:
		w.WriteHeader(http.StatusForbidden)
	case !ok:
		http.NotFound(w, r)
	case path == "":
		fmt.Fprint(w, `{"version":"2"}`)
	case path == "/kernels" && r.Method == http.MethodPost:
		k.count(1)
		if k.booted != nil {
			k.booted(w)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"one"}`)
	case path == "/kernels/one" && r.Method == http.MethodDelete:
		k.count(-1)
		w.WriteHeader(http.StatusNoContent)
	case path == "/kernels/one/channels":
		k.channels(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (k *kernels) count(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running += n
	k.started += max(n, 0)
}

func (k *kernels) left() (running, started int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running, k.started
}

func (k *kernels) channels(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	var ask message
	if conn.ReadJSON(&ask) != nil {
		return
	}
	if k.talk != nil {
		k.talk(conn, ask)
		return
	}
	for _, m := range []message{
		reply(ask, "status", "iopub", `{"execution_state":"busy"}`),
		reply(ask, "execute_reply", "shell", right),
	} {
		if conn.WriteJSON(m) != nil {
			return
		}
	}
	_, _, _ = conn.ReadMessage()
}

const right = `{"status":"ok","user_expressions":{"answer":{"status":"ok","data":{"text/plain":"42"},"metadata":{}}}}`

func reply(to message, kind, channel, content string) message {
	return message{Header: header{ID: "r", Type: kind}, Parent: to.Header, Channel: channel, Content: json.RawMessage(content), Metadata: json.RawMessage(`{}`)}
}

// awaitNone waits until no kernel is left behind.
func (k *kernels) awaitNone(t *testing.T) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		running, started := k.left()
		if running == 0 && started > 0 {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d of %d kernels are left behind", running, started)
		}
	}
}

func TestTryKernel(t *testing.T) {
	k := &kernels{}
	tg := serve(t, k.ServeHTTP)
	if err := (Client{}).TryKernel(t.Context(), tg); err != nil {
		t.Fatal(err)
	}
	k.awaitNone(t)
	for _, p := range k.paths {
		if !strings.Contains(p, " /user/alice/api/kernels") {
			t.Errorf("asked %s", p)
		}
	}
	wrong := tg
	wrong.BasePath = "/user/bob/"
	if err := (Client{}).TryKernel(t.Context(), wrong); hub.KindOf(err) != hub.Unavailable {
		t.Errorf("below another base path: %v", err)
	}
}

// What a kernel asks of the client matches what real ones read.
func TestExecuteRequest(t *testing.T) {
	asked := make(chan message, 1)
	k := &kernels{talk: func(c *websocket.Conn, m message) {
		asked <- m
		_ = c.WriteJSON(reply(m, "execute_reply", "shell", right))
	}}
	if err := (Client{}).TryKernel(t.Context(), serve(t, k.ServeHTTP)); err != nil {
		t.Fatal(err)
	}
	m := <-asked
	var content map[string]any
	if err := json.Unmarshal(m.Content, &content); err != nil {
		t.Fatal(err)
	}
	if m.Header.Type != "execute_request" || m.Channel != "shell" || m.Header.ID == "" || m.Header.Session == "" || content["silent"] != true || content["allow_stdin"] != false {
		t.Errorf("asked %+v with %v", m, content)
	}
}

// However a kernel misbehaves, the hub notices in time and shuts it down.
func TestBadKernels(t *testing.T) {
	t.Parallel()
	stay := func(c *websocket.Conn) { // until the hub has had enough
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	}
	for _, c := range []struct {
		name   string
		talk   func(*websocket.Conn, message)
		within time.Duration // the caller's; zero: it must not matter
	}{
		{"never answers", func(c *websocket.Conn, _ message) { stay(c) }, 300 * time.Millisecond},
		{"wrong answer", func(c *websocket.Conn, m message) {
			_ = c.WriteJSON(reply(m, "execute_reply", "shell", strings.Replace(right, "42", "41", 1)))
		}, 0},
		{"an error", func(c *websocket.Conn, m message) {
			_ = c.WriteJSON(reply(m, "execute_reply", "shell", `{"status":"error","ename":"X"}`))
		}, 0},
		{"an answer to somebody else", func(c *websocket.Conn, m message) {
			m.Header.ID = "other"
			_ = c.WriteJSON(reply(m, "execute_reply", "shell", right))
			stay(c)
		}, 300 * time.Millisecond},
		{"talk without end", func(c *websocket.Conn, m message) {
			for c.WriteJSON(reply(m, "stream", "iopub", `{}`)) == nil {
			}
		}, 0},
		{"pings without end", func(c *websocket.Conn, _ message) {
			go stay(c)
			for c.WriteControl(websocket.PingMessage, []byte(strings.Repeat("p", 125)), time.Now().Add(time.Second)) == nil {
			}
		}, 0},
		{"one message without end", func(c *websocket.Conn, _ message) {
			w, err := c.NextWriter(websocket.TextMessage)
			for err == nil {
				_, err = w.Write([]byte(strings.Repeat("x", 64<<10)))
			}
		}, 0},
		{"garbage", func(c *websocket.Conn, _ message) { _ = c.WriteMessage(websocket.BinaryMessage, []byte{0, 1, 2, 255}) }, 0},
		{"deep", func(c *websocket.Conn, _ message) {
			_ = c.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("[", 200_000)))
		}, 0},
		{"hangs up", func(*websocket.Conn, message) {}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := &kernels{talk: c.talk}
			ctx := t.Context()
			if c.within > 0 {
				var done context.CancelFunc
				ctx, done = context.WithTimeout(ctx, c.within)
				defer done()
			}
			tg := serve(t, k.ServeHTTP)
			began := time.Now()
			if err := (Client{}).TryKernel(ctx, tg); err == nil || hub.KindOf(err) != hub.Unavailable {
				t.Errorf("%v", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			k.awaitNone(t)
		})
	}
}

// A server that does not say what it started, or starts nothing.
func TestBadStarts(t *testing.T) {
	for name, booted := range map[string]func(http.ResponseWriter){
		"forbidden": func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"no id":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated); fmt.Fprint(w, `{}`) },
		"garbage":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated); fmt.Fprint(w, `{"id":`) },
		"a long id": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"id":%q}`, strings.Repeat("x", 200))
		},
		"a number": func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated); fmt.Fprint(w, `{"id":7}`) },
		"a path": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"id":"../../../hub/api/users"}`)
		},
		"a question": func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated); fmt.Fprint(w, `{"id":"x?y#z"}`) },
	} {
		k := &kernels{booted: booted}
		if err := (Client{}).TryKernel(t.Context(), serve(t, k.ServeHTTP)); err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		for _, p := range k.paths {
			if !strings.Contains(p, " /user/alice/api/kernels") || strings.Contains(p, "hub/api") && strings.HasPrefix(p, "GET /hub") {
				t.Errorf("%s led to %s", name, p)
			}
		}
	}
}

// A handshake whose headers never end is cut: the library that reads them knows no limit.
func TestEndlessHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, err = fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\n")
		line := "X-A: " + strings.Repeat("x", 60<<10) + "\r\n"
		for err == nil && sent < 256<<20 {
			_, err = fmt.Fprint(c, line)
			sent += len(line)
		}
	}()
	tg := target(t, "http://"+l.Addr().String())
	if err := compute(t.Context(), tg, "api/kernels/one/channels"); err == nil || hub.KindOf(err) != hub.Unavailable {
		t.Errorf("%v", err)
	}
	l.Close()
	<-done
	if sent > maxTalk+(16<<20) { // what was under way in buffers
		t.Errorf("%d bytes of headers were taken", sent)
	}
}

// FuzzReply: whatever a kernel says, it is read without harm, and only 42 is 42.
func FuzzReply(f *testing.F) {
	for _, s := range []string{right, `{}`, `{"status":"ok"}`, `{"status":"ok","user_expressions":{"answer":{"data":{"text/plain":42}}}}`, `[`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		var m message
		wire, err := json.Marshal(map[string]any{"header": map[string]string{"msg_type": "execute_reply"}, "content": json.RawMessage(content)})
		if err != nil {
			return // no JSON
		}
		if err := json.Unmarshal(wire, &m); err != nil {
			t.Fatalf("%s: %v", wire, err)
		}
		if saysFortyTwo(m.Content) && (!strings.Contains(string(content), "42") && !strings.Contains(string(content), `\u003`)) {
			t.Fatalf("%s passes for 42", content)
		}
	})
}
