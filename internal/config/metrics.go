package config

import (
	"net"
	"slices"
	"strconv"
)

// Metrics is about what Prometheus collects.
type Metrics struct {
	Listen      string `yaml:"listen" doc:"Address, as host:port, at which the hub serves /metrics to whoever reaches it; empty: nowhere."`
	ProxyListen string `yaml:"proxy_listen" doc:"Likewise the proxy, which is a process of its own. Its port is 1024 or above."`
}

// validateMetrics keeps metrics off the listeners that strangers reach.
func (c *Config) validateMetrics(k *checks) {
	for field, a := range map[string]string{"metrics.listen": c.Metrics.Listen, "metrics.proxy_listen": c.Metrics.ProxyListen} {
		if a == "" {
			continue
		}
		_, port, err := net.SplitHostPort(a)
		n, perr := strconv.ParseUint(port, 10, 16)
		k.that(err == nil && perr == nil && n > 0, field, "this is no host:port", "write 127.0.0.1:9101")
		k.that(!slices.Contains(c.Listen, a) && !slices.Contains(c.ListenRedirect, a), field, "people come in at this address", "give metrics one of their own, such as 127.0.0.1:9101")
		k.that(field != "metrics.proxy_listen" || perr != nil || n >= 1024, field, "the proxy has no right to this port", "choose one from 1024 on")
	}
	k.that(c.Metrics.Listen == "" || c.Metrics.Listen != c.Metrics.ProxyListen, "metrics.proxy_listen", "the hub serves its metrics at this address", "choose another port")
}
