package api_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// only has users subscribe once.
func only(s *settings) { s.billing.OneSubscription = true }

// statuses are those of the Checkout Sessions, oldest first.
func (w *site) statuses() string {
	var all []string
	for _, s := range w.stripe.CheckoutSessions() {
		all = append(all, s.Status)
	}
	return strings.Join(all, " ")
}

// TestTwoTabs: of a user's open Checkout Sessions for a subscription only the
// last can be paid; nothing else of anybody's is touched.
func TestTwoTabs(t *testing.T) {
	t.Parallel()
	w := start(t, only)
	_, session := w.signUp("ada@example.com")
	_, stranger := w.signUp("eve@example.com")
	w.checkout(buyOnce, session...)
	w.checkout(buyPro, stranger...)
	w.checkout(buyPro)
	first := w.checkout(buyPro, session...)
	w.stripe.ForgetCalls()
	second := w.checkout(strings.Replace(buyPro, "price_pro", "price_basic", 1), session...)
	if got, want := w.statuses(), "open open open expired open"; got != want || second.status != 200 || first.field("url") == second.field("url") {
		t.Fatalf("Checkout Sessions = %s, create-checkout = %d %s; want %s", got, second.status, second.body, want)
	}
	var posts []string
	for _, c := range w.stripe.Calls() {
		if c.Method == "POST" {
			posts = append(posts, c.Path[strings.LastIndex(c.Path, "/"):])
		}
	}
	if got := strings.Join(posts, " "); got != "/expire /sessions" {
		t.Errorf("calls = %s; want the first expired before the second is created", got)
	}
	sold := w.stripe.CheckoutSessions()
	w.stripe.PayCheckout(sold[len(sold)-1].ID)
	if got := w.checkout(buyPro, session...); got.status != 200 || len(w.stripe.PortalSessions()) != 1 {
		t.Errorf("create-checkout of a subscriber = %d %s; want the portal", got.status, got.body)
	}
	w.checkout(buyOnce, session...)
	if got, want := w.statuses(), "open open open expired complete open"; got != want {
		t.Errorf("Checkout Sessions = %s; want %s", got, want)
	}
}

// TestPaidMeanwhile: the other tab is paid at the worst moments; the portal opens
// and nothing that could be paid is left.
func TestPaidMeanwhile(t *testing.T) {
	t.Parallel()
	moments := map[string]func(r *http.Request) bool{
		"before it is expired":     func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/expire") },
		"before the next is made":  func(r *http.Request) bool { return r.Method == "POST" && r.URL.Path == sessionsPath },
		"before the list after it": func(r *http.Request) bool { return r.Method == "GET" && r.URL.Path == sessionsPath },
		"before subscriptions are": func(r *http.Request) bool { return r.Method == "GET" && r.URL.Path == "/v1/subscriptions" },
	}
	for name, moment := range moments {
		w := start(t, only)
		_, session := w.signUp("ada@example.com")
		w.checkout(buyPro, session...)
		first := w.stripe.CheckoutSessions()[0]
		var paid atomic.Bool
		w.stripe.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if moment(r) && w.stripe.CheckoutSessions()[0].Status == "open" && paid.CompareAndSwap(false, true) {
				w.stripe.PayCheckout(first.ID)
			}
			return false
		})
		got := w.checkout(buyPro, session...)
		w.stripe.Intercept(nil)
		open := strings.Count(w.statuses(), "open")
		if !paid.Load() { // it was expired before that moment
			if open != 1 || got.status != 200 {
				t.Errorf("%s: create-checkout = %d %s, Checkout Sessions %s; want one that is open", name, got.status, got.body, w.statuses())
			}
			continue
		}
		if got.status != 200 || open != 0 || len(w.stripe.PortalSessions()) != 1 || len(w.stripe.Subscriptions()) != 1 {
			t.Errorf("%s: create-checkout = %d %s, Checkout Sessions %s; want the portal and none open", name, got.status, got.body, w.statuses())
		}
	}
}

// TestOpenedElsewhere: another replica makes a Checkout Session between this
// one's looking and making; the one that is made last stays, also within one second,
// and who made it is answered with it.
func TestOpenedElsewhere(t *testing.T) {
	t.Parallel()
	for range 8 {
		w := start(t, only)
		_, session := w.signUp("ada@example.com")
		w.checkout(buyOnce, session...)
		var once atomic.Bool
		answers := make(chan answer, 1)
		w.stripe.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == "POST" && r.URL.Path == sessionsPath && once.CompareAndSwap(false, true) {
				answers <- w.checkout(buyPro, session...)
			}
			return false
		})
		mine := w.checkout(buyPro, session...)
		theirs := <-answers
		if got, want := w.statuses(), "open expired open"; got != want || mine.field("url") != w.stripe.CheckoutSessions()[2].URL || theirs.status != 200 {
			t.Errorf("Checkout Sessions = %s, answers %s and %s; want %s, and the last for the later", got, mine.body, theirs.body, want)
		}
	}
}

