package front

import (
	"bytes"
	"strings"
)

// maxLine bounds a line that has not ended yet, in bytes; the server bounds whole headers by less.
const maxLine = 64 << 10

// maxChunkLine bounds the line of a chunk's size with its extensions, in bytes. No client sends any.
const maxChunkLine = 256

// refusal is a fault in a request's framing. It is no net.Error on purpose: net/http answers 400 to
// what it can't name, and closes.
type refusal string

// Error implements error.
func (r refusal) Error() string { return "request refused: " + string(r) }

const (
	errBareLF    refusal = "a line without CR LF"
	errBareCR    refusal = "CR within a line"
	errLine      refusal = "a line that does not end"
	errStart     refusal = "no request line"
	errVersion   refusal = "another version of HTTP"
	errFold      refusal = "a folded header line"
	errName      refusal = "no name of a header"
	errLength    refusal = "no length of a body"
	errLengths   refusal = "more than one length of a body"
	errCoding    refusal = "another transfer coding than chunked"
	errBoth      refusal = "Content-Length beside Transfer-Encoding"
	errChunk     refusal = "no size of a chunk"
	errChunkSize refusal = "a chunk of another size than told"
)

// place says what the scanner reads.
type place uint8

const (
	inStart    place = iota // the request line
	inHeader                // a line of the header
	inBody                  // so many bytes
	inChunk                 // the line with a chunk's size
	inData                  // a chunk's bytes
	inDataEnd               // the CR LF after them
	inTrailer               // a line after the last chunk
	inTheClear              // another protocol: nothing is looked at any more
)

// scanner follows the bytes that a client sends on an HTTP/1 connection and knows where each
// request's header is (RFC 9112). It is stricter than net/http, so that whatever it lets through is
// framed alike by everybody. The zero value is ready.
type scanner struct {
	at       place
	old      bool // HTTP/1.0
	coded    bool // Transfer-Encoding: chunked
	measured bool // Content-Length
	upgrade  bool // Connection: upgrade
	cr       bool // of inDataEnd, the CR was there
	left     uint64
	part     []byte // of a line whose end has not come
}

// scan looks at what came, and tells how much of it may be passed on. With an error that is what
// came before the line at fault; the scanner is of no use then.
func (s *scanner) scan(b []byte) (int, error) {
	for i := 0; i < len(b); {
		switch s.at {
		case inTheClear:
			return len(b), nil
		case inBody, inData:
			n := int(min(s.left, uint64(len(b)-i)))
			i += n
			if s.left -= uint64(n); s.left == 0 {
				s.bodyEnds()
			}
		case inDataEnd:
			if err := s.dataEnd(b[i]); err != nil {
				return i, err
			}
			i++
		case inStart, inHeader, inChunk, inTrailer:
			n := bytes.IndexByte(b[i:], '\n')
			if n < 0 {
				if err := s.keep(b[i:]); err != nil {
					return i, err
				}
				return len(b), nil
			}
			if err := s.whole(b[i : i+n]); err != nil {
				return i, err
			}
			i += n + 1
		}
	}
	return len(b), nil
}

// keep holds the beginning of a line. What could only be refused later is refused now: a client must
// not hold a connection with half of it.
func (s *scanner) keep(b []byte) error {
	bound := maxLine
	if s.at == inChunk {
		bound = maxChunkLine
	}
	if len(s.part)+len(b) > bound {
		return errLine
	}
	if len(s.part) == 0 && s.at == inStart && (b[0] == '\r' || b[0] == '\n') {
		return errStart // net/http would skip it after a POST
	}
	s.part = append(s.part, b...)
	return nil
}

// whole takes a line up to its LF.
func (s *scanner) whole(line []byte) error {
	if len(s.part) > 0 {
		s.part = append(s.part, line...)
		line = s.part
		s.part = s.part[:0]
	}
	end := len(line) - 1
	if end < 0 || line[end] != '\r' {
		return errBareLF
	}
	line = line[:end]
	if bytes.IndexByte(line, '\r') >= 0 {
		return errBareCR
	}
	switch s.at {
	case inStart:
		return s.start(line)
	case inChunk:
		return s.chunk(line)
	case inHeader:
		if end == 0 {
			return s.headerEnds()
		}
		return s.header(line)
	default:
		if end == 0 {
			s.rest(inStart)
			return nil
		}
		_, _, err := field(line)
		return err
	}
}

