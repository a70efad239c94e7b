package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// built is the folder of the programs that the tests have built.
var built string

func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_SANDBOX") != "" { // for TestCtrlC, in place of another build
		main()
	}
	var err error
	if built, err = os.MkdirTemp("", "sandbox"); err != nil {
		panic(err)
	}
	code := m.Run()
	if chromium.ctx != nil {
		chromium.stop()
	}
	_ = os.RemoveAll(built)
	os.Exit(code)
}

// build builds the production program, once.
var build = sync.OnceValues(func() (program string, err error) {
	program = filepath.Join(built, "stripe-sidecar")
	if out, err := exec.Command("go", "build", "-o", program, "../stripe-sidecar").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, nil
})

// running is a sandbox as its user sees it.
type running struct {
	t         *testing.T
	printed   string
	site      string
	variables map[string]string
	stop      func() int // ends it as Ctrl-C does and returns the exit code
	logs      *lockedBuffer
}

// start runs the sandbox, with the service as a program of its own, on free
// ports.
func start(t *testing.T) *running {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stdout, w := io.Pipe()
	s := &running{t: t, variables: map[string]string{}, logs: &lockedBuffer{}}
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"-site", "127.0.0.1:0", "-supabase", "127.0.0.1:0", "-stripe", "127.0.0.1:0", "-service", program}, w, s.logs)
		_ = w.Close()
	}()
	s.stop = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() {
		if got := s.stop(); got != 0 {
			t.Errorf("exit code = %d; want 0", got)
		}
		if t.Failed() {
			t.Logf("logs:\n%s", s.logs)
		}
	})
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		s.printed += line + "\n"
		if name, value, ok := strings.Cut(line, "="); ok && regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) {
			s.variables[name] = value
		}
		if site, _, ok := strings.Cut(line, "  a page that sells"); ok {
			s.site = site
		}
		if strings.Contains(line, "Ctrl-C") {
			return s
		}
	}
	t.Fatalf("the sandbox printed %q and ended; want a greeting", s.printed)
	return nil
}

