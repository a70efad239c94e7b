package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// TestDoctor: a good set-up is all ok; each thing broken is one line that says
// what to do.
func TestDoctor(t *testing.T) {
	t.Parallel()
	status := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const forbidden = `{"error":{"type":"invalid_request_error","message":"The provided key 'rk_test_***1234' does not have the required permissions"}}`
	tests := []struct {
		name     string
		env      []string
		breaks   string // "METHOD path" of the calls that are answered by handler
		handler  http.HandlerFunc
		failing  string // the checks that fail, in order
		mentions string
	}{
		{name: "all well"},
		{name: "no webhook", env: []string{"STRIPE_WEBHOOK_SECRET", ""}},
		{name: "wrong Stripe key", breaks: "GET /v1/balance", handler: status(401, `{"error":{"message":"Invalid API Key provided: sk_test_****6789"}}`),
			failing: "Stripe key", mentions: "apikeys"},
		{name: "restricted key that may not see the balance", breaks: "GET /v1/balance", handler: status(403, forbidden)},
		{name: "clock", breaks: "GET /v1/balance", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
			_, _ = io.WriteString(w, `{"object":"balance"}`)
		}, failing: "clock", mentions: "s ahead of Stripe's"},
		{name: "may not create Checkout Sessions", breaks: "POST /v1/checkout/sessions", handler: status(403, forbidden),
			failing: "Stripe permissions", mentions: "create checkout session"},
		{name: "not Stripe at all", breaks: "POST /v1/customers", handler: status(200, `{}`), failing: "Stripe permissions", mentions: "is this Stripe?"},
		{name: "Stripe down", env: []string{"STRIPE_API_BASE", "http://127.0.0.1:1"}, failing: "Stripe key", mentions: "it could not be reached"},
		{name: "may not read invoices", breaks: "GET /v1/invoices", handler: status(403, forbidden), failing: "Stripe read permissions", mentions: "list invoices"},
		{name: "portal never saved", breaks: "GET /v1/billing_portal/configurations", handler: status(200, `{"object":"list","data":[]}`),
			failing: "billing portal", mentions: "settings/billing/portal"},
		{name: "unknown portal configuration", env: []string{"PORTAL_CONFIGURATION", "bpc_unknown"}, failing: "billing portal", mentions: "bpc_unknown"},
		{name: "no endpoint", breaks: "GET /v1/webhook_endpoints", handler: status(200, `{"object":"list","data":[]}`),
			failing: "webhook endpoint", mentions: "stripe listen"},
		{name: "endpoint lacks events", breaks: "GET /v1/webhook_endpoints", failing: "webhook endpoint", mentions: "charge.refunded",
			handler: status(200, `{"object":"list","data":[{"status":"enabled","url":"https://a.example/api/stripe/webhook","enabled_events":["invoice.paid"]}]}`)},
		{name: "endpoint disabled", breaks: "GET /v1/webhook_endpoints", failing: "webhook endpoint", mentions: "is disabled",
			handler: status(200, `{"object":"list","data":[{"status":"disabled","url":"https://a.example/api/stripe/webhook","enabled_events":["*"]}]}`)},
		{name: "wrong anon key", env: []string{"SUPABASE_ANON_KEY", "sb_publishable_wrong"}, failing: "Supabase Auth", mentions: "SUPABASE_ANON_KEY"},
		{name: "no key set", breaks: "GET /auth/v1/.well-known/jwks.json", handler: status(404, `{}`), failing: "signing keys", mentions: "jwks.json"},
		{name: "no keys", breaks: "GET /auth/v1/.well-known/jwks.json", handler: status(200, `{"keys":[]}`), mentions: "SUPABASE_JWT_SECRET"},
		{name: "wrong service role key", env: []string{"SUPABASE_SERVICE_ROLE_KEY", "sb_secret_wrong"}, failing: "schema", mentions: "take SUPABASE_SERVICE_ROLE_KEY anew"},
		{name: "another table", env: []string{"CUSTOMERS_TABLE", "nothing"}, failing: "schema", mentions: `printed with the table of Customers "customers", which is "nothing" here`},
		{name: "another table of subscriptions", env: []string{"SUBSCRIPTIONS_TABLE", "nothing"}, failing: "schema", mentions: "stripe-sidecar schema"},
		{name: "another table of purchases", env: []string{"PURCHASES_TABLE", "nothing"}, failing: "schema", mentions: "stripe-sidecar schema"},
		{name: "schema not run", breaks: "POST /rest/v1/rpc/stripe_schema", handler: status(404, `{"code":"PGRST202"}`), failing: "schema", mentions: "stripe-sidecar schema"},
		{name: "schema not run, and not needed", breaks: "POST /rest/v1/rpc/stripe_schema", handler: status(404, `{"code":"PGRST202"}`),
			env: []string{"STRIPE_WEBHOOK_SECRET", "", "CUSTOMERS_TABLE", "subscriptions", "CUSTOMERS_USER_COLUMN", "user_id", "SUBSCRIPTIONS_TABLE", "abos"}, mentions: "nothing needs it"},
		{name: "no tickets", breaks: "POST /rest/v1/rpc/stripe_ticket", handler: status(404, `{"code":"PGRST202"}`), failing: "recording", mentions: "stripe-sidecar schema"},
		{name: "project paused", breaks: "POST /rest/v1/rpc/stripe_schema", handler: status(540, `{}`), failing: "schema", mentions: "Supabase dashboard"},
		{name: "open to anon", breaks: "GET /rest/v1/customers", handler: status(200, `[{"id":"x","stripe_customer_id":"cus_1"}]`),
			failing: "customers table closed", mentions: "anyone on the internet may read it"},
		{name: "open to anon for writing", breaks: "PATCH /rest/v1/customers", handler: status(200, `[]`),
			failing: "customers table closed", mentions: "anyone on the internet may write it"},
		{name: "unusable keys", breaks: "GET /auth/v1/.well-known/jwks.json", handler: status(200, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`),
			failing: "signing keys", mentions: "none of the 1 keys"},
		{name: "Supabase down", env: []string{"SUPABASE_URL", "http://127.0.0.1:1"},
			failing: "Supabase Auth, signing keys, schema", mentions: "it could not be reached"},
		{name: "wrong configuration", env: []string{"SITE_ORIGINS", "*", "LOG_LEVEL", "loud"}, failing: "SITE_ORIGINS, LOG_LEVEL", mentions: "every site on the internet"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stripe := fakestripe.New(fakestripe.Options{Webhooks: []fakestripe.WebhookEndpoint{{URL: "http://127.0.0.1:1/api/stripe/webhook", Secret: "whsec_1"}}})
			t.Cleanup(stripe.Close)
			supabase := fakesupabase.New(fakesupabase.Options{})
			intercept := func(w http.ResponseWriter, r *http.Request) bool {
				broken := r.Method+" "+r.URL.Path == test.breaks
				if broken {
					test.handler(w, r)
				}
				return broken
			}
			stripe.Intercept(intercept)
			supabase.Intercept(intercept)
			stripeServer, supabaseServer := httptest.NewServer(stripe), httptest.NewServer(supabase)
			t.Cleanup(stripeServer.Close)
			t.Cleanup(supabaseServer.Close)
			env := valid(append([]string{"STRIPE_API_BASE", stripeServer.URL, "SUPABASE_URL", supabaseServer.URL,
				"STRIPE_WEBHOOK_SECRET", "whsec_1", "SITE_ORIGINS", "https://a.example"}, test.env...)...)
			code, stdout, _ := runProcess(t, env, "doctor")
			var failing []string
			lines := strings.SplitAfter(strings.TrimSuffix(stdout, "\n"), "\n")
			last := len(lines) - 1
			for _, line := range lines[:last] {
				if rest, ok := strings.CutPrefix(line, "FAIL  "); ok {
					name, _, _ := strings.Cut(rest, ":")
					failing = append(failing, name)
					if !strings.Contains(line, " -> ") {
						t.Errorf("line %q has no remedy; want one", line)
					}
				} else if !strings.HasPrefix(line, "ok    ") {
					t.Errorf("line %q; want ok or FAIL", line)
				}
			}
			want, summary := 0, fmt.Sprintf("all of %d checks are ok", last)
			if test.failing != "" {
				want, summary = 1, fmt.Sprintf("%d of %d checks failed", len(failing), last)
			}
			if lines[last] != summary {
				t.Errorf("last line = %q; want %q", lines[last], summary)
			}
			if got := strings.Join(failing, ", "); code != want || got != test.failing || !strings.Contains(stdout, test.mentions) {
				t.Errorf("doctor = %d, failing %q; want %d, %q, mentioning %q:\n%s", code, got, want, test.failing, test.mentions, stdout)
			}
			if strings.Contains(stdout, "6789") || strings.Contains(stdout, "1234") {
				t.Errorf("doctor printed %s; want no part of a key", stdout)
			}
			if n := len(stripe.Customers()) + len(stripe.CheckoutSessions()) + len(stripe.PortalSessions()); n != 0 {
				t.Errorf("doctor created %d objects; want none", n)
			}
			var findings []finding
			jsonCode, asJSON, _ := runProcess(t, env, "doctor", "--json")
			if err := json.Unmarshal([]byte(asJSON), &findings); err != nil || jsonCode != want || len(findings) != last {
				t.Errorf("doctor --json = %d, %s, %v; want %d and the same findings", jsonCode, asJSON, err, want)
			}
		})
	}
}
