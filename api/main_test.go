package api_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// TestMain has more tests run at once than there are processors, since most of
// their time is waiting, and looks for goroutines that outlive them all.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6")
	goleak.VerifyTestMain(m)
}
