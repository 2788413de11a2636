package web

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"carrel/hub"
	"carrel/internal/httpx"
	"carrel/templates"
)

var pageNames = []string{"login", "signedout", "error", "home", "spawn", "pending", "admin-servers", "admin-people", "admin-visitors", "stop-all", "tmp", "tmp-line"}

// parsePages parses every page with the parts that pages share.
func parsePages() (map[string]*template.Template, error) {
	pages := map[string]*template.Template{}
	for _, name := range pageNames {
		t, err := template.New(name+".html").Option("missingkey=error").ParseFS(templates.Files, "layout.html", "parts.html", name+".html")
		if err != nil {
			return nil, hub.Wrap(hub.Internal, "parse page "+name, err)
		}
		pages[name] = t
	}
	return pages, nil
}

// frame is what layout.html shows around every page.
type frame struct {
	Title        string
	Here         string   // the navigation's present place
	Refresh      string   // what a browser without scripts is to do: seconds, and perhaps an address
	Script       string   // the page's script, if it has one
	Wide         bool     // for tables
	Person       *persona // nil: nobody is signed in
	Body         template.HTML
	w            *Web
	Announcement string
}

// persona is the visitor as the header shows them.
type persona struct {
	Name, Initial string
	Admin         bool
}

// Static is the address of a static file.
func (f frame) Static(name string) string { return f.w.assets[name].url }

// Path is the address of a page.
func (f frame) Path(page string) string { return f.w.path(page) }

// Site is what the site calls itself.
func (f frame) Site() string { return f.w.cfg.Title }

func (v visitor) frame(title, here string) frame {
	if v.User.IsVisitor() {
		return frame{Title: title, Here: here} // there is no account to show
	}
	name := plain(v.user.DisplayName)
	if name == "" {
		name = v.User.String()
	}
	initial, _ := utf8.DecodeRuneInString(name)
	if !unicode.IsLetter(initial) {
		initial, _ = utf8.DecodeRuneInString(v.User.String())
	}
	return frame{Title: title, Here: here, Person: &persona{name, string(unicode.ToUpper(initial)), v.Admin}}
}

// render shows a page: the whole is made before a byte is sent.
func (w *Web) render(rw http.ResponseWriter, status int, name string, f frame, view any) error {
	var body, whole bytes.Buffer
	t := w.pages[name]
	if err := t.ExecuteTemplate(&body, name+".html", view); err != nil {
		return hub.Wrap(hub.Internal, "render "+name, err)
	}
	f.Body, f.w = template.HTML(body.String()), w //nolint:gosec // made by html/template just now
	if f.Person != nil {
		f.Announcement = w.cfg.Announcement
	}
	if err := t.ExecuteTemplate(&whole, "layout", f); err != nil {
		return hub.Wrap(hub.Internal, "render "+name, err)
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(status)
	_, err := rw.Write(whole.Bytes())
	return hub.Wrap(hub.Canceled, "send page", err)
}

// problem shows an error to a person.
func (w *Web) problem(rw http.ResponseWriter, r *http.Request, p httpx.Problem) {
	view := struct {
		Status                                  int
		Message, Remedy, Home, Login, RequestID string
		SignedIn, MayRetry, MaySignInAgain      bool
	}{
		Status: p.Status, Message: sentence(p.Message), Remedy: sentence(p.Remedy), Home: w.path("home"), Login: w.path("login") + "?choose=1",
		MayRetry: p.Status == http.StatusServiceUnavailable && r.Method == http.MethodGet, MaySignInAgain: p.Status == http.StatusUnauthorized,
	}
	if p.Status >= 500 {
		view.RequestID = p.RequestID
	}
	f := frame{Title: strings.TrimSuffix(view.Message, ".")}
	if found, ok := r.Context().Value(seenKey{}).(*seen); ok && found.visitor != nil {
		f.Person = found.visitor.frame("", "").Person
		view.SignedIn = true
	}
	if err := w.render(rw, p.Status, "error", f, view); err != nil {
		w.cfg.Logger.WarnContext(r.Context(), "error page not shown", "error", err)
	}
}

// sentence makes one of a message of ours.
func sentence(s string) string {
	s = plain(s)
	if s == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(first)) + s[size:]
	if !strings.ContainsAny(s[len(s)-1:], ".?!") {
		s += "."
	}
	return s
}

const (
	maxLine  = 400
	maxLines = 60
)

// plain makes harmless what a container or a provider may have chosen: terminal sequences, control
// characters, marks that turn the reading order, and length.
func plain(s string) string {
	var b strings.Builder
	escape := false
	for _, r := range s {
		switch {
		case escape: // the rest of ESC [ … letter, or ESC and one character
			escape = r == '[' || r == ';' || r == '?' || r >= '0' && r <= '9'
		case r == 0x1b:
			escape = true
		case r == '\t':
			b.WriteString("    ")
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r):
		default:
			b.WriteRune(r)
		}
		if b.Len() > maxLine {
			b.WriteString("…")
			break
		}
	}
	return strings.TrimSpace(b.String())
}

// logTail is a container's last lines, harmless.
func logTail(lines []string) []string {
	lines = lines[max(0, len(lines)-maxLines):]
	tail := make([]string, 0, len(lines))
	for _, l := range lines {
		indent := l[:len(l)-len(strings.TrimLeft(l, " "))]
		tail = append(tail, indent[:min(len(indent), 40)]+plain(l))
	}
	return tail
}

// bytesText is a size for people.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, u := float64(max(n, 0)), 0
	for f >= 1023.5 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	text := strconv.FormatFloat(f, 'f', 0, 64)
	if f < 9.95 && u > 0 {
		text = strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
	}
	return text + " " + units[u]
}

// span is a duration for people, in its two largest units.
func span(d time.Duration) string {
	minutes := int(d.Minutes())
	hours := minutes / 60
	switch {
	case d < time.Minute:
		return "under 1 min"
	case hours == 0:
		return fmt.Sprintf("%d min", minutes)
	case hours < 48 && minutes%60 == 0:
		return fmt.Sprintf("%d h", hours)
	case hours < 48:
		return fmt.Sprintf("%d h %d min", hours, minutes%60)
	}
	return fmt.Sprintf("%d days", hours/24)
}

func ago(t time.Time) string { return span(time.Since(t)) }

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