// TestOneSubscriptionIdempotency: a repeated Idempotency-Key gives the same
// Checkout Session for as long as that can be paid.
func TestOneSubscriptionIdempotency(t *testing.T) {
	t.Parallel()
	w := start(t, only)
	_, session := w.signUp("ada@example.com")
	buy := func(key string) string {
		t.Helper()
		got := w.checkout(buyPro, append(session, "Idempotency-Key", key)...)
		sold := w.stripe.CheckoutSessions()
		for _, s := range sold {
			if s.URL == got.field("url") && s.Status == "open" {
				return s.ID
			}
		}
		t.Fatalf("create-checkout with the key %s = %d %s; want a Checkout Session that is open, of %v", key, got.status, got.body, sold)
		return ""
	}
	a := buy("a")
	if again := buy("a"); again != a {
		t.Errorf("the key again = %s; want %s", again, a)
	}
	b := buy("b")
	second := buy("a") // the first is no longer open
	if b == a || second == a || second == b || buy("a") != second {
		t.Errorf("a, b, a, a = %s, %s, %s, %s; want three, the last two alike", a, b, second, buy("a"))
	}
	if third := buy("b"); third == b || third == second {
		t.Errorf("b once more = %s; want a new one", third)
	}
	if got := strings.Count(w.statuses(), "open"); got != 1 {
		t.Errorf("open Checkout Sessions = %d; want 1", got)
	}
}

// TestOneSubscriptionUnknown: what cannot be found out is not no.
func TestOneSubscriptionUnknown(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"list": sessionsPath, "expire": "/expire", "subscriptions": "/v1/subscriptions"} {
		for what, body := range map[string]string{"500": "", "nothing": "{}"} {
			if name == "expire" && what == "nothing" {
				continue
			}
			w := start(t, only)
			_, session := w.signUp("ada@example.com")
			w.checkout(buyPro, session...)
			w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, path) || r.Method == "POST" && name == "list" {
					return false
				}
				if body == "" {
					rw.WriteHeader(500)
				}
				_, _ = rw.Write([]byte("{}"))
				return true
			})
			if got := w.checkout(buyPro, session...); got.status != 500 {
				t.Errorf("%s answers %s: create-checkout = %d %s; want 500", name, what, got.status, got.body)
			}
		}
	}
}

// TestTrialOnce: the trial is for whoever never had a subscription.
func TestTrialOnce(t *testing.T) {
	t.Parallel()
	for status, trial := range map[string]string{
		"": "14", "incomplete": "14", "incomplete_expired": "14",
		"active": "", "trialing": "", "past_due": "", "canceled": "", "unpaid": "", "paused": "",
	} {
		w := start(t, func(s *settings) { s.billing.TrialDays = 14 })
		u, session := w.signUp("ada@example.com")
		w.checkout(buyOnce, session...)
		if status != "" {
			w.stripe.AddSubscription(w.stripe.Customers()[0].ID, "price_basic_monthly", status)
		}
		key := append(session, "Idempotency-Key", "k")
		for n := range 2 {
			got := w.checkout(buyPro, key...)
			calls := w.stripe.CallsTo("POST", sessionsPath)
			form := calls[len(calls)-1].Form
			if got.status != 200 || form.Get("subscription_data[trial_period_days]") != trial || form.Get("subscription_data[metadata][supabase_user_id]") != u.ID {
				t.Errorf("after a subscription %q, time %d: create-checkout = %d %s, sent %v; want a trial of %q", status, n, got.status, got.body, form, trial)
			}
		}
		if trial != "" { // the same key, once the trial is used
			sold := w.stripe.CheckoutSessions()
			w.stripe.PayCheckout(sold[len(sold)-1].ID)
			if got := w.checkout(buyPro, key...); got.status != 200 {
				t.Errorf("the key again after the trial = %d %s; want 200", got.status, got.body)
			}
		}
		w.checkout(buyPro)
		calls := w.stripe.CallsTo("POST", sessionsPath)
		if days := calls[len(calls)-1].Form.Get("subscription_data[trial_period_days]"); days != "14" {
			t.Errorf("a guest's trial = %q; want 14", days)
		}
	}
}
