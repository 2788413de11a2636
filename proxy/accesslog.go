package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// AccessLog says which requests are logged, and how. What is not, is counted all the same.
type AccessLog struct {
	// Requests is "off", "errors" (those refused or failed) or "all" (but for polls that succeed, which
	// open tabs make by the thousand). Empty is "errors". At the level debug, the rest is told too.
	Requests string
	// Logger takes one event per request; nil: the proxy's.
	Logger *slog.Logger
	// Combined takes lines in the Apache combined format instead, if it is set.
	Combined io.Writer
}

// maxLogged caps what a stranger can make us write to the log.
const maxLogged = 300

func cut(s string) string { return s[:min(len(s), maxLogged)] }

// level tells how loud a request is told of; ok is false where it is not.
func (a AccessLog) level(w *recorder) (level slog.Level, ok bool) {
	failed := w.status >= 400 && w.status != statusClosed
	switch {
	case a.Requests == "off":
		return 0, false
	case failed && w.status >= 500:
		return slog.LevelWarn, true
	case failed, a.Requests == "all" && w.class != classPoll:
		return slog.LevelInfo, true
	}
	return slog.LevelDebug, true
}

// log writes one event per request. Queries are left out: they can hold tickets and tokens.
func (p *Proxy) log(r *http.Request, w *recorder, took time.Duration, err error) {
	a := p.cfg.Access
	level, ok := a.level(w)
	if !ok {
		return
	}
	if a.Combined != nil && level >= slog.LevelInfo {
		p.logCombined(r, w, a.Combined)
		return
	}
	logger := a.Logger
	if logger == nil {
		logger = p.cfg.Logger
	}
	if !logger.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", cut(r.Method)), slog.String("host", cut(r.Host)), slog.String("path", cut(r.URL.Path)), slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes), slog.Duration("took", took), slog.String("client", p.client(r).String()), slog.String("class", classNames[w.class]),
	}
	if w.fromImage {
		attrs = append(attrs, slog.Bool("from_image", true))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	logger.LogAttrs(context.WithoutCancel(r.Context()), level, "request", attrs...)
}

// lines are buffers for combined lines.
var lines = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// logCombined writes the line that Apache and nginx write, without queries and without a name.
func (p *Proxy) logCombined(r *http.Request, w *recorder, to io.Writer) {
	buf, _ := lines.Get().(*[]byte)
	defer lines.Put(buf)
	b := (*buf)[:0]
	b = p.client(r).AppendTo(b)
	b = append(b, " - - ["...)
	b = time.Now().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = appendQuoted(b, r.Method)
	b = append(b, ' ')
	b = appendQuoted(b, r.URL.EscapedPath())
	b = append(b, ' ')
	b = appendQuoted(b, r.Proto)
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(w.status), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, w.bytes, 10)
	b = append(b, ` "`...)
	b = appendQuoted(b, referer(r.Referer()))
	b = append(b, `" "`...)
	b = appendQuoted(b, r.UserAgent())
	b = append(b, '"', '\n')
	_, _ = to.Write(b) // a log that can't be written is nothing that a request waits for
	*buf = b
}

// referer is a page's address without its query.
func referer(s string) string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	u.RawQuery, u.Fragment, u.User = "", "", nil
	return u.String()
}

// appendQuoted appends what a client chose so that it stays within its quotes and its line.
func appendQuoted(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	if s == "" {
		return append(b, '-')
	}
	for _, c := range []byte(cut(s)) {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
			continue
		}
		b = append(b, c)
	}
	return b
}
