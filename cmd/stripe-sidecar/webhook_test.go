package main

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
)

// TestWebhookCommand: an endpoint is made once, with its secret, and mended after that.
func TestWebhookCommand(t *testing.T) {
	const address = "https://example.com/api/stripe/webhook"
	handled := billing.HandledEvents()
	tests := []struct {
		name, address string
		there         []fakestripe.WebhookEndpoint
		env           []string // besides Stripe's key and address
		refuse        int      // the status of Stripe's answers
		code, updates int
		stdout        string // "" for nothing
		stderr        []string
	}{
		{name: "none", address: address, stdout: "STRIPE_WEBHOOK_SECRET=whsec_", stderr: []string{"created we_sandbox_1 in test mode"}},
		{name: "another URL's", address: address, there: []fakestripe.WebhookEndpoint{{URL: "https://example.org/api/stripe/webhook", Events: handled}},
			stdout: "STRIPE_WEBHOOK_SECRET=whsec_", stderr: []string{"created we_sandbox_2"}},
		{name: "a good one", address: address, there: []fakestripe.WebhookEndpoint{{URL: address, Events: handled}},
			stderr: []string{"we_sandbox_1 in test mode is there already, and enabled"}},
		{name: "too few and too many Events", address: address, there: []fakestripe.WebhookEndpoint{{URL: address, Events: append([]string{"payout.paid"}, handled[1:]...)}},
			updates: 1, stderr: []string{"added to it: " + handled[0] + "\n", "taken from it: payout.paid\n"}},
		{name: "all Events", address: address, there: []fakestripe.WebhookEndpoint{{URL: address}}, updates: 1, stderr: []string{"taken from it: *\n"}},
		{name: "disabled", address: address, there: []fakestripe.WebhookEndpoint{{URL: address, Events: handled, Disabled: true}}, code: 1, stderr: []string{"enable it in the dashboard"}},
		{name: "not allowed", address: address, refuse: 403, code: 1, stderr: []string{"list webhook endpoints: stripe answered 403"}},
		{name: "no key", address: address, env: []string{"STRIPE_SECRET_KEY", ""}, code: 2, stderr: []string{"STRIPE_SECRET_KEY is not set"}},
		{name: "nothing else is needed", address: address, env: []string{"SUPABASE_URL", "", "SUPABASE_ANON_KEY", "", "SUPABASE_SERVICE_ROLE_KEY", ""}, stdout: "STRIPE_WEBHOOK_SECRET="},
		{name: "not a URL", address: "example.com/api/stripe/webhook", code: 2, stderr: []string{"is not a URL"}},
		{name: "not https", address: "http://example.com/api/stripe/webhook", code: 2, stderr: []string{"is not https", "stripe listen"}},
		{name: "another path", address: "https://example.com", code: 2, stderr: []string{"does not end in /api/stripe/webhook"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stripe, _, env := surroundings(t, fakestripe.Options{Webhooks: slices.Clone(test.there)})
			for i := 0; i < len(test.env); i += 2 {
				env[test.env[i]] = test.env[i+1]
			}
			if test.refuse != 0 {
				stripe.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
					w.WriteHeader(test.refuse)
					_, _ = io.WriteString(w, `{"error":{"type":"invalid_request_error","message":"The provided key does not have the required permissions"}}`)
					return true
				})
			}
			setenv(t, env)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), []string{"webhook", test.address}, &stdout, &stderr)
			if code != test.code || !strings.HasPrefix(stdout.String(), test.stdout) || (stdout.Len() > 0) != (test.stdout != "") {
				t.Errorf("webhook %s = %d, %q, %s; want %d, %q", test.address, code, &stdout, &stderr, test.code, test.stdout)
			}
			for _, want := range test.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr = %q; want %q", &stderr, want)
				}
			}
			if code != 0 {
				return
			}
			i := slices.IndexFunc(stripe.Webhooks(), func(e fakestripe.WebhookEndpoint) bool { return e.URL == test.address })
			if i < 0 || !slices.Equal(stripe.Webhooks()[i].Events, handled) {
				t.Fatalf("endpoints = %+v; want one of %s for what is handled", stripe.Webhooks(), test.address)
			}
			if secret := stripe.Webhooks()[i].Secret; test.stdout != "" && stdout.String() != "STRIPE_WEBHOOK_SECRET="+secret+"\n" {
				t.Errorf("stdout = %q; want the secret %s", &stdout, secret)
			}
			// Again: nothing is made, and no secret told.
			stdout.Reset()
			if code := run(t.Context(), []string{"webhook", test.address}, &stdout, &stderr); code != 0 || stdout.Len() != 0 || len(stripe.Webhooks()) != max(i+1, len(test.there)) {
				t.Errorf("webhook again = %d, %q, %d endpoints; want 0, nothing and no more of them", code, &stdout, len(stripe.Webhooks()))
			}
			if got := len(stripe.CallsTo("POST", "/v1/webhook_endpoints/we_sandbox_1")); got != test.updates {
				t.Errorf("updates = %d; want %d", got, test.updates)
			}
		})
	}
}
