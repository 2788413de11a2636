package oidc

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// browser follows links and fills in forms, without JavaScript.
type browser struct {
	t      testing.TB
	client *http.Client
	trail  []string
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t}
	b.client = &http.Client{Jar: jar, Timeout: 20 * time.Second, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		b.trail = append(b.trail, r.URL.String())
		if len(via) > 20 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return b
}

// page is what the browser shows.
type page struct {
	status int
	url    *url.URL
	header http.Header
	body   string
}

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Request.URL, resp.Header, string(body)}
}

func (b *browser) get(address string) page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(r)
}

// step makes one request and follows no redirect.
func (b *browser) step(address string) page {
	b.t.Helper()
	old := b.client.CheckRedirect
	b.client.CheckRedirect = refuseRedirect
	defer func() { b.client.CheckRedirect = old }()
	return b.get(address)
}

// submit sends the page's first form with these fields filled in.
func (b *browser) submit(p page, fill map[string]string) page {
	b.t.Helper()
	action, fields := firstForm(p.body)
	if fields == nil {
		b.t.Fatalf("no form at %s (%d):\n%.1000s", p.url, p.status, p.body)
	}
	for name, value := range fill {
		fields.Set(name, value)
	}
	to, err := p.url.Parse(action)
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, to.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", to.Scheme+"://"+to.Host)
	return b.do(r)
}

// firstForm reads a form as a browser would submit it by its first button.
func firstForm(body string) (string, url.Values) {
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		return "", nil
	}
	form := find(doc, "form")
	if form == nil {
		return "", nil
	}
	fields := url.Values{}
	pressed := false
	for n := range form.Descendants() {
		name := attr(n, "name")
		switch {
		case n.Type != html.ElementNode || name == "":
		case n.Data == "input" && attr(n, "type") != "checkbox":
			fields.Set(name, attr(n, "value"))
		case n.Data == "button" && !pressed:
			pressed = true
			fields.Set(name, attr(n, "value"))
		}
	}
	return attr(form, "action"), fields
}

func find(root *html.Node, tag string) *html.Node {
	for n := range root.Descendants() {
		if n.Type == html.ElementNode && n.Data == tag {
			return n
		}
	}
	return nil
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// cookies are those that the browser would send to an address.
func (b *browser) cookies(address string) map[string]string {
	b.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	m := map[string]string{}
	for _, c := range b.client.Jar.Cookies(u) {
		m[c.Name] = c.Value
	}
	return m
}
