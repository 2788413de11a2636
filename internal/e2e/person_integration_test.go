//go:build integration

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/html"

	"carrel/internal/visitor"
)

// person is someone with a browser's cookies, driven over HTTP.
type person struct {
	t    *testing.T
	d    *deployment
	name string
	http *http.Client
}

// dialLoopback sends every *.localhost name to loopback, as browsers do (RFC 6761, section 6.3).
func dialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
		addr = "127.0.0.1:" + port
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
}

func (d *deployment) person(name string) *person {
	jar, err := cookiejar.New(nil)
	if err != nil {
		d.t.Fatal(err)
	}
	tr := &http.Transport{DialContext: dialLoopback, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // a certificate of the test's own
	d.t.Cleanup(tr.CloseIdleConnections)
	return &person{t: d.t, d: d, name: name, http: &http.Client{Jar: jar, Transport: tr, Timeout: 60 * time.Second}}
}

// in is the same person in a subtest.
func (p *person) in(t *testing.T) *person {
	q := *p
	q.t = t
	return &q
}

// page is an answer read whole.
type page struct {
	status int
	url    *url.URL
	header http.Header
	body   string
}

func (p *person) do(method, address string, form url.Values, header http.Header) page {
	p.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, address, body)
	if err != nil {
		p.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return p.send(req)
}

func (p *person) send(req *http.Request) page {
	p.t.Helper()
	res, err := p.http.Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		p.t.Fatal(err)
	}
	return page{res.StatusCode, res.Request.URL, res.Header, string(b)}
}

// navigation is what a browser sends when a person follows a link.
var navigation = http.Header{"Accept": {"text/html"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Site": {"none"}}

// visit follows a link.
func (p *person) visit(address string) page {
	p.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = p.d.url + address
	}
	return p.do(http.MethodGet, address, nil, navigation.Clone())
}

// post submits a form of a page at origin.
func (p *person) post(address string, form url.Values) page {
	p.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = p.d.url + address
	}
	u, err := url.Parse(address)
	if err != nil {
		p.t.Fatal(err)
	}
	h := navigation.Clone()
	h.Set("Origin", u.Scheme+"://"+u.Host)
	h.Set("Sec-Fetch-Site", "same-origin")
	return p.do(http.MethodPost, address, form, h)
}

// signIn goes through the provider's pages as a browser would, filling in what they ask for.
func (p *person) signIn() page {
	p.t.Helper()
	at := p.tryToSignIn()
	if at.status != http.StatusOK || !strings.Contains(at.url.Path, "/hub/home") {
		p.t.Fatalf("%s's sign-in ended at %s with status %d:\n%.2000s", p.name, at.url, at.status, at.body)
	}
	return at
}

// tryToSignIn tells where the way through the provider's pages ends.
func (p *person) tryToSignIn() page {
	p.t.Helper()
	at := p.visit("/hub/login")
	for range 6 {
		action, fields, ok := firstForm(at)
		if !ok || !strings.Contains(at.body, "type=\"password\"") && !strings.Contains(at.url.Path, "demo-provider") {
			break
		}
		for name := range fields {
			switch {
			case strings.Contains(name, "user") || name == "login" || name == "name":
				fields.Set(name, p.name)
			case strings.Contains(name, "pass"):
				fields.Set(name, p.d.people[p.name])
			}
		}
		at = p.post(action, fields)
	}
	return at
}

// firstForm gives the address and fields of a page's first form with a POST method.
func firstForm(pg page) (action string, fields url.Values, ok bool) {
	doc, err := html.Parse(strings.NewReader(pg.body))
	if err != nil {
		return "", nil, false
	}
	fields = url.Values{}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == "form" && strings.EqualFold(attr(n, "method"), "post") {
			u, err := pg.url.Parse(attr(n, "action"))
			if err != nil {
				return "", nil, false
			}
			for c := range n.Descendants() {
				if c.Type == html.ElementNode && c.Data == "input" && attr(c, "name") != "" {
					fields.Set(attr(c, "name"), attr(c, "value"))
				}
			}
			return u.String(), fields, true
		}
	}
	return "", nil, false
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// api calls the hub's REST interface as a page of its own would.
func (p *person) api(method, path string, body string) (int, map[string]any) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.d.url+"/hub/api"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	u, _ := url.Parse(p.d.url)
	req.Header.Set("Origin", u.Scheme+"://"+u.Host)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Accept", "application/json")
	pg := p.send(req)
	var out map[string]any
	if pg.body != "" {
		json.Unmarshal([]byte(pg.body), &out)
	}
	return pg.status, out
}

