package proxy

import "encoding/binary"

// The close codes that we send (RFC 6455, section 7.4.1, and IANA's registry that it opens).
const (
	closeGoingAway = 1001
	closePolicy    = 1008
	closeTryAgain  = 1013
)

// frames follows the boundaries of websocket frames in a stream (RFC 6455, section 5.2), without
// keeping any of it: where a close frame of ours may be put between two, and which frames carry a
// person's input.
type frames struct {
	head  [14]byte // of the frame that is coming in
	have  int      // bytes of head
	left  uint64   // bytes of its payload
	data  uint64   // data frames seen begin
	limit bool     // a frame was malformed: no boundary is known any more
}

// atBoundary tells whether the stream stands between two frames.
func (f *frames) atBoundary() bool { return !f.limit && f.have == 0 && f.left == 0 }

// advance takes a chunk of the stream.
func (f *frames) advance(chunk []byte) {
	for len(chunk) > 0 && !f.limit {
		chunk = chunk[f.next(chunk):]
	}
}

// next takes a chunk up to the end of the frame that it continues or begins, and returns how many
// bytes that were: all of them where the frame goes on, or where no boundary is known.
func (f *frames) next(chunk []byte) int {
	i := 0
	for i < len(chunk) && !f.limit {
		if f.left > 0 {
			n := min(f.left, uint64(len(chunk)-i))
			f.left -= n
			i += int(n)
		} else {
			f.head[f.have] = chunk[i]
			f.have++
			i++
			if f.have >= 2 && f.have == f.headLength() {
				f.begin()
			}
		}
		if f.atBoundary() {
			return i
		}
	}
	return len(chunk)
}

// headLength is the length of the head, as its second byte tells.
func (f *frames) headLength() int {
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// begin takes a whole head.
func (f *frames) begin() {
	switch size := f.head[1] & 0x7f; size {
	case 126:
		f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		f.left = binary.BigEndian.Uint64(f.head[2:])
		f.limit = f.left>>63 != 0
	default:
		f.left = uint64(size)
	}
	if op := f.head[0] & 0x0f; op < 8 {
		f.data++
	}
	f.have = 0
}

// closeFrame is a server's close frame with a code and a reason of at most 123 bytes.
func closeFrame(code uint16, reason string) []byte {
	reason = reason[:min(len(reason), 123)]
	b := []byte{0x88, byte(2 + len(reason)), 0, 0}
	binary.BigEndian.PutUint16(b[2:], code)
	return append(b, reason...)
}
