package main

import (
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// TestImage: what the Dockerfile puts into the image is enough. Its files alone are
// laid out in a folder, and its commands run there, as its user, with that folder as
// the root: the service sells over HTTPS, and is healthy.
func TestImage(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("run as root to have the image's files run in a root directory of their own")
	}
	content, err := os.ReadFile(filepath.Join(sandboxtest.Root(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	_, image, _ := strings.Cut(string(content), "\nFROM scratch\n")
	find := func(pattern string) []string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + pattern + `$`).FindStringSubmatch(image)
		if found == nil {
			t.Fatalf("Dockerfile has no %s; want it", pattern)
		}
		return found[1:]
	}
	user := find(`USER (\d+):(\d+)`)
	uid, _ := strconv.ParseUint(user[0], 10, 32)
	gid, _ := strconv.ParseUint(user[1], 10, 32)
	if uid == 0 || gid == 0 {
		t.Errorf("user = %d:%d; want nobody", uid, gid)
	}

	stripe := fakestripe.New(fakestripe.Options{})
	server := httptest.NewTLSServer(stripe)
	defer server.Close()
	root := t.TempDir()
	for _, copied := range regexp.MustCompile(`(?m)^(COPY|ADD) (.*)$`).FindAllStringSubmatch(image, -1) {
		words := strings.Fields(copied[2])
		to := filepath.Join(root, words[len(words)-1])
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		switch copied[2] {
		case "--from=build /stripe-sidecar /stripe-sidecar":
			build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if output, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%s = %v, %s", build, err, output)
			}
			if info, err := os.Stat(to); err != nil || info.Size() > 20e6 {
				t.Errorf("the program = %v, %v; want at most 20 MB, so that the image is smaller still", info, err)
			}
		case "--from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt":
			authorities := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			if err := os.WriteFile(to, authorities, 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("the image holds %s; want the program and the authorities alone", copied[2])
		}
	}

	inside := func(commandLine, port string) *exec.Cmd {
		var words []string
		if err := json.Unmarshal([]byte(commandLine), &words); err != nil {
			t.Fatalf("%s = %v; want a list in JSON", commandLine, err)
		}
		cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		for name, value := range valid("STRIPE_API_BASE", server.URL, "PORT", port, "SHUTDOWN_TIMEOUT", "1ms") {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		return cmd
	}
	var logs strings.Builder
	process, err := child.Start(inside(find(`ENTRYPOINT (.*)`)[0], "0"), &logs)
	if err != nil {
		t.Fatalf("ENTRYPOINT = %v, %s; want it to listen", err, &logs)
	}
	defer func() {
		if err := process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if end := process.Wait(); end.ExitCode() != 0 {
			t.Errorf("the end = %s, %s; want 0", end, &logs)
		}
	}()
	w := &wired{service: &service{url: "http://" + process.Addr}}
	if got := w.post(t, "create-checkout", oneTime); got != "200" {
		t.Errorf("create-checkout = %s; want 200", got)
	}
	_, port, _ := strings.Cut(process.Addr, ":")
	if output, err := inside(find(`HEALTHCHECK .* CMD (.*)`)[0], port).CombinedOutput(); err != nil {
		t.Errorf("HEALTHCHECK = %v, %s; want 0", err, output)
	}
}
