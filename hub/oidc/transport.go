package oidc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
)

// maxAnswer is far above any document of a provider.
const maxAnswer = 1 << 20

var errTooLong = errors.New("the provider's answer is too long")

// bounded caps the bodies of answers.
type bounded struct{ next http.RoundTripper }

// RoundTrip makes one request.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &cappedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type cappedBody struct {
	io.ReadCloser
	left int64
}

// Read fails at the cap, so that nothing is taken for whole which is not.
func (c *cappedBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooLong
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// throttled fetches a key set at a limited rate: a token that names an unknown key makes go-oidc
// fetch, and anybody can send one. Between fetches the last answer is given again.
type throttled struct {
	next  http.RoundTripper
	limit *rate.Limiter

	mu   sync.Mutex
	last []byte
	head http.Header
}

// RoundTrip makes one request, or repeats the last answer.
func (t *throttled) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.limit.Allow() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.last == nil {
			return nil, errors.New("the provider's keys were asked for too often")
		}
		return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Header: t.head.Clone(), Body: io.NopCloser(bytes.NewReader(t.last)), Request: r}, nil
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(errors.New("key set: "+resp.Status), resp.Body.Close())
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.head = body, resp.Header.Clone()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// keys is a provider's key set, fetched at a limited rate, that tells a bad signature from keys
// that could not be fetched.
type keys struct{ remote *gooidc.RemoteKeySet }

func newKeys(ctx context.Context, client *http.Client, address string, limit *rate.Limiter) keys {
	limited := *client
	limited.Transport = &throttled{next: client.Transport, limit: limit}
	return keys{gooidc.NewRemoteKeySet(gooidc.ClientContext(ctx, &limited), address)}
}

// fetchKey is the context key under which a caller leaves room for a failed fetch.
type fetchKey struct{}

// VerifySignature implements go-oidc's KeySet.
func (k keys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, jwt)
	var transport interface{ Timeout() bool } // what net and net/url give
	if room, ok := ctx.Value(fetchKey{}).(*error); ok && err != nil && (errors.As(err, &transport) || errors.Is(err, context.DeadlineExceeded)) {
		*room = err
	}
	return payload, err
}
