package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// quantityOf returns a purchase of a quantity, as JSON.
func quantityOf(body, quantity string) string {
	return strings.TrimSuffix(body, "}") + `,"quantity":` + quantity + `}`
}

// portalAt returns a request for the portal at a step.
func portalAt(flow, subscription string) string {
	return fmt.Sprintf(`{"returnUrl":"https://8space.app/account","flow":%q,"subscription":%q}`, flow, subscription)
}

// TestQuantity: how many are bought.
func TestQuantity(t *testing.T) {
	t.Parallel()
	w := start(t)
	for quantity, want := range map[string]string{
		"1": "1", "5": "5", "999999": "999999", "null": "1", "2.0": "2", "1e3": "1000",
		"0": "", "-1": "", "1000000": "", "1.5": "", "1e400": "", "1e300": "", `"1"`: "", "true": "", "[1]": "", "{}": "", "0.5": "",
	} {
		w.stripe.ForgetCalls()
		got := w.checkout(quantityOf(buyPro, quantity))
		calls := w.stripe.CallsTo("POST", sessionsPath)
		switch {
		case want == "" && (got.status != 400 || got.field("error") != "quantity must be a whole number from 1 to 999999" || len(calls) != 0):
			t.Errorf("quantity %s = %d %s; want 400 and a text about it", quantity, got.status, got.body)
		case want != "" && (got.status != 200 || calls[0].Form.Get("line_items[0][quantity]") != want):
			t.Errorf("quantity %s = %d %s, sent %v; want %s", quantity, got.status, got.body, calls, want)
		}
	}
	// mode comes before it, the URLs' shape after it.
	for body, want := range map[string]string{
		strings.Replace(quantityOf(buyPro, "0"), "subscription", "setup", 1):           "Mode is required",
		strings.Replace(quantityOf(buyPro, "0"), "https://8space.app/success", "x", 1): "quantity must be",
		`{"quantity":0}`: "Price ID is required",
	} {
		if got := w.checkout(body); got.status != 400 || !strings.HasPrefix(got.field("error"), want) {
			t.Errorf("create-checkout %s = %d %s; want 400 %s", body, got.status, got.body, want)
		}
	}
}

// TestPortalFlows: at which step the portal opens, and of which subscription.
func TestPortalFlows(t *testing.T) {
	t.Parallel()
	const (
		cancel, update, method = "subscription_cancel", "subscription_update", "payment_method_update"
		none, other, several   = "You don't have a subscription.", "You don't have this subscription.", "subscription is required: you have more than one"
		wrong                  = "flow must be payment_method_update, subscription_cancel or subscription_update"
	)
	tests := []struct {
		name  string
		has   string // the statuses of the user's subscriptions, oldest first
		flow  string
		names int    // the place of the one that is named, 0 for none, 9 for somebody else's
		want  int    // the place of the one whose step opens
		error string // with 400
	}{
		{"payment method", "", method, 0, 0, ""},
		{"payment method, whatever is named", "", method, 9, 0, ""},
		{"the only one", "active", cancel, 0, 1, ""},
		{"the only one, to change", "trialing", update, 0, 1, ""},
		{"the only live one", "canceled past_due unpaid paused incomplete incomplete_expired", cancel, 0, 2, ""},
		{"none", "", cancel, 0, 0, none},
		{"none is live", "canceled unpaid paused incomplete", update, 0, 0, none},
		{"several", "active active", cancel, 0, 0, several},
		{"several, the older named", "active trialing", cancel, 1, 1, ""},
		{"several, the newer named", "active trialing", update, 2, 2, ""},
		{"an ended one named", "canceled active", cancel, 1, 0, other},
		{"an unpaid one named", "unpaid active", update, 1, 0, other},
		{"somebody else's", "active", cancel, 9, 0, other},
		{"somebody else's, and none", "", update, 9, 0, other},
		{"another flow", "active", "subscription_update_confirm", 0, 0, wrong},
		{"upper case", "active", "Subscription_cancel", 0, 0, wrong},
		{"no flow, a subscription", "active", "", 9, 0, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t)
			_, session := w.signUp("ada@example.com")
			_, stranger := w.signUp("eve@example.com")
			w.checkout(buyOnce, session...)
			w.checkout(buyOnce, stranger...)
			customers := w.stripe.Customers()
			ids := map[int]string{9: w.stripe.AddSubscription(customers[1].ID, "price_pro_monthly", "active")}
			for i, status := range strings.Fields(test.has) {
				ids[i+1] = w.stripe.AddSubscription(customers[0].ID, "price_pro_monthly", status)
			}
			got := w.portal(portalAt(test.flow, ids[test.names]), session...)
			calls := w.stripe.CallsTo("POST", "/v1/billing_portal/sessions")
			if test.error != "" {
				if got.status != 400 || got.field("error") != test.error || len(calls) != 0 {
					t.Errorf("create-portal = %d %s; want 400 %s", got.status, got.body, test.error)
				}
				return
			}
			if got.status != 200 || len(calls) != 1 {
				t.Fatalf("create-portal = %d %s; want 200", got.status, got.body)
			}
			want := url.Values{"customer": {customers[0].ID}, "return_url": {"https://8space.app/account"}}
			if test.flow != "" {
				want.Set("flow_data[type]", test.flow)
				want.Set("flow_data[after_completion][type]", "redirect")
				want.Set("flow_data[after_completion][redirect][return_url]", "https://8space.app/account")
			}
			if test.want != 0 {
				want.Set("flow_data["+test.flow+"][subscription]", ids[test.want])
			}
			if got, want := calls[0].Form.Encode(), want.Encode(); got != want {
				t.Errorf("sent to Stripe = %s; want %s", got, want)
			}
		})
	}
}
