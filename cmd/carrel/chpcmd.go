package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"carrel/hub"
	"carrel/proxy/chp"
)

// chpName is what JupyterHub calls unless it is told otherwise; a link of this name to the binary
// is `carrel chp`.
const chpName = "configurable-http-proxy"

// chpVersion is the one whose place is taken.
const chpVersion = "5.3.0"

// arguments are those of the command line, or of the command that a link stands for.
func arguments(args []string) []string {
	if filepath.Base(args[0]) == chpName {
		return append([]string{"chp"}, args[1:]...)
	}
	return args[1:]
}

// exitStatus is an error that was told already, for callers who look at the status.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// chpFlags are configurable-http-proxy's.
type chpFlags struct {
	cfg                         chp.Config
	ip, socket, apiIP, apiSock  string
	port, apiPort, metricsPort  int
	metricsIP, metricsSocket    string
	backend, redisURL           string
	public, api, client         chp.Certs
	clientAsked                 [2]bool // what has no meaning towards servers
	redirectPort, redirectTo    string
	pidFile, logLevel           string
	insecure, version           bool
	headers                     []string
	timeout, patience, keepOpen int
}

// unsupported are options that would be wrong to ignore, and what to do instead.
var unsupported = []struct{ name, remedy string }{
	{"ssl-ciphers", "leave it out: Go's choice has no weak ones"},
	{"ssl-dhparam", "leave it out: no cipher that is offered uses it"},
}

func chpCommand() *cobra.Command {
	c := &chpFlags{}
	cmd := &cobra.Command{
		Use: "chp", Short: "A proxy in front of a JupyterHub, with configurable-http-proxy's options", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.version {
				fmt.Fprintln(cmd.OutOrStdout(), chpVersion)
				return nil
			}
			return c.run(cmd)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&c.version, "version", "V", false, "print the version whose place is taken")
	f.StringVar(&c.ip, "ip", "", "public address")
	f.IntVar(&c.port, "port", 8000, "public port")
	f.StringVar(&c.socket, "socket", "", "public unix socket, instead of address and port")
	f.StringVar(&c.apiIP, "api-ip", "localhost", "address of the REST API")
	f.IntVar(&c.apiPort, "api-port", 0, "port of the REST API (default: the public one + 1)")
	f.StringVar(&c.apiSock, "api-socket", "", "unix socket of the REST API, instead of address and port")
	c.tlsFlags(cmd)
	f.StringVar(&c.cfg.DefaultTarget, "default-target", "", "target of what has no route (proto://host[:port])")
	f.StringVar(&c.cfg.ErrorTarget, "error-target", "", "server that is asked for pages of errors (proto://host[:port])")
	f.StringVar(&c.cfg.ErrorPath, "error-path", "", "directory of pages of errors")
	f.StringVar(&c.redirectPort, "redirect-port", "", "redirect HTTP on this port to HTTPS")
	f.StringVar(&c.redirectTo, "redirect-to", "", "the port that is redirected to (default: the public one)")
	f.StringVar(&c.pidFile, "pid-file", "", "write our process id to a file")
	f.BoolVar(&c.cfg.NoXForward, "no-x-forward", false, "add no X-Forwarded headers")
	f.BoolVar(&c.cfg.NoPrependPath, "no-prepend-path", false, "don't put the target's path before the request's")
	f.BoolVar(&c.cfg.NoIncludePrefix, "no-include-prefix", false, "take the route's prefix off what is forwarded")
	f.BoolVar(&c.cfg.AutoRewrite, "auto-rewrite", false, "rewrite host and port of servers' redirects to themselves")
	f.StringVar(&c.cfg.ProtocolRewrite, "protocol-rewrite", "", "rewrite the protocol of servers' redirects to themselves")
	f.BoolVar(&c.cfg.ChangeOrigin, "change-origin", false, "send the target's host as Host")
	f.StringArrayVar(&c.headers, "custom-header", nil, "header to set on what is forwarded, as name:value (may be repeated)")
	f.BoolVar(&c.insecure, "insecure", false, "without effect, as in the original: servers' certificates are verified")
	f.BoolVar(&c.cfg.HostRouting, "host-routing", false, "the first part of a route is a host")
	f.StringVar(&c.backend, "storage-backend", "memory", "where routes are kept: memory or redis")
	f.StringVar(&c.redisURL, "redis-url", "", "Redis of the routes, redis://host:port/number; better in CONFIGPROXY_REDIS_URL, as command lines are seen by all")
	f.StringVar(&c.metricsIP, "metrics-ip", "", "address of the metrics (default: all)")
	f.IntVar(&c.metricsPort, "metrics-port", 0, "port of the metrics, which are off without it")
	f.StringVar(&c.metricsSocket, "metrics-socket", "", "unix socket of the metrics, instead of address and port")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	f.IntVar(&c.timeout, "timeout", 0, "milliseconds after which a silent client is dropped")
	f.IntVar(&c.patience, "proxy-timeout", 0, "milliseconds after which a silent server is given up")
	f.IntVar(&c.keepOpen, "keep-alive-timeout", 5000, "milliseconds that a connection may be idle")
	for _, u := range unsupported {
		f.String(u.name, "", "not supported")
		_ = f.MarkHidden(u.name) // it exists
	}
	f.Bool("ssl-allow-rc4", false, "not supported")
	_ = f.MarkHidden("ssl-allow-rc4")
	cmd.MarkFlagsMutuallyExclusive("socket", "ip")
	cmd.MarkFlagsMutuallyExclusive("socket", "port")
	cmd.MarkFlagsMutuallyExclusive("api-socket", "api-ip")
	cmd.MarkFlagsMutuallyExclusive("api-socket", "api-port")
	cmd.MarkFlagsMutuallyExclusive("metrics-socket", "metrics-ip")
	cmd.MarkFlagsMutuallyExclusive("metrics-socket", "metrics-port")
	return cmd
}

