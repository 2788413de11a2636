// Package captcha asks a service whether a visitor's answer to its captcha is right, by the call that
// hCaptcha, Cloudflare's Turnstile and Google's reCAPTCHA have in common ("siteverify").
//
// It owns that call. It refuses to decide what follows from the answer, and to believe more of it than
// whether the answer was right, and for which site it was given.
package captcha

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"carrel/hub"
)

const (
	within    = 5 * time.Second
	maxAnswer = 64 << 10
	// atOnce is how many answers are checked at once: anybody may send one.
	atOnce = 32
)

// Config is what a [Service] needs.
type Config struct {
	VerifyURL string // HTTPS
	Secret    hub.Secret
	Host      string            // of the landing page; an answer given elsewhere is not right
	Transport http.RoundTripper // nil: the default one
}

// Service implements [hub.Captcha].
type Service struct {
	cfg    Config
	client http.Client
	asking chan struct{} // one for each answer that is checked
}

// New checks the configuration; it asks nobody.
func New(cfg Config) (*Service, error) {
	u, err := url.Parse(cfg.VerifyURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || cfg.Secret.Reveal() == "" || cfg.Host == "" {
		return nil, hub.Errorf(hub.Invalid, "make captcha", "the service's HTTPS address, our secret there and our own host are wanted")
	}
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxConnsPerHost: atOnce, MaxIdleConns: atOnce, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: within}
	}
	return &Service{cfg: cfg, asking: make(chan struct{}, atOnce), client: http.Client{
		Transport: cfg.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it would get the secret
	}}, nil
}

// refusals of a service that are our fault, or its own, and not the visitor's.
var ours = []string{"missing-input-secret", "invalid-input-secret", "sitekey-secret-mismatch", "internal-error", "bad-request"}

// Verify implements [hub.Captcha].
func (s *Service) Verify(ctx context.Context, answer string, from netip.Addr) error {
	const op = "check captcha"
	away := func(err error) error {
		return &hub.Error{Kind: hub.Unavailable, Op: op, Message: "the captcha can't be checked just now", Remedy: "try again in a minute", Err: err}
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	default:
		return away(hub.Errorf(hub.Unavailable, op, "%d answers are being checked", atOnce))
	}
	form := url.Values{"secret": {s.cfg.Secret.Reveal()}, "response": {answer}}
	if from.IsValid() {
		form.Set("remoteip", from.Unmap().WithZone("").String())
	}
	ctx, done := context.WithTimeout(ctx, within)
	defer done()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.VerifyURL, strings.NewReader(form.Encode()))
	if err != nil {
		return away(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := s.client.Do(req)
	if err != nil {
		return away(err)
	}
	defer res.Body.Close() // it was read only
	var told struct {
		Success  bool     `json:"success"`
		Hostname string   `json:"hostname"`
		Errors   []string `json:"error-codes"`
	}
	err = json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&told)
	switch {
	case res.StatusCode != http.StatusOK:
		return away(hub.Errorf(hub.Unavailable, op, "status %d", res.StatusCode))
	case err != nil:
		return away(err)
	case !told.Success && slices.ContainsFunc(told.Errors, func(e string) bool { return slices.Contains(ours, e) }):
		return away(hub.Errorf(hub.Unavailable, op, "it says %.200q", told.Errors))
	case !told.Success, told.Hostname != "" && !strings.EqualFold(told.Hostname, s.cfg.Host):
		return &hub.Error{Kind: hub.Forbidden, Op: op, Field: "captcha", Message: "the captcha was not solved", Remedy: "go back, load the page anew and try again"}
	}
	return nil
}
