package httpx

import (
	"context"
	"io"
	"iter"
	"net/http"
	"sync"

	"carrel/hub"
)

// Feed makes a channel of a sequence, for a stream that waits for other things too; it is closed
// after the last value. The function returned ends and joins what fills it.
func Feed[T any](ctx context.Context, values func(context.Context) iter.Seq[T]) (<-chan T, func()) {
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

// SendNow writes to a stream and sends it on at once. Its error is Canceled: the reader went away.
func SendNow(w http.ResponseWriter, text string) error {
	if text == "" {
		return nil
	}
	if _, err := io.WriteString(w, text); err != nil {
		return hub.Wrap(hub.Canceled, "send event", err)
	}
	return hub.Wrap(hub.Canceled, "send event", http.NewResponseController(w).Flush())
}
