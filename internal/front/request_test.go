package front

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"testing"
)

// FuzzPlainRequest: whatever the loop takes for a plain request net/http reads in the same way.
func FuzzPlainRequest(f *testing.F) {
	for _, stream := range odd {
		f.Add([]byte(stream))
	}
	f.Add([]byte("PUT /user/alice/api/contents/a.ipynb?type=notebook HTTP/1.1\r\nHost: alice.hub.test:8443\r\nContent-Length: 12\r\nCookie: a=b; c=d\r\nPragma: no-cache\r\n\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		size := headSize(stream)
		var s scanner
		if size == 0 {
			return
		}
		if _, err := s.scan(stream[:size]); err != nil {
			return
		}
		got := plainRequest(t.Context(), stream[:size])
		if got == nil {
			return
		}
		want, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(stream[:size]), size))
		if err != nil {
			t.Fatalf("net/http refuses it: %v: %q", err, stream)
		}
		delete(want.Header, "Host") // as its server does
		tell := func(r *http.Request) string {
			return fmt.Sprintf("%q %q %#v %q %d %q %d %v %v %d", r.Method, r.RequestURI, *r.URL, r.Host, r.ContentLength, r.Proto, r.ProtoMajor, r.Close, r.TransferEncoding, len(r.Trailer))
		}
		if tell(got) != tell(want) || !maps.EqualFunc(got.Header, want.Header, func(a, b []string) bool { return fmt.Sprintf("%q", a) == fmt.Sprintf("%q", b) }) {
			t.Fatalf("%q:\n got %s %q\nwant %s %q", stream, tell(got), got.Header, tell(want), want.Header)
		}
		if want.ContentLength != int64(s.left) || s.at != inBody && s.at != inStart {
			t.Fatalf("the scanner sees a body of %d, net/http of %d: %q", s.left, want.ContentLength, stream)
		}
	})
}
