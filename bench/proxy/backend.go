package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// largeBody is the size of a large body.
const largeBody = 100 << 20

// serveBackend stands for everyone's servers, on a port of loopback: a page of 1 KiB at every path
// but these: one that ends in /large is 100 MiB, /sink takes a large body, and a websocket echoes.
func serveBackend(ctx context.Context, port string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() { // ends with its connection, or with the process
			defer c.Close()
			b := &backendConn{Conn: c, r: bufio.NewReaderSize(c, 4<<10)}
			if err := b.serve(); err != nil && !gone(err) {
				fmt.Fprintln(os.Stderr, "backend:", err)
			}
		}()
	}
}

// gone tells that a connection ended, which is no fault between two requests.
func gone(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &op)
}

type backendConn struct {
	net.Conn
	r      *bufio.Reader
	head   head
	path   string
	answer []byte // to path
}

func (c *backendConn) serve() error {
	for {
		if err := readHead(c.r, &c.head); err != nil {
			return err
		}
		method, rest, _ := bytes.Cut(c.head.first, []byte(" "))
		target, _, ok := bytes.Cut(rest, []byte(" "))
		if !ok {
			return fmt.Errorf("this is no request: %.100q", c.head.first)
		}
		if c.head.upgrade {
			return c.echo()
		}
		if err := c.page(string(method), target); err != nil {
			return err
		}
		if c.head.closing {
			return nil
		}
	}
}

// answerHead is what Jupyter says in front of an answer.
func answerHead(kind string, length int64) []byte {
	return []byte("HTTP/1.1 200 OK\r\nServer: TornadoServer/6.5.2\r\nContent-Type: " + kind + "\r\nDate: Tue, 25 Nov 2025 12:00:00 GMT\r\n" +
		"X-Content-Type-Options: nosniff\r\nContent-Security-Policy: frame-ancestors 'self'; report-uri /api/security/csp-report\r\n" +
		"Cache-Control: no-cache\r\nVary: Origin\r\nContent-Length: " + strconv.FormatInt(length, 10) + "\r\n\r\n")
}

func (c *backendConn) page(method string, target []byte) error {
	switch {
	case bytes.HasSuffix(target, []byte("/large")):
		if _, err := c.Write(answerHead("application/octet-stream", largeBody)); err != nil {
			return err
		}
		return sendBody(c, largeBody)
	case method == "POST":
		large := bufio.NewReaderSize(c.r, chunkSize)
		if err := drainBody(large, c.head.length); err != nil {
			return err
		}
		if large.Buffered() > 0 {
			return errors.New("more came than a body")
		}
	}
	if string(target) != c.path {
		c.path = string(target)
		body := page(c.path)
		c.answer = append(answerHead("application/json", int64(len(body))), body...)
	}
	_, err := c.Write(c.answer)
	return err
}

// echo sends every message back.
func (c *backendConn) echo() error {
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptOf(c.head.key) + "\r\n\r\n"
	if _, err := io.WriteString(c, head); err != nil {
		return err
	}
	in, out := make([]byte, payload), make([]byte, 0, payload+4)
	for {
		data, err := readFrame(c.r, in[:0:cap(in)], true)
		if err != nil {
			return err
		}
		out = append(out[:0], opBinary, 126, byte(len(data)>>8), byte(len(data)))
		if _, err := c.Write(append(out, data...)); err != nil {
			return err
		}
	}
}
