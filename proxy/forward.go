package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
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

	maxServerHead = 256 << 10 // of an answer, whose sender may be hostile
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

		MaxResponseHeaderBytes: maxServerHead,
	}
	t.all[e] = tr
	return tr
}

// drop forgets an endpoint that no route leads to.
func (t *transports) drop(e hub.Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr := t.all[e]; tr != nil {
		tr.CloseIdleConnections()
		delete(t.all, e)
	}
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

// identity are the headers that Connection may not take away: who asks, and from which page.
var identity = []string{"Authorization", "Cookie", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"}

// pass forwards a request to one of our own processes or to a server: change edits the outgoing
// request after the hygiene, answer the response.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, e hub.Endpoint, change func(*http.Request), answer func(*http.Response) error) error {
	var failure error
	sent, _ := r.Body.(*body)
	relay := p.relay
	relay.Transport = p.pools.get(e)
	relay.Rewrite = func(pr *httputil.ProxyRequest) {
		pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "server"
		pr.Out.URL.RawQuery = pr.In.URL.RawQuery // ReverseProxy drops what it can't parse; the server decides
		pr.Out.Host = pr.In.Host
		pr.Out.Trailer = nil // a way past the hygiene
		for _, name := range identity {
			if v := pr.In.Header[name]; v != nil {
				pr.Out.Header[name] = v
			}
		}
		cleanRequest(pr.Out.Header)
		p.setForwarded(pr.Out.Header, pr.In)
		if change != nil {
			change(pr.Out)
		}
	}
	relay.ModifyResponse = func(res *http.Response) error {
		if res.StatusCode < 200 {
			return errNonsense // a switch of protocols that nobody asked for, or no status at all
		}
		if answer == nil {
			return nil
		}
		return answer(res)
	}
	relay.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { failure = err }
	relay.ServeHTTP(w, r)
	cleanTrailers(w.Header())
	switch {
	case failure == nil:
		return nil
	case sent.tooSlow(): // net/http takes that for the client's leaving, but it may be there
		return &statusError{http.StatusRequestTimeout, "the rest of this request did not come", "send it again"}
	case r.Context().Err() != nil:
		return hub.Wrap(hub.Canceled, "forward", r.Context().Err())
	case sent.failed():
		return hub.Wrap(hub.Canceled, "read request", failure)
	}
	return unreachable(w, failure)
}

var errNonsense = &hub.Error{Kind: hub.Unavailable, Op: "forward", Message: "this server gave an answer that makes no sense", Remedy: "stop and start it from the home page"}

func unreachable(w http.ResponseWriter, err error) error {
	w.Header().Set("Retry-After", "2")
	if _, ok := errors.AsType[*hub.Error](err); ok {
		return err
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "forward", Message: "this server does not answer", Remedy: "try again in a moment; if it stays so, stop and start it from the home page", Err: err}
}

// forward sends a request on to a person's server with the server's own token, which nobody past
// this point sees.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, rt *route, who caller) error {
	return p.pass(w, r, rt.Endpoint, func(out *http.Request) {
		p.introduce(out.Header, rt, who)
		out.Header.Set("Accept-Encoding", encoding(r)) // one that the token can be looked for in
	}, func(res *http.Response) error {
		p.receive(res, rt)
		return nil
	})
}

// introduce replaces the caller's credentials by the server's token and their name.
func (p *Proxy) introduce(h http.Header, rt *route, who caller) {
	dropOurCookies(h)
	h.Set("Authorization", "token "+p.cfg.Keyring.ServerToken(rt.Key, rt.Generation).Reveal())
	h.Set("X-Carrel-User", who.User.String())
}

// receive does what every answer of a server needs before it leaves.
func (p *Proxy) receive(res *http.Response, rt *route) {
	cleanResponse(res.Header, p.cfg.Origins.ServerPath(rt.Key))
	scrub(res, p.cfg.Keyring.ServerToken(rt.Key, rt.Generation).Reveal())
}
