package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

const syncPath = "/api/stripe/sync"

func recording(s *settings) { s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)} }

// pay buys and pays, and returns the Checkout Session's ID.
func (w *site) pay(body string, headers ...string) string {
	w.tb.Helper()
	if got := w.checkout(body, headers...); got.status != 200 {
		w.tb.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
	}
	sold := w.stripe.CheckoutSessions()
	id := sold[len(sold)-1].ID
	w.stripe.PayCheckout(id)
	return id
}

type bought struct{ Subscriptions, Purchases []map[string]any }

// sync returns what the user has now.
func (w *site) sync(headers ...string) bought {
	w.tb.Helper()
	got := w.do("POST", syncPath, "", headers...)
	var b bought
	if err := json.Unmarshal([]byte(got.body), &b); got.status != 200 || err != nil || b.Subscriptions == nil || b.Purchases == nil {
		w.tb.Fatalf("sync = %d %s; want 200 and two lists", got.status, got.body)
	}
	if cache := got.header.Get("Cache-Control"); cache != "no-store" {
		w.tb.Errorf("sync: Cache-Control = %q; want no-store", cache)
	}
	return b
}

// TestSync: a buyer who is back before any Event finds what was bought recorded,
// as the webhook records it, and nobody else's.
func TestSync(t *testing.T) {
	t.Parallel()
	w := start(t, recording)
	ada, session := w.signUp("ada@example.com")
	_, stranger := w.signUp("eve@example.com")
	_, newcomer := w.signUp("new@example.com")
	w.pay(buyOnce, stranger...)
	theirs := w.pay(buyPro, session...)
	w.pay(buyOnce)
	payment := w.pay(buyOnce, session...)

	got := w.sync(session...)
	if len(got.Subscriptions) != 1 || len(got.Purchases) != 1 || got.Purchases[0]["id"] != payment {
		t.Fatalf("sync = %v; want the subscription of %s and the purchase %s", got, theirs, payment)
	}
	subscription := w.stripe.Subscriptions()[0].ID
	for _, of := range []struct {
		table string
		row   map[string]any
		want  map[string]any
	}{
		{"subscriptions", got.Subscriptions[0], map[string]any{"id": subscription, "user_id": ada.ID, "status": "active", "price_id": "price_pro_monthly", "quantity": 1.0, "livemode": false}},
		{"purchases", got.Purchases[0], map[string]any{"user_id": ada.ID, "payment_status": "paid", "amount_total": 19900.0, "disputed": false}},
	} {
		for column, want := range of.want {
			if of.row[column] != want {
				t.Errorf("%s: %s = %v; want %v", of.table, column, of.row[column], want)
			}
		}
		rows := w.supabase.Rows(of.table)
		if len(rows) != 1 || len(of.row) != len(rows[0])-1 || of.row["ticket"] != nil {
			t.Errorf("%s: sync answers %v; want all columns but ticket of the one row in %v", of.table, of.row, rows)
		}
	}

	// What has changed since is found as well.
	w.stripe.CancelSubscription(subscription)
	if got := w.sync(session...); got.Subscriptions[0]["status"] != "canceled" {
		t.Errorf("sync after the end = %v; want it canceled", got.Subscriptions)
	}
	if got := w.do("POST", syncPath, "", newcomer...); got.body != `{"subscriptions":[],"purchases":[]}`+"\n" {
		t.Errorf("sync without a Customer = %d %s; want two empty lists", got.status, got.body)
	}
	if got := w.sync(stranger...); len(got.Subscriptions) != 0 || len(got.Purchases) != 1 {
		t.Errorf("sync of another user = %v; want their purchase alone", got)
	}
	w.stripe.DeleteCustomer(w.stripe.Customers()[1].ID)
	if got := w.sync(session...); len(got.Purchases) != 1 {
		t.Errorf("sync of a Customer that Stripe has deleted = %v; want the rows that stand", got)
	}
}

// TestSyncNewestFirst: the newest hundred rows, in order.
func TestSyncNewestFirst(t *testing.T) {
	t.Parallel()
	w := start(t, recording)
	u, session := w.signUp("ada@example.com")
	w.checkout(buyOnce, session...)
	for i := range 120 {
		w.supabase.Insert("purchases", map[string]any{"id": fmt.Sprint("cs_", i), "user_id": u.ID, "line_items": []any{}, "ticket": 1,
			"created": fmt.Sprintf("2026-01-%02dT%02d:00:00Z", 1+i/24, i%24)})
	}
	got := w.sync(session...).Purchases
	if len(got) != 100 || got[0]["id"] != "cs_119" || got[99]["id"] != "cs_20" {
		t.Errorf("sync = %d rows, %v to %v; want 100, cs_119 to cs_20", len(got), got[0]["id"], got[len(got)-1]["id"])
	}
}

