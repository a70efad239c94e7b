package api_test

import (
	"flag"
	"os"
	"testing"
)

// Most of the time of these tests is waiting, so more run at once than there are
// processors.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6")
	os.Exit(m.Run())
}
