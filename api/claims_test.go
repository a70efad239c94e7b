package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

func claiming(s *settings) {
	recording(s)
	s.api.ClaimGuestPurchases = true
}

const buyer = "buyer@example.com" // whom the imitation of Stripe takes guests for

// says has Supabase Auth say this of a user, in place of what it knows.
func (w *site) says(user fakesupabase.User, email, confirmedAt string, anonymous bool) {
	w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/auth/v1/user" {
			return false
		}
		_, _ = fmt.Fprintf(rw, `{"id":%q,"email":%q,"email_confirmed_at":%s,"is_anonymous":%t}`, user.ID, email, confirmedAt, anonymous)
		return true
	})
}

// TestClaims: what was bought as a guest becomes the user's who has proved that the
// address is theirs, and nobody else's.
func TestClaims(t *testing.T) {
	t.Parallel()
	const confirmed = `"2026-11-01T00:00:00Z"`
	tests := []struct {
		name string
		user string // the address that the user signed up with; "": buyer
		do   func(t *testing.T, w *site, u fakesupabase.User, session []string)
		want string // subscriptions, purchases and Customers that are the user's then
	}{
		{name: "confirmed", want: "1 1 2"},
		{name: "unconfirmed", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) { w.says(u, buyer, "null", false) }, want: "0 0 0"},
		{name: "an empty time", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) { w.says(u, buyer, `""`, false) }, want: "0 0 0"},
		{name: "anonymous", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) { w.says(u, buyer, confirmed, true) }, want: "0 0 0"},
		{name: "without an address", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) { w.says(u, "", confirmed, false) }, want: "0 0 0"},
		{name: "another address", user: "ada@example.com", want: "0 0 0"},
		{name: "changed to this address", user: "ada@example.com", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) { w.says(u, buyer, confirmed, false) }, want: "1 1 2"},
		{name: "changed from this address", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) {
			w.says(u, "ada@example.com", confirmed, false)
		}, want: "0 0 0"},
		{name: "in capitals", user: "ada@example.com", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) {
			w.says(u, "BUYER@EXAMPLE.COM", confirmed, false)
		}, want: "0 0 0"},
		{name: "a filter that is not heeded", user: "ada@example.com", do: func(_ *testing.T, w *site, _ fakesupabase.User, _ []string) {
			w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == "GET" && r.URL.Path == "/v1/customers" {
					_, _ = fmt.Fprintf(rw, `{"object":"list","data":[{"id":%q,"object":"customer","email":%q,"metadata":{}}]}`, w.stripe.Customers()[0].ID, buyer)
				}
				return r.Method == "GET" && r.URL.Path == "/v1/customers"
			})
		}, want: "0 0 0"},
		{name: "marked as another user's", do: func(t *testing.T, w *site, _ fakesupabase.User, _ []string) {
			for _, c := range w.stripe.Customers() {
				stripePost(t, w, "/v1/customers/"+c.ID, "metadata[supabase_user_id]=99999999-9999-4999-8999-999999999999")
			}
		}, want: "0 0 0"},
		{name: "in another user's row", do: func(_ *testing.T, w *site, _ fakesupabase.User, _ []string) {
			for i, c := range w.stripe.Customers() {
				w.supabase.Insert("customers", map[string]any{"id": fmt.Sprintf("99999999-9999-4999-8999-99999999999%d", i), "stripe_customer_id": c.ID})
			}
		}, want: "0 0 0"},
		{name: "marked as the user's, in another user's row", do: func(t *testing.T, w *site, u fakesupabase.User, _ []string) {
			for i, c := range w.stripe.Customers() {
				stripePost(t, w, "/v1/customers/"+c.ID, "metadata[supabase_user_id]="+u.ID)
				w.supabase.Insert("customers", map[string]any{"id": fmt.Sprintf("99999999-9999-4999-8999-99999999999%d", i), "stripe_customer_id": c.ID})
			}
		}, want: "0 0 2"}, // the marks that were made by hand
		{name: "deleted at Stripe", do: func(_ *testing.T, w *site, _ fakesupabase.User, _ []string) {
			for _, c := range w.stripe.Customers() {
				w.stripe.DeleteCustomer(c.ID)
			}
		}, want: "0 0 0"},
		{name: "the user has a Customer", do: func(_ *testing.T, w *site, _ fakesupabase.User, session []string) { w.pay(buyOnce, session...) }, want: "1 2 3"},
		{name: "the user's row names none", do: func(_ *testing.T, w *site, u fakesupabase.User, _ []string) {
			w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": nil})
		}, want: "1 1 2"},
		{name: "off", do: func(*testing.T, *site, fakesupabase.User, []string) {}, want: "0 0 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			with := claiming
			if test.name == "off" {
				with = recording
			}
			w := start(t, with)
			w.pay(buyOnce)
			w.pay(buyPro)
			email := test.user
			if email == "" {
				email = buyer
			}
			u, session := w.signUp(email)
			if test.do != nil {
				test.do(t, w, u, session)
			}
			var got bought
			for range 2 { // again, nothing changes
				got = w.sync(session...)
			}
			customers, newest := 0, ""
			for _, c := range w.stripe.Customers() {
				if c.Metadata["supabase_user_id"] == u.ID && !c.Deleted {
					customers++
					newest = c.ID
				}
			}
			if state := fmt.Sprint(len(got.Subscriptions), len(got.Purchases), customers); state != test.want {
				t.Errorf("subscriptions, purchases, Customers = %s; want %s", state, test.want)
			}
			if customers == 2 && len(got.Purchases) > 0 { // none of the user's own before: the portal opens the newest
				if own := w.customerOf(u.ID); own != newest {
					t.Errorf("the user's Customer = %v; want the newest, %s", own, newest)
				}
				if got := w.portal(openPortal, session...); got.status != 200 {
					t.Errorf("create-portal = %d %s; want 200", got.status, got.body)
				}
			}
			if test.name == "off" && len(w.stripe.CallsTo("GET", "/v1/customers")) != 0 {
				t.Error("Stripe was asked for Customers by their address; want nobody matched by e-mail")
			}
		})
	}
}

