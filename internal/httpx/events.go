package httpx

import (
	"context"
	"io"
	"iter"
	"net/http"
	"sync"
	"time"

	"carrel/hub"
)

// Stream sends what render makes of each value as it comes (the HTML standard's server-sent events),
// after an opening text, and a comment whenever nothing came for a while, so that nothing between
// cuts the stream. A render of "" sends nothing; last ends the stream, as the end of values does. The
// reader's going away is a Canceled error.
func Stream[T any](w http.ResponseWriter, r *http.Request, opening string, every time.Duration, values func(context.Context) iter.Seq[T], render func(T) (text string, last bool, err error)) error {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	if r.Method == http.MethodHead {
		return nil
	}
	feed, wait := channel(r.Context(), values)
	defer wait()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for text, last := opening, false; ; {
		if err := sendNow(w, text); err != nil || last {
			return err
		}
		select {
		case <-tick.C:
			text = ": still here\n\n"
		case v, more := <-feed:
			if !more {
				return nil
			}
			var err error
			if text, last, err = render(v); err != nil {
				return err
			}
		}
	}
}

// channel makes one of a sequence; it is closed after the last value. The function returned ends and
// joins what fills it.
func channel[T any](ctx context.Context, values func(context.Context) iter.Seq[T]) (<-chan T, func()) {
	ctx, cancel := context.WithCancel(ctx)
	feed := make(chan T)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(feed)
		for v := range values(ctx) {
			select {
			case feed <- v:
			case <-ctx.Done():
				return
			}
		}
	})
	return feed, func() {
		cancel()
		wg.Wait()
	}
}

// sendNow writes to a stream and sends it on at once.
func sendNow(w http.ResponseWriter, text string) error {
	if text == "" {
		return nil
	}
	if _, err := io.WriteString(w, text); err != nil {
		return hub.Wrap(hub.Canceled, "send event", err)
	}
	return hub.Wrap(hub.Canceled, "send event", http.NewResponseController(w).Flush())
}
