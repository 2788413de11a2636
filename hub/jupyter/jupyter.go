// Package jupyter is the hub's client of people's Jupyter servers: whether one answers, whether its
// kernels and terminals are busy, and whether a kernel really computes.
//
// It owns the REST calls and the kernel protocol (Jupyter messaging 5.3 over the websocket
// sub-protocol "v1.kernel.websocket.jupyter.org" or the JSON form). A person's server is hostile:
// every call has a deadline, follows no redirect, and reads no more than a cap of headers and
// body; nothing that it says is believed beyond what the caller checks. It refuses to own any
// decision: what an answer means is the hub's.
package jupyter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"carrel/hub"
)

const (
	maxHeader   = 16 << 10
	maxBody     = 1 << 20
	maxTalk     = 4 << 20 // of a whole conversation with a kernel
	dialWithin  = 2 * time.Second
	replyWithin = 5 * time.Second
	bootWithin  = 20 * time.Second // a kernel, on a busy machine
)

// Client implements [hub.Notebook]. The zero value is ready, and safe for concurrent use.
type Client struct{}

var _ hub.Notebook = Client{}

// transport reaches one endpoint and keeps nothing: these calls are rare, and a connection kept
// open to a guest is a thing to look after.
func transport(e hub.Endpoint) *http.Transport {
	dialer := net.Dialer{Timeout: dialWithin}
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, e.Network(), e.Address())
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// host is the Host header: the endpoint's own, since the guest is told to accept any.
func host(e hub.Endpoint) string {
	if e.Network() == "unix" {
		return "localhost"
	}
	return e.Address()
}

// call makes one request below the server's base path and returns the status and at most maxBody
// bytes of the body, all of it within replyWithin.
func call(ctx context.Context, t hub.Target, method, page string) (int, []byte, error) {
	ctx, done := context.WithTimeout(ctx, replyWithin)
	defer done()
	return send(ctx, t, method, page, nil)
}

// send is call within ctx's own deadline.
func send(ctx context.Context, t hub.Target, method, page string, body io.Reader) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host(t.Endpoint)+t.BasePath+page, body)
	if err != nil {
		return 0, nil, hub.Wrap(hub.Internal, "ask server", err)
	}
	req.Header.Set("Authorization", "token "+t.Token.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	tr := transport(t.Endpoint)
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req) // no client: a redirect is an answer, never followed
	if err != nil {
		return 0, nil, hub.Wrap(hub.Unavailable, "ask server", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return 0, nil, hub.Wrap(hub.Unavailable, "read server's answer", err)
	}
	if len(b) > maxBody {
		return 0, nil, hub.Errorf(hub.Unavailable, "read server's answer", "the answer is longer than %d bytes", maxBody)
	}
	return res.StatusCode, b, nil
}

// Answers asks for the API's version and accepts anything below 500, as JupyterHub does: an image
// without that handler answers 404 and is up all the same.
func (Client) Answers(ctx context.Context, t hub.Target) error {
	status, _, err := call(ctx, t, http.MethodGet, "api")
	if err != nil {
		return err
	}
	if status >= 500 {
		return hub.Errorf(hub.Unavailable, "ask server", "it answered with status %d", status)
	}
	return nil
}

// Busy reads /api/kernels and /api/terminals. A server without terminals has none.
func (Client) Busy(ctx context.Context, t hub.Target) (hub.NotebookState, error) {
	var kernels []struct {
		State string    `json:"execution_state"`
		Last  time.Time `json:"last_activity"`
	}
	if err := list(ctx, t, "api/kernels", &kernels); err != nil {
		return hub.NotebookState{}, err
	}
	var terminals []struct {
		Last time.Time `json:"last_activity"`
	}
	if err := list(ctx, t, "api/terminals", &terminals); err != nil && !errors.Is(err, errNoSuchPage) {
		return hub.NotebookState{}, err
	}
	s := hub.NotebookState{Kernels: len(kernels), Terminals: len(terminals)}
	for _, k := range kernels {
		if k.State == "busy" || k.State == "starting" {
			s.BusyKernels++
		}
		if k.Last.After(s.LastActivity) {
			s.LastActivity = k.Last
		}
	}
	for _, term := range terminals {
		if term.Last.After(s.LastActivity) {
			s.LastActivity = term.Last
		}
	}
	return s, nil
}

var errNoSuchPage = errors.New("the server has no such page")

func list(ctx context.Context, t hub.Target, page string, into any) error {
	status, body, err := call(ctx, t, http.MethodGet, page)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound:
		return hub.Wrap(hub.NotFound, "ask server for "+page, errNoSuchPage)
	case status != http.StatusOK:
		return hub.Errorf(hub.Unavailable, "ask server for "+page, "it answered with status %d", status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return hub.Wrap(hub.Unavailable, "read server's "+page, fmt.Errorf("malformed answer: %w", err))
	}
	return nil
}
