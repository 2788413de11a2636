package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// token signs a person in through the provider's pages and makes a token for them.
func token(ctx context.Context, base, person, password string) (string, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", err
	}
	b := &visitor{http: &http.Client{Jar: jar}, origin: strings.TrimSuffix(base, "/")}
	at, err := b.send(ctx, http.MethodGet, base+"hub/login", nil)
	for range 6 {
		if err != nil {
			return "", err
		}
		action, fields, ok := form(at)
		if !ok || strings.HasSuffix(at.url.Path, "/hub/home") {
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
		at, err = b.send(ctx, http.MethodPost, action, fields)
	}
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(at.url.Path, "/hub/home") {
		return "", fmt.Errorf("it ended at %s with status %d", at.url, at.status)
	}
	at, err = b.send(ctx, http.MethodPost, base+"hub/api/users/"+person+"/tokens", nil)
	if err != nil {
		return "", err
	}
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(at.body), &made); err != nil || made.Token == "" {
		return "", fmt.Errorf("make a token: status %d: %.300s", at.status, at.body)
	}
	return made.Token, nil
}

// A visitor does what a browser does when a person follows links and sends forms.
type visitor struct {
	http   *http.Client
	origin string
}

type page struct {
	status int
	url    *url.URL
	body   string
}

func (v *visitor) send(ctx context.Context, method, address string, fields url.Values) (page, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(fields.Encode()))
	if err != nil {
		return page{}, err
	}
	if method == http.MethodPost {
		req.Header.Set("Origin", v.origin)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		if fields != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	res, err := v.http.Do(req)
	if err != nil {
		return page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	return page{res.StatusCode, res.Request.URL, string(body)}, err
}

// form gives the address and fields of a page's first form that is posted.
func form(p page) (action string, fields url.Values, ok bool) {
	doc, err := html.Parse(strings.NewReader(p.body))
	if err != nil {
		return "", nil, false
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || !strings.EqualFold(attribute(n, "method"), "post") {
			continue
		}
		u, err := p.url.Parse(attribute(n, "action"))
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
