package proxy

import (
	"net/http"
	"slices"
	"strings"

	"carrel/hub"
)

// A visitor's server can be used by pages of other sites, which the operator named: an article whose
// examples run. They come with the visit's token and never with a cookie, so that nothing of the reader's
// is theirs.

// embeds tells whether a page of another site that may do so asks for a visitor's server.
func (p *Proxy) embeds(r *http.Request, key hub.ServerKey) bool {
	origin := r.Header.Get("Origin")
	return origin != "" && key.User.IsVisitor() && slices.Contains(p.cfg.EmbedOrigins, origin)
}

// shareWith lets a page of another site read the answer (the Fetch standard, section 3.2), and nothing else
// that the server says about that.
func shareWith(h http.Header, origin string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
}

// share lets the page of another site that asks read an answer, if it may.
func (p *Proxy) share(h http.Header, r *http.Request, key hub.ServerKey) {
	if p.embeds(r, key) {
		shareWith(h, r.Header.Get("Origin"))
	}
}

// preflight answers what a browser asks before such a page's request, which has no credentials.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	shareWith(h, r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-XSRFToken")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

// embedded lets such a page read the answer to come; true when it is answered already.
func (p *Proxy) embedded(w http.ResponseWriter, r *http.Request, key hub.ServerKey) bool {
	if !p.embeds(r, key) {
		return false
	}
	if isPreflight(r) {
		preflight(w, r)
		return true
	}
	shareWith(w.Header(), r.Header.Get("Origin"))
	return false
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

// byQuery finds a visitor by the token in a websocket's address, where a browser's script can send no
// header. The server does not see it there.
func (p *Proxy) byQuery(r *http.Request) (caller, error) {
	q := r.URL.Query()
	who, err := p.byToken(r.Context(), hub.NewSecret(q.Get("token")).Hash())
	if err != nil {
		return caller{}, nobodyIfUnknown(err)
	}
	if !who.User.IsVisitor() {
		return caller{}, errNobody // people's tokens stay out of addresses
	}
	q.Del("token")
	r.URL.RawQuery = q.Encode()
	return who, nil
}
