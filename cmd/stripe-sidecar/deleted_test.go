package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
)

// TestDeletedUsers: what becomes of the subscriptions of a user who was deleted, by
// three replicas of the running service and by sync.
func TestDeletedUsers(t *testing.T) {
	settleSoon(t)
	for _, test := range []struct{ variable, want, left string }{
		{"keep", "active active trialing, there", "1"},
		{"cancel", "canceled canceled canceled, there", "0"},
		{"delete", "canceled canceled canceled, deleted", "0"},
	} {
		for _, by := range []string{"service", "sync"} {
			t.Run(test.variable+" by "+by, func(t *testing.T) {
				stripe, supabase, env := surroundings(t, fakestripe.Options{})
				env["USER_DELETED"], env["STRIPE_WEBHOOK_SECRET"] = test.variable, "whsec_1"
				url, _ := startProcess(t, env)
				var ids []string
				for i := range 3 {
					u := supabase.SignUp(fmt.Sprintf("user%d@example.com", i), "correct horse battery staple")
					if status, err := buy(t, url, supabase.SignIn(u.ID).AccessToken); status != 200 || err != nil {
						t.Fatalf("create-checkout = %d, %v; want 200", status, err)
					}
					ids = append(ids, u.ID)
				}
				customers := stripe.Customers()
				for _, status := range []string{"active", "active", "trialing"} {
					stripe.AddSubscription(customers[0].ID, "price_pro_monthly", status)
				}
				stays := stripe.AddSubscription(customers[1].ID, "price_pro_monthly", "active")
				gone := customers[2].ID // by hand, before anything was done
				state := func() string {
					var all []string
					for _, s := range stripe.Subscriptions() {
						if s.ID != stays {
							all = append(all, s.Status)
						} else if s.Status != "active" {
							t.Errorf("the subscription of a user who stays = %s; want active", s.Status)
						}
					}
					return strings.Join(all, " ") + map[bool]string{true: ", deleted", false: ", there"}[stripe.Customers()[0].Deleted]
				}
				supabase.DeleteUser(ids[0])
				if test.variable != "keep" {
					supabase.DeleteUser(ids[2])
					stripe.DeleteCustomer(gone)
				}

				if by == "sync" {
					setenv(t, env)
					for range 2 {
						var stderr bytes.Buffer
						if code := run(t.Context(), []string{"sync"}, io.Discard, &stderr); code != 0 {
							t.Fatalf("sync = %d, %s; want 0", code, &stderr)
						}
						if got, want := strings.Contains(stderr.String(), "1 customers of deleted users are left"), test.variable == "keep"; got != want {
							t.Errorf("sync printed %q; want the customer that is left: %t", &stderr, want)
						}
					}
				} else {
					services := []*service{startService(t, env), startService(t, env), startService(t, env)}
					for _, s := range services {
						until(t, func() string { return metric(t, s.url, "stripe_sidecar_customers_left") }, test.left)
					}
				}
				if got := stripe.CheckoutSessions()[0].Status; test.variable == "cancel" && got != "expired" {
					t.Errorf("the open Checkout Session of the user who left = %s; want expired", got)
				}
				if got := state(); got != test.want {
					t.Errorf("subscriptions and Customer = %s; want %s", got, test.want)
				}
			})
		}
	}
}

// TestDeletedUserFails: one Customer that cannot be settled, or of whom Stripe does
// not say that they are, holds up no other, is counted, warned of once, and settled
// when it can be.
func TestDeletedUserFails(t *testing.T) {
	settleSoon(t)
	for name, test := range map[string]struct {
		userDeleted, path string // the call that fails; the first Customer's ID stands for *
		status            int
		answer, logged    string
	}{
		"other mode": {"delete", "/v1/customers/*", http.StatusNotFound, `{"error":{"type":"invalid_request_error","code":"resource_missing","param":"id",
			"message":"No such customer: 'x'; a similar object exists in live mode, but a test mode key was used to make this request."}}`,
			"live mode, but a test mode key was used"},
		"not deleted":           {"delete", "/v1/customers/*", http.StatusOK, `{}`, "lacks what was asked for"},
		"no list to cancel":     {"cancel", "/v1/subscriptions?customer=*", http.StatusOK, `{}`, "lacks what was asked for"},
		"no list of open pages": {"cancel", "/v1/checkout/sessions?customer=*", http.StatusOK, `{}`, "lacks what was asked for"},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWired(t, "USER_DELETED", test.userDeleted)
			other := w.supabase.SignUp("eve@example.com", "correct horse battery staple").ID
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			w.post(t, "create-checkout", oneTime, "Authorization", "Bearer "+w.supabase.SignIn(other).AccessToken)
			path, query, _ := strings.Cut(strings.ReplaceAll(test.path, "*", w.stripe.Customers()[0].ID), "?")
			w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				refuse := r.URL.Path == path && r.Method != "POST" && strings.Contains(r.URL.RawQuery, query)
				if refuse {
					rw.WriteHeader(test.status)
					_, _ = io.WriteString(rw, test.answer)
				}
				return refuse
			})
			w.supabase.DeleteUser(w.userID)
			w.supabase.DeleteUser(other)
			left := func() string { return metric(t, w.url, "stripe_sidecar_customers_left") }
			until(t, left, "1")
			if all := w.stripe.Customers(); test.userDeleted == "delete" && (all[0].Deleted || !all[1].Deleted) {
				t.Errorf("Customers deleted = %t, %t; want the second only", all[0].Deleted, all[1].Deleted)
			}
			w.stripe.Intercept(nil)
			until(t, left, "0")
			if _, log := w.wait(t); strings.Count(log, "could not be settled") != 1 || !strings.Contains(log, test.logged) {
				t.Errorf("log = %s; want one warning, with %q", log, test.logged)
			}
		})
	}
}

// settleSoon has services that are started from now on settle without much ado.
func settleSoon(t *testing.T) {
	settleEvery = 10 * time.Millisecond
	t.Cleanup(func() { settleEvery = 30 * time.Second })
}

// metric returns the value of a metric without labels, "" where there is none.
func metric(t *testing.T, url, name string) string {
	t.Helper()
	_, after, _ := strings.Cut(get(t, url+"/metrics"), "\n"+name+" ")
	value, _, _ := strings.Cut(after, "\n")
	return value
}

// until waits for something to become what is wanted.
func until(t *testing.T, get func() string, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for got := get(); got != want; got = get() {
		select {
		case <-ctx.Done():
			t.Fatalf("value = %q; want %q in the end", got, want)
		case <-ticker.C:
		}
	}
}
