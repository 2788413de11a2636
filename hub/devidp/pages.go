package devidp

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"

	"carrel/hub"
)

//go:embed pages
var files embed.FS

// pages are the few that people see.
type pages struct {
	templates *template.Template
	css       []byte
	prefix    string
	leadsTo   string
}

// view is what a page shows.
type view struct {
	Page    string // login, account or message
	Title   string
	Text    string
	ID      string // the sign-in
	Name    string
	Failure string
	Target  string // the client's origins, where the form's answer leads
	Prefix  string
}

func newPages(prefix, leadsTo string) (*pages, error) {
	t, err := template.ParseFS(files, "pages/*.html")
	if err != nil {
		return nil, hub.Wrap(hub.Internal, "demo provider: pages", err)
	}
	css, err := files.ReadFile("pages/style.css")
	return &pages{t, css, prefix, leadsTo}, hub.Wrap(hub.Internal, "demo provider: pages", err)
}

func (p *pages) show(w http.ResponseWriter, status int, v view) {
	v.Prefix = p.prefix
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, "page.html", v); err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	// Chromium holds the redirects after a form to form-action too, so the client's origin is in it.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+strings.TrimSpace(v.Target+" "+p.leadsTo))
	h.Set("X-Frame-Options", "DENY")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // the browser may have left
}

func (p *pages) style(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=3600")
	w.Write(p.css) // the browser may have left
}
