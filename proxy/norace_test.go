//go:build !race

package proxy

const raceStacks = 0
