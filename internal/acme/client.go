package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"golang.org/x/sync/singleflight"
)

const (
	freshFor   = 30 * time.Second // after which it is asked whether there is a newer certificate
	staleFor   = 10 * time.Minute // for so long one is shown while nobody answers
	refusedFor = 10 * time.Second
	maxNames   = 10_000 // certificates and refusals that are remembered
	signWithin = 5 * time.Second
)

// Client is the side of the process that speaks to the network. It has no key but those of challenges.
type Client struct {
	fallback string                 // shown to clients that name no host
	ours     func(name string) bool // names that it is worth to ask for
	http     *http.Client
	flight   singleflight.Group
	fresh    time.Duration

	mu   sync.Mutex
	have map[string]entry
}

type entry struct {
	cert *tls.Certificate // nil: refused
	at   time.Time
}

// NewClient makes one that asks at a unix socket. fallback is shown to clients that name no host; of
// other names only those that are ours are asked for.
func NewClient(socket, fallback string, ours func(name string) bool) *Client {
	var d net.Dialer
	return &Client{
		fallback: fallback, ours: ours, have: map[string]entry{}, fresh: freshFor,
		http: &http.Client{Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
			MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		}},
	}
}

// Protocols are those of TLS that a listener offers besides HTTP's, for challenges.
func Protocols() []string { return []string{acmez.ACMETLS1Protocol} }

// GetCertificate is for a [tls.Config].
func (c *Client) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := tidy(hello.ServerName)
	if name == "" {
		name = c.fallback
	}
	if name != c.fallback && !c.ours(name) {
		return nil, errRefused
	}
	ctx := hello.Context()
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmez.ACMETLS1Protocol {
		return c.challenge(ctx, name)
	}
	c.mu.Lock()
	known, ok := c.have[name]
	c.mu.Unlock()
	age := time.Since(known.at)
	switch {
	case ok && known.cert == nil && age < refusedFor:
		return nil, errRefused
	case ok && known.cert != nil && age < c.fresh:
		return known.cert, nil
	case ok && known.cert != nil && age < staleFor:
		c.flight.DoChan(name, func() (any, error) { return c.ask(context.WithoutCancel(ctx), name) })
		return known.cert, nil
	}
	select {
	case r := <-c.flight.DoChan(name, func() (any, error) { return c.ask(context.WithoutCancel(ctx), name) }):
		cert, _ := r.Val.(*tls.Certificate)
		return cert, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask gets a name's certificate, and remembers the answer.
func (c *Client) ask(ctx context.Context, name string) (*tls.Certificate, error) {
	ctx, done := context.WithTimeout(ctx, orderPause+signWithin)
	defer done()
	var s shown
	err := c.call(ctx, http.MethodGet, "/certificate?name="+url.QueryEscape(name), nil, &s)
	if errors.Is(err, errRefused) {
		c.remember(name, nil)
	}
	if err != nil {
		return nil, err
	}
	if len(s.Chain) == 0 {
		return nil, errNotYet
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: s.Chain, Leaf: leaf, PrivateKey: signer{c, s.ID, leaf.PublicKey}}
	c.remember(name, cert)
	return cert, nil
}

func (c *Client) remember(name string, cert *tls.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.have) >= maxNames {
		clear(c.have)
	}
	c.have[name] = entry{cert, time.Now()}
}

// challenge is the certificate that answers TLS-ALPN-01.
func (c *Client) challenge(ctx context.Context, name string) (*tls.Certificate, error) {
	var got challenge
	if err := c.call(ctx, http.MethodGet, "/challenge/tls?name="+url.QueryEscape(name), nil, &got); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(got.Key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: got.Chain, PrivateKey: key}, nil
}

// HTTPChallenge is what HTTP-01 wants to read at a host for a token; false without such a challenge.
func (c *Client) HTTPChallenge(ctx context.Context, host, token string) (string, bool) {
	ctx, done := context.WithTimeout(ctx, signWithin)
	defer done()
	var text string
	err := c.call(ctx, http.MethodGet, "/challenge/http?"+url.Values{"name": {tidy(host)}, "token": {token}}.Encode(), nil, &text)
	return text, err == nil
}

// call asks the Authority.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	var sent io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://keys"+path, sent)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(io.LimitReader(res.Body, maxMessage)).Decode(answer)
	case http.StatusNotFound:
		return errRefused
	case statusLater:
		return errNotYet
	}
	return fmt.Errorf("the keeper of the keys answers %d", res.StatusCode)
}

// signer has the other process sign, which alone has the key.
type signer struct {
	client *Client
	id     string
	public crypto.PublicKey
}

// Public implements [crypto.Signer].
func (s signer) Public() crypto.PublicKey { return s.public }

// Sign implements [crypto.Signer]. TLS gives no context.
func (s signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, done := context.WithTimeout(context.Background(), signWithin)
	defer done()
	var signature []byte
	err := s.client.call(ctx, http.MethodPost, "/sign", wanted{s.id, opts.HashFunc(), digest}, &signature)
	return signature, err
}
