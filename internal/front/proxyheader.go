package front

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"

	proxyproto "github.com/pires/go-proxyproto"
)

const (
	maxProxyV1 = 107     // bytes, with CR LF (PROXY protocol, section 2.1)
	maxProxyV2 = 4 << 10 // bytes of addresses and extensions; the longest in use are certificates
	proxyV2    = 16      // bytes before them (section 2.2)
)

var (
	errNotTrusted  = errors.New("it is not a trusted proxy")
	errProxyHeader = errors.New("no PROXY protocol header in order")
)

// readProxy takes a connection's PROXY header, which only a trusted proxy may send, and takes not one
// byte more, so that what follows can be had from the socket itself.
func (l *Listener) readProxy(b *base) error {
	if at, err := netip.ParseAddrPort(b.Conn.RemoteAddr().String()); err != nil || !l.opt.Proxies(at.Addr().Unmap().WithZone("")) {
		return errNotTrusted
	}
	raw, err := proxyHeader(b)
	if err != nil {
		return err
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(raw), len(raw)))
	if err != nil {
		return errors.Join(errProxyHeader, err)
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return nil // the proxy speaks for itself, or does not know
	}
	source, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok || !h.TransportProtocol.IsStream() {
		return errProxyHeader
	}
	b.remote = source
	return nil
}

// proxyHeader reads the bytes of a header of either version.
func proxyHeader(r io.Reader) ([]byte, error) {
	raw := make([]byte, 12, maxProxyV1)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(raw, proxyproto.SIGV2):
		raw = append(raw, 0, 0, 0, 0)
		if _, err := io.ReadFull(r, raw[len(proxyproto.SIGV2):]); err != nil {
			return nil, err
		}
		more := int(raw[14])<<8 | int(raw[15])
		if more > maxProxyV2 {
			return nil, errProxyHeader
		}
		raw = append(raw, make([]byte, more)...)
		_, err := io.ReadFull(r, raw[proxyV2:])
		return raw, err
	case bytes.HasPrefix(raw, []byte("PROXY ")):
		for !bytes.HasSuffix(raw, []byte("\r\n")) {
			if len(raw) == maxProxyV1 || raw[len(raw)-1] == '\n' {
				return nil, errProxyHeader
			}
			raw = raw[:len(raw)+1]
			if _, err := io.ReadFull(r, raw[len(raw)-1:]); err != nil {
				return nil, err
			}
		}
		return raw, nil
	}
	return nil, errProxyHeader
}
