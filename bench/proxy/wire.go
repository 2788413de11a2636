package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // what RFC 6455 asks for
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Load and backend speak HTTP/1.1 and websocket by hand: on the machine that they share with the
// proxies, every cycle of theirs is one that the proxies do not get. They take what the proxies here
// send, check all that they read, and nothing else.

const (
	patience  = 30 * time.Second // with any one answer
	chunkSize = 64 << 10
	guid      = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, section 1.3
)

// head is a request's or an answer's, with the parts that count here.
type head struct {
	first   []byte // its line; good until the next read
	length  int64
	key     string // Sec-WebSocket-Key
	accept  string // Sec-WebSocket-Accept
	upgrade bool
	closing bool // Connection: close
}

var errChunked = errors.New("a chunked body, where the length was known")

// readHead reads a request's or an answer's head.
func readHead(r *bufio.Reader, h *head) error {
	line, err := readLine(r)
	if err != nil {
		return err
	}
	h.first = append(h.first[:0], line...)
	h.length, h.upgrade, h.closing, h.key, h.accept = 0, false, false, "", ""
	for {
		line, err := readLine(r)
		if err != nil {
			return noEOF(err)
		}
		if len(line) == 0 {
			return nil
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			return fmt.Errorf("a header without a colon: %.80q", line)
		}
		if err := h.field(line[:colon], bytes.TrimSpace(line[colon+1:])); err != nil {
			return err
		}
	}
}

func (h *head) field(name, value []byte) (err error) {
	switch len(name) { // most are none of these
	case len("Upgrade"):
		h.upgrade = h.upgrade || bytes.EqualFold(name, []byte("Upgrade"))
	case len("Connection"):
		h.closing = h.closing || bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close"))
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			h.length, err = strconv.ParseInt(string(value), 10, 64)
		}
	case len("Sec-WebSocket-Key"): // and Transfer-Encoding
		if bytes.EqualFold(name, []byte("Sec-WebSocket-Key")) {
			h.key = string(value)
		} else if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			return errChunked
		}
	case len("Sec-WebSocket-Accept"):
		if bytes.EqualFold(name, []byte("Sec-WebSocket-Accept")) {
			h.accept = string(value)
		}
	}
	return err
}

// has tells whether an answer's head has this status, written with a blank on either side.
func (h *head) has(status string) bool {
	return bytes.Contains(h.first[:min(16, len(h.first))], []byte(status))
}

// readLine reads a line without its end; it is good until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + guid)) //nolint:gosec // RFC 6455
	return base64.StdEncoding.EncodeToString(sum[:])
}

// page is the answer of 1 KiB to a path: it holds the path, so that an answer to another's request
// shows.
func page(path string) []byte {
	const size = 1 << 10
	b := []byte(`{"path": "` + path + `", "filler": "`)
	b = append(b, bytes.Repeat([]byte("carrel "), size/7+1)...)
	return append(b[:size-2], `"}`...)
}

// pattern is what large bodies are made of, again and again.
var pattern = func() []byte {
	b := make([]byte, chunkSize)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}()

// drainBody reads a large body of n bytes and checks each of them.
func drainBody(r *bufio.Reader, n int64) error {
	for at := int64(0); at < n; {
		if _, err := r.Peek(1); err != nil {
			return noEOF(err)
		}
		b, _ := r.Peek(r.Buffered())
		from := int(at % chunkSize)
		b = b[:min(int64(len(b)), n-at, int64(chunkSize-from))]
		if !bytes.Equal(b, pattern[from:from+len(b)]) {
			return fmt.Errorf("a byte of a large body is wrong, after %d", at)
		}
		if _, err := r.Discard(len(b)); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

// sendBody writes a large body of n bytes.
func sendBody(w io.Writer, n int64) error {
	for n > 0 {
		sent, err := w.Write(pattern[:min(n, chunkSize)])
		if err != nil {
			return err
		}
		n -= int64(sent)
	}
	return nil
}

// Frames here are binary and whole, with a payload that takes the two-byte length (RFC 6455, 5.2).
const (
	opBinary = 0x82
	opClose  = 0x88
	payload  = 128
)

var mask = [4]byte{0x37, 0xfa, 0x21, 0x3d} // RFC 6455's example; its value is nothing to a proxy

// clientFrame makes a masked frame into buf.
func clientFrame(buf, data []byte) []byte {
	buf = append(buf[:0], opBinary, 0x80|126, byte(len(data)>>8), byte(len(data)), mask[0], mask[1], mask[2], mask[3])
	for i, b := range data {
		buf = append(buf, b^mask[i&3])
	}
	return buf
}

// readFrame reads a frame's payload into buf, unmasked; io.EOF after a close frame.
func readFrame(r *bufio.Reader, buf []byte, masked bool) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:2]); err != nil {
		return nil, err
	}
	if h[0] == opClose {
		return nil, io.EOF
	}
	if h[0] != opBinary || h[1]&0x7f != 126 || (h[1]&0x80 != 0) != masked {
		return nil, fmt.Errorf("a frame that nobody sent: % x", h[:2])
	}
	if _, err := io.ReadFull(r, h[2:]); err != nil {
		return nil, noEOF(err)
	}
	n := int(binary.BigEndian.Uint16(h[2:]))
	var key [4]byte
	if masked {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return nil, noEOF(err)
		}
	}
	if n > cap(buf) {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, noEOF(err)
	}
	if masked {
		for i := range buf {
			buf[i] ^= key[i&3]
		}
	}
	return buf, nil
}

