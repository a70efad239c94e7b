package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// stopPatience is longer than the service takes to stop.
const stopPatience = 30 * time.Second

// variables are those with which the service, this one or a site's own, uses
// the imitations.
func variables(site, supabase, stripe *listener) []string {
	return []string{
		"SUPABASE_URL=" + supabase.url,
		"SUPABASE_ANON_KEY=" + fakesupabase.AnonKey,
		"SUPABASE_SERVICE_ROLE_KEY=" + fakesupabase.ServiceRoleKey,
		"STRIPE_API_BASE=" + stripe.url,
		"STRIPE_SECRET_KEY=" + stripeKey,
		"STRIPE_WEBHOOK_SECRET=" + webhookSecret,
		"SITE_ORIGINS=" + site.url,
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
		"SUPABASE_JWT_SECRET=", "SUPABASE_COOKIE_NAME=", "ALLOWED_PRICES=price_basic_monthly,pro_monthly,lifetime", "PORTAL_CONFIGURATION=",
		"CUSTOMERS_TABLE=", "CUSTOMERS_USER_COLUMN=", "CUSTOMERS_CUSTOMER_COLUMN=", "TRUSTED_PROXIES=")
}

// service is the running program stripe-sidecar.
type service struct {
	*child.Process
	terminate context.CancelFunc
}

// startService returns when the service listens, or nil and no error if ctx ends
// before. What it logs goes to logs.
func startService(ctx context.Context, path string, env []string, logs io.Writer) (*service, error) {
	life, terminate := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, terminate)() // from then on stop does it
	cmd := exec.CommandContext(life, path)
	cmd.Env = env
	// A terminal's Ctrl-C is not for the service, which would take our signal for
	// the second one and not finish what it is at.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopPatience
	p, err := child.Start(cmd, logs)
	if err != nil {
		terminate()
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case cmd.ProcessState != nil:
			return nil, hasEnded(cmd.ProcessState)
		}
		return nil, err
	}
	return &service{p, terminate}, nil
}

// failure waits for the service to end, which it should not, and says how.
func (s *service) failure() error {
	return hasEnded(s.Wait())
}

func hasEnded(state *os.ProcessState) error {
	return fmt.Errorf("the service has ended: %s", state)
}

// stop ends the service, if it still runs, and returns what went wrong.
func (s *service) stop() error {
	defer s.terminate()
	select {
	case <-s.Ended():
		return nil // known already
	default:
	}
	s.terminate()
	if !s.Wait().Success() {
		return s.failure()
	}
	return nil
}
