package proxy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

// traffic is what the proxy tells of a server.
func (w *world) traffic(user string) (hub.Traffic, bool) {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.proxy.Traffic().ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	for dec := json.NewDecoder(rec.Body); ; {
		var t hub.Traffic
		if err := dec.Decode(&t); errors.Is(err, io.EOF) {
			return t, false
		} else if err != nil {
			w.t.Fatal(err)
		}
		if t.Key.User.String() == user {
			return t, true
		}
	}
}

// TestTrafficIsEachServersOwn: requests, bytes both ways and websockets are counted for the server that
// they were for, and for no other.
func TestTrafficIsEachServersOwn(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.person("alice"), w.person("bob")
	for _, name := range []string{"alice", "bob"} {
		w.serve(name, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/socket") {
				echo(nil).ServeHTTP(rw, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(rw, "0123456789")
		}))
	}
	if got, told := w.traffic("alice"); told {
		t.Errorf("nobody asked, and yet %+v", got)
	}
	before := time.Now()
	w.get(w.url("alice", "lab"), w.as(alice))
	w.send("PUT", w.url("alice", "api/contents/x"), "12345", w.as(alice), ownOrigin(w, "alice"))
	w.get(w.url("bob", "lab"), w.as(bob))
	w.get(w.url("alice", "lab"), w.as(bob)) // is refused, and no server's
	w.until("alice's bytes are counted", func() bool {
		got, _ := w.traffic("alice")
		return got.Requests == 2 && got.Received == 5 && got.Sent == 20
	})
	if got, _ := w.traffic("alice"); got.Last.Before(before) || got.Last.After(time.Now()) {
		t.Errorf("last used at %v", got.Last)
	}
	if got, told := w.traffic("bob"); !told || got.Requests != 1 || got.Received != 0 || got.Sent != 10 || !got.Last.IsZero() {
		t.Errorf("bob: %+v", got)
	}
	c := w.mustSocket(alice, "socket")
	must(t, c.WriteMessage(websocket.TextMessage, []byte("hello")))
	if _, _, err := c.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	w.until("the websocket is counted", func() bool {
		got, _ := w.traffic("alice")
		return got.Websockets == 1 && got.Requests == 3 && got.Received == 5+11 && got.Sent >= 20+7 // and the 101 itself
	})
	c.Close()
	w.until("and its end", func() bool { got, _ := w.traffic("alice"); return got.Websockets == 0 })
}