// TestSyncRefuses: nothing is fetched or written for whom Supabase does not vouch
// now, and what cannot be found out is not empty.
func TestSyncRefuses(t *testing.T) {
	t.Parallel()
	down := func(prefix string) func(*site, fakesupabase.User) {
		return func(w *site, _ fakesupabase.User) {
			w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, prefix) {
					return false
				}
				rw.WriteHeader(http.StatusBadGateway)
				return true
			})
		}
	}
	tests := []struct {
		name   string
		change func(*site, fakesupabase.User)
		status int
		error  string
	}{
		{"signed out", func(w *site, u fakesupabase.User) { w.supabase.SignOut(u.ID) }, 401, "Not signed in"},
		{"banned", func(w *site, u fakesupabase.User) { w.supabase.Ban(u.ID) }, 401, "Not signed in"},
		{"deleted", func(w *site, u fakesupabase.User) { w.supabase.DeleteUser(u.ID) }, 401, "Not signed in"},
		{"Auth down", down("/auth/"), 503, "Sign-in could not be checked. Please try again."},
		{"database down", down("/rest/"), 503, "Your billing account could not be checked. Please try again."},
		{"no ticket", down("/rest/v1/rpc/stripe_ticket"), 503, "Your billing account could not be checked. Please try again."},
		{"writes fail", down("/rest/v1/rpc/stripe_write_purchase"), 503, "Your billing account could not be checked. Please try again."},
		{"rows unread", down("/rest/v1/subscriptions"), 503, "Your billing account could not be checked. Please try again."},
		{"Stripe down", func(w *site, _ fakesupabase.User) { w.stripe.Intercept(stripeAnswers("/v1/subscriptions", 500, `{}`)) }, 500, "The payment provider could not complete the request. Please try again."},
		{"Stripe half down", func(w *site, _ fakesupabase.User) { w.stripe.Intercept(stripeAnswers(sessionsPath, 401, `{}`)) }, 500, "The payment provider could not complete the request. Please try again."},
		{"no list of subscriptions", func(w *site, _ fakesupabase.User) { w.stripe.Intercept(stripeAnswers("/v1/subscriptions", 200, `{}`)) }, 500, "The payment provider could not complete the request. Please try again."},
		{"no list of purchases", func(w *site, _ fakesupabase.User) { w.stripe.Intercept(stripeAnswers(sessionsPath, 200, `{}`)) }, 500, "The payment provider could not complete the request. Please try again."},
		{"the other mode", func(w *site, _ fakesupabase.User) {
			w.stripe.Intercept(stripeAnswers("/v1/subscriptions", 400, `{"error":{"type":"invalid_request_error","code":"resource_missing","param":"customer","message":"No such customer: 'cus_1'; a similar object exists in live mode, but a test mode key was used to make this request."}}`))
		}, 500, "Billing is not set up correctly. Please contact the site."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, recording)
			u, session := w.signUp("ada@example.com")
			w.pay(buyOnce, session...)
			test.change(w, u)
			got := w.do("POST", syncPath, "", session...)
			if got.status != test.status || got.field("error") != test.error {
				t.Errorf("sync = %d %s; want %d %s", got.status, got.body, test.status, test.error)
			}
			if test.status == 401 && len(w.supabase.Rows("purchases")) != 0 {
				t.Errorf("rows = %v; want none", w.supabase.Rows("purchases"))
			}
		})
	}
	w := start(t, recording)
	if got := w.do("POST", syncPath, ""); got.status != 401 {
		t.Errorf("sync as a guest = %d %s; want 401", got.status, got.body)
	}
	if got := w.do("GET", syncPath, ""); got.status != 405 || got.header.Get("Allow") != "POST" {
		t.Errorf("GET sync = %d, Allow %q; want 405, POST", got.status, got.header.Get("Allow"))
	}
	w = start(t)
	if got := w.do("POST", syncPath, ""); got.status != 404 {
		t.Errorf("sync without a webhook's secret = %d %s; want 404", got.status, got.body)
	}
}
