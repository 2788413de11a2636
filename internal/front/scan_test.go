package front

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const get = "GET / HTTP/1.1\r\nHost: a.test\r\n"

// TestScan: what is framed alike by everybody passes, whatever pieces it comes in; all else does not.
func TestScan(t *testing.T) {
	for _, c := range []struct {
		name, text string
		fault      error
	}{
		{"a request", get + "\r\n", nil},
		{"two", get + "\r\n" + get + "\r\n", nil},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n" + get + "\r\n", nil},
		{"a body", get + "Content-Length: 5\r\n\r\nGET \n" + get + "\r\n", nil},
		{"an empty body", get + "Content-Length: 0\r\n\r\n" + get + "\r\n", nil},
		{"chunks", get + "Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n00A\r\n0123456789\r\n0\r\n\r\n" + get + "\r\n", nil},
		{"trailers", get + "TRANSFER-ENCODING: Chunked\r\n\r\n0\r\nA: b\r\nC: d\r\n\r\n" + get + "\r\n", nil},
		{"a chunk's extension", get + "Transfer-Encoding: chunked\r\n\r\n1;a=\"b\"\r\nx\r\n0\r\n\r\n" + get + "\r\n", nil},
		{"a websocket", get + "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x01\n\n anything \r\r\n", nil},
		{"Connection of no upgrade", get + "Connection: keep-alive\r\nUpgrade: websocket\r\n\r\n" + get + "\r\n", nil},
		{"space around a value", get + "Content-Length: \t 1 \r\n\r\nx" + get + "\r\n", nil},

		{"bare LF after the request line", "GET / HTTP/1.1\nHost: a.test\r\n\r\n", errBareLF},
		{"bare LF in the header", get + "A: b\n\r\n", errBareLF},
		{"bare LF ends the header", get + "\n", errBareLF},
		{"bare LF after a chunk's size", get + "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n", errBareLF},
		{"bare LF in an extension", get + "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n", errBareLF},
		{"bare LF in a trailer", get + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n", errBareLF},
		{"bare LF after a chunk", get + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n", errChunkSize},
		{"bare CR", get + "A: b\rC: d\r\n", errBareCR},
		{"CR CR LF", get + "\r\r\n", errBareCR},
		{"a blank line first", "\r\n" + get + "\r\n", errStart},
		{"a blank line between", get + "Content-Length: 0\r\n\r\n\r\n" + get + "\r\n", errStart},
		{"an LF between", get + "\r\n\n" + get + "\r\n", errBareLF},
		{"space before the request line", " " + get + "\r\n", errStart},
		{"HTTP/0.9", "GET /\r\n", errStart},
		{"HTTP/0.9 with a name", "GET /aaaaaaa\r\n", errVersion},
		{"HTTP/1.2", "GET / HTTP/1.2\r\n", errVersion},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errVersion},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n", errBareLF},
		{"obs-fold", get + "A: b\r\n c\r\n\r\n", errFold},
		{"obs-fold with a tab", get + "A: b\r\n\tc\r\n\r\n", errFold},
		{"a folded first line", "GET / HTTP/1.1\r\n A: b\r\n\r\n", errFold},
		{"a folded trailer", get + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", errFold},
		{"space before the colon", get + "Content-Length : 1\r\n\r\nx", errName},
		{"no colon", get + "A\r\n\r\n", errName},
		{"no name", get + ": b\r\n\r\n", errName},
		{"NUL in a name", get + "A\x00: b\r\n\r\n", errName},
		{"both", get + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", errBoth},
		{"both, the other way round", get + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", errBoth},
		{"both, and no length", get + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", errBoth},
		{"lengths that differ", get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", errLengths},
		{"lengths that don't", get + "Content-Length: 1\r\ncontent-length: 1\r\n\r\n", errLengths},
		{"a list", get + "Content-Length: 1,1\r\n\r\n", errLength},
		{"a sign", get + "Content-Length: +1\r\n\r\n", errLength},
		{"hexadecimal", get + "Content-Length: 0x1\r\n\r\n", errLength},
		{"a length of nothing", get + "Content-Length:\r\n\r\n", errLength},
		{"a length beyond all", get + "Content-Length: 9999999999999999999\r\n\r\n", errLength},
		{"identity", get + "Transfer-Encoding: identity\r\n\r\n", errCoding},
		{"gzip, chunked", get + "Transfer-Encoding: gzip, chunked\r\n\r\n", errCoding},
		{"chunked twice", get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", errCoding},
		{"chunked with a vertical tab", get + "Transfer-Encoding: \vchunked\r\n\r\n", errCoding},
		{"a coding of nothing", get + "Transfer-Encoding:\r\n\r\n", errCoding},
		{"HTTP/1.0 chunked", "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", errCoding},
		{"a chunk of no size", get + "Transfer-Encoding: chunked\r\n\r\n\r\n", errChunk},
		{"a chunk's sign", get + "Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n", errChunk},
		{"a chunk's 0x", get + "Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n", errChunk},
		{"space after a size", get + "Transfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n", errChunk},
		{"a size beyond all", get + "Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\n", errChunk},
		{"a chunk longer than told", get + "Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n", errChunkSize},
		{"an extension without end", get + "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 300) + "\r\nx\r\n", errChunk},
		{"a line without end", get + "A: " + strings.Repeat("b", maxLine), errLine},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{len(c.text), 1, 3, 7} {
				var s scanner
				passed, err := 0, error(nil)
				for rest := []byte(c.text); len(rest) > 0 && err == nil; {
					var n int
					part := rest[:min(size, len(rest))]
					n, err = s.scan(part)
					passed += n
					rest = rest[len(part):]
				}
				// A line that never ends is told of as such where that is seen before its LF.
				if !errors.Is(err, c.fault) && !(errors.Is(err, errLine) && errors.Is(c.fault, errChunk)) && !(errors.Is(err, errStart) && errors.Is(c.fault, errBareLF)) {
					t.Errorf("in pieces of %d: %v, want %v", size, err, c.fault)
				}
				if err == nil && passed != len(c.text) {
					t.Errorf("in pieces of %d: %d of %d bytes were passed on", size, passed, len(c.text))
				}
			}
		})
	}
}

// framing is what net/http makes of a stream: where each request ends, and whether the stream is in
// order up to its end. Bodies are read whole.
func framing(stream []byte) (ends []int) {
	src := bytes.NewReader(stream)
	buf := bufio.NewReaderSize(src, 4<<10)
	for {
		r, err := http.ReadRequest(buf)
		if err != nil {
			return ends
		}
		if _, err = io.Copy(io.Discard, r.Body); err != nil {
			return ends
		}
		ends = append(ends, len(stream)-src.Len()-buf.Buffered())
		for _, v := range r.Header.Values("Connection") {
			if AsksUpgrade(v) {
				return ends // what follows is no HTTP
			}
		}
	}
}

// ours is what the scanner makes of it, up to the first fault.
func ours(stream []byte) (ends []int, passed int) {
	var s scanner
	for i := range stream {
		before := s.at
		n, err := s.scan(stream[i : i+1])
		if passed += n; err != nil {
			return ends, passed
		}
		if before != inStart && before != inTheClear && (s.at == inStart || s.at == inTheClear) {
			ends = append(ends, i+1)
		}
	}
	return ends, passed
}

// FuzzScan: of whatever the scanner lets through, net/http says the same about where requests end;
// and how the bytes are cut into reads changes nothing.
func FuzzScan(f *testing.F) {
	for _, text := range []string{
		get + "\r\n", get + "Content-Length: 3\r\n\r\nabc" + get + "\r\n", get + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n" + get + "\r\n",
		get + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", get + "A: b\n\n" + get + "\r\n", get + "Connection: upgrade\r\n\r\n" + get + "\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\r\n\r\n" + get + "\r\n", get + "Transfer-Encoding: chunked\r\n\r\n1;\n\r\nx\r\n0\r\n\r\n",
	} {
		f.Add([]byte(text), 5)
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		ends, passed := ours(stream)
		theirs := framing(stream[:passed])
		// net/http may find a fault of its own (a name, a URL), after which it reads no further.
		if len(theirs) > len(ends) {
			t.Fatalf("net/http sees requests end at %v, the scanner at %v: %q", theirs, ends, stream)
		}
		for i, end := range theirs {
			if ends[i] != end {
				t.Fatalf("net/http sees requests end at %v, the scanner at %v: %q", theirs, ends, stream)
			}
		}
		cut = max(0, min(cut, len(stream)))
		var s scanner
		n, err := s.scan(stream[:cut])
		if err == nil {
			var m int
			m, _ = s.scan(stream[cut:])
			n += m
		}
		// A fault's line may have begun in an earlier piece, which was passed on without its end.
		if n > len(stream) || n < lineStart(stream, passed) || bytes.Count(stream[:n], []byte("\n")) != bytes.Count(stream[:passed], []byte("\n")) {
			t.Fatalf("cut at %d %d bytes pass, byte by byte %d: %q", cut, n, passed, stream)
		}
	})
}

// lineStart is where the line begins that byte n belongs to.
func lineStart(b []byte, n int) int { return bytes.LastIndexByte(b[:n], '\n') + 1 }

// TestTheCorpusIsThere: the stored inputs are what a machine without time to fuzz tries.
func TestTheCorpusIsThere(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "fuzz", "FuzzScan", "*"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d inputs are stored: %v", len(files), err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || !bytes.HasPrefix(b, []byte("go test fuzz v1\n")) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// BenchmarkScan is the cost of a request of JupyterLab's.
func BenchmarkScan(b *testing.B) {
	text := []byte("GET /user/alice/api/contents/papers/notebook.ipynb?type=notebook&content=1 HTTP/1.1\r\nHost: alice.hub.example.org\r\n" +
		"Connection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"142\", \"Not?A_Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\nAccept: */*\r\n" +
		"Content-Type: application/json\r\nX-XSRFToken: 2|aaaaaaaa|bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb|1700000000\r\nOrigin: https://alice.hub.example.org\r\n" +
		"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://alice.hub.example.org/user/alice/lab/tree/work\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: __Host-carrel-notebook=" + strings.Repeat("x", 43) + "; _xsrf=" + strings.Repeat("y", 60) + "\r\n\r\n")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var s scanner
	for b.Loop() {
		if _, err := s.scan(text); err != nil {
			b.Fatal(err)
		}
	}
}
