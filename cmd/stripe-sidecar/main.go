// Command stripe-sidecar sells and manages with Stripe for a site whose users
// sign in with Supabase.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/google/uuid"
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

// run is the program; it returns its exit code: 0 for done, 1 for failed, 2 for
// a wrong configuration or command line. It stops when ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && (args[0] == "-env-file" || args[0] == "--env-file") {
		if len(args) < 2 {
			fmt.Fprintln(stderr, "stripe-sidecar: -env-file needs the name of a file")
			return 2
		}
		if err := readEnvFile(args[1]); err != nil {
			fmt.Fprintln(stderr, "stripe-sidecar: -env-file:", err)
			return 2
		}
		args = args[2:]
	}
	command, argument := "serve", ""
	switch {
	case len(args) == 2 && (args[0] == "sync" || args[0] == "webhook" || args[0] == "doctor" && args[1] == "--json"):
		command, argument = args[0], args[1]
	case len(args) == 1:
		command = args[0]
	case len(args) > 1:
		command = ""
	}
	switch command {
	case "-h", "-help", "--help", "help":
		usage(stdout)
		return 0
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, versionString())
		return 0
	case "schema":
		sql, err := schema()
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 2
		}
		_, _ = io.WriteString(stdout, sql)
		return 0
	case "webhook":
		if err := checkWebhookURL(argument); err != nil {
			fmt.Fprintln(stderr, "stripe-sidecar webhook:", err)
			return 2
		}
	case "serve", "doctor", "sync", "healthcheck":
	default:
		fmt.Fprintf(stderr, "stripe-sidecar: no such command: %q; stripe-sidecar -h lists them\n", args)
		return 2
	}
	if command == "sync" && argument != "" && uuid.Validate(argument) != nil {
		fmt.Fprintf(stderr, "stripe-sidecar: %q is not the ID of a user\n", argument)
		return 2
	}

	c, err := loadConfig()
	if command == "doctor" {
		ok, err := doctor(ctx, c, err, argument == "--json", stdout)
		if !ok || err != nil {
			return 1
		}
		return 0
	}
	switch command {
	case "webhook":
		err = about(err, true, "STRIPE_SECRET_KEY", "STRIPE_API_BASE")
	case "healthcheck":
		err = about(err, true, "HOST", "PORT", "ADMIN_PORT")
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	switch command {
	case "webhook":
		err = makeWebhook(ctx, c, argument, stdout, stderr)
	case "serve":
		err = serve(ctx, c, stderr)
	case "sync":
		err = syncAll(ctx, c, argument, stderr)
	case "healthcheck":
		err = healthcheck(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(stderr, "stripe-sidecar:", err)
		return 1
	}
	return 0
}

func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return info.Main.Version + " " + setting.Value
		}
	}
	return info.Main.Version
}