// A conn is one connection of the load.
type conn struct {
	net.Conn
	r    *bufio.Reader
	who  person
	head head
	buf  []byte
	want []byte // the page that who's server answers with
	get  []byte // the request for it
}

func dial(ctx context.Context, at string, who person, size int) (*conn, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	path := who.Path + "api/contents"
	return &conn{
		Conn: c, r: bufio.NewReaderSize(c, size), who: who, buf: make([]byte, 4<<10),
		want: page(path), get: request(who, "GET", path, ""),
	}, nil
}

// request is a request as JupyterLab in a browser makes it; extra are lines, each with its end.
func request(who person, method, path, extra string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, who.Host)
	b.WriteString("User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n")
	fmt.Fprintf(&b, "Origin: http://%s\r\nReferer: http://%s%slab\r\n", who.Host, who.Host, who.Path)
	fmt.Fprintf(&b, "Cookie: _xsrf=2|7b5e3f7d|c9b3a1d7f5e2|1764000000; %s\r\n", who.Cookie)
	b.WriteString("Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n" + extra + "\r\n")
	return []byte(b.String())
}

// fetch asks for the page and checks every byte of the answer.
func (c *conn) fetch() error {
	if _, err := c.Write(c.get); err != nil {
		return err
	}
	return c.answer()
}

// answer reads the answer to a request for the page.
func (c *conn) answer() error {
	if err := c.status(" 200 "); err != nil {
		return err
	}
	if c.head.length != int64(len(c.want)) {
		return fmt.Errorf("%s: an answer of %d bytes", c.who.Path, c.head.length)
	}
	got := c.buf[:len(c.want)]
	if _, err := io.ReadFull(c.r, got); err != nil {
		return noEOF(err)
	}
	if !bytes.Equal(got, c.want) {
		return fmt.Errorf("%s: a wrong answer: %.100q", c.who.Path, got)
	}
	return nil
}

// status reads an answer's head, which has to have this status and keep the connection.
func (c *conn) status(want string) error {
	if err := readHead(c.r, &c.head); err != nil {
		return noEOF(err)
	}
	if !c.head.has(want) {
		rest, _ := c.r.Peek(min(300, c.r.Buffered()))
		return fmt.Errorf("%s: %.60q: %.300q", c.who.Path, c.head.first, rest)
	}
	if c.head.closing {
		return errors.New("the proxy closes a connection that could be kept")
	}
	return nil
}

// open makes a websocket of the connection.
func (c *conn) open() error {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	_ = c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{}) //nolint:errcheck // a broken connection shows at once
	if _, err := c.Write(request(c.who, "GET", c.who.Path+"api/kernels/1/channels",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+key+"\r\n")); err != nil {
		return err
	}
	if err := c.status(" 101 "); err != nil {
		return err
	}
	if c.head.accept != acceptOf(key) {
		return fmt.Errorf("an upgrade that is none: %q", c.head.accept)
	}
	return nil
}

// echo sends a message that no other is like, and checks that it comes back.
func (c *conn) echo(data []byte, n uint64) error {
	binary.BigEndian.PutUint64(data, n)
	c.buf = clientFrame(c.buf, data)
	if _, err := c.Write(c.buf); err != nil {
		return err
	}
	got, err := readFrame(c.r, c.buf[:0:cap(c.buf)], false)
	if err != nil {
		return noEOF(err)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%s: message %d came back as % x", c.who.Path, n, got[:min(len(got), 16)])
	}
	return nil
}
