// Command proxy measures Carrel's proxy beside nginx, haproxy, configurable-http-proxy and a plain
// httputil.ReverseProxy: ordinary requests, websockets, large bodies and the wait at a fixed rate.
//
// It owns every process that it measures with: the proxies, Carrel's Redis with the sessions and
// routes in it, the backend and the load, which are this program again as processes of their own and
// the same for all. The sides take turns, their order changing with every round; Carrel alone checks
// who asks. It refuses to own any figure: what it prints was measured in the run that prints it,
// every sample is in the JSON that it writes, and one wrong answer ends the run.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command is the benchmark, or one of the processes that it is made of.
func command(ctx context.Context, args []string) error {
	if len(args) == 2 {
		switch args[0] {
		case "backend":
			return serveBackend(ctx, args[1])
		case "reverseproxy":
			return serveReverseProxy(ctx, args[1])
		}
	}
	if len(args) == 1 && args[0] == "load" {
		return load(ctx, os.Stdin, os.Stdout)
	}
	if len(args) > 0 && args[0] == "idle" {
		return runIdle(ctx, args[1:], os.Stdout)
	}
	if len(args) > 0 && args[0] == "routes" {
		return runScale(ctx, args[1:], os.Stdout)
	}
	return run(ctx, args, os.Stdout)
}
