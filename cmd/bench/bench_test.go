package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "bare" { // started by a test
		main()
		return
	}
	os.Exit(m.Run())
}

// TestBenchTable: a few requests of every kind are answered, and the table of the
// README has the rows that are printed.
func TestBenchTable(t *testing.T) {
	if runtime.GOOS != "linux" {
		sandboxtest.Skip(t, "run this test on Linux, whose /proc tells what a program takes")
	}
	service := filepath.Join(t.TempDir(), "stripe-sidecar")
	if out, err := exec.Command("go", "build", "-o", service, "../stripe-sidecar").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	b := &bench{self: os.Args[0], service: service, progress: io.Discard, rounds: 1, requests: 64, connections: 64, hold: 50 * time.Millisecond}
	b.signIn()
	t.Run("rows", func(t *testing.T) {
		t.Parallel()
		var out strings.Builder
		err := b.table(t.Context(), &out) // its bounds mean nothing for so few
		readme, _ := os.ReadFile("README.md")
		if got, want := rows(out.String()), rows(string(readme)); !slices.Equal(got, want) {
			t.Errorf("rows of bench = %q, %v; want those of the README, %q", got, err, want)
		}
	})
	t.Run("soak", func(t *testing.T) {
		t.Parallel()
		server, err := b.launch(t.Context(), sidecar, behaviour{faults: true}, 0)
		defer server.close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.mixed(t.Context(), server, 150); err != nil {
			t.Errorf("150 requests with faults = %v; want answers of the contract", err)
		}
		if r, err := server.rest(); err != nil || r.memory == 0 || r.files == 0 || r.goroutines == 0 {
			t.Errorf("what the service holds = %+v, %v; want numbers", r, err)
		}
	})
}

// rows returns what a table's rows are about and the bounds.
func rows(markdown string) (rows []string) {
	for line := range strings.Lines(markdown) {
		if cells := strings.Split(line, " | "); len(cells) == 5 {
			rows = append(rows, cells[0]+": "+strings.TrimSuffix(strings.Trim(cells[4], " |\n"), ", **missed**"))
		}
	}
	return rows
}
