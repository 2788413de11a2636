package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"

	"carrel/hub"
	"carrel/internal/h1"
)

// identity are the headers that Connection may not take away: who asks, and from which page.
var identity = []string{"Authorization", "Cookie", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"}

// pass forwards a request to one of our own processes or to a server: change edits the outgoing
// request after the hygiene, answer the response.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, e hub.Endpoint, change func(*http.Request), answer func(*http.Response)) error {
	out := p.outgoing(r)
	if change != nil {
		change(out)
	}
	res, err := p.pools.get(e).RoundTrip(out)
	if err != nil {
		return p.unanswered(w, r, err)
	}
	defer res.Body.Close()
	body, _ := res.Body.(*h1.Body)
	dropHops(res.Header)
	if answer != nil {
		answer(res)
	}
	h := w.Header()
	maps.Copy(h, res.Header)
	announced := announce(h, res.Trailer)
	w.WriteHeader(res.StatusCode)
	if err := relay(w, res.Body, body); err != nil {
		return hub.Wrap(hub.Canceled, "forward", fmt.Errorf("%w: %w", errHalf, err))
	}
	for name, values := range res.Trailer {
		if !announced[name] {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	cleanTrailers(h)
	return nil
}

// announce tells of the trailers that a server announces, and which those are.
func announce(h, trailers http.Header) map[string]bool {
	if len(trailers) == 0 {
		return nil
	}
	names := map[string]bool{}
	for name := range trailers {
		if maybeTrailer(name) {
			h.Add("Trailer", name)
			names[name] = true
		}
	}
	return names
}

var errHalf = errors.New("the answer ended before its end")

// outgoing is the request as it leaves us, after the hygiene.
func (p *Proxy) outgoing(r *http.Request) *http.Request {
	out := new(http.Request)
	*out = *r
	u := *r.URL
	out.URL = &u
	out.Header = maps.Clone(r.Header) // values are replaced, never edited
	cleanRequest(out.Header)
	p.setForwarded(out.Header, r)
	cleanRequestTrailers(out.Trailer)
	return out
}

// unanswered is what became of a request that got no answer.
func (p *Proxy) unanswered(w http.ResponseWriter, r *http.Request, failure error) error {
	sent, _ := r.Body.(*body)
	switch {
	case sent.tooSlow(): // net/http takes that for the client's leaving, but it may be there
		return &statusError{http.StatusRequestTimeout, "the rest of this request did not come", "send it again"}
	case r.Context().Err() != nil:
		return hub.Wrap(hub.Canceled, "forward", r.Context().Err())
	case sent.failed():
		return hub.Wrap(hub.Canceled, "read request", failure)
	case errors.Is(failure, h1.ErrNonsense):
		failure = errNonsense
	}
	return unreachable(w, failure)
}

const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// relay hands an answer's body on as it comes. Of is the server's own body, which src may be made of.
func relay(w http.ResponseWriter, src io.Reader, of *h1.Body) error {
	flusher := http.NewResponseController(w)
	if !of.Ready() {
		_ = flusher.Flush() // a client that waits for the head gets it; what fails shows at the first write
	}
	if to, ok := w.(io.ReaderFrom); ok && src == io.Reader(of) && of.Kernel() {
		return of.Splice(to)
	}
	buf, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, err := w.Write((*buf)[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if !of.Ready() {
			_ = flusher.Flush()
		}
	}
}

var errNonsense = &hub.Error{Kind: hub.Unavailable, Op: "forward", Message: "this server gave an answer that makes no sense", Remedy: "stop and start it from the home page"}

func unreachable(w http.ResponseWriter, err error) error {
	w.Header().Set("Retry-After", "2")
	if rec, ok := w.(*recorder); ok {
		rec.upstream = true
	}
	if _, ok := errors.AsType[*hub.Error](err); ok {
		return err
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "forward", Message: "this server does not answer", Remedy: "try again in a moment; if it stays so, stop and start it from the home page", Err: err}
}

// forward sends a request on to a person's server with the server's own token, which nobody past
// this point sees. The answer to a poll is kept.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, rt *route, who caller, q tabPoll) error {
	if q.name == "" && !isSafe(r.Method) {
		defer rt.rest.copies.forget()
	}
	return p.pass(w, r, rt.Endpoint, func(out *http.Request) {
		p.introduce(out.Header, rt, who)
		if q.layout != nil { // it was read already
			out.Body = io.NopCloser(bytes.NewReader(q.layout))
		}
		out.Header.Set("Accept-Encoding", encoding(r)) // one that the token can be looked for in
	}, func(res *http.Response) {
		p.receive(res, rt)
		if q.name != "" {
			rt.rest.copies.keep(res, who, q)
		}
		p.share(res.Header, r, rt.Key)
	})
}

// serverToken is the token of a route's server, which is derived once.
func (p *Proxy) serverToken(rt *route) string {
	if token := rt.token.Load(); token != nil {
		return *token
	}
	token := p.cfg.Keyring.ServerToken(rt.Key, rt.Generation).Reveal()
	rt.token.Store(&token)
	return token
}

// introduce replaces the caller's credentials by the server's token and their name.
func (p *Proxy) introduce(h http.Header, rt *route, who caller) {
	dropOurCookies(h)
	h["Authorization"] = []string{"token " + p.serverToken(rt)}
	h["X-Carrel-User"] = []string{who.User.String()}
}

// receive does what every answer of a server needs before it leaves.
func (p *Proxy) receive(res *http.Response, rt *route) {
	rt.hear(res.Header)
	cleanResponse(res.Header)
	if len(res.Header["Set-Cookie"]) > 0 {
		confineCookies(res.Header, p.cfg.Origins.ServerPath(rt.Key))
	}
	scrub(res, p.serverToken(rt))
}
