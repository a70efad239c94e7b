package api_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// TestCheckoutForm shows the exact parameters that reach Stripe.
func TestCheckoutForm(t *testing.T) {
	t.Parallel()
	base := func(mode, price string, more ...string) url.Values {
		v := url.Values{
			"mode":                    {mode},
			"line_items[0][price]":    {price},
			"line_items[0][quantity]": {"1"},
			"success_url":             {"https://8space.app/success"},
			"cancel_url":              {"https://8space.app/cancel"},
			"allow_promotion_codes":   {"true"},
		}
		for i := 0; i < len(more); i += 2 {
			if more[i+1] == "" {
				v.Del(more[i])
			} else {
				v.Set(more[i], more[i+1])
			}
		}
		return v
	}
	const user, customer = "{user}", "{customer}" // stand for what is only known when it runs
	tests := []struct {
		name     string
		signedIn bool
		body     string
		change   func(*settings)
		want     url.Values
	}{
		{"guest, payment", false, buyOnce, nil, base("payment", "price_lifetime", "customer_creation", "always")},
		{"guest, subscription", false, buyPro, nil, base("subscription", "price_pro_monthly")},
		{"user, payment", true, buyOnce, nil, base("payment", "price_lifetime", "customer", customer, "client_reference_id", user,
			"metadata[supabase_user_id]", user, "payment_intent_data[metadata][supabase_user_id]", user)},
		{"user, subscription", true, buyPro, nil, base("subscription", "price_pro_monthly", "customer", customer, "client_reference_id", user,
			"metadata[supabase_user_id]", user, "subscription_data[metadata][supabase_user_id]", user)},
		{"no promotion codes", false, buyPro, func(s *settings) { s.billing.PromotionCodes = false },
			base("subscription", "price_pro_monthly", "allow_promotion_codes", "")},
		{"guest, tax", false, buyOnce, func(s *settings) { s.billing.AutomaticTax, s.billing.TaxIDCollection = true, true },
			base("payment", "price_lifetime", "customer_creation", "always", "automatic_tax[enabled]", "true", "tax_id_collection[enabled]", "true")},
		{"user, automatic tax", true, buyOnce, func(s *settings) { s.billing.AutomaticTax = true },
			base("payment", "price_lifetime", "customer", customer, "client_reference_id", user, "metadata[supabase_user_id]", user,
				"payment_intent_data[metadata][supabase_user_id]", user, "automatic_tax[enabled]", "true", "customer_update[address]", "auto")},
		{"user, tax ID", true, buyOnce, func(s *settings) { s.billing.TaxIDCollection = true },
			base("payment", "price_lifetime", "customer", customer, "client_reference_id", user, "metadata[supabase_user_id]", user,
				"payment_intent_data[metadata][supabase_user_id]", user, "tax_id_collection[enabled]", "true", "customer_update[name]", "auto")},
		{"guest, trial", false, buyPro, func(s *settings) { s.billing.TrialDays = 14 },
			base("subscription", "price_pro_monthly", "subscription_data[trial_period_days]", "14")},
		{"user, trial", true, buyPro, func(s *settings) { s.billing.TrialDays = 14 },
			base("subscription", "price_pro_monthly", "customer", customer, "client_reference_id", user, "metadata[supabase_user_id]", user,
				"subscription_data[metadata][supabase_user_id]", user, "subscription_data[trial_period_days]", "14")},
		{"no trial for a payment", false, buyOnce, func(s *settings) { s.billing.TrialDays = 14 },
			base("payment", "price_lifetime", "customer_creation", "always")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			changes := []func(*settings){}
			if test.change != nil {
				changes = append(changes, test.change)
			}
			w := start(t, changes...)
			var u fakesupabase.User
			var headers []string
			if test.signedIn {
				u, headers = w.signUp("ada@example.com")
			}
			got := w.checkout(test.body, headers...)
			if got.status != 200 {
				t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
			}
			var customerID string
			if customers := w.stripe.Customers(); len(customers) == 1 {
				customerID = customers[0].ID
			}
			want := url.Values{}
			for name, values := range test.want {
				want.Set(name, strings.NewReplacer(user, u.ID, customer, customerID).Replace(values[0]))
			}
			calls := w.stripe.CallsTo("POST", "/v1/checkout/sessions")
			if len(calls) != 1 || !maps.EqualFunc(calls[0].Form, want, slices.Equal) {
				t.Errorf("sent to Stripe = %v; want %v", calls, want)
			}
			if auth := calls[0].Header.Get("Authorization"); auth != "Bearer "+secretKey {
				t.Errorf("Authorization = %q; want the secret key", auth)
			}
			if url := w.stripe.CheckoutSessions()[0].URL; got.field("url") != url {
				t.Errorf("url = %q; want the Checkout Session's %q", got.field("url"), url)
			}
		})
	}
}

