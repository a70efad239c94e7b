// Command sandbox runs the service beside an imitation of Stripe and Supabase,
// on loopback and offline, with a landing page that sells. The service is the
// program of production, started with an environment and nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// No secrets: these open nothing but the sandbox.
const (
	stripeKey     = "sk_test_sandbox_not_a_real_key"
	webhookSecret = "whsec_sandbox_not_a_real_secret"
	demoEmail     = "demo@example.com"
	demoPassword  = "sandbox"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // first, so that the second signal ends the process at once
		cancel()
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it returns its exit code: 0 for stopped, 1 for failed, 2
// for a wrong command line. It stops when ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.site, "site", "127.0.0.1:8080", "`address` of the landing page and the service; port 0 picks a free one")
	flags.StringVar(&o.supabase, "supabase", "127.0.0.1:54321", "`address` of the imitation of Supabase")
	flags.StringVar(&o.stripe, "stripe", "127.0.0.1:12111", "`address` of the imitation of Stripe and its pages")
	flags.StringVar(&o.service, "service", "", "the program stripe-sidecar; the one beside this program when unset")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		flags.Usage()
		return 2
	}
	if err := serve(ctx, o, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "sandbox:", err)
		return 1
	}
	return 0
}

type options struct{ site, supabase, stripe, service string }

// serve runs everything until ctx ends or a part of it fails.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	if err := refuseLiveKeys(os.Environ()); err != nil {
		return err
	}
	if o.service == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.service = filepath.Join(filepath.Dir(self), "stripe-sidecar")
	}
	if _, err := os.Stat(o.service); err != nil {
		return fmt.Errorf("there is no program %s: build it with make build, or name another with -service", o.service)
	}

	site, siteErr := listen("site", o.site)
	supabaseAt, supabaseErr := listen("supabase", o.supabase)
	stripeAt, stripeErr := listen("stripe", o.stripe)
	for _, l := range []*listener{site, supabaseAt, stripeAt} {
		if l != nil {
			defer l.Close()
		}
	}
	if err := errors.Join(siteErr, supabaseErr, stripeErr); err != nil {
		return err
	}

	supabase := fakesupabase.New(fakesupabase.Options{URL: supabaseAt.url})
	stripe := fakestripe.New(fakestripe.Options{
		PublicURL: stripeAt.url,
		Webhooks:  []fakestripe.WebhookEndpoint{{URL: site.url + "/api/stripe/webhook", Secret: webhookSecret}},
	})
	defer stripe.Close()
	demo := supabase.SignUp(demoEmail, demoPassword)

	failed := make(chan error, 4) // one for each part
	defer serveOn(supabaseAt, supabase, failed).Close()
	defer serveOn(stripeAt, stripe, failed).Close()
	v := variables(supabaseAt, stripeAt)
	service, err := startService(ctx, o.service, environment(v, site), stderr)
	if service == nil {
		return err
	}
	go func() { failed <- service.failure() }()
	defer serveOn(site, newSite(service.Addr, supabaseAt.url), failed).Close()

	greet(stdout, site.url, supabase.Sign(map[string]any{
		"sub": demo.ID, "email": demo.Email, "aud": "authenticated", "role": "authenticated",
		"exp": time.Now().AddDate(1, 0, 0).Unix(), // longer than any sandbox runs
	}), v)
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(err, service.stop())
}

func serveOn(l *listener, h http.Handler, failed chan<- error) *http.Server {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { failed <- server.Serve(l) }()
	return server
}

// refuseLiveKeys keeps keys that move money out of a program that plays.
func refuseLiveKeys(environ []string) error {
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if strings.Contains(value, "sk_live_") || strings.Contains(value, "rk_live_") {
			return fmt.Errorf("%s holds a live Stripe key, which does not belong into a sandbox: unset it", name)
		}
	}
	return nil
}

// listener is one on loopback, with the URL under which it is reached.
type listener struct {
	net.Listener
	url string
}

// listen refuses addresses that others could reach: whoever can use the sandbox
// is anyone they like.
func listen(name, address string) (*listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("-%s %s is no address: write 127.0.0.1:8080, say", name, address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("-%s %s could be reached from other machines, and the sandbox lets everyone in: use 127.0.0.1", name, address)
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another program listens on %s: end it, or choose another port with -%s %s (0 picks a free one)", address, name, net.JoinHostPort(host, "0"))
	} else if err != nil {
		return nil, err
	}
	at := l.Addr().(*net.TCPAddr)
	if !at.IP.IsLoopback() {
		l.Close()
		return nil, fmt.Errorf("-%s %s: localhost is %s here, which is not loopback: use 127.0.0.1", name, address, at.IP)
	}
	url := "http://" + at.String()
	if name == "site" {
		url = strings.Replace(url, "127.0.0.1:", "localhost:", 1) // as people type it
	}
	return &listener{l, url}, nil
}
