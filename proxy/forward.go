package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"carrel/hub"
)

// transports keeps a pool of connections per endpoint, so that one server's never crowd out another's.
type transports struct {
	mu  sync.Mutex
	all map[hub.Endpoint]*http.Transport
}

const (
	dialTimeout  = 3 * time.Second
	maxTransport = 10_000
)

func (t *transports) get(e hub.Endpoint) *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr := t.all[e]; tr != nil {
		return tr
	}
	if t.all == nil || len(t.all) >= maxTransport {
		for _, tr := range t.all {
			tr.CloseIdleConnections()
		}
		t.all = map[hub.Endpoint]*http.Transport{}
	}
	tr := &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, e) },
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       50 * time.Second, // Jupyter closes idle ones after an hour; containers come and go
		DisableCompression:    true,
		ExpectContinueTimeout: time.Second,
		WriteBufferSize:       16 << 10,
		ReadBufferSize:        16 << 10,
		ForceAttemptHTTP2:     false,
	}
	t.all[e] = tr
	return tr
}

// dial reaches an endpoint; a unix socket whose backlog is full says EAGAIN, which passes.
func dial(ctx context.Context, e hub.Endpoint) (net.Conn, error) {
	ctx, done := context.WithTimeout(ctx, dialTimeout)
	defer done()
	d := net.Dialer{KeepAlive: 30 * time.Second}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, e.Network(), e.Address())
		if err == nil || !errors.Is(err, syscall.EAGAIN) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// buffers are shared by all copies of bodies.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.Pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.Pool.Put(&buf) }

var bodyBuffers buffers

// pass forwards a request to one of our own processes or to a server: change edits the outgoing
// request after the hygiene, answer the response.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, e hub.Endpoint, change func(*http.Request), answer func(*http.Response) error) error {
	var failure error
	rp := &httputil.ReverseProxy{
		Transport: p.pools.get(e), BufferPool: &bodyBuffers, FlushInterval: -1, ModifyResponse: answer,
		ErrorLog: nil,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "server"
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery // ReverseProxy drops what it can't parse; the server decides
			pr.Out.Host = pr.In.Host
			cleanRequest(pr.Out.Header)
			p.setForwarded(pr.Out.Header, pr.In)
			if change != nil {
				change(pr.Out)
			}
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failure = err },
	}
	rp.ServeHTTP(w, r)
	switch {
	case failure == nil:
		return nil
	case r.Context().Err() != nil:
		return hub.Wrap(hub.Canceled, "forward", r.Context().Err())
	}
	return unreachable(w, failure)
}

func unreachable(w http.ResponseWriter, err error) error {
	w.Header().Set("Retry-After", "2")
	var kind *hub.Error
	if errors.As(err, &kind) {
		return err
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "forward", Message: "this server does not answer", Remedy: "try again in a moment; if it stays so, stop and start it from the home page", Err: err}
}

// forward sends a request on to a person's server with the server's own token, which nobody past
// this point sees.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, rt *route, who caller) error {
	path := p.cfg.Origins.ServerPath(rt.Key)
	token := p.cfg.Keyring.ServerToken(rt.Key, rt.Generation)
	return p.pass(w, r, rt.Endpoint, func(out *http.Request) {
		p.introduce(out.Header, rt, who)
		if isNavigation(r) {
			out.Header.Set("Accept-Encoding", "identity") // so that the token can be looked for
		}
	}, func(res *http.Response) error {
		cleanResponse(res.Header, path)
		return scrub(res, token)
	})
}

// introduce replaces the caller's credentials by the server's token and their name.
func (p *Proxy) introduce(h http.Header, rt *route, who caller) {
	dropOurCookies(h)
	h.Set("Authorization", "token "+p.cfg.Keyring.ServerToken(rt.Key, rt.Generation).Reveal())
	h.Set("X-Carrel-User", who.User.String())
}

// maxPage is the longest page that is searched for the token, in bytes: JupyterLab's is 20 KiB.
const maxPage = 4 << 20

// scrub takes the server's token out of its pages: JupyterLab writes it into each for its own
// scripts, which need none here. Longer ones are files of the
// person, who knows the token anyway.
func scrub(res *http.Response, token hub.Secret) error {
	if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") || res.Body == nil || res.Request.Method == http.MethodHead {
		return nil
	}
	if enc := res.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil // only what was asked for with an encoding, so no page of a navigation
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPage+1))
	if err != nil {
		return err
	}
	if len(body) > maxPage {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), res.Body), res.Body}
		return nil
	}
	res.Body.Close() //nolint:errcheck // read whole
	clean := bytes.ReplaceAll(body, []byte(token.Reveal()), nil)
	res.Body = io.NopCloser(bytes.NewReader(clean))
	if len(clean) != len(body) || res.ContentLength >= 0 {
		res.ContentLength = int64(len(clean))
		res.Header.Set("Content-Length", strconv.Itoa(len(clean)))
	}
	if len(clean) != len(body) {
		res.Header.Del("Etag")
	}
	return nil
}
