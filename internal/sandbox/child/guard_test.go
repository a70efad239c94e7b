package child_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/child"
)

func TestMain(m *testing.M) {
	if os.Getenv("GUARD_AND_WAIT") != "" { // started by TestGuard
		cmd := exec.Command("sh", "-c", "sleep 20; echo survived")
		cmd.Stdout = os.Stdout
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		if _, err := child.Guard(-cmd.Process.Pid); err != nil {
			panic(err)
		}
		fmt.Println("guarded")
		select {}
	}
	os.Exit(m.Run())
}

// TestGuard: what is guarded does not outlive a program that is killed.
func TestGuard(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GUARD_AND_WAIT=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); line != "guarded\n" {
		t.Fatalf("program = %q, %v; want it to guard", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil { // which ends with the last who could write
		t.Errorf("after the kill = %q, %v; want nothing", rest, err)
	}
	_ = cmd.Wait()
}

// TestGuardRelease: what is guarded no more goes on.
func TestGuardRelease(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read line; exit 3")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release, err := child.Guard(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	release()
	_ = stdin.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("after release = %v; want exit status 3", err)
	}
}
