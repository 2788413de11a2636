// Package front is what stands between a socket and an HTTP handler.
//
// It owns the strictness of HTTP/1 that net/http leaves out (a scanner that follows each connection's
// bytes and refuses what two parsers could frame differently), the way a connection gets its TLS and
// its client's address before anything reads from it, the address that leads from HTTP to HTTPS, and a
// server of plain HTTP/1.1 that costs less than net/http's. It refuses to own any policy (who may
// connect, which certificate is shown and what is trusted is told to it, and it never sees who a
// request is from), and anything odd on the wire: what is not plain, or at fault, is net/http's.
package front
