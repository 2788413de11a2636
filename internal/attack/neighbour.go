package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
	"carrel/internal/deployed"
	"carrel/internal/program"
	"carrel/internal/visitor"
)

// answerWithin is how long the neighbour waits for an answer, before it counts as none.
const answerWithin = 20 * time.Second

// A neighbour is somebody with a notebook in a deployment of their own on the machine that is attacked, who
// computes 1+1 again and again.
type neighbour struct {
	deployed.Deployment

	o       options
	url     string // the hub's public address
	home    string // of the notebook
	carrel  *program.Process
	v       *visitor.Visitor
	tr      *http.Transport
	kernel  string
	conn    *websocket.Conn
	origins hub.Origins
}

const neighbourName = "neighbour"

// settle starts the deployment, signs the neighbour in, and starts their server and kernel. What it gives is to
// be left in any case.
func settle(ctx context.Context, o options, out io.Writer) (*neighbour, error) {
	dir, err := os.MkdirTemp("/tmp", "crl-attack-") // a unix socket's path holds 108 bytes
	if err != nil {
		return nil, err
	}
	n := &neighbour{Deployment: deployed.Deployment{Name: "near" + strings.ToLower(filepath.Base(dir)[len("crl-attack-"):]), Dir: dir}, o: o}
	port := strconv.Itoa(program.FreePort())
	n.url = "http://localhost:" + port + "/"
	if n.origins, err = hub.NewOrigins(hub.Subdomains, n.url, ""); err != nil {
		return n, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // the proxy's user passes through
		return n, err
	}
	if err := os.WriteFile(n.config(), n.yaml(port), 0o600); err != nil {
		return n, err
	}
	cmd := exec.Command(o.binary, "serve", "--config", n.config()) //nolint:noctx // it is stopped in order, by leave
	if n.carrel, err = program.Launch(cmd, filepath.Join(o.logs, "neighbour.log")); err != nil {
		return n, err
	}
	fmt.Fprintln(out, "starting the neighbour's notebook")
	n.tr = &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port) // as browsers do with *.localhost
	}}
	if n.v, err = visitor.New(n.url, n.tr); err != nil {
		return n, err
	}
	err = n.carrel.Answers(ctx, 10*time.Minute, func() bool { // a fresh machine builds the kernel image first
		at, err := n.v.Send(ctx, http.MethodGet, n.url+"hub/health", nil)
		return err == nil && at.Status == http.StatusOK
	})
	if err != nil {
		return n, err
	}
	return n, n.open(ctx)
}

func (n *neighbour) config() string { return filepath.Join(n.Dir, "carrel.yaml") }

func (n *neighbour) yaml(port string) []byte {
	return fmt.Appendf(nil, `deployment: %s
state_dir: %s
public_url: %s
listen: ["127.0.0.1:%s"]
demo: {people: [%s]}
profiles:
  - {name: desk, title: Desk, default: true, cpu: 1, memory: 512MiB, disk: 64MiB, tmp: 64MiB, cull: {idle: 0s}}
`, n.Name, filepath.Join(n.Dir, "state"), n.url, port, neighbourName)
}

// open signs in, and opens a kernel.
func (n *neighbour) open(ctx context.Context) error {
	password, err := n.password()
	if err != nil {
		return err
	}
	if err := n.v.SignIn(ctx, neighbourName, password); err != nil {
		return err
	}
	name, err := hub.ParseUserName(neighbourName)
	if err != nil {
		return err
	}
	n.home = n.origins.ServerOrigin(name) + "/user/" + neighbourName + "/"
	if at, err := n.v.Send(ctx, http.MethodPost, n.url+"hub/api/users/"+neighbourName+"/server", nil); err != nil || at.Status != http.StatusCreated && at.Status != http.StatusAccepted {
		return fmt.Errorf("start the server: status %d: %.300s: %w", at.Status, at.Body, err)
	}
	err = n.carrel.Answers(ctx, 2*time.Minute, func() bool {
		at, err := n.v.Send(ctx, http.MethodGet, n.home+"lab", nil)
		return err == nil && at.Status == http.StatusOK && strings.Contains(at.Body, "jupyter-config-data")
	})
	if err != nil {
		return err
	}
	at, err := n.v.Send(ctx, http.MethodPost, n.home+"api/kernels", nil)
	if err != nil {
		return err
	}
	var k struct{ ID string }
	if err := json.Unmarshal([]byte(at.Body), &k); err != nil || k.ID == "" {
		return fmt.Errorf("start a kernel: status %d: %.300s: %w", at.Status, at.Body, err)
	}
	n.kernel = k.ID
	for range 20 { // the first are slower
		if err := n.compute(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (n *neighbour) password() (string, error) {
	raw, err := os.ReadFile(filepath.Join(n.Dir, "state", "demo-users.json"))
	if err != nil {
		return "", err
	}
	var people []struct{ Name, Password string }
	if err := json.Unmarshal(raw, &people); err != nil || len(people) == 0 {
		return "", fmt.Errorf("demo-users.json: %w", err)
	}
	return people[0].Password, nil
}

// compute asks the kernel for 1+1, by a websocket that stays open as a browser's does.
func (n *neighbour) compute(ctx context.Context) error {
	if n.conn == nil {
		d := websocket.Dialer{Jar: n.v.HTTP.Jar, NetDialContext: n.tr.DialContext, HandshakeTimeout: answerWithin}
		at, _ := strings.CutPrefix(n.home, "http")
		conn, res, err := d.DialContext(ctx, "ws"+at+"api/kernels/"+n.kernel+"/channels", http.Header{"Origin": {strings.TrimSuffix(n.home, "/user/"+neighbourName+"/")}})
		if res != nil {
			res.Body.Close()
		}
		if err != nil {
			return fmt.Errorf("open the kernel: %w", err)
		}
		n.conn = conn
	}
	said, err := visitor.Execute(n.conn, "1+1", answerWithin)
	if err != nil {
		n.conn.Close()
		n.conn = nil
		return err
	}
	if said != "2" {
		return fmt.Errorf("1+1 is %.100q", said)
	}
	return nil
}

// A sample is one answer of the neighbour's kernel.
type sample struct {
	At      time.Time `json:"at"` // asked
	Seconds float64   `json:"seconds"`
	Fault   string    `json:"fault,omitempty"`
}

// A watch is the neighbour's computing, until it is ended.
type watch struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	samples []sample
}

// watch has the neighbour compute once every so long, beside what else goes on.
func (n *neighbour) watch(ctx context.Context, every time.Duration) *watch {
	ctx, stop := context.WithCancel(ctx)
	w := &watch{stop: stop}
	w.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s := sample{At: time.Now()}
			err := n.compute(ctx)
			s.Seconds = time.Since(s.At).Seconds()
			if err != nil && ctx.Err() == nil {
				s.Fault = err.Error()
			}
			w.samples = append(w.samples, s)
		}
	})
	return w
}

func (w *watch) end() []sample {
	w.stop()
	w.done.Wait()
	return w.samples
}

// leave ends the neighbour's deployment and removes what it made.
func (n *neighbour) leave(ctx context.Context) error {
	if n == nil {
		return nil
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if n.tr != nil {
		n.tr.CloseIdleConnections()
	}
	ctx, done := context.WithTimeout(ctx, 2*time.Minute)
	defer done()
	err := n.carrel.Stop()
	if n.carrel != nil {
		_, down := program.Output(ctx, n.o.binary, "down", "--volumes", "--config", n.config())
		err = errors.Join(err, down)
	}
	return errors.Join(err, os.RemoveAll(n.Dir))
}
