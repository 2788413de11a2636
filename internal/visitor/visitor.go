// Package visitor plays a person with a browser for benchmarks and long tests: it follows links,
// sends forms, and signs in through a provider's pages.
//
// It owns what such a person does over HTTP. It refuses to judge what comes back, and to run any
// script: where those matter, a real browser is driven.
package visitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// maxPage is more than any page that is read here, in bytes.
const maxPage = 4 << 20

// A Visitor is one browser, used by one goroutine at a time.
type Visitor struct {
	HTTP *http.Client
	base string // the hub's public address, with a slash at the end
}

// New makes a browser without cookies; base is the hub's public address. A nil transport is the
// default one.
func New(base string, transport http.RoundTripper) (*Visitor, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &Visitor{&http.Client{Jar: jar, Transport: transport}, base}, nil
}

// A Page is where links and redirects led to.
type Page struct {
	Status int
	URL    *url.URL
	Body   string
}

// Send makes one request, of a page of the address's own origin where it is a POST.
func (v *Visitor) Send(ctx context.Context, method, address string, fields url.Values) (Page, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(fields.Encode()))
	if err != nil {
		return Page{}, err
	}
	if method == http.MethodGet {
		req.Header.Set("Accept", "text/html")
	} else {
		req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		if fields != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	res, err := v.HTTP.Do(req)
	if err != nil {
		return Page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	return Page{res.StatusCode, res.Request.URL, string(body)}, err
}

// SignIn goes through the provider's pages, filling in what they ask for, until the home page.
func (v *Visitor) SignIn(ctx context.Context, person, password string) error {
	at, err := v.Send(ctx, http.MethodGet, v.base+"hub/login", nil)
	for range 6 {
		if err != nil {
			return err
		}
		action, fields, ok := form(at)
		if !ok || strings.HasSuffix(at.URL.Path, "/hub/home") {
			break
		}
		for name := range fields {
			switch {
			case strings.Contains(name, "user"):
				fields.Set(name, person)
			case strings.Contains(name, "pass"):
				fields.Set(name, password)
			}
		}
		at, err = v.Send(ctx, http.MethodPost, action, fields)
	}
	if err != nil {
		return err
	}
	if !strings.HasSuffix(at.URL.Path, "/hub/home") {
		return fmt.Errorf("sign-in ended at %s with status %d", at.URL, at.Status)
	}
	return nil
}

// Cookie is the value of a cookie that the browser would send to an address.
func (v *Visitor) Cookie(address, name string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	for _, c := range v.HTTP.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value, nil
		}
	}
	return "", errors.New("the browser has no cookie " + name)
}

// form gives the address and fields of a page's first form that is posted.
func form(p Page) (action string, fields url.Values, ok bool) {
	doc, err := html.Parse(strings.NewReader(p.Body))
	if err != nil {
		return "", nil, false
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || !strings.EqualFold(attribute(n, "method"), "post") {
			continue
		}
		u, err := p.URL.Parse(attribute(n, "action"))
		if err != nil {
			return "", nil, false
		}
		fields = url.Values{}
		for c := range n.Descendants() {
			if name := attribute(c, "name"); c.Type == html.ElementNode && c.Data == "input" && name != "" {
				fields.Set(name, attribute(c, "value"))
			}
		}
		return u.String(), fields, true
	}
	return "", nil, false
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}
