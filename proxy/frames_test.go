package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// written is what gorilla makes of messages, and where its frames end.
func written(t testing.TB, client bool, messages [][]byte) (stream []byte, ends map[int]bool, data uint64) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	var all bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := b.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	c := websocketOver(t, a, client)
	ends = map[int]bool{0: true}
	for i, m := range messages {
		switch i % 3 {
		case 2:
			must(t, c.WriteControl(websocket.PingMessage, m[:min(len(m), 125)], time.Now().Add(time.Minute)))
		default:
			must(t, c.WriteMessage(websocket.BinaryMessage, m))
		}
	}
	a.Close()
	<-done
	stream = all.Bytes()
	// An independent reading of the lengths.
	for at := 0; at < len(stream); {
		size, head := uint64(stream[at+1]&0x7f), 2
		if stream[at]&0x0f < 8 {
			data++ // gorilla makes several of a long message
		}
		switch size {
		case 126:
			size, head = uint64(binary.BigEndian.Uint16(stream[at+2:])), 4
		case 127:
			size, head = binary.BigEndian.Uint64(stream[at+2:]), 10
		}
		if client {
			head += 4
		}
		at += head + int(size)
		ends[at] = true
	}
	return stream, ends, data
}

func TestFramesKnowTheBoundaries(t *testing.T) {
	for _, client := range []bool{false, true} {
		var messages [][]byte
		for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 100_000} {
			messages = append(messages, bytes.Repeat([]byte{0x88}, n)) // what looks like a close frame
		}
		stream, ends, data := written(t, client, messages)
		for _, size := range []int{1, 2, 3, 7, 1000, len(stream)} {
			checkFrames(t, stream, ends, data, func(int) int { return size })
		}
	}
}

func checkFrames(t testing.TB, stream []byte, ends map[int]bool, data uint64, size func(at int) int) {
	t.Helper()
	var f, g frames
	for at := 0; at < len(stream); {
		n := min(max(size(at), 1), len(stream)-at)
		f.advance(stream[at : at+n])
		for rest := stream[at : at+n]; len(rest) > 0; {
			k := g.next(rest)
			if k < len(rest) && !g.atBoundary() {
				t.Fatalf("stopped at %d, inside a frame", at)
			}
			rest = rest[k:]
		}
		at += n
		if f.atBoundary() != ends[at] || g.atBoundary() != ends[at] {
			t.Fatalf("after %d of %d bytes: at a boundary %v (step by step %v), want %v", at, len(stream), f.atBoundary(), g.atBoundary(), ends[at])
		}
	}
	if f.data != data || g.data != data {
		t.Fatalf("%d data frames, want %d", f.data, data)
	}
}

// FuzzFrames: the counter agrees with gorilla's writer wherever the stream is cut.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint16(5), true)
	f.Add([]byte{0, 126, 127, 255, 200}, uint16(1), false)
	f.Fuzz(func(t *testing.T, lengths []byte, cut uint16, client bool) {
		if len(lengths) == 0 || len(lengths) > 20 {
			return
		}
		var messages [][]byte
		for i, n := range lengths {
			size := int(n)
			if i%4 == 3 {
				size *= 300 // beyond 65535 now and then
			}
			messages = append(messages, bytes.Repeat([]byte{byte(i)}, size))
		}
		stream, ends, data := written(t, client, messages)
		seed := uint32(cut)
		checkFrames(t, stream, ends, data, func(int) int { seed = seed*1664525 + 1013904223; return int(seed>>16) % (int(cut)%5000 + 2) })
	})
}

// FuzzFrameGarbage: nothing that is no frame makes the counter panic or stand still.
func FuzzFrameGarbage(f *testing.F) {
	f.Add([]byte{0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var x frames
		for rest := b; len(rest) > 0; {
			n := x.next(rest)
			if n <= 0 || n > len(rest) {
				t.Fatalf("took %d of %d", n, len(rest))
			}
			rest = rest[n:]
		}
		var y frames
		y.advance(b)
		if x.atBoundary() != y.atBoundary() || x.data != y.data {
			t.Fatal("the two disagree")
		}
	})
}

func TestCloseFrames(t *testing.T) {
	for _, reason := range []string{"", "you were signed out", string(bytes.Repeat([]byte("r"), 500))} {
		a, b := net.Pipe()
		c := websocketOver(t, a, true)
		go func() {
			b.Write(closeFrame(closePolicy, reason))
			io.Copy(io.Discard, b)
		}()
		_, _, err := c.ReadMessage()
		if e, ok := err.(*websocket.CloseError); !ok || e.Code != 1008 || e.Text != reason[:min(len(reason), 123)] { //nolint:errorlint // gorilla returns it bare
			t.Errorf("%q: %v", reason, err)
		}
		a.Close()
		b.Close()
	}
}