func (c *chpFlags) tlsFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	for _, side := range []struct {
		option, of string
		into       *chp.Certs
		request    *bool
		reject     *bool
	}{
		{"ssl", "the public side", &c.public, &c.public.RequestCert, new(bool)},
		{"api-ssl", "the REST API", &c.api, &c.api.RequestCert, new(bool)},
		{"client-ssl", "connections to servers", &c.client, &c.clientAsked[0], &c.clientAsked[1]},
	} {
		f.StringVar(&side.into.Key, side.option+"-key", "", "key for TLS of "+side.of)
		f.StringVar(&side.into.Cert, side.option+"-cert", "", "certificate for TLS of "+side.of)
		f.StringVar(&side.into.CA, side.option+"-ca", "", "authorities for TLS of "+side.of)
		f.BoolVar(side.request, side.option+"-request-cert", false, "ask the other side for a certificate, and verify it")
		f.BoolVar(side.reject, side.option+"-reject-unauthorized", false, "implied wherever a certificate is asked for")
	}
	f.StringVar(&c.public.Protocol, "ssl-protocol", "", "TLSv1_2 for that alone")
}

// config makes a proxy's of the flags.
func (c *chpFlags) config(cmd *cobra.Command, token string, out io.Writer) (chp.Config, error) {
	cfg := c.cfg
	for _, u := range append(unsupported, struct{ name, remedy string }{"ssl-allow-rc4", "leave it out: RC4 is broken"}) {
		if cmd.Flags().Changed(u.name) {
			return cfg, invalid("--"+u.name, "this option is not supported by carrel chp", u.remedy)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
		return cfg, invalid("--log-level", c.logLevel+" is no level", "choose debug, info, warn or error")
	}
	cfg.Logger = slog.New(chp.NewHandler(out, level))
	cfg.AuthToken = hub.NewSecret(token)
	var err error
	if cfg.Redis, err = c.storage(os.Getenv("CONFIGPROXY_REDIS_URL")); err != nil {
		return cfg, err
	}
	cfg.Metrics = c.metricsPort != 0 || c.metricsSocket != ""
	cfg.Headers = map[string]string{}
	for _, h := range c.headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return cfg, invalid("--custom-header", "a colon was expected in custom header: "+h, "write name:value")
		}
		cfg.Headers[name] = strings.TrimSpace(value)
	}
	for ms, into := range map[*int]*time.Duration{&c.timeout: &cfg.Timeout, &c.patience: &cfg.ProxyTimeout, &c.keepOpen: &cfg.KeepAliveTimeout} {
		if *ms < 0 {
			return cfg, invalid("--timeout", "a timeout is negative", "give milliseconds")
		}
		*into = time.Duration(*ms) * time.Millisecond
	}
	if cfg.TLS, cfg.APITLS, cfg.ClientTLS, err = c.certificates(); err != nil {
		return cfg, err
	}
	if c.redirectPort != "" && cfg.TLS == nil {
		return cfg, invalid("--redirect-port", "HTTPS redirection specified but certificates not provided", "give --ssl-key and --ssl-cert too")
	}
	cfg.Redirect = strconv.Itoa(c.port)
	if c.redirectTo != "" {
		cfg.Redirect = c.redirectTo
	}
	return cfg, nil
}

// storage is the address of the Redis that keeps the routes, or none.
func (c *chpFlags) storage(fromEnv string) (hub.Secret, error) {
	address := c.redisURL
	if address == "" {
		address = fromEnv
	}
	switch {
	case c.backend == "redis" && address == "":
		return hub.Secret{}, invalid("--redis-url", "there is no address of a Redis", "give it, or set CONFIGPROXY_REDIS_URL")
	case c.backend == "redis":
		return hub.NewSecret(address), nil
	case c.backend == "memory" && c.redisURL != "":
		return hub.Secret{}, invalid("--redis-url", "routes are kept in memory", "give --storage-backend=redis too")
	case c.backend == "memory":
		return hub.Secret{}, nil
	}
	return hub.Secret{}, invalid("--storage-backend", c.backend+" is not supported", "choose memory or redis: modules of Node can't be loaded")
}

