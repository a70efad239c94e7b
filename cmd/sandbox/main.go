// Command sandbox runs the service beside an imitation of Stripe and Supabase,
// on loopback and offline, with a landing page that sells. The service is the
// program of production, started with an environment and nothing else.
package main

import (
	"cmp"
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
	"runtime/debug"
	"slices"
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

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = ""

const usage = `Usage: sandbox [flags]

A shop, with stripe-sidecar behind it and imitations of Stripe and Supabase
beside it, on this machine alone. It prints how to use them with a site of your
own. Variables of stripe-sidecar can be tried: CHECKOUT_TRIAL_DAYS=7 sandbox

  -site ADDRESS      the shop and the service (127.0.0.1:8080)
  -supabase ADDRESS  the imitation of Supabase (127.0.0.1:54321)
  -stripe ADDRESS    the imitation of Stripe and its pages (127.0.0.1:12111)
  -service PROGRAM   stripe-sidecar; the one beside this program if not given
  -v                 print the version
  -h                 print this

Port 0 is any free one. So is a port that is not asked for, where another
program has taken the one above.
`

// run is the program; it returns its exit code: 0 for stopped, 1 for failed, 2
// for a wrong command line. It stops when ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its texts are for those who know Go
	flags.StringVar(&o.site, "site", "", "")
	flags.StringVar(&o.supabase, "supabase", "", "")
	flags.StringVar(&o.stripe, "stripe", "", "")
	flags.StringVar(&o.service, "service", "", "")
	showVersion := false
	for _, name := range []string{"v", "version"} {
		flags.BoolFunc(name, "", func(string) error { showVersion = true; return nil })
	}
	err := flags.Parse(args)
	switch rest := flags.Args(); {
	case errors.Is(err, flag.ErrHelp), err == nil && slices.Equal(rest, []string{"help"}):
		_, _ = io.WriteString(stdout, usage)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "sandbox: %s; sandbox -h lists the flags\n", misused(err))
		return 2
	case showVersion, slices.Equal(rest, []string{"version"}):
		fmt.Fprintln(stdout, versionString())
		return 0
	case len(rest) > 0:
		fmt.Fprintf(stderr, "sandbox: %s is not something to do; sandbox -h lists the flags\n", rest[0])
		return 2
	}
	if err := serve(ctx, o, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "sandbox:", err)
		return 1
	}
	return 0
}

// misused says what package flag says, in plain words.
func misused(err error) string {
	what, name, _ := strings.Cut(err.Error(), ": ")
	switch what {
	case "flag provided but not defined":
		return name + " is not a flag"
	case "flag needs an argument":
		return name + " needs a value"
	case "bad flag syntax":
		return name + " is not a flag"
	}
	return err.Error()
}

func versionString() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		return info.Main.Version
	}
	return version
}

// options are those of the command line; an address that is not asked for is "".
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

	site, siteErr := listen("site", o.site, "127.0.0.1:8080")
	supabaseAt, supabaseErr := listen("supabase", o.supabase, "127.0.0.1:54321")
	stripeAt, stripeErr := listen("stripe", o.stripe, "127.0.0.1:12111")
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
		SecretKey: stripeKey, // so that a wrong one is refused as Stripe refuses it
		PublicURL: stripeAt.url,
		Webhooks:  []fakestripe.WebhookEndpoint{{URL: site.url + "/api/stripe/webhook", Secret: webhookSecret}},
	})
	defer stripe.Close()
	demo := supabase.SignUp(demoEmail, demoPassword)
	panel := newPanel(supabase.Rows)

	failed := make(chan error, 4) // one for each part
	defer serveOn(supabaseAt, panel.watch("Supabase", supabase), failed).Close()
	defer serveOn(stripeAt, panel.watch("Stripe", stripe), failed).Close()
	v := variables(site, supabaseAt, stripeAt)
	service, err := startService(ctx, o.service, environment(v, site), stderr)
	if service == nil {
		return err
	}
	go func() { failed <- service.failure() }()
	defer serveOn(site, newSite(service.Addr, supabaseAt.url, panel, func(id string) bool {
		return slices.ContainsFunc(stripe.CheckoutSessions(), func(c fakestripe.CheckoutSession) bool { return c.ID == id && c.Status == "complete" })
	}), failed).Close()

	fmt.Fprint(stdout, site.replaced("the shop"), supabaseAt.replaced("Supabase"), stripeAt.replaced("Stripe"))
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

// listener is one on loopback.
type listener struct {
	net.Listener
	url     string // under which it is reached
	instead string // the address that was taken; "" if it is as wanted
}

// listen listens on the address that the flag of this name asks for, or, where it
// asks for none, on the usual one or any port that is free. It refuses addresses
// that others could reach: whoever can use the sandbox is anyone they like.
func listen(name, asked, usual string) (*listener, error) {
	address := cmp.Or(asked, usual)
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("-%s %s is not an address: write 127.0.0.1:8080, say", name, address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("-%s %s could be reached from other machines, and the sandbox lets everyone in: use 127.0.0.1", name, address)
	}
	free, instead := net.JoinHostPort(host, "0"), ""
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) && asked == "" {
		instead = address
		l, err = net.Listen("tcp", free)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another program listens on %s: end it, or choose another port with -%s %s (0 picks a free one)", address, name, free)
	} else if err != nil {
		return nil, fmt.Errorf("-%s %s: %w", name, address, err)
	}
	at := l.Addr().(*net.TCPAddr)
	if !at.IP.IsLoopback() {
		l.Close()
		return nil, fmt.Errorf("-%s %s: localhost is %s here, which is not loopback: use 127.0.0.1", name, address, at.IP)
	}
	url := "http://" + at.String()
	// As people type it. But browsers share a host's cookies over its ports: a
	// second sandbox is under another name, so as not to sign out of the first.
	if name == "site" && instead == "" && (asked == "" || host == "localhost") {
		url = fmt.Sprintf("http://localhost:%d", at.Port)
	}
	return &listener{l, url, instead}, nil
}

// replaced says so if the address is not the usual one because that was taken.
func (l *listener) replaced(what string) string {
	if l.instead == "" {
		return ""
	}
	return fmt.Sprintf("Another program listens on %s: %s is on port %d instead.\n", l.instead, what, l.Addr().(*net.TCPAddr).Port)
}
