package redisstore

import (
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// parseURL reads every form of redis.url. No error shows any of it, as it may hold passwords.
//
//	redis[s]://[user:password@]host[:port][/db]
//	redis[s]+sentinel://[user:password@]host[:port],…[/db]?master=name[&sentinel_username=…&sentinel_password=…]
//	unix://[user:password@]/path[?db=n]
func parseURL(text string) (*redis.UniversalOptions, error) {
	o, ok := readURL(text)
	if !ok {
		return nil, &hub.Error{
			Kind: hub.Invalid, Op: "read redis.url", Field: "redis.url", Message: "this is no address of a Redis",
			Remedy: "give redis://[user:password@]host:6379/0, rediss://… for TLS, unix:///path, or redis+sentinel://[user:password@]host:26379,host:26379/0?master=name (rediss+sentinel:// for TLS); characters other than letters, digits and -._~ in a password are written as %XX",
		}
	}
	return o, nil
}

func readURL(text string) (*redis.UniversalOptions, bool) {
	scheme, rest, _ := strings.Cut(text, "://")
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	// net/url knows one host: it reads everything but the list of them.
	at := strings.LastIndexByte(authority, '@') + 1
	user, hosts := authority[:at], authority[at:]
	u, err := url.Parse("redis://" + user + "hosts" + tail)
	if err != nil || u.Fragment != "" || strings.Count(user, "@") > 1 {
		return nil, false
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, false
	}
	o := &redis.UniversalOptions{Username: u.User.Username(), MasterName: query.Get("master"), SentinelUsername: query.Get("sentinel_username"), SentinelPassword: query.Get("sentinel_password")}
	o.Password, _ = u.User.Password()
	port, db, known := redisPort, strings.TrimPrefix(u.Path, "/"), []string(nil)
	switch scheme {
	case "redis", "rediss":
		if strings.Contains(hosts, ",") {
			return nil, false
		}
	case "redis+sentinel", "rediss+sentinel":
		port, known = sentinelPort, []string{"master", "sentinel_username", "sentinel_password"}
		if o.MasterName == "" {
			return nil, false
		}
	case "unix":
		o.Addrs, db, known = []string{u.Path}, query.Get("db"), []string{"db"}
		if hosts != "" || len(u.Path) < 2 || strings.HasSuffix(u.Path, "/") {
			return nil, false
		}
	default:
		return nil, false
	}
	if strings.HasPrefix(scheme, "rediss") {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12} // the dialer adds each host's name
	}
	for k, v := range query {
		if len(v) != 1 || !slices.Contains(known, k) {
			return nil, false
		}
	}
	if o.Addrs == nil && !readHosts(hosts, port, &o.Addrs) || !readDB(db, &o.DB) {
		return nil, false
	}
	return o, true
}

func readHosts(list, port string, into *[]string) bool {
	for host := range strings.SplitSeq(list, ",") {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Host != host || u.Hostname() == "" || strings.ContainsAny(u.Hostname(), " %") {
			return false
		}
		if _, err := netip.ParseAddr(u.Hostname()); strings.Contains(u.Hostname(), ":") && (err != nil || host[0] != '[') {
			return false
		}
		p := port
		if u.Port() != "" {
			p = u.Port()
		}
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return false
		}
		*into = append(*into, net.JoinHostPort(u.Hostname(), p))
	}
	return true
}

// readDB reads the number of a database; none is 0.
func readDB(text string, into *int) bool {
	if text == "" {
		return true
	}
	n, err := strconv.ParseUint(text, 10, 16)
	*into = int(n)
	return err == nil
}
