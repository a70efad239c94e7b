package main

import (
	"math"
	"testing"
)

func TestBounds(t *testing.T) {
	for _, test := range []struct {
		memory int64
		want   bounds
	}{
		{math.MaxInt64, bounds{2000, 10_000, 200, 64}}, // GOMEMLIMIT is not set
		{512 << 20, bounds{2000, 10_000, 200, 64}},
		{261 << 20, bounds{1000, 5000, 200, 32}},
		{48 << 20, bounds{151, 756, 94, 4}},
		{8 << 20, bounds{20, 200, 25, 2}},
	} {
		if got := boundsFor(test.memory); got != test.want {
			t.Errorf("boundsFor(%d MiB) = %+v; want %+v", test.memory>>20, got, test.want)
		}
	}
}