// start starts the default server and waits until it is ready; server "" is the default one.
func (p *person) start(profile string) {
	p.t.Helper()
	status, out := p.api(http.MethodPost, "/users/"+p.name+"/server", fmt.Sprintf(`{"profile":%q}`, profile))
	if status != http.StatusAccepted && status != http.StatusCreated {
		p.t.Fatalf("start: status %d, %v", status, out)
	}
	p.waitReady(2 * time.Minute)
	p.enter()
}

// enter opens the default server, which gives the browser a session on its host.
func (p *person) enter() {
	p.t.Helper()
	if at := p.visit(p.notebook("lab")); at.status != http.StatusOK {
		p.t.Fatalf("%s's server: %s gives status %d:\n%.500s", p.name, at.url, at.status, at.body)
	}
}

func (p *person) waitReady(within time.Duration) {
	p.t.Helper()
	eventually(p.t, within, "the server is ready", func() bool {
		_, user := p.api(http.MethodGet, "/users/"+p.name, "")
		return user["server"] != nil
	})
}

// stop stops the default server and waits until it is gone.
func (p *person) stop() {
	p.t.Helper()
	if status, out := p.api(http.MethodDelete, "/users/"+p.name+"/server", ""); status != http.StatusAccepted && status != http.StatusNoContent {
		p.t.Fatalf("stop: status %d, %v", status, out)
	}
	eventually(p.t, time.Minute, "the server is gone", func() bool {
		_, user := p.api(http.MethodGet, "/users/"+p.name, "")
		servers, _ := user["servers"].(map[string]any)
		return len(servers) == 0
	})
}

// origin is that of the person's notebooks.
func (p *person) origin() string {
	u, err := url.Parse(p.d.url)
	if err != nil {
		p.t.Fatal(err)
	}
	return u.Scheme + "://" + strings.ReplaceAll(p.name, "-", "-2d") + "." + u.Host // a label, as hub.UserName.Label makes it
}

// notebook is an address below the person's default server.
func (p *person) notebook(path string) string {
	return p.origin() + p.d.base() + "user/" + p.name + "/" + path
}

// jupyter makes a same-origin call to the person's server.
func (p *person) jupyter(method, path, body string) (int, []byte) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.notebook(path), strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Origin", p.origin())
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	req.Header.Set("Content-Type", "application/json")
	pg := p.send(req)
	return pg.status, []byte(pg.body)
}

// kernel is a kernel's websocket.
type kernel struct {
	t    *testing.T
	id   string
	conn *websocket.Conn
}

// newKernel starts a kernel and opens its websocket.
func (p *person) newKernel() *kernel {
	p.t.Helper()
	status, body := p.jupyter(http.MethodPost, "api/kernels", "{}")
	if status != http.StatusCreated {
		p.t.Fatalf("start kernel: status %d, %s", status, body)
	}
	var k struct{ ID string }
	if err := json.Unmarshal(body, &k); err != nil {
		p.t.Fatal(err)
	}
	return p.openKernel(k.ID)
}

// openKernel opens the websocket of a kernel that runs already.
func (p *person) openKernel(id string) *kernel {
	p.t.Helper()
	conn, res, err := p.dialWS("api/kernels/"+id+"/channels", p.origin())
	if err != nil {
		status := 0
		if res != nil {
			status = res.StatusCode
		}
		p.t.Fatalf("open kernel %s: %v (status %d)", id, err, status)
	}
	p.t.Cleanup(func() { conn.Close() })
	return &kernel{p.t, id, conn}
}

// dialWS opens a websocket below the person's server with their cookies and the Origin given.
func (p *person) dialWS(path, origin string) (*websocket.Conn, *http.Response, error) {
	address := p.notebook(path)
	u, err := url.Parse(address)
	if err != nil {
		p.t.Fatal(err)
	}
	h := http.Header{}
	if origin != "" {
		h.Set("Origin", origin)
	}
	for _, c := range p.http.Jar.Cookies(u) {
		h.Add("Cookie", c.String())
	}
	dialer := websocket.Dialer{NetDialContext: dialLoopback, HandshakeTimeout: 10 * time.Second, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	return dialer.Dial("ws"+strings.TrimPrefix(address, "http"), h)
}

// run executes code and returns what it printed, with errors' names and values.
func (k *kernel) run(code string) string {
	k.t.Helper()
	out, err := k.try(code, 60*time.Second)
	if err != nil {
		k.t.Fatalf("run %q: %v", code, err)
	}
	return out
}

func (k *kernel) try(code string, within time.Duration) (string, error) {
	return visitor.Execute(k.conn, code, within)
}
