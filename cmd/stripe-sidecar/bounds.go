package main

import "runtime/debug"

// bounds are how much is held at once. What is more is refused, or waits to be
// accepted, so that the service never runs out of memory.
type bounds struct {
	// requests to the endpoints in flight. Stripe takes 100 requests a second from an
	// account, so the last of 2,000 would have waited for 20 seconds already.
	requests int
	// connections that callers hold open, whether or not they ask anything, and those of
	// them that are one client's: more than any browser opens.
	connections, perClient int
	// events are worked on at once if each is of 1 MiB; of small ones it is more. Before a
	// signature is looked at anybody can have four times as many read. Stripe sends again
	// what is refused.
	events int
}

const (
	idleMemory = 10 << 20  // what Go has in use before the first request
	fullMemory = 512 << 20 // what the bounds below need, nearly; measured by make bench
)

// boundsFor returns the bounds for so much memory, in bytes: smaller ones, in
// proportion, where it is less than what all of them need.
func boundsFor(memory int64) bounds {
	share := min(1, float64(memory-idleMemory)/(fullMemory-idleMemory))
	of := func(most, least int) int { return max(int(float64(most)*share), least) }
	connections := of(10_000, 200)
	return bounds{requests: of(2000, 20), connections: connections, perClient: min(200, connections/8), events: of(64, 2)}
}

// memoryLimit is GOMEMLIMIT in bytes, [math.MaxInt64] when it is not set.
func memoryLimit() int64 { return debug.SetMemoryLimit(-1) }
