package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// TestSandboxPage: what README.md says about the sandbox is so.
func TestSandboxPage(t *testing.T) {
	snippets := sandboxtest.Snippets(t, "cmd/sandbox/README.md")
	if len(snippets) != 5 {
		t.Fatalf("snippets = %d; want 5", len(snippets))
	}
	own, site, variables, doctor, help := snippets[0].Text, snippets[1].Text, snippets[2].Text, snippets[3].Text, snippets[4].Text
	if help != usage {
		t.Errorf("flags = %s; want %s", help, usage)
	}

	// As the reader would, in the folder above bin, where other programs may have
	// the usual ports.
	service, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(service, filepath.Join(dir, "bin", "stripe-sidecar")); err != nil {
		t.Fatal(err)
	}
	assignments, command, _ := strings.Cut(own, " bin/sandbox")
	if strings.TrimSpace(command) != "" {
		t.Fatalf("command = %s; want variables and no flags", own)
	}
	for assignment := range strings.FieldsSeq(assignments) {
		name, value, _ := strings.Cut(assignment, "=")
		t.Setenv(name, value)
	}
	s := start(t)

	usualPort := regexp.MustCompile(`http://(127\.0\.0\.1|localhost):\d+`)
	var file strings.Builder
	for line := range strings.Lines(variables) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if got := s.variables[name]; usualPort.ReplaceAllString(got, "") != usualPort.ReplaceAllString(value, "") {
			t.Errorf("%s = %s; want what the page says, %s", name, got, value)
		}
		file.WriteString(name + "=" + s.variables[name] + "\n")
	}
	if got := strings.Count(variables, "\n"); got != len(s.variables) {
		t.Errorf("variables = %d; want the %d that are printed", got, len(s.variables))
	}
	for line := range strings.Lines(site) {
		if !strings.HasPrefix(line, "NEXT_PUBLIC_") || !strings.Contains(variables, strings.TrimPrefix(line, "NEXT_PUBLIC_")) {
			t.Errorf("for the site = %s; want one of the variables", line)
		}
	}
	for name, want := range map[string]string{"SUPABASE_URL": "127.0.0.1:54321", "STRIPE_API_BASE": "127.0.0.1:12111"} {
		if !strings.Contains(variables, name+"=http://"+want+"\n") || !strings.Contains(usage, want) {
			t.Errorf("%s = %s; want the usual address, %s", name, variables, want)
		}
	}

	if err := os.WriteFile(filepath.Join(dir, "sandbox.env"), []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ wrong, check, says string }{
		{"", "webhook delivery", "an Event of no meaning was taken"},
		{"STRIPE_SECRET_KEY=sk_test_wrong_but_in_shape", "Stripe key", "Invalid API Key"},
		{"STRIPE_WEBHOOK_SECRET=whsec_other", "webhook delivery", "does not take what was signed"},
		{"SUPABASE_ANON_KEY=sb_publishable_wrong", "Supabase Auth", "SUPABASE_ANON_KEY"},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", doctor)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, tt.wrong}
		out, err := cmd.CombinedOutput()
		if (err == nil) != (tt.wrong == "") {
			t.Errorf("%s %s = %v, %s; want it to find what is wrong, and nothing else", tt.wrong, doctor, err, out)
		}
		said := false
		for line := range strings.Lines(string(out)) {
			said = said || strings.Contains(line, tt.check) && strings.Contains(line, tt.says)
			if tt.wrong == "" && !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "all of ") {
				t.Errorf("the doctor says %s; want every line ok", line)
			}
		}
		if !said {
			t.Errorf("%s %s = %s; want %q at %q", tt.wrong, doctor, out, tt.says, tt.check)
		}
	}

	// The site may call, and has a trial.
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.site+"/api/stripe/create-checkout", strings.NewReader(
		`{"priceId":"price_pro_monthly","mode":"subscription","successUrl":"http://localhost:3000/","cancelUrl":"http://localhost:3000/"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "http://localhost:3000")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "http://localhost:3000" {
		t.Errorf("create-checkout from the site = %d, %v; want 200 and CORS", resp.StatusCode, resp.Header)
	}
	var made struct{ URL string }
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil {
		t.Fatal(err)
	}
	r, err = http.NewRequestWithContext(t.Context(), "GET", made.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Body.Close()
	html, err := io.ReadAll(opened.Body)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(html)
	cards := regexp.MustCompile(`(?m)^\| ((?:\d{4} ){4})\| (.*) \|$`).FindAllStringSubmatch(string(readme), -1)
	if listed := strings.Count(page, `<li><button type="button" data-card=`); len(cards) != listed || listed == 0 {
		t.Errorf("cards = %q; want the %d of the Checkout page", cards, listed)
	}
	for _, card := range cards {
		if !strings.Contains(page, strings.TrimSpace(card[1])+"</button> "+card[2]) {
			t.Errorf("Checkout page = %s; want the card %s, which %s", page, card[1], card[2])
		}
	}
	if !strings.Contains(page, "SAVE20") {
		t.Errorf("Checkout page = %s; want the promotion code", page)
	}
	trial := field{"subscription_data[trial_period_days]", "7"}
	follow(t, s.site, func(told *told) bool {
		for _, e := range told.entries { // the doctor's calls are among them
			if len(e.Made) > 0 && slices.Contains(e.Made[len(e.Made)-1].Sent, trial) {
				return true
			}
		}
		return false
	})
}
