package browsertest_test

import (
	"os"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/browsertest"
)

// TestStart: once it has ended, nothing of it is left among the temporary files.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	_, stop := browsertest.Start(t)
	stop()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("after stop = %v, %v; want nothing left", left, err)
	}
}
