// Package hub is the centre of Carrel: its nouns, its contracts and the life of a server.
//
// The whole system on one page:
//
//	browser ── proxy ──┬── hub/web, hub/api, hub/oidc   pages, REST, sign-in
//	                   └── a person's Jupyter server    one container each
//	                            ▲
//	hub.Manager ── Spawner ─────┘      start, stop, recover
//	hub.Culler  ── Manager             idle, maximum age
//	stores (Redis) ── everything       sessions, users, servers, routes, leases, events
//
// A request to a notebook is authenticated and authorised by the proxy alone; a start or a stop
// goes through [Manager], which holds a lease per server while its phase changes, writes what it
// intends before it acts, publishes the route last on start and removes it first on stop. So a
// crash at any instruction leaves something that [Manager.Reconcile] can finish or undo.
//
// This package owns the parsers of every name ([ParseUserName], [ParseServerName]), the one
// injective encoding of names into DNS labels, container names, paths and keys, the derivation of
// every secret from the deployment's ([Keyring]), the pure rules of access ([Access]) and the
// error kinds. It refuses to own any I/O: Docker, Redis, HTTP and OpenID Connect are adapters,
// which import this package and never each other; cmd/carrel/wire.go is where they meet. It
// imports the standard library only, which internal/archtest enforces.
package hub
