//go:build integration

package docker

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// flood begins so many connections, or sends so many datagrams from as many ports, as fast as it can, and prints
// how many were answered.
const flood = `
import selectors, socket, sys, time
network, host, port, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
answered, s = 0, selectors.DefaultSelector()
def look(wait):
    global answered
    for key, _ in s.select(wait):
        s.unregister(key.fileobj)
        try:
            if network == "udp": key.fileobj.recv(64)
            answered += network == "udp" or not key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError:
            pass
        key.fileobj.close()
begin = time.monotonic()
for i in range(n):
    c = socket.socket(socket.AF_INET, socket.SOCK_STREAM if network == "tcp" else socket.SOCK_DGRAM)
    c.setblocking(False)
    try:
        c.connect((host, port))
        if network == "udp": c.send(b"?")
    except BlockingIOError:
        pass
    s.register(c, selectors.EVENT_WRITE if network == "tcp" else selectors.EVENT_READ)
    if i % 50 == 49: look(0)
sent = time.monotonic() - begin
while time.monotonic() - begin < sent + 0.8: look(0.1)
print(answered, round(time.monotonic() - begin, 2))
`

// TestFloods is attack 20: whoever begins connections without end is held to so many a second; a neighbour is not,
// and established ones go on. Mail leaves from nowhere.
func TestFloods(t *testing.T) {
	d := newDriver(t)
	w := newWorld(t, d)
	spec := idle(t, "alice")
	spec.Network = hub.NetworkOpen
	spec.Limits.Files = 8000
	h, _ := start(t, d, spec)
	other := idle(t, "bob")
	other.Network = hub.NetworkOpen
	bobs, _ := start(t, d, other)
	for _, network := range []string{"tcp", "udp"} {
		const n = 4000
		begin := time.Now()
		var answered int
		var took float64
		out := python(t, d, h, flood, network, w.public, strconv.Itoa(w.port), strconv.Itoa(n))
		if _, err := fmt.Sscan(out, &answered, &took); err != nil {
			t.Fatalf("the flood printed %q: %v", out, err)
		}
		const his = 200
		if out := python(t, d, bobs, flood, network, w.public, strconv.Itoa(w.port), strconv.Itoa(his)); !strings.HasPrefix(out, strconv.Itoa(his)+" ") {
			t.Errorf("%s: of a neighbour's %d were answered: %s", network, his, out)
		}
		// A connection that was dropped is tried again by the kernel, a second later.
		if most := flowBurst + int(took*newFlows) + newFlows; answered < flowBurst/2 || answered > most {
			t.Errorf("%s: of %d begun within %.1f s %d were answered, want %d at most", network, n, took, answered, most)
		}
		t.Attr("seen-20", fmt.Sprintf("%s: of %d begun at once %d are answered within %.1f s; of a neighbour's %d all", network, n, answered, took, his))
		time.Sleep(time.Until(begin.Add(time.Duration(took*float64(time.Second)) + (flowBurst/newFlows+1)*time.Second))) // until the burst may be had again
	}
	listen(t, w.path, 25)
	expect(t, d, h, false, []target{{"tcp", w.public, 25}})
	flush(t, d)
	expect(t, d, h, true, []target{{"tcp", w.public, 25}})
	t.Attr("seen-20", "the mail port: dropped, and reached without the filter")
}

// TestRedirectToMetadata is attack 17 by a server outside that leads there: whoever follows is stopped by the
// address, not by what is written.
func TestRedirectToMetadata(t *testing.T) {
	d := newDriver(t)
	w := newWorld(t, d)
	spec := idle(t, "alice")
	spec.Network = hub.NetworkOpen
	h, _ := start(t, d, spec)
	l, inner := listenAt(t, w, w.public), listenAt(t, w, "169.254.169.254")
	secret := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/latest") {
			_, _ = rw.Write([]byte("credentials"))
			return
		}
		http.Redirect(rw, r, "http://"+r.URL.Query().Get("to")+"/latest", http.StatusFound)
	})}
	var wg sync.WaitGroup
	for _, each := range []net.Listener{l, inner} {
		wg.Go(func() { _ = secret.Serve(each) })
	}
	t.Cleanup(func() { secret.Close(); wg.Wait() })
	_, port, _ := net.SplitHostPort(inner.Addr().String())
	follow := func() string {
		return python(t, d, h, `
import sys, urllib.request
try:
    print(urllib.request.urlopen(f"http://{sys.argv[1]}/?to={sys.argv[2]}", timeout=3).read().decode())
except OSError as e:
    print("none")`, l.Addr().String(), "169.254.169.254:"+port)
	}
	if got := follow(); got != "none" {
		t.Errorf("behind the redirect is %q", got)
	}
	flush(t, d)
	if got := follow(); got != "credentials" {
		t.Errorf("without the filter, behind the redirect is %q: this tests nothing", got)
	}
	t.Attr("seen-17", "by a redirect from outside: none, and the credentials without the filter")
}

// listenAt listens on an address of a world.
func listenAt(t *testing.T, w *world, host string) (l net.Listener) {
	t.Helper()
	var err error
	within(t, w.path, func() { l, err = net.Listen("tcp4", host+":0") })
	if err != nil {
		t.Fatal(err)
	}
	return l
}