// TestClaimOthersWithin: what the metadata say is another user's stays so, though the
// Customer that it was bought as is claimed.
func TestClaimOthersWithin(t *testing.T) {
	t.Parallel()
	w := start(t, claiming)
	ada, session := w.signUp("ada@example.com")
	w.pay(buyPro, session...)
	theirs := w.stripe.Subscriptions()[0]
	w.pay(buyOnce)
	guest := w.stripe.Customers()[1].ID
	w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		list := r.URL.Path == "/v1/subscriptions" && r.URL.Query().Get("customer") == guest
		if list {
			_, _ = fmt.Fprintf(rw, `{"object":"list","data":[{"id":%q,"object":"subscription","customer":%q,"status":"active","created":1700000000,"metadata":{"supabase_user_id":%q}}]}`, theirs.ID, guest, ada.ID)
		}
		return list
	})
	_, claimant := w.signUp(buyer)
	if got := w.sync(claimant...); len(got.Subscriptions) != 0 || len(got.Purchases) != 1 {
		t.Errorf("sync = %v; want the guest's purchase, and not the subscription of another user", got)
	}
	if rows := w.supabase.Rows("subscriptions"); len(rows) != 1 || rows[0]["user_id"] != ada.ID {
		t.Errorf("subscriptions = %v; want one, of %s", rows, ada.ID)
	}
}

// TestClaimAtOnce: of two users who have the same address confirmed, by whatever
// accident, and come at once, one gets the Customer.
func TestClaimAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, claiming)
	w.pay(buyOnce)
	ada, _ := w.signUp("ada@example.com")
	eve, _ := w.signUp("eve@example.com")
	users := map[string]string{}
	for _, u := range []fakesupabase.User{ada, eve} {
		users[w.supabase.SignIn(u.ID).AccessToken] = u.ID
	}
	var listed sync.WaitGroup
	var marking atomic.Int32
	listed.Add(2)
	w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		id := users[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		if r.URL.Path == "/auth/v1/user" {
			_, _ = fmt.Fprintf(rw, `{"id":%q,"email":%q,"email_confirmed_at":"2026-11-01T00:00:00Z"}`, id, buyer)
		}
		return r.URL.Path == "/auth/v1/user"
	})
	// Neither marks the Customer before both have seen that it is nobody's.
	w.stripe.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" && strings.HasPrefix(r.URL.Path, "/v1/customers/") && marking.Add(1) <= 2 { // not when it is tried again
			listed.Done()
			listed.Wait()
		}
		return false
	})
	var both sync.WaitGroup
	var mu sync.Mutex
	var purchases []int
	for token := range users {
		both.Go(func() {
			got := w.sync("Authorization", "Bearer "+token)
			mu.Lock()
			defer mu.Unlock()
			purchases = append(purchases, len(got.Purchases))
		})
	}
	both.Wait()
	if len(purchases) != 2 || purchases[0]+purchases[1] != 1 || len(w.supabase.Rows("customers")) != 1 {
		t.Errorf("purchases = %v, rows = %v; want one user's", purchases, w.supabase.Rows("customers"))
	}
}

// TestClaimOtherMode: a user whose own Customer is the other mode's is told, and the
// row stays.
func TestClaimOtherMode(t *testing.T) {
	t.Parallel()
	w := start(t, claiming)
	w.pay(buyOnce)
	u, session := w.signUp(buyer)
	w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_live"})
	w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		other := r.URL.Query().Get("customer") == "cus_live"
		if other {
			rw.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(rw, `{"error":{"type":"invalid_request_error","code":"resource_missing","param":"customer","message":"No such customer: 'cus_live'; a similar object exists in live mode, but a test mode key was used to make this request."}}`)
		}
		return other
	})
	got := w.do("POST", syncPath, "", session...)
	if got.status != 500 || got.field("error") != "Billing is not set up correctly. Please contact the site." || w.customerOf(u.ID) != "cus_live" {
		t.Errorf("sync = %d %s, Customer %v; want 500 and cus_live", got.status, got.body, w.customerOf(u.ID))
	}
}