// start takes the request line; what else is in it is the server's to judge.
func (s *scanner) start(line []byte) error {
	const version = len(" HTTP/1.x")
	n := len(line) - version
	if n <= 0 || line[0] == ' ' {
		return errStart
	}
	switch string(line[n:]) {
	case " HTTP/1.1":
	case " HTTP/1.0":
		s.old = true
	default:
		return errVersion
	}
	s.at = inHeader
	return nil
}

// header takes a line of the header. Of its fields those count that say where the request ends.
func (s *scanner) header(line []byte) error {
	name, value, err := field(line)
	if err != nil {
		return err
	}
	switch len(name) {
	case len("Connection"):
		if equal(name, "connection") && AsksUpgrade(string(value)) {
			s.upgrade = true
		}
	case len("Content-Length"):
		if !equal(name, "content-length") {
			return nil
		}
		if s.measured {
			return errLengths
		}
		s.measured = true
		s.left, err = length(value)
		return err
	case len("Transfer-Encoding"):
		if !equal(name, "transfer-encoding") {
			return nil
		}
		if s.coded || s.old || !equal(value, "chunked") {
			return errCoding
		}
		s.coded = true
	}
	return nil
}

// headerEnds decides what follows. After a request for another protocol nobody can tell before the
// answer: what follows is not looked at, and the server must close unless it switches.
func (s *scanner) headerEnds() error {
	switch {
	case s.coded && s.measured:
		return errBoth
	case s.upgrade:
		s.rest(inTheClear)
		s.part = nil
	case s.coded:
		s.at = inChunk
	case s.left > 0:
		s.at = inBody
	default:
		s.rest(inStart)
	}
	return nil
}

func (s *scanner) bodyEnds() {
	if s.at == inBody {
		s.rest(inStart)
		return
	}
	s.at, s.cr = inDataEnd, false
}

// dataEnd takes a byte of the CR LF after a chunk's.
func (s *scanner) dataEnd(b byte) error {
	switch {
	case !s.cr && b == '\r':
		s.cr = true
	case s.cr && b == '\n':
		s.at = inChunk
	default:
		return errChunkSize
	}
	return nil
}

// chunk takes the line with a chunk's size: hexadecimal digits, and an extension that nobody reads.
func (s *scanner) chunk(line []byte) error {
	size, extension, _ := bytes.Cut(line, []byte{';'})
	if len(size) == 0 || len(size) > 15 || len(line) > maxChunkLine || bytes.IndexByte(extension, 0) >= 0 {
		return errChunk
	}
	var n uint64
	for _, c := range size {
		d := hex(c)
		if d < 0 {
			return errChunk
		}
		n = n<<4 | uint64(d)
	}
	s.left, s.at = n, inData
	if n == 0 {
		s.at = inTrailer
	}
	return nil
}

// rest makes the scanner ready for what comes after a request.
func (s *scanner) rest(at place) { *s = scanner{at: at, part: s.part[:0]} }

// field splits a line of a header into a name, which is a token (RFC 9110, section 5.6.2), and its
// value without the space around it.
func field(line []byte) (name, value []byte, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, errFold
	}
	n := bytes.IndexByte(line, ':')
	if n <= 0 {
		return nil, nil, errName
	}
	for _, c := range line[:n] {
		if !isToken[c] {
			return nil, nil, errName
		}
	}
	return line[:n], bytes.Trim(line[n+1:], " \t"), nil
}

// length parses a Content-Length, which is digits alone.
func length(value []byte) (uint64, error) {
	if len(value) == 0 || len(value) > 18 {
		return 0, errLength
	}
	var n uint64
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, errLength
		}
		n = n*10 + uint64(c-'0')
	}
	return n, nil
}

// AsksUpgrade tells whether a value of Connection asks for another protocol (RFC 9110, section 7.8).
func AsksUpgrade(value string) bool {
	for t := range strings.SplitSeq(value, ",") {
		if strings.EqualFold(strings.TrimSpace(t), "upgrade") {
			return true
		}
	}
	return false
}

// equal compares without case; lower is in lower case.
func equal(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

var isToken = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()
