package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// stopPatience is longer than the service takes to stop.
const stopPatience = 30 * time.Second

// variables are those with which the service, this one or a site's own, uses
// the imitations.
func variables(supabase, stripe *listener) []string {
	return []string{
		"SUPABASE_URL=" + supabase.url,
		"SUPABASE_ANON_KEY=" + fakesupabase.AnonKey,
		"SUPABASE_SERVICE_ROLE_KEY=" + fakesupabase.ServiceRoleKey,
		"STRIPE_API_BASE=" + stripe.url,
		"STRIPE_SECRET_KEY=" + stripeKey,
		"STRIPE_WEBHOOK_SECRET=" + webhookSecret,
	}
}

// environment adds what else the service needs, and takes away what names parts
// of a real project. Everything else is as the caller has it, so that it can be
// tried: CHECKOUT_TRIAL_DAYS=7 make run.
func environment(variables []string, site *listener) []string {
	origins := site.url + ",http://" + site.Addr().String()
	if own := os.Getenv("SITE_ORIGINS"); own != "" {
		origins += "," + own
	}
	env := append(os.Environ(), variables...)
	return append(env, "HOST=127.0.0.1", "PORT=0", "SITE_ORIGINS="+origins,
		"LOG_LEVEL=info", "LOG_FORMAT=json", // for the line that tells the port
		"SUPABASE_JWT_SECRET=", "SUPABASE_COOKIE_NAME=", "ALLOWED_PRICES=", "PORTAL_CONFIGURATION=",
		"CUSTOMERS_TABLE=", "CUSTOMERS_USER_COLUMN=", "CUSTOMERS_CUSTOMER_COLUMN=", "TRUSTED_PROXIES=")
}

// service is the running program stripe-sidecar.
type service struct {
	cmd   *exec.Cmd
	addr  string        // where it listens
	ended chan struct{} // closed when it has
}

// startService returns when the service listens. What it logs goes to logs.
func startService(ctx context.Context, program string, env []string, logs io.Writer) (*service, error) {
	s := &service{cmd: exec.Command(program), ended: make(chan struct{})}
	s.cmd.Env = env
	// A terminal's Ctrl-C is not for the service, which would take our signal for
	// the second one and not finish what it is at.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	addr := make(chan string, 1)
	go func() {
		defer close(s.ended)
		forward(logs, output, addr)
		_ = s.cmd.Wait()
	}()
	select {
	case s.addr = <-addr:
		return s, nil
	case <-s.ended:
		return nil, s.failure()
	case <-ctx.Done():
		return nil, s.stop()
	}
}

// forward copies log lines, all but the one that tells the address.
func forward(logs io.Writer, output io.Reader, addr chan<- string) {
	lines := bufio.NewReader(output)
	for told := false; ; {
		line, err := lines.ReadBytes('\n')
		var entry struct{ Msg, Addr string }
		if !told && json.Unmarshal(line, &entry) == nil && entry.Msg == "listening" {
			told = true
			addr <- entry.Addr
		} else {
			_, _ = logs.Write(line)
		}
		if err != nil {
			return
		}
	}
}

// failure waits for the service to end, which it should not, and says how.
func (s *service) failure() error {
	<-s.ended
	return fmt.Errorf("the service has ended: %s", s.cmd.ProcessState)
}

// stop ends the service, if it still runs, and returns what went wrong.
func (s *service) stop() error {
	select {
	case <-s.ended:
		return nil // known already
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(stopPatience, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	<-s.ended
	if !s.cmd.ProcessState.Success() {
		return s.failure()
	}
	return nil
}
