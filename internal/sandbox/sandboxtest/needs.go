package sandboxtest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Skip skips a test with a line that says what it needs. With CI=true it fails it,
// since there a skipped test is a failure.
func Skip(t testing.TB, needs string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(needs)
	}
	t.Skip(needs)
}

// Program returns the path of a program, and skips the test where it is not
// installed. debian is the name of its package.
func Program(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name) // which is not everybody's PATH
	}
	if err != nil {
		Skip(t, fmt.Sprintf("install %s (Debian: %s) to run this test", name, debian))
	}
	return path
}
