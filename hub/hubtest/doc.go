// Package hubtest holds, for each contract of package hub, one suite of tests that every
// implementation passes, and a fake that passes it too and can be told to fail.
//
// It owns what "keeps the contract" means: a rule that a store or a driver must obey is a test
// here, never in one implementation alone. The fakes keep everything in memory, work inside
// testing/synctest bubbles, and are as strict as the real things. It refuses to own anything that
// runs outside of tests.
package hubtest
