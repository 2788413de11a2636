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

// form is one way to write redis.url.
type form struct {
	port    string // where none is given
	options []string
	list    bool // of Sentinels
	tls     bool
}

var forms = map[string]form{
	"redis":           {port: "6379"},
	"rediss":          {port: "6379", tls: true},
	"redis+sentinel":  {port: "26379", list: true, options: []string{"master", "sentinel_username", "sentinel_password"}},
	"rediss+sentinel": {port: "26379", list: true, tls: true, options: []string{"master", "sentinel_username", "sentinel_password"}},
	"unix":            {options: []string{"db"}},
}

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
	f, known := forms[scheme]
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	// net/url knows one host: it reads everything but the list of them.
	at := strings.LastIndexByte(authority, '@') + 1
	user, hosts := authority[:at], authority[at:]
	u, err := url.Parse("redis://" + user + "hosts" + tail)
	if !known || err != nil || u.Fragment != "" || strings.Count(user, "@") > 1 {
		return nil, false
	}
	query, ok := f.readOptions(u.RawQuery)
	if !ok {
		return nil, false
	}
	o := &redis.UniversalOptions{Username: u.User.Username(), MasterName: query.Get("master"), SentinelUsername: query.Get("sentinel_username"), SentinelPassword: query.Get("sentinel_password")}
	o.Password, _ = u.User.Password()
	if scheme == "unix" {
		o.Addrs = []string{u.Path}
		return o, hosts == "" && len(u.Path) > 1 && !strings.HasSuffix(u.Path, "/") && readDB(query.Get("db"), &o.DB)
	}
	if f.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12} // the dialer adds each host's name
	}
	return o, f.list == (o.MasterName != "") && f.readHosts(hosts, &o.Addrs) && readDB(strings.TrimPrefix(u.Path, "/"), &o.DB)
}

// readOptions reads a query, of which each option is known and given once.
func (f form) readOptions(text string) (url.Values, bool) {
	query, err := url.ParseQuery(text)
	for k, v := range query {
		if len(v) != 1 || !slices.Contains(f.options, k) {
			return nil, false
		}
	}
	return query, err == nil
}

// readHosts reads one host, or a list of them.
func (f form) readHosts(text string, into *[]string) bool {
	if strings.Contains(text, ",") && !f.list {
		return false
	}
	for host := range strings.SplitSeq(text, ",") {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Host != host || u.Hostname() == "" || strings.ContainsAny(u.Hostname(), " %") {
			return false
		}
		if _, err := netip.ParseAddr(u.Hostname()); strings.Contains(u.Hostname(), ":") && (err != nil || host[0] != '[') {
			return false
		}
		p := f.port
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