// TestURLsByteForByte: what the page sends is what Stripe gets.
func TestURLsByteForByte(t *testing.T) {
	t.Parallel()
	w := start(t)
	for _, u := range []string{
		"https://8space.app/success?session_id={CHECKOUT_SESSION_ID}",
		"https://8space.app/{CHECKOUT_SESSION_ID}/thanks",
		"https://8space.app/a%20b/%7Bc%7D/%C3%BC?x=%2F&y=a+b#frag%20ment",
		"https://8space.app/ü/Straße?q=ß#ä",
		"HTTP://LocalHost:3000/?a=1&a=2&&;#",
		"https://8space.app?",
		"https://8space.app/'\"<>`|",
	} {
		w.stripe.ForgetCalls()
		body := `{"priceId":"price_lifetime","mode":"payment","successUrl":` + quote(u) + `,"cancelUrl":` + quote(u) + `}`
		if got := w.checkout(body); got.status != 200 {
			t.Errorf("create-checkout with %s = %d %s; want 200", u, got.status, got.body)
			continue
		}
		form := w.stripe.CallsTo("POST", "/v1/checkout/sessions")[0].Form
		if form.Get("success_url") != u || form.Get("cancel_url") != u {
			t.Errorf("Stripe got %q and %q; want %q", form.Get("success_url"), form.Get("cancel_url"), u)
		}
	}
}

func TestPortalForm(t *testing.T) {
	t.Parallel()
	for configuration, want := range map[string]url.Values{
		"":        {"customer": {"cus_7"}, "return_url": {"https://8space.app/account"}},
		"bpc_123": {"customer": {"cus_7"}, "return_url": {"https://8space.app/account"}, "configuration": {"bpc_123"}},
	} {
		w := start(t, func(s *settings) { s.billing.PortalConfiguration = configuration })
		w.stripe.Intercept(stripeAnswers("/v1/billing_portal/sessions", 200, `{"id":"bps_1","object":"billing_portal.session","url":"https://billing.example/p/1"}`))
		u, headers := w.signUp("ada@example.com")
		w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_7"})
		got := w.portal(openPortal, headers...)
		if got.status != 200 || got.body != `{"url":"https://billing.example/p/1"}`+"\n" {
			t.Errorf("create-portal = %d %s; want 200 and the url", got.status, got.body)
		}
		calls := w.stripe.CallsTo("POST", "/v1/billing_portal/sessions")
		if len(calls) != 1 || !maps.EqualFunc(calls[0].Form, want, slices.Equal) {
			t.Errorf("sent to Stripe = %v; want %v", calls, want)
		}
	}
}

// TestBodiesHaveTheirLength: no body goes to Stripe in chunks, in packets of
// their own, and none without content.
func TestBodiesHaveTheirLength(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.billing.OneSubscription = true })
	_, session := w.signUp("ada@example.com")
	var calls, wrong []string
	w.stripe.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		call := fmt.Sprintf("%s %s with %d bytes %v", r.Method, r.URL.Path, r.ContentLength, r.TransferEncoding)
		calls = append(calls, call)
		if r.TransferEncoding != nil || (r.ContentLength > 0) != (r.Method == "POST") {
			wrong = append(wrong, call)
		}
		return false
	})
	w.checkout(buyPro, session...) // the Customer, what it has before and after, the Checkout Session
	w.portal(openPortal, session...)
	if len(calls) != 7 || wrong != nil {
		t.Errorf("calls = %v, wrong: %v; want 7, each POST with its length, no GET with a body", calls, wrong)
	}
}
