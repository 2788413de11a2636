// Package h1 is HTTP/1.1 (RFC 9112) for proxies: a round trip in the caller's own goroutine, over
// connections that are kept.
//
// It owns pools of connections, the heads that are written to them and read from them, and the
// judgement of whether a connection may be used again or a request sent again. It refuses to own
// what headers mean, and anything odd on the wire: a head that is not written in the plainest way
// is read by net/http.
package h1
