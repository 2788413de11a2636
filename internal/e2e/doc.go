// Package e2e tests Carrel as its users meet it: the real binary, Docker, Redis, kernel image and
// Chromium, driven over HTTP, websockets and a browser.
//
// It owns the harness that starts a deployment of its own in a scratch directory and takes it down
// with everything that it made. It refuses to reach into any package: what a person or a program
// can't do from outside is not tested here. Its tests carry the build tag "integration".
package e2e
