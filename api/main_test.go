package api_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain has more tests run at once than there are processors, since most of
// their time is waiting, and looks for goroutines that outlive them all.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6")
	code := m.Run()
	for tries := 1; code == 0; tries++ {
		leaked := goleak.Find() // waits for a moment
		if leaked == nil {
			break
		}
		if tries == 30 { // a refresh of the prices ends when stripe-go has slept and tried again
			fmt.Println(leaked)
			code = 1
		}
	}
	os.Exit(code)
}
