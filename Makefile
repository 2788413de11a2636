# `make run` sets the machine up and starts Carrel; `make test` sets it up and runs every test.
# CONTRIBUTING.md tells how to run a single test, and what the other targets are for.

GO ?= go
# How long the long ones take: rounds of the kill test, fuzzing per target, rounds of the benchmark.
KILL_ROUNDS ?= 20
FUZZ_TIME ?= 60s
BENCH_ROUNDS ?= 10
SOAK_FOR ?= 60m
# Flags of the proxy's benchmarks, such as -rounds 3 -only carrel,nginx; -help lists them.
BENCH_FLAGS ?=

.PHONY: run build test lint vuln unit integration e2e fuzz kill-test bench-spawn bench-arrivals bench-wake bench-proxy bench-idle bench-routes bootstrap-test soak attack clean
.NOTPARALLEL:

run:
	@deploy/bootstrap run
	@[ -x bin/carrel ] || echo '  building carrel (a minute or two the first time)'
	@$(GO) build -o bin/carrel ./cmd/carrel
	@exec bin/carrel serve

build:
	$(GO) build -o bin/carrel ./cmd/carrel

bootstrap-test:
	@deploy/bootstrap test

# Every check in order, stopping at the first that fails; the last line counts the tests.
test: bootstrap-test
	@$(GO) run ./internal/testrun

# One step of the above.
lint vuln unit e2e: bootstrap-test
	@$(GO) run ./internal/testrun -only $@

integration: bootstrap-test
	@$(GO) run ./internal/testrun -only engine,services

fuzz:
	@$(GO) run ./internal/testrun -only fuzz -fuzztime $(FUZZ_TIME)

# kill -9 of hub, proxy, Redis and dockerd while notebooks run; `make test` does two rounds.
kill-test: bootstrap-test build
	CARREL_KILL_ROUNDS=$(KILL_ROUNDS) $(GO) test -tags integration -count 1 -v -timeout 4h -p 1 -run Kill ./internal/e2e/... ./spawner/docker/

# A day in an hour: thousands of clients while everything is killed and restarted; `make test` does
# five minutes. SOAK_FLAGS="-seed 42" repeats a run's chances.
soak: bootstrap-test build
	$(GO) run ./internal/soak -for $(SOAK_FOR) $(SOAK_FLAGS)

# Every attack on containers, network and inputs, and a neighbour's kernel beside them; prints what was expected
# and what was seen, and fails where it differs. ATTACK_FLAGS="-only bomb" makes some of them only.
attack: bootstrap-test build
	$(GO) run ./internal/attack $(ATTACK_FLAGS)

# A cold start beside JupyterHub with DockerSpawner, alternately; bench/README.md says how.
bench-spawn: bootstrap-test build
	$(GO) run ./bench/spawn -rounds $(BENCH_ROUNDS)

# Visitors who come faster than two cores can serve them: each is served alone, waits as long as they were
# told, and leaves nothing.
bench-arrivals: bootstrap-test build
	$(GO) run ./bench/spawn arrivals $(BENCH_FLAGS)

# How long a cell waits for a paused server; fails over 100 ms for 95 of 100.
bench-wake: bootstrap-test build
	$(GO) run ./bench/spawn wake -pauses 200

# The proxy beside nginx, haproxy, configurable-http-proxy and the standard library's, alternately.
bench-proxy: bootstrap-test build
	$(GO) run ./bench/proxy $(BENCH_FLAGS)

# What 9,000 websockets cost that lie idle: memory, descriptors, goroutines.
bench-idle: bootstrap-test build
	$(GO) run ./bench/proxy idle $(BENCH_FLAGS)

# Carrel with 100,000 routes and sessions beside Carrel with 100, and what adding a route takes.
bench-routes: bootstrap-test build
	$(GO) run ./bench/proxy routes $(BENCH_FLAGS)
	$(GO) test -run '^$$' -bench 'Decision|RouteLookup|SessionCheck|RouteAdd' -benchtime 1s ./proxy

clean:
	rm -rf bin
