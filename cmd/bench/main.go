// Command bench measures the service under load, beside a bare net/http handler
// in the same minutes: the ratios hold on any machine, the numbers on this one.
// All traffic stays on loopback.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if len(os.Args) == 4 && os.Args[1] == "bare" { // started by launch
		err = serveBare(os.Args[2], os.Args[3])
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and prints a table; an error tells what did not hold.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	service := flags.String("service", filepath.Join(filepath.Dir(self), "stripe-sidecar"), "the `program` to measure")
	rounds := flags.Int("rounds", 5, "how often each is measured, by turns; medians count")
	soak := flags.Bool("soak", false, "200,000 requests with faults instead, and what they leave behind")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 || flags.NArg() > 0 {
		return errors.New("-rounds must be 1 at least, and there are no arguments: see bench -h")
	}
	b := &bench{self: self, service: *service, progress: stderr, rounds: *rounds, requests: 6000, connections: 10000, hold: 2 * time.Second}
	b.signIn()
	if *soak {
		return b.soak(ctx, stdout, 200000, 7*time.Second)
	}
	return b.table(ctx, stdout)
}

// bench is what all measurements share.
type bench struct {
	self, service string // programs
	progress      io.Writer
	rounds        int
	requests      int           // of one measurement
	connections   int           // at most; in the overload each asks at once
	hold          time.Duration // which Stripe takes for an answer then

	supabase *fakesupabase.Project
	user     string   // ID of the one who is signed in
	cookies  []string // of that user's sessions, a header line each
}

// signIn makes as many sessions as one measurement has requests, so that nothing
// that was verified for one could serve another.
func (b *bench) signIn() {
	b.supabase = fakesupabase.New(fakesupabase.Options{})
	b.user = b.supabase.SignUp("ada@example.com", "correct horse battery staple").ID
	for range b.requests {
		b.cookies = append(b.cookies, cookie(b.supabase.SignIn(b.user)))
	}
}

// program is what is under load.
type program int

const (
	bareHandler program = iota
	sidecar
	programs
)

// process is a running program with what it asks and those who ask it.
type process struct {
	*child.Process
	procfs.Proc
	begun   time.Time
	up      *upstreams
	callers []*caller
	logs    *os.File // standard error; a file, so that nobody spends time on reading it
	kill    context.CancelFunc
}

// launch starts a program and upstreams for it, and opens connections; close must
// follow, after an error too.
func (b *bench) launch(ctx context.Context, p program, up behaviour, connections int) (s *process, err error) {
	s = &process{up: b.upstreams(up)}
	ctx, s.kill = context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, b.self, "bare", s.up.stripe.URL, s.up.supabase.URL)
	if p == sidecar {
		cmd = exec.CommandContext(ctx, b.service)
	}
	// Nothing of the caller's environment, such as a proxy, may matter.
	cmd.Env = []string{"HOST=127.0.0.1", "PORT=0", "SITE_ORIGINS=https://example.com",
		"STRIPE_SECRET_KEY=" + stripeKey, "STRIPE_API_BASE=" + s.up.stripe.URL,
		"SUPABASE_URL=" + s.up.supabase.URL, "SUPABASE_COOKIE_NAME=" + cookieName,
		"SUPABASE_ANON_KEY=" + fakesupabase.AnonKey, "SUPABASE_SERVICE_ROLE_KEY=" + fakesupabase.ServiceRoleKey}
	if s.logs, err = os.CreateTemp("", "bench-*.log"); err != nil {
		return s, err
	}
	_ = os.Remove(s.logs.Name()) // it lives until it is closed
	cmd.Stderr = s.logs
	defer time.AfterFunc(10*time.Second, s.kill).Stop()
	s.begun = time.Now()
	if s.Process, err = child.Start(cmd, nil); err != nil {
		return s, s.failed(err)
	}
	if s.Proc, err = procfs.NewProc(cmd.Process.Pid); err != nil { // Linux alone has it
		return s, err
	}
	s.callers, err = connect(ctx, s.Addr, connections)
	return s, err
}

// close ends the process without its second of grace, and waits until it has.
func (s *process) close() {
	closeAll(s.callers)
	s.kill()
	if s.Process != nil {
		s.Process.Wait()
	}
	s.up.close()
	_ = s.logs.Close()
}

// failed adds the first lines of the log to an error.
func (s *process) failed(err error) error {
	lines, _ := io.ReadAll(io.NewSectionReader(s.logs, 0, 1000))
	return fmt.Errorf("%w: %s", err, lines)
}

// cpu returns the processor time used so far, in ms and steps of 10 ms.
func (s *process) cpu() float64 {
	stat, _ := s.Stat()
	return stat.CPUTime() * 1e3
}

// memory returns the resident memory in MB, now and at most so far.
func (s *process) memory() (now, peak float64) {
	status, _ := s.NewStatus()
	return float64(status.VmRSS) / 1e6, float64(status.VmHWM) / 1e6
}
