//go:build race

package proxy

// raceStacks is what the race detector's larger stacks add to a tunnel's two goroutines, in bytes.
const raceStacks = 4 << 10
