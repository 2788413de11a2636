package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/top"
)

// remote is the REST API of a deployment, wherever that is, and a token for it.
type remote struct {
	client *http.Client
	base   *url.URL
	token  string
}

// openRemote checks the address and reads the token, from a file or from CARREL_TOKEN. It goes to nobody who could
// be listening. op and noToken are for people.
func openRemote(op, address, tokenFile, noToken string) (remote, error) {
	invalid := func(field, message, remedy string) (remote, error) {
		return remote{}, &hub.Error{Kind: hub.Invalid, Op: op, Field: field, Message: message, Remedy: remedy}
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return invalid("--url", "this is no address of a deployment", "give its public_url, such as https://hub.example.org/")
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return invalid("--url", "the token could be read on its way", "use https")
	}
	token := os.Getenv("CARREL_TOKEN")
	if tokenFile != "" {
		raw, err := os.ReadFile(tokenFile)
		if err != nil {
			return remote{}, &hub.Error{Kind: hub.Invalid, Op: "read token", Field: "--token-file", Message: "the file can't be read", Remedy: "check the path", Err: err}
		}
		token = string(raw)
	}
	if token = strings.TrimSpace(token); token == "" {
		return invalid("--token-file", "there is no token", noToken)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialNear, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return remote{client, u, token}, nil
}

// at is the address of a call.
func (r remote) at(call ...string) string {
	return r.base.JoinPath(append([]string{"hub/api"}, call...)...).String()
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// dialWithin is how long a connection may take to be made.
const dialWithin = 10 * time.Second

// dialNear sends names below localhost to loopback, as browsers do (RFC 6761, section 6.3).
func dialNear(ctx context.Context, network, addr string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
		addr = net.JoinHostPort("localhost", port)
	}
	return (&net.Dialer{Timeout: dialWithin}).DialContext(ctx, network, addr)
}

// refused tells why the answer is not the one that was hoped for, in the hub's words where it has any.
func refused(op string, res *http.Response) error {
	var why struct{ Message, Remedy, Field string }
	_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&why) // whatever it is, it is an answer
	if why.Message == "" {
		why.Message, why.Remedy = fmt.Sprintf("the answer is %d", res.StatusCode), "check the address, and that the hub is of this version"
	}
	return &hub.Error{Kind: hub.Unavailable, Op: op, Field: top.Plain(why.Field), Message: top.Plain(why.Message), Remedy: top.Plain(why.Remedy)}
}
