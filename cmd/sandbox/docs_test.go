package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// clone is what the first page's commands find in a clone of the repository: the
// Makefile, and in bin what make build puts there.
type clone struct {
	t   *testing.T
	dir string
}

func newClone(t *testing.T) *clone {
	t.Helper()
	for _, name := range []string{"make", "curl"} {
		sandboxtest.Program(t, name, name)
	}
	c := &clone{t, t.TempDir()}
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(c.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(bin, "stripe-sidecar")); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(c.dir, "sandbox")
	if out, err := exec.Command("go", "build", "-o", built, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build = %v\n%s", err, out)
	}
	// On free ports, whatever else runs on this machine.
	free := fmt.Sprintf("#!/bin/sh\nexec %q -site 127.0.0.1:0 -supabase 127.0.0.1:0 -stripe 127.0.0.1:0 -service %q\n", built, program)
	if err := os.WriteFile(filepath.Join(bin, "sandbox"), []byte(free), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

// command returns a command line as a process of the clone: make, without building
// anew, or what else the shell has.
func (c *clone) command(line string) *exec.Cmd {
	makefile := filepath.Join(sandboxtest.Root(c.t), "Makefile")
	line = regexp.MustCompile(`^make `).ReplaceAllString(strings.TrimSpace(line), fmt.Sprintf("make -s -o build -f %q ", makefile))
	cmd := exec.CommandContext(c.t.Context(), "sh", "-c", "exec "+line)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) } // as Ctrl-C does
	return cmd
}

// sandbox runs what make run is and returns the variables that it prints.
func (c *clone) sandbox(line string) map[string]string {
	c.t.Helper()
	cmd := c.command(line)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	var logs lockedBuffer
	cmd.Stderr = &logs
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	variables := map[string]string{}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if name, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "="); ok && regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) {
			variables[name] = value
		}
		if strings.Contains(lines.Text(), "Ctrl-C") {
			c.t.Cleanup(func() { _, _ = io.Copy(io.Discard, stdout); _ = cmd.Wait() }) // the end of the context has stopped it
			return variables
		}
	}
	c.t.Fatalf("%s ended with %v before it greeted: %s", line, cmd.Wait(), &logs)
	return nil
}

// TestReadmeCommands does what the first page says, from make run to a doctor that
// finds nothing wrong, a service that answers and an endpoint at Stripe.
func TestReadmeCommands(t *testing.T) {
	c := newClone(t)
	usual := regexp.MustCompile(`http://(127\.0\.0\.1|localhost):\d+`)
	var printed map[string]string
	var addr string
	for _, s := range sandboxtest.Snippets(t, "README.md") {
		line := strings.TrimSpace(s.Text)
		run := func(line string) (stdout, stderr string, err error) {
			cmd := c.command(line)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err = cmd.Run()
			return out.String(), errs.String(), err
		}
		switch {
		case line == "make run":
			printed = c.sandbox(line)
		case s.Language == "ini":
			var file string
			for line := range strings.Lines(s.Text) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				if usual.ReplaceAllString(value, "") != usual.ReplaceAllString(printed[name], "") {
					t.Errorf("README.md: %s=%s; the sandbox prints %s", name, value, printed[name])
				}
				file += name + "=" + printed[name] + "\n"
			}
			if n := strings.Count(file, "\n"); n != len(printed) {
				t.Errorf("README.md has %d variables; the sandbox prints %d", n, len(printed))
			}
			if err := os.WriteFile(filepath.Join(c.dir, ".env"), []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
		case line == "make doctor":
			stdout, stderr, err := run(line)
			lines := strings.Split(strings.TrimSpace(stdout), "\n")
			for _, l := range lines[:len(lines)-1] {
				if !strings.HasPrefix(l, "ok    ") {
					t.Errorf("make doctor: %q; want ok", l)
				}
			}
			if err != nil || lines[len(lines)-1] != fmt.Sprintf("all of %d checks are ok", len(lines)-1) || len(lines) < 10 {
				t.Errorf("make doctor = %v\n%s%s; want every line ok", err, stdout, stderr)
			}
		case line == "make serve":
			cmd := c.command(line)
			cmd.Env = append(cmd.Env, "HOST=127.0.0.1", "PORT=0")
			var logs lockedBuffer
			p, err := child.Start(cmd, &logs)
			if err != nil {
				t.Fatalf("make serve = %v; want it to listen: %s", err, &logs)
			}
			t.Cleanup(func() { p.Wait() })
			addr = p.Addr
		case strings.HasPrefix(line, "curl "):
			if stdout, stderr, err := run(strings.ReplaceAll(line, "localhost:8080", addr)); err != nil || !strings.Contains(stdout, "ready") {
				t.Errorf("%s = %v, %s%s; want ready", line, err, stdout, stderr)
			}
		case strings.HasSuffix(line, " schema"):
			for l := range strings.Lines(line) {
				stdout, stderr, err := run(l)
				if built := strings.HasPrefix(l, "make build"); err != nil || !built && !strings.Contains(stdout, "\nupdate public.stripe_settings set test_mode_counts = true;\n") {
					t.Errorf("%s = %v, %.200s, %s; want the schema for a test key", l, err, stdout, stderr)
				}
			}
		case strings.Contains(line, " webhook "):
			if stdout, stderr, err := run(line); err != nil || !strings.HasPrefix(stdout, "STRIPE_WEBHOOK_SECRET=whsec_") {
				t.Errorf("%s = %v, %s%s; want the secret", line, err, stdout, stderr)
			}
		default:
			t.Errorf("README.md:%d: nothing is expected of %q", s.Line, line)
		}
	}
	if addr == "" {
		t.Error("README.md has no make serve; want it")
	}
}

// TestReadmeTargets: make has what the page lists, each a target for which it knows
// what to do. They are not run here: some take minutes, and one is this test.
func TestReadmeTargets(t *testing.T) {
	for _, s := range sandboxtest.Snippets(t, "README.md") {
		for line := range strings.Lines(s.Text) {
			target := strings.Fields(line)[1]
			cmd := exec.CommandContext(t.Context(), "make", "-n", "-C", sandboxtest.Root(t), target)
			cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
			if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "Nothing to be done") {
				t.Errorf("make -n %s = %v: %s", target, err, out)
			}
		}
	}
}

// TestReadmeButtons puts the page's elements on a page of a site that passes
// /api/stripe/ on, and clicks.
func TestReadmeButtons(t *testing.T) {
	var service http.Handler
	var page string
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/stripe/") {
			service.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<!doctype html><title>A site</title>"+page)
	}))
	t.Cleanup(site.Close)
	t.Setenv("SITE_ORIGINS", site.URL)
	b := openBrowser(t)
	at, err := url.Parse(b.site)
	if err != nil {
		t.Fatal(err)
	}
	service = httputil.NewSingleHostReverseProxy(at)
	for _, s := range sandboxtest.Snippets(t, "README.md") {
		page = strings.ReplaceAll(s.Text, "price_123", "price_pro_monthly")
		for button, where := range map[string]string{"button-checkout": b.variables["STRIPE_API_BASE"] + "/c/pay/", "button-account": site.URL + "/login"} {
			w := b.tab(t)
			w.do(chromedp.Navigate(site.URL+"/pricing"), chromedp.WaitVisible(css(button+`:defined`)), chromedp.Click(css(button)))
			w.becomes(fmt.Sprintf(`location.href.startsWith(%q)`, where))
		}
	}
}