// stripe returns the data of a list of the imitation Stripe.
func (s *running) stripe(path string) []map[string]any {
	s.t.Helper()
	r, err := http.NewRequest("GET", s.variables["STRIPE_API_BASE"]+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.variables["STRIPE_SECRET_KEY"])
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Data []map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("GET %s = %d, %v; want a list", path, resp.StatusCode, err)
	}
	return list.Data
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestGreeting pastes what the sandbox prints.
func TestGreeting(t *testing.T) {
	t.Parallel()
	s := start(t)
	pasted := 0
	for line := range strings.Lines(s.printed) {
		if !strings.HasPrefix(line, "curl ") {
			continue
		}
		pasted++
		out, err := exec.Command("sh", "-c", line).Output()
		var answer struct{ URL string }
		if json.Unmarshal(out, &answer) != nil || !strings.HasPrefix(answer.URL, s.variables["STRIPE_API_BASE"]+"/c/pay/cs_test_") {
			t.Errorf("%s = %s, %v; want a page to open", line, out, err)
		}
	}
	if pasted != 2 {
		t.Errorf("curl lines = %d; want 2", pasted)
	}
	// The newest first: the demo user's, then the guest's.
	sessions := s.stripe("/v1/checkout/sessions")
	if len(sessions) != 2 || sessions[0]["customer"] == nil || sessions[1]["customer"] != nil {
		t.Errorf("Checkout Sessions = %v; want one of a guest, then one of a customer", sessions)
	}
	if got := s.stop(); got != 0 {
		t.Errorf("exit code = %d; want 0", got)
	}
	if _, err := http.Get(s.site); err == nil {
		t.Errorf("GET %s after the end = an answer; want none", s.site)
	}
	if logs := s.logs.String(); !strings.Contains(logs, `"msg":"stopped"`) || strings.Contains(logs, `"msg":"listening"`) {
		t.Errorf("logs = %s; want those of the service to its end, less its address", logs)
	}
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	mute := filepath.Join(t.TempDir(), "mute")
	if err := os.WriteFile(mute, []byte("#!/bin/sh\necho broken >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	free := []string{"-site", "127.0.0.1:0", "-supabase", "127.0.0.1:0", "-stripe", "127.0.0.1:0", "-service", mute}
	with := func(args ...string) []string { return append(free[:len(free):len(free)], args...) }
	for _, tt := range []struct {
		env, value string
		args       []string
		code       int
		stderr     string
	}{
		{"STRIPE_SECRET_KEY", "sk_live_HIDE", with(), 1, "STRIPE_SECRET_KEY holds a live Stripe key"},
		{"MY_OTHER_KEY", "x,rk_live_HIDE", with(), 1, "MY_OTHER_KEY holds a live Stripe key"},
		{"", "", with("-site", ":8080"), 1, "-site :8080 could be reached from other machines"},
		{"", "", with("-stripe", "0.0.0.0:0"), 1, "-stripe 0.0.0.0:0 could be reached from other machines"},
		{"", "", with("-supabase", "192.0.2.1:0"), 1, "-supabase 192.0.2.1:0 could be reached from other machines"},
		{"", "", with("-supabase", "example.com:80"), 1, "could be reached from other machines"},
		{"", "", with("-site", "8080"), 1, "-site 8080 is not an address"},
		{"", "", with("-site", taken.Addr().String()), 1, "another program listens on " + taken.Addr().String() + ": end it, or choose another port with -site 127.0.0.1:0"},
		{"", "", with("-service", "/nowhere/stripe-sidecar"), 1, "build it with make build"},
		{"", "", with(), 1, "broken\nsandbox: the service has ended: exit status 3\n"},
		{"", "", with("-nope"), 2, "sandbox: -nope is not a flag; sandbox -h lists the flags\n"},
		{"", "", with("-site"), 2, "sandbox: -site needs a value; sandbox -h lists the flags\n"},
		{"", "", with("---site"), 2, "sandbox: ---site is not a flag; sandbox -h lists the flags\n"},
		{"", "", with("more"), 2, "sandbox: more is not something to do; sandbox -h lists the flags\n"},
	} {
		t.Run(tt.stderr, func(t *testing.T) {
			if tt.env != "" {
				t.Setenv(tt.env, tt.value)
			}
			var stdout bytes.Buffer
			stderr := &lockedBuffer{}
			code := run(t.Context(), tt.args, &stdout, stderr)
			if text := stderr.String(); code != tt.code || !strings.Contains(text, tt.stderr) || strings.Contains(text, "HIDE") || stdout.Len() > 0 {
				t.Errorf("run(%q) = %d, %q; want %d, %q", tt.args, code, text, tt.code, tt.stderr)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, stdout string }{
		{"-h", usage},
		{"--help", usage},
		{"help", usage},
		{"-site 127.0.0.1:0 -h", usage},
		{"-v", versionString() + "\n"},
		{"-version", versionString() + "\n"},
		{"version", versionString() + "\n"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(tt.args), &stdout, &stderr); code != 0 || stdout.String() != tt.stdout || stderr.Len() > 0 {
			t.Errorf("sandbox %s = %d, %q, %q; want 0, %q", tt.args, code, &stdout, &stderr, tt.stdout)
		}
	}
	for line := range strings.Lines(usage) {
		if len(line) > 81 {
			t.Errorf("usage = %q of %d letters; want 80 at most", line, len(line)-1)
		}
	}
	if versionString() == "" {
		t.Error("version = nothing; want one")
	}
}

// TestTakenPort: a port is replaced where nobody has asked for it.
func TestTakenPort(t *testing.T) {
	for _, usual := range []string{"127.0.0.1:8080", "127.0.0.1:54321", "127.0.0.1:12111"} {
		if l, err := net.Listen("tcp", usual); err == nil { // else it is taken already
			defer l.Close()
		}
	}
	var stdout bytes.Buffer
	run(t.Context(), []string{"-service", dying(t)}, &stdout, io.Discard)
	want := regexp.MustCompile(`^Another program listens on 127.0.0.1:8080: the shop is on port (\d+) instead.
Another program listens on 127.0.0.1:54321: Supabase is on port \d+ instead.
Another program listens on 127.0.0.1:12111: Stripe is on port \d+ instead.
(?s:.*)
  http://127.0.0.1:(\d+)  a page that sells`)
	if m := want.FindStringSubmatch(stdout.String()); m == nil || m[1] != m[2] {
		t.Errorf("stdout = %s; want %s", &stdout, want)
	}
}

// TestSiteName: the shop is on localhost unless it is asked for elsewhere, or is a
// second one, which would share the first one's cookies there.
func TestSiteName(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct{ asked, usual, host string }{
		{"", "127.0.0.1:0", "localhost"},
		{"", taken.Addr().String(), "127.0.0.1"},
		{"127.0.0.1:0", "127.0.0.1:8080", "127.0.0.1"},
		{"localhost:0", "127.0.0.1:8080", "localhost"},
	} {
		l, err := listen("site", tt.asked, tt.usual)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if want := fmt.Sprintf("http://%s:%d", tt.host, l.Addr().(*net.TCPAddr).Port); l.url != want {
			t.Errorf("listen(site, %q, %q) = %s; want %s", tt.asked, tt.usual, l.url, want)
		}
	}
}

// dying is a service that ends as soon as it listens.
func dying(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "dying")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho '{\"msg\":\"listening\",\"addr\":\"127.0.0.1:1\"}' >&2\necho dying >&2\nexit 4\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestServiceDies: the sandbox ends with its service.
func TestServiceDies(t *testing.T) {
	t.Parallel()
	stderr := &lockedBuffer{}
	code := run(t.Context(), []string{"-site", "127.0.0.1:0", "-supabase", "127.0.0.1:0", "-stripe", "127.0.0.1:0", "-service", dying(t)}, io.Discard, stderr)
	if want := "dying\nsandbox: the service has ended: exit status 4\n"; code != 1 || stderr.String() != want {
		t.Errorf("run = %d, %q; want 1, %q", code, stderr, want)
	}
}

// TestCtrlC: a terminal sends the signal to all processes of its group, and the
// service stops in its own time all the same.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	service, err := build()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-site", "127.0.0.1:0", "-supabase", "127.0.0.1:0", "-stripe", "127.0.0.1:0", "-service", service)
	cmd.Env = append(os.Environ(), "BE_THE_SANDBOX=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan() && !strings.Contains(lines.Text(), "Ctrl-C"); {
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(stderr.String(), `"msg":"stopped"`) {
		t.Errorf("sandbox = %v, %s; want exit code 0 and a service that says stopped", err, &stderr)
	}
}

// TestProductionHasNoSandbox: what is built to play is not in what is deployed.
func TestProductionHasNoSandbox(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "../stripe-sidecar").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(out)) {
		if regexp.MustCompile(`internal/sandbox|stripe-mock|chromedp|net/http/httptest|^testing$`).MatchString(strings.TrimSpace(name)) {
			t.Errorf("stripe-sidecar contains %s; want nothing of the sandbox or of tests", name)
		}
	}
}
