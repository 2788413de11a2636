// Package archtest holds the project's shape as tests: which package may import which, and how
// large a file or a function may grow.
//
// It owns the rules that a compiler cannot check, each with its reason; a rule that stands in the
// way is changed here, in the open, with an ADR where it is a one-way door. It refuses to own
// style: gofmt and golangci-lint do that.
package archtest
