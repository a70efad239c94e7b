package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// TestSync: after webhooks were down, one command writes what they would have.
func TestSync(t *testing.T) {
	t.Parallel()
	stripe, supabase, env := surroundings(t, fakestripe.Options{})
	url, _ := startProcess(t, env)
	var users []fakesupabase.User
	for i := range 4 {
		u := supabase.SignUp(fmt.Sprintf("user%d@example.com", i), "correct horse battery staple")
		users = append(users, u)
		if status, err := buy(t, url, supabase.SignIn(u.ID).AccessToken); status != 200 || err != nil {
			t.Fatalf("create-checkout = %d, %v; want 200", status, err)
		}
	}
	slices.SortFunc(users, func(a, b fakesupabase.User) int { return strings.Compare(a.ID, b.ID) })
	customer := map[string]string{}
	for _, row := range supabase.Rows("customers") {
		customer[row["id"].(string)] = row["stripe_customer_id"].(string)
	}
	for i, u := range users[:3] {
		stripe.AddSubscription(customer[u.ID], "price_basic_monthly", []string{"active", "canceled", "past_due"}[i])
	}
	for _, s := range stripe.CheckoutSessions()[:2] {
		stripe.PayCheckout(s.ID)
	}
	stripe.DeleteCustomer(customer[users[3].ID]) // no more to Stripe than a Customer that never was
	supabase.Insert("customers", map[string]any{"id": "99999999-9999-4999-8999-999999999999", "stripe_customer_id": nil})
	supabase.Insert("customers", map[string]any{"id": "88888888-8888-4888-8888-888888888888", "stripe_customer_id": ""})
	once := stripeCheckout(t, env["STRIPE_API_BASE"], customer[users[1].ID])
	stripe.PayCheckout(once)

	sync := func(want int, args ...string) string {
		t.Helper()
		code, _, stderr := runProcess(t, env, append([]string{"sync"}, args...)...)
		if code != want {
			t.Errorf("sync %v = %d, %s; want %d", args, code, stderr, want)
		}
		return stderr
	}
	if got := sync(0); !strings.Contains(got, "4 of 4 customers") {
		t.Errorf("sync printed %q; want 4 of 4 customers", got)
	}
	rows := map[string]map[string]any{}
	for _, row := range supabase.Rows("subscriptions") {
		rows[row["id"].(string)] = row
	}
	if len(rows) != len(stripe.Subscriptions()) {
		t.Errorf("rows = %d; want %d", len(rows), len(stripe.Subscriptions()))
	}
	for _, s := range stripe.Subscriptions() {
		row := rows[s.ID]
		if row["status"] != s.Status || row["stripe_customer_id"] != s.Customer || row["price_id"] != s.Price || customer[row["user_id"].(string)] != s.Customer {
			t.Errorf("row = %v; want %+v", row, s)
		}
	}

	if rows := supabase.Rows("purchases"); len(rows) != 1 || rows[0]["id"] != once || rows[0]["user_id"] != users[1].ID || rows[0]["payment_status"] != "paid" {
		t.Errorf("purchases = %v; want %s, paid by %s", rows, once, users[1].ID)
	}

	// Stripe fails: the command says how to go on, and goes on there.
	stripe.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		refuse := r.URL.Query().Get("customer") == customer[users[2].ID]
		if refuse {
			w.WriteHeader(http.StatusForbidden)
		}
		return refuse
	})
	if got := sync(1, users[0].ID); !strings.Contains(got, "go on with: stripe-sidecar sync "+users[0].ID) || !strings.Contains(got, customer[users[2].ID]) {
		t.Errorf("failing sync printed %q; want the customer it failed at and how to go on", got)
	}
	stripe.Intercept(nil)
	stripe.ForgetCalls()
	if got := sync(0, users[1].ID); !strings.Contains(got, "2 of 2 customers") {
		t.Errorf("sync from the second user on printed %q; want 2 of 2 customers", got)
	}
	for _, call := range stripe.CallsTo("GET", "/v1/subscriptions") {
		if id := call.Query.Get("customer"); id == customer[users[0].ID] || id == customer[users[1].ID] {
			t.Errorf("sync from the second user on asked for %s; want only those after", id)
		}
	}
}

// stripeCheckout starts a one-time purchase of a Customer at Stripe.
func stripeCheckout(t *testing.T, stripe, customerID string) (id string) {
	t.Helper()
	r, err := http.NewRequest("POST", stripe+"/v1/checkout/sessions", strings.NewReader("mode=payment&success_url=https://a.example&customer="+customerID+
		"&line_items[0][price]=price_lifetime&line_items[0][quantity]=1"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk_test_x")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var session struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&session); err != nil || session.ID == "" {
		t.Fatalf("creating a Checkout Session = %s, %v; want an id", resp.Status, err)
	}
	return session.ID
}
