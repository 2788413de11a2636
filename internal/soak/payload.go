package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
)

// A payload is a run of bytes that anyone who knows its three values can make and check. Each block
// of it says whose it is, so that a byte in the wrong hands names the one it was taken from.
type payload struct {
	owner string
	seed  uint64
	size  int64
}

const (
	blockSize  = 1 << 10
	headerSize = 64
)

// stream makes a payload's bytes, one block after another.
type stream struct {
	p     payload
	noise *rand.ChaCha8
	next  int64 // number of the block to come
	block [blockSize]byte
	rest  []byte // of the present block
	left  int64
}

func (p payload) stream() *stream {
	return &stream{p: p, noise: rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%s %x", p.owner, p.seed))), left: p.size}
}

// Read implements [io.Reader].
func (s *stream) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := 0
	for n < len(b) && s.left > 0 {
		if len(s.rest) == 0 {
			header := fmt.Appendf(s.block[:0], "owner=%s seed=%016x block=%08x ", s.p.owner, s.p.seed, s.next)
			for i := len(header); i < headerSize; i++ {
				s.block[i] = '.'
			}
			_, _ = s.noise.Read(s.block[headerSize:]) // never fails
			s.rest = s.block[:min(blockSize, s.left)]
			s.next++
		}
		k := copy(b[n:], s.rest)
		s.rest = s.rest[k:]
		s.left -= int64(k)
		n += k
	}
	return n, nil
}

// bytes is the whole of a small payload.
func (p payload) bytes() []byte {
	b := make([]byte, p.size)
	_, _ = io.ReadFull(p.stream(), b) // never fails
	return b
}

// A checker is written what came, and says at which byte it is not what was sent.
type checker struct {
	want *stream
	buf  [8 << 10]byte
	n    int64
}

func (p payload) checker() *checker { return &checker{want: p.stream()} }

// Write implements [io.Writer]; its error is a [finding].
func (c *checker) Write(got []byte) (int, error) {
	done := 0
	for done < len(got) {
		part := got[done:min(len(got), done+len(c.buf))]
		n, _ := io.ReadFull(c.want, c.buf[:len(part)]) // short at the end only
		if !bytes.Equal(part, c.buf[:n]) {
			return done, c.differs(part)
		}
		done += n
		c.n += int64(n)
	}
	return done, nil
}

var ownerIn = regexp.MustCompile(`owner=(\S+) seed=([0-9a-f]{16})`)

// differs tells what came in place of what was to come, and of whom it is.
func (c *checker) differs(got []byte) error {
	p := c.want.p
	if m := ownerIn.FindSubmatch(got); m != nil && string(m[1]) != p.owner {
		return breachf("%s was given bytes of %s after byte %d of %d", p.owner, m[1], c.n, p.size)
	}
	return wrongf("%s: what follows byte %d of %d of payload %x is not what was sent: %.120q", p.owner, c.n, p.size, p.seed, got)
}

// whole tells whether all came; what ended well and too soon is as wrong as another's bytes.
func (c *checker) whole() error {
	if c.n != c.want.p.size {
		return wrongf("%s: an answer ended well after %d of %d bytes", c.want.p.owner, c.n, c.want.p.size)
	}
	return nil
}
