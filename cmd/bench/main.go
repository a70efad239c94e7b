// Command bench measures the service under load, beside a bare net/http handler
// in the same minutes: the ratios hold on any machine, the numbers on this one.
// All traffic stays on loopback.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch args := os.Args[1:]; {
	// The program starts itself for what must not share a process with the load.
	case len(args) > 0 && args[0] == "bare":
		err = runBare(args[1:])
	case len(args) > 0 && args[0] == "upstreams":
		err = runUpstreams(args[1:])
	default:
		err = run(ctx, args, os.Stdout, os.Stderr)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and prints the table; an error tells what did not hold.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	service := flags.String("service", filepath.Join(filepath.Dir(self), "stripe-sidecar"), "the `program` to measure")
	rounds := flags.Int("rounds", 5, "how often what has a bound is measured; medians count")
	measured := flags.Duration("time", time.Second, "how long one measurement takes, or a little more")
	only := flags.String("only", "", "one `part`: growth, slow, http2, start or overload")
	soak := flags.Bool("soak", false, "200,000 requests with faults instead, and what they leave behind")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *only != "" && !slices.ContainsFunc(parts, func(p part) bool { return p.name == *only }) {
		return errors.New("no such part: bench -h tells which there are")
	}
	if *rounds < 1 {
		return errors.New("-rounds must be 1 at least")
	}
	if err := checkProc(); err != nil {
		return err
	}
	if _, err := os.Stat(*service); err != nil {
		return fmt.Errorf("there is no program %s: build it with make build, or name another with -service", *service)
	}
	limit := 5 * time.Minute
	if *soak {
		limit = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s", limit))
	defer cancel()

	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{self: self, service: *service, dir: dir, rounds: *rounds, measured: *measured, only: *only, progress: stderr}
	if b.users, err = newUsers(); err != nil {
		return err
	}
	if *soak {
		return b.soak(ctx, stdout)
	}
	return b.table(ctx, stdout)
}

// keyVariable holds the public key of the users' tokens for the children.
const keyVariable = "BENCH_PUBLIC_KEY"

func publicKey() (*ecdsa.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(os.Getenv(keyVariable))
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyVariable, err)
	}
	return key.(*ecdsa.PublicKey), nil
}

func runBare(args []string) error {
	var b bare
	flags := flag.NewFlagSet("bare", flag.ContinueOnError)
	flags.StringVar(&b.stripe, "stripe", "", "")
	flags.StringVar(&b.supabase, "supabase", "", "")
	flags.BoolVar(&b.signedIn, "signed-in", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if b.key, err = publicKey(); err != nil {
		return err
	}
	return serveBare(&b)
}

func runUpstreams(args []string) error {
	var b behaviour
	flags := flag.NewFlagSet("upstreams", flag.ContinueOnError)
	flags.DurationVar(&b.latency, "latency", 0, "")
	flags.BoolVar(&b.tls, "tls", false, "")
	flags.BoolVar(&b.hang, "hang", false, "")
	flags.BoolVar(&b.faults, "faults", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	key, err := publicKey()
	if err != nil {
		return err
	}
	return serveUpstreams(b, key)
}

// bench is what all measurements share.
type bench struct {
	self, service string // programs
	dir           string // for the certificate
	rounds        int
	measured      time.Duration
	only          string // a part of the table
	users         *users
	progress      io.Writer
}

func (b *bench) upstreams(ctx context.Context, u behaviour) (*process, error) {
	return launch(ctx, append(os.Environ(), keyVariable+"="+b.users.publicKey), b.self, "upstreams", "-latency", u.latency.String(),
		"-tls="+strconv.FormatBool(u.tls), "-hang="+strconv.FormatBool(u.hang), "-faults="+strconv.FormatBool(u.faults))
}

// program is what is under load.
type program int

const (
	bareHandler program = iota
	sidecar
)

func (b *bench) launch(ctx context.Context, p program, signedIn bool, up ready) (*process, error) {
	// Nothing else of the caller's environment, such as a proxy, may matter.
	env := []string{keyVariable + "=" + b.users.publicKey, "PATH=" + os.Getenv("PATH")}
	if up.Certificate != "" {
		file := filepath.Join(b.dir, "upstreams.pem")
		if err := os.WriteFile(file, []byte(up.Certificate), 0o600); err != nil {
			return nil, err
		}
		env = append(env, "SSL_CERT_FILE="+file)
	}
	if p == bareHandler {
		return launch(ctx, env, b.self, "bare", "-stripe", up.Stripe, "-supabase", up.Supabase, "-signed-in="+strconv.FormatBool(signedIn))
	}
	return launch(ctx, append(env, "HOST=127.0.0.1", "PORT=0",
		"STRIPE_SECRET_KEY="+stripeKey, "STRIPE_API_BASE="+up.Stripe, "SUPABASE_URL="+up.Supabase, "SUPABASE_COOKIE_NAME="+cookieName,
		"SUPABASE_ANON_KEY=sb_publishable_bench", "SUPABASE_SERVICE_ROLE_KEY=sb_secret_bench",
		"SITE_ORIGINS=https://example.com"), b.service)
}
