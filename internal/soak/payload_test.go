package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestChecker(t *testing.T) {
	alice := payload{"alice", 7, 10_000}
	right := alice.bytes()
	changed := bytes.Clone(right)
	changed[9_999] ^= 1
	other := payload{"bob", 7, 10_000}.bytes()
	for _, c := range []struct {
		name        string
		got         []byte
		fine        bool
		breach      bool
		partsOf     int
		saysInError string
	}{
		{name: "right", got: right, fine: true, partsOf: 10_000},
		{name: "right, in small parts", got: right, fine: true, partsOf: 7},
		{name: "last bit changed", got: changed, partsOf: 4096, saysInError: "is not what was sent"},
		{name: "another seed", got: payload{"alice", 8, 10_000}.bytes(), partsOf: 4096, saysInError: "is not what was sent"},
		{name: "another's", got: other, breach: true, partsOf: 4096, saysInError: "bytes of bob"},
		{name: "another's in the middle", got: append(bytes.Clone(right[:2048]), other[2048:]...), breach: true, partsOf: 2048, saysInError: "bytes of bob"},
		{name: "one too few", got: right[:9_999], partsOf: 4096, saysInError: "ended well after 9999 of 10000"},
		{name: "one too many", got: append(bytes.Clone(right), 0), partsOf: 4096, saysInError: "is not what was sent"},
		{name: "nothing", partsOf: 4096, saysInError: "ended well after 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := alice.checker()
			var err error
			for rest := c.got; len(rest) > 0 && err == nil; {
				n := min(c.partsOf, len(rest))
				_, err = check.Write(rest[:n])
				rest = rest[n:]
			}
			if err == nil {
				err = check.whole()
			}
			var f *finding
			switch is := errors.As(err, &f); {
			case c.fine && err != nil:
				t.Fatal(err)
			case c.fine:
			case !is:
				t.Fatalf("%v, want a finding", err)
			case f.breach != c.breach || !strings.Contains(f.what, c.saysInError):
				t.Errorf("breach %v, %q; want %v, %q", f.breach, f.what, c.breach, c.saysInError)
			}
		})
	}
}

func TestStreamIsTheSameInAnyParts(t *testing.T) {
	p := payload{"alice", 1, 5_000}
	var small bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&small}, struct{ io.Reader }{p.stream()}, make([]byte, 33)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(small.Bytes(), p.bytes()) {
		t.Error("read in small parts it differs")
	}
	if n := bytes.Count(p.bytes(), []byte("owner=alice seed=")); n != 5 {
		t.Errorf("the owner is named %d times in 5,000 bytes, want 5", n)
	}
}
