// Package browsertest gives tests a real browser.
package browsertest

import (
	"context"
	"os/exec"
	"testing"

	"github.com/chromedp/chromedp"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// flags keep Chromium from calling anybody, and from starting more processes than a
// test needs, which is a third of the work.
var flags = map[string]any{
	"disable-quic": true, "disable-background-networking": true, "disable-component-update": true, "disable-sync": true,
	"disable-extensions": true, "disable-software-rasterizer": true, "mute-audio": true,
	"disable-site-isolation-trials": true, "process-per-site": true, "renderer-process-limit": "2",
	"disable-features": "site-per-process,IsolateOrigins,SpareRendererForSitePerProcess,Translate",
}

// Start starts Chromium with a new profile and nothing in its window; stop ends it.
// Where there is none the test is skipped.
func Start(t testing.TB) (ctx context.Context, stop func()) {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && program == "" {
			program = path
		}
	}
	if program == "" {
		sandboxtest.Skip(t, "install Chromium (Debian: chromium) to run this test")
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(program), chromedp.Headless, chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.DisableGPU}
	for name, value := range flags {
		options = append(options, chromedp.Flag(name, value))
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ = chromedp.NewContext(allocator)
	stop = func() {
		_ = chromedp.Cancel(ctx) // waits, as cancel would not
		cancel()
	}
	if err := chromedp.Do(ctx); err != nil {
		stop()
		t.Fatalf("%s = %v; want it to start", program, err)
	}
	return ctx, stop
}
