package chp

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	apiRoot = "/api/routes"
	maxPost = 1 << 20
)

// serveAPI answers the REST API, by which a JupyterHub sets routes.
func (p *Proxy) serveAPI(w http.ResponseWriter, r *http.Request) {
	log := &statusLog{ResponseWriter: w}
	p.answerAPI(log, r)
	p.metrics.api(log.status)
	p.logAPI(r, log.status)
}

func (p *Proxy) answerAPI(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(normalise(origin(r.RequestURI)).path, apiRoot)
	if !ok || rest != "" && rest[0] != '/' {
		text(w, http.StatusNotFound, "")
		return
	}
	path, err := url.PathUnescape(rest)
	if err != nil || !utf8.ValidString(path) {
		text(w, http.StatusBadRequest, "The path is not valid UTF-8, percent-encoded")
		return
	}
	switch r.Method {
	case http.MethodGet:
		if p.authorised(w, r) {
			p.getRoutes(w, r, path)
		}
	case http.MethodPost: // which reads the body first, as the original
		p.postRoute(w, r, path)
	case http.MethodDelete:
		if p.authorised(w, r) {
			p.deleteRoute(r.Context(), w, path)
		}
	default:
		text(w, http.StatusMethodNotAllowed, "Method not supported")
	}
}

var tokenHeader = regexp.MustCompile(`token\s+(\S+)`)

func (p *Proxy) authorised(w http.ResponseWriter, r *http.Request) bool {
	if p.cfg.AuthToken.IsZero() {
		return true
	}
	m := tokenHeader.FindStringSubmatch(r.Header.Get("Authorization"))
	if m != nil && subtle.ConstantTimeCompare([]byte(m[1]), []byte(p.cfg.AuthToken.Reveal())) == 1 {
		return true
	}
	w.WriteHeader(http.StatusForbidden)
	return false
}

func (p *Proxy) getRoutes(w http.ResponseWriter, r *http.Request, path string) {
	if p.store != nil {
		p.store.gather(r.Context())
	}
	if path != "" && path != "/" {
		if found := p.routes.get(path); found != nil {
			p.json(w, found)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	since := q.Get("inactiveSince")
	if since == "" {
		since = q.Get("inactive_since")
	}
	var before time.Time
	if since != "" {
		var err error
		if before, err = parseTime(since); err != nil {
			text(w, http.StatusBadRequest, "Invalid datestamp '"+since+"' must be ISO8601.")
			return
		}
	}
	routes := p.routes.list(before)
	if routes == nil {
		routes = map[string]*route{}
	}
	p.json(w, routes)
	p.metrics.routes(http.MethodGet)
}

// timeForms are those of ISO 8601 that Date.parse takes, and HTTP's.
var timeForms = []string{
	time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04Z07:00", "2006-01-02", "2006-01", "2006", time.RFC1123,
}

// localForms have no zone: it is this machine's.
var localForms = []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04"}

func parseTime(s string) (time.Time, error) {
	for _, form := range timeForms {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	for _, form := range localForms {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("no form fits")
}

func (p *Proxy) postRoute(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPost))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			text(w, http.StatusRequestEntityTooLarge, "")
			return
		}
		text(w, http.StatusBadRequest, "Body not read")
		return
	}
	var parsed any
	if err := json.Unmarshal(body, &parsed); err != nil {
		text(w, http.StatusBadRequest, "Body not valid JSON: "+err.Error())
		return
	}
	if !p.authorised(w, r) {
		return
	}
	var data routeData
	var to string
	_, object := parsed.(map[string]any)
	if !object || json.Unmarshal(body, &data) != nil || !bytes.HasPrefix(data["target"], []byte(`"`)) || json.Unmarshal(data["target"], &to) != nil {
		text(w, http.StatusBadRequest, "Must specify 'target' as string")
		return
	}
	path, err = p.add(r.Context(), path, data, to)
	if err != nil {
		p.notChanged(r.Context(), w, path, err)
		return
	}
	p.metrics.routes(http.MethodPost)
	p.cfg.Logger.InfoContext(r.Context(), "Route added", "route", path, "target", to)
	w.WriteHeader(http.StatusCreated)
}

func (p *Proxy) deleteRoute(ctx context.Context, w http.ResponseWriter, path string) {
	if path == "" {
		text(w, http.StatusBadRequest, "Must specify a path")
		return
	}
	existed, err := p.remove(ctx, path)
	if err != nil {
		p.notChanged(ctx, w, path, err)
		return
	}
	p.metrics.routes(http.MethodDelete)
	switch {
	case existed:
		p.cfg.Logger.InfoContext(ctx, "Route removed", "route", clean(path))
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// notChanged tells that the store is away.
func (p *Proxy) notChanged(ctx context.Context, w http.ResponseWriter, path string, err error) {
	p.cfg.Logger.ErrorContext(ctx, "Route not changed", "route", path, "error", err)
	text(w, http.StatusServiceUnavailable, "The store of routes is away: nothing can be changed")
}

func (p *Proxy) json(w http.ResponseWriter, v any) {
	b, err := encode(v)
	if err != nil {
		text(w, http.StatusInternalServerError, "")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client may be gone
}

// statusLog knows what was answered.
type statusLog struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (w *statusLog) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *statusLog) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusLog) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (p *Proxy) logAPI(r *http.Request, status int) {
	log := p.cfg.Logger.InfoContext
	switch {
	case status >= 500:
		log = p.cfg.Logger.ErrorContext
	case status >= 400:
		log = p.cfg.Logger.WarnContext
	}
	log(r.Context(), "API", "status", status, "method", r.Method, "path", withoutQuery(r.RequestURI))
}
