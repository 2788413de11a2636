package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"carrel/internal/deployed"

	"github.com/gorilla/websocket"
)

// A backend stands for the notebook server of one made-up person, on a socket of its own. It serves
// its owner's bytes only, and refuses, aloud, whatever reaches it and is not for it.
type backend struct {
	owner string
	base  string // "/user/<owner>/"
	token string
	log   io.Writer
}

// misled begins the line that a backend writes when something reached it that is not for it.
const misled = "MISLED"

// backends is the process that serves every made-up person's backend until ctx ends.
func backends(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("backends", flag.ContinueOnError)
	deployment := flags.String("deployment", "", "name of the deployment")
	dir := flags.String("dir", "", "the run's directory")
	n := flags.Int("people", 0, "how many")
	if err := flags.Parse(args); err != nil {
		return err
	}
	keys, err := deployed.Deployment{Name: *deployment, Dir: *dir}.Keyring()
	if err != nil {
		return err
	}
	var servers sync.WaitGroup
	defer servers.Wait()
	for i := range *n {
		p, err := madeUp(i, *dir)
		if err != nil {
			return err
		}
		path := p.endpoint.Address()
		_ = os.Remove(path) // of one that was killed
		l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
		if err != nil {
			return err
		}
		if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // the proxy runs as another user
			return err
		}
		b := &backend{p.name.String(), p.key.Path(), keys.ServerToken(p.key, 1).Reveal(), log}
		server := &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second}
		servers.Go(func() {
			if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				fmt.Fprintln(log, err)
			}
		})
		defer server.Close() //nolint:errcheck,revive // all end together
	}
	fmt.Fprintln(log, "ready")
	<-ctx.Done()
	return nil
}

// ServeHTTP implements [http.Handler].
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fault := b.misled(r); fault != "" {
		fmt.Fprintf(b.log, "%s %s: %s: %s %s\n", misled, b.owner, fault, r.Method, r.URL)
		http.Error(w, "owner="+b.owner+" was reached by mistake", http.StatusTeapot)
		return
	}
	q := r.URL.Query()
	seed, _ := strconv.ParseUint(q.Get("seed"), 16, 64) // none is 0
	size, _ := strconv.ParseInt(q.Get("size"), 10, 64)
	page := strings.TrimPrefix(r.URL.Path, b.base)
	switch {
	case page == "lab":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>owner=%s</title>", b.owner)
	case strings.HasPrefix(page, "assets/"):
		b.asset(w, r, payload{b.owner, seed, size})
	case page == "files/data":
		b.download(w, payload{b.owner, seed, size}, q.Get("length") != "")
	case page == "upload":
		b.upload(w, r)
	case page == "talk":
		b.talk(w, r)
	default:
		http.NotFound(w, r)
	}
}

// misled says why a request is not for this backend.
func (b *backend) misled(r *http.Request) string {
	switch {
	case !strings.HasPrefix(r.URL.Path, b.base):
		return "a path of another's"
	case r.Header.Get("X-Carrel-User") != b.owner:
		return "a request of " + r.Header.Get("X-Carrel-User")
	case r.Header.Get("Authorization") != "token "+b.token:
		return "another server's token"
	case strings.Contains(strings.Join(r.Header["Cookie"], ";"), "carrel-"):
		return "a cookie of ours"
	}
	return ""
}

// asset is what browsers keep: asked for again with its tag, it has not changed.
func (b *backend) asset(w http.ResponseWriter, r *http.Request, p payload) {
	tag := fmt.Sprintf("%q", fmt.Sprintf("%s-%x-%d", p.owner, p.seed, p.size))
	w.Header().Set("Etag", tag)
	w.Header().Set("Cache-Control", "private, max-age=60")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	b.download(w, p, true)
}

func (b *backend) download(w http.ResponseWriter, p payload, length bool) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if length {
		w.Header().Set("Content-Length", strconv.FormatInt(p.size, 10))
	}
	_, _ = io.Copy(w, p.stream()) // who left has no use for the rest
}

// received is what a backend says of an upload.
type received struct {
	Owner  string `json:"owner"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func (b *backend) upload(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		return // the client left
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(received{b.owner, n, hex.EncodeToString(sum.Sum(nil))}); err != nil {
		fmt.Fprintln(b.log, "answer an upload:", err)
	}
}

var upgrader = websocket.Upgrader{
	EnableCompression: true, Subprotocols: []string{"soak.v1"}, HandshakeTimeout: 10 * time.Second,
	CheckOrigin: func(*http.Request) bool { return true }, // the proxy's to check, and that is what is tested
}

// tickEvery is how often a backend says something by itself.
const tickEvery = 5 * time.Second

// talk echoes each message with the owner's name in front, and ticks by itself.
func (b *backend) talk(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the client left
	}
	var mu sync.Mutex
	say := func(text string, body []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(time.Minute)) // a broken connection shows at once
		return conn.WriteMessage(websocket.BinaryMessage, append([]byte(text+"\n"), body...))
	}
	gone := make(chan struct{})
	var ticker sync.WaitGroup
	defer ticker.Wait()
	defer close(gone)
	defer conn.Close()
	ticker.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-gone:
				return
			case <-time.After(tickEvery):
			}
			if say(fmt.Sprintf("tick %s %d", b.owner, n), nil) != nil {
				return
			}
		}
	})
	for n := 0; ; n++ {
		_, message, err := conn.ReadMessage()
		if err != nil || say(fmt.Sprintf("echo %s %d", b.owner, n), message) != nil {
			return
		}
	}
}
