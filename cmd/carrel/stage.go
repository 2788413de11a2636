package main

import (
	"context"
	"sync"
)

// stage is a group of loops that end together, before or after other groups.
type stage struct {
	run func(loop func(context.Context) error) // launches a loop; one that ends by itself ends the whole
	end func(cause error)                      // ends the loops and waits for them; nil: the whole ends
}

// newStage makes a stage whose loops outlive ctx, until stop, so that stages end in order. The error
// of a loop that ends by itself goes to failed.
func newStage(ctx context.Context, failed chan<- error) stage {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	run := func(loop func(context.Context) error) {
		wg.Go(func() {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	return stage{run: run, end: func(cause error) { cancel(cause); wg.Wait() }}
}

func (s stage) stop() { s.end(nil) }