// certificates reads the files of all three sides.
func (c *chpFlags) certificates() (public, api, client *tls.Config, err error) {
	c.api.Protocol = c.public.Protocol
	var errs [3]error
	public, errs[0] = c.public.Server("--ssl")
	api, errs[1] = c.api.Server("--api-ssl")
	client, errs[2] = c.client.Client("--client-ssl")
	return public, api, client, errors.Join(errs[:]...)
}

// renewOnHangup reads certificates anew at each SIGHUP until the context ends. Without any the signal
// ends the process, as the original.
func (c *chpFlags) renewOnHangup(ctx context.Context, p *chp.Proxy, log *slog.Logger) (wait func()) {
	if c.public.Cert+c.api.Cert+c.client.Cert+c.client.CA == "" {
		return func() {}
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			}
			public, api, client, err := c.certificates()
			if err != nil {
				log.ErrorContext(ctx, "Certificates not read again; the former ones are kept", "error", err)
				continue
			}
			p.Secure(public, api, client)
			log.InfoContext(ctx, "Certificates read again")
		}
	})
	return wg.Wait
}

func invalid(field, message, remedy string) error {
	return &hub.Error{Kind: hub.Invalid, Op: "read options", Field: field, Message: message, Remedy: remedy}
}

func (c *chpFlags) run(cmd *cobra.Command) error {
	cfg, err := c.config(cmd, os.Getenv("CONFIGPROXY_AUTH_TOKEN"), cmd.OutOrStdout())
	if err != nil {
		return err
	}
	p, err := chp.New(cfg)
	if err != nil {
		return err
	}
	if err := p.Load(cmd.Context()); err != nil {
		return err
	}
	l, err := c.listen(cmd.Context())
	if err != nil {
		return err
	}
	log := cfg.Logger
	if cfg.AuthToken.IsZero() {
		log.WarnContext(cmd.Context(), "REST API is not authenticated.")
	}
	if c.insecure {
		log.WarnContext(cmd.Context(), "--insecure has no effect: servers' certificates are verified")
	}
	ctx, stop := context.WithCancel(cmd.Context())
	wait := c.renewOnHangup(ctx, p, log)
	defer wait()
	defer stop()
	c.announce(cmd.Context(), cfg, l)
	if c.pidFile != "" {
		if err := os.WriteFile(c.pidFile, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil { //nolint:gosec // others read it, as the original's
			return invalid("--pid-file", c.pidFile+" can't be written", "check its directory: "+err.Error())
		}
		defer os.Remove(c.pidFile)
	}
	err = p.Run(cmd.Context(), l)
	if cmd.Context().Err() != nil {
		log.WarnContext(cmd.Context(), "Terminated")
		return exitStatus(2) // as the original's
	}
	return err
}

// listen opens all that is listened on.
func (c *chpFlags) listen(ctx context.Context) (l chp.Listeners, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, opened := range []net.Listener{l.Public, l.API, l.Redirect, l.Metrics} {
			if opened != nil {
				opened.Close()
			}
		}
	}()
	ip := c.ip
	if ip == "*" {
		ip = ""
	}
	if l.Public, err = open(ctx, c.socket, ip, c.port); err != nil {
		return l, err
	}
	port := c.apiPort
	if port == 0 {
		port = c.port + 1
	}
	if l.API, err = open(ctx, c.apiSock, c.apiIP, port); err != nil {
		return l, err
	}
	if c.metricsPort != 0 || c.metricsSocket != "" {
		if l.Metrics, err = open(ctx, c.metricsSocket, c.metricsIP, c.metricsPort); err != nil {
			return l, err
		}
	}
	if c.redirectPort != "" && c.socket == "" && c.port != 80 {
		l.Redirect, err = chp.Listen(ctx, "tcp", net.JoinHostPort(ip, c.redirectPort))
	}
	return l, err
}

// open listens on a unix socket or, where none is named, on an address and port.
func open(ctx context.Context, socket, ip string, port int) (net.Listener, error) {
	if socket != "" {
		return chp.Listen(ctx, "unix", socket)
	}
	return chp.Listen(ctx, "tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
}

// announce writes the lines that callers wait for.
func (c *chpFlags) announce(ctx context.Context, cfg chp.Config, l chp.Listeners) {
	scheme := map[bool]string{true: "https", false: "http"}
	to := cfg.DefaultTarget
	if to == "" {
		to = "(no default)"
	}
	lines := []string{
		fmt.Sprintf("Proxying %s://%s to %s", scheme[cfg.TLS != nil], l.Public.Addr(), to),
		fmt.Sprintf("Proxy API at %s://%s/api/routes", scheme[cfg.APITLS != nil], l.API.Addr()),
	}
	if l.Metrics != nil {
		lines = append(lines, fmt.Sprintf("Serve metrics at http://%s/metrics", l.Metrics.Addr()))
	}
	if l.Redirect != nil {
		lines = append(lines, fmt.Sprintf("Added HTTP to HTTPS redirection from %s to %s", c.redirectPort, cfg.Redirect))
	}
	for _, line := range lines {
		cfg.Logger.InfoContext(ctx, line) //nolint:sloglint // callers wait for the whole line
	}
}
