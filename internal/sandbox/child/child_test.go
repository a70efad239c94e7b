package child_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/child"
)

// TestStart: by a pipe and by a file, the address is the line's, and the rest of
// the log is complete once the program has ended.
func TestStart(t *testing.T) {
	const listens = `echo '{"msg":"before"}' >&2; echo '{"msg":"listening","addr":"127.0.0.1:1"}' >&2; read line; printf after >&2; exit 3`
	const mute = `echo '{"msg":"before"}' >&2; exit 4`
	for _, byFile := range []bool{false, true} {
		for _, tt := range []struct{ script, addr, logs, err string }{
			{listens, "127.0.0.1:1", "after", ""},
			{mute, "", `{"msg":"before"}`, "exit status 4"},
		} {
			cmd := exec.Command("sh", "-c", tt.script)
			var logs bytes.Buffer
			path := filepath.Join(t.TempDir(), "log")
			if byFile {
				file, err := os.Create(path)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				cmd.Stderr = file
			}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			p, err := child.Start(cmd, &logs)
			if tt.err != "" {
				if p != nil || err == nil || !strings.HasSuffix(err.Error(), tt.err) {
					t.Errorf("Start(%s), file %v = %v; want %s", tt.script, byFile, err, tt.err)
				}
			} else {
				if err != nil {
					t.Fatalf("Start(%s), file %v = %v; want no error", tt.script, byFile, err)
				}
				_, _ = io.WriteString(stdin, "\n")
				if state := p.Wait(); p.Addr != tt.addr || state.ExitCode() != 3 {
					t.Errorf("Start(%s), file %v = %s, then %s; want %s, then exit code 3", tt.script, byFile, p.Addr, state, tt.addr)
				}
			}
			got := logs.String()
			if byFile {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				got = string(text)
			}
			if !strings.Contains(got, tt.logs) || !byFile && strings.Contains(got, "listening") {
				t.Errorf("log of %s, file %v = %q; want %q in it", tt.script, byFile, got, tt.logs)
			}
		}
	}
}

// TestStartPatience: the end of the command's context ends the wait.
func TestStartPatience(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started, w := io.Pipe()
	go func() {
		_, _ = started.Read(make([]byte, 1))
		cancel()
		_, _ = io.Copy(io.Discard, started)
	}()
	cmd := exec.CommandContext(ctx, "sh", "-c", "echo begun >&2; exec sleep 600")
	if p, err := child.Start(cmd, w); err == nil {
		t.Errorf("Start = %v, no error; want the program killed", p)
	}
}
