// Package front is what stands between a socket and an HTTP server.
//
// It owns the strictness of HTTP/1 that net/http leaves out (a scanner that follows each connection's
// bytes and refuses what two parsers could frame differently), the way a connection gets its TLS and
// its client's address before the server sees it, and the address that leads from HTTP to HTTPS. It
// refuses to own any policy: who may connect, which certificate is shown and what is trusted is told
// to it, and it never sees who a request is from.
package front
