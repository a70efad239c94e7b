package main

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// TestDoctorTriesParams: what CHECKOUT_PARAMS and the two beside it say is tried
// at Stripe with Checkout Sessions that nobody can pay afterwards.
func TestDoctorTriesParams(t *testing.T) {
	tests := []struct {
		name  string
		env   []string
		line  string // how the line about it begins, "" for no line
		modes string // of the Checkout Sessions that were made
	}{
		{"none", nil, "", ""},
		{"both modes", []string{"CHECKOUT_PARAMS", "locale=auto"}, "ok    checkout parameters: payment mode, subscription mode\n", "payment subscription"},
		{"payment", []string{"CHECKOUT_PAYMENT_PARAMS", "submit_type=book"}, "ok    checkout parameters: payment mode\n", "payment"},
		{"subscription", []string{"CHECKOUT_SUBSCRIPTION_PARAMS", "subscription_data[description]=x"}, "ok    checkout parameters: subscription mode\n", "subscription"},
		{"a parameter that Stripe does not have", []string{"CHECKOUT_SUBSCRIPTION_PARAMS", "colour=red"},
			"FAIL  checkout parameters: subscription mode: create checkout session: stripe answered 400 invalid_request_error parameter_unknown", ""},
		{"a value that Stripe does not take", []string{"CHECKOUT_PAYMENT_PARAMS", "locale=klingon"}, "FAIL  checkout parameters: payment mode: create checkout session: stripe answered 400", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stripe, supabase := fakestripe.New(fakestripe.Options{}), fakesupabase.New(fakesupabase.Options{})
			stripeServer, supabaseServer := httptest.NewServer(stripe), httptest.NewServer(supabase)
			t.Cleanup(stripeServer.Close)
			t.Cleanup(supabaseServer.Close)
			setenv(t, valid(append([]string{"STRIPE_API_BASE", stripeServer.URL, "SUPABASE_URL", supabaseServer.URL}, test.env...)...))
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), []string{"doctor"}, &stdout, &stderr)
			if got := strings.Contains(stdout.String(), "checkout parameters"); got != (test.line != "") || !strings.Contains(stdout.String(), test.line) || (code == 1) != strings.HasPrefix(test.line, "FAIL") {
				t.Errorf("doctor = %d, %s; want a line %q", code, &stdout, test.line)
			}
			modes := map[string]bool{}
			for _, s := range stripe.CheckoutSessions() {
				modes[s.Mode] = true
				if s.Status != "expired" || s.Customer != "" {
					t.Errorf("Checkout Session = %v; want it expired, and nobody's", s)
				}
			}
			if len(modes) != len(strings.Fields(test.modes)) {
				t.Errorf("Checkout Sessions were of the modes %v; want %s", modes, test.modes)
			}
			for mode := range strings.FieldsSeq(test.modes) {
				if !modes[mode] {
					t.Errorf("Checkout Sessions were of the modes %v; want %s", modes, test.modes)
				}
			}
		})
	}
}
