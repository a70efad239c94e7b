// Command stripe-sidecar sells and manages with Stripe for a site whose users
// sign in with Supabase.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode/utf8"

	"8space.app/stripe-sidecar/api"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = ""

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

// command is one of the things that the program does.
type command struct {
	name, argument string // argument as the usage has it, "" for none
	does           string
	check          func(argument string) error // nil where it takes none
	run            func(context.Context, invocation) error
}

// invocation is one call of a command.
type invocation struct {
	argument       string // "" for none
	json           bool
	stdout, stderr io.Writer
}

// misuse is a wrong command line, or a wrong variable of OpenTelemetry's.
type misuse string

func (m misuse) Error() string { return string(m) }

// errReported is a failure of which everything has been said.
var errReported = errors.New("failed")

var commands = []command{
	{name: "serve", does: "answer requests; also without any command", run: configured(serve)},
	{name: "doctor", does: "check the set-up against the real Stripe and Supabase, a line each with the remedy; --json for machines; exit 0 or 1", run: doctor},
	{name: "webhook", argument: "URL", check: checkWebhookURL, run: configured(makeWebhook, "STRIPE_SECRET_KEY", "STRIPE_API_BASE"),
		does: "have Stripe send its events to URL, which ends in " + api.WebhookPath + ": print the secret of a new endpoint, or mend the events of the one that is there"},
	{name: "sync", argument: "[ID]", check: checkUserID, run: configured(syncAll),
		does: "write subscriptions and purchases anew for every Customer, or for those of the users after the one with this ID"},
	{name: "schema", does: "print the SQL for the site's database, with the tables of this configuration; it needs no other variable", run: schema},
	{name: "healthcheck", does: "ask the running service whether it serves; exit 0 or 1", run: configured(healthcheck, "HOST", "PORT", "ADMIN_PORT")},
	{name: "version", does: "print the version; also -v", run: func(_ context.Context, in invocation) error {
		_, err := fmt.Fprintln(in.stdout, versionString())
		return err
	}},
}

// configured makes a command of what needs the configuration: all of it, or these
// variables.
func configured(run func(context.Context, config, invocation) error, names ...string) func(context.Context, invocation) error {
	return func(ctx context.Context, in invocation) error {
		c, err := loadConfig()
		if len(names) > 0 {
			err = about(err, true, names...)
		}
		if err != nil {
			return err
		}
		return run(ctx, c, in)
	}
}

// run is the program; it returns its exit code: 0 for done, 1 for failed, 2 for
// a wrong configuration or command line. It stops when ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := execute(ctx, args, stdout, stderr)
	var wrong mistakes
	var misused misuse
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, err)
		return 2
	case errors.As(err, &misused):
		fmt.Fprintln(stderr, "stripe-sidecar:", err)
		return 2
	case err != errReported:
		fmt.Fprintln(stderr, "stripe-sidecar:", err)
	}
	return 1
}

// execute is run without its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var wantsVersion bool
	flags := newFlags()
	flags.Func("env-file", "", readEnvFile)
	flags.BoolVar(&wantsVersion, "v", false, "")
	flags.BoolVar(&wantsVersion, "version", false, "")
	err := flags.Parse(args)
	name := flags.Arg(0)
	switch {
	case errors.Is(err, flag.ErrHelp), err == nil && name == "help":
		usage(stdout)
		return nil
	case err != nil:
		return misuse(err.Error())
	case wantsVersion:
		name = "version"
	case flags.NArg() == 0:
		name = "serve"
	}
	var names []string
	for _, c := range commands {
		if c.name == name {
			return c.execute(ctx, flags.Args()[min(1, flags.NArg()):], invocation{stdout: stdout, stderr: stderr})
		}
		names = append(names, c.name)
	}
	return misuse("no such command: " + name + "\nThe commands are " + strings.Join(names, ", ") + ".")
}

// execute runs the command with what stands behind its name.
func (c command) execute(ctx context.Context, args []string, in invocation) error {
	flags := newFlags()
	if c.name == "doctor" {
		flags.BoolVar(&in.json, "json", false, "")
	}
	err := flags.Parse(args)
	in.argument = flags.Arg(0)
	most := 0
	if c.check != nil {
		most = 1
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.usage(in.stdout)
		return nil
	case err == nil && flags.NArg() > most:
		err = fmt.Errorf("what is %s? stripe-sidecar %s -h tells what it takes", flags.Arg(most), c.name)
	case err == nil && c.check != nil:
		err = c.check(in.argument)
	}
	if err != nil {
		return misuse(c.name + ": " + err.Error())
	}
	return c.run(ctx, in)
}

func newFlags() *flag.FlagSet {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors and usage are printed by run
	return flags
}

// usage prints the commands and the table of variables, in 80 columns.
func usage(w io.Writer) {
	fmt.Fprint(w, "stripe-sidecar sells and manages with Stripe for a site on Supabase.\n\n")
	for _, c := range commands {
		c.usage(w)
	}
	fmt.Fprint(w, `
-h behind a command tells of that one alone. All configuration is in the
environment; -env-file FILE, before the command, adds the NAME=value lines of a
file to it. Each secret may come from a file of its own instead, which NAME_FILE
names:

`)
	for _, field := range variables() {
		text := field.Tag.Get("desc")
		if value := field.Tag.Get("default"); value != "" {
			text += "; default " + strings.ReplaceAll(value, ",", ", ")
		}
		fmt.Fprintln(w, "  "+field.Tag.Get("envconfig"))
		paragraph(w, text)
	}
}

func (c command) usage(w io.Writer) {
	fmt.Fprintln(w, strings.TrimRight("  stripe-sidecar "+c.name+" "+c.argument, " "))
	paragraph(w, c.does)
}

// paragraph prints a text within 80 columns, indented.
func paragraph(w io.Writer, text string) {
	const margin = "     "
	line := margin
	for word := range strings.FieldsSeq(text) {
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > 80 {
			fmt.Fprintln(w, line)
			line = margin
		}
		line += " " + word
	}
	fmt.Fprintln(w, line)
}

func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
