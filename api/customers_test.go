package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

const (
	sessionsPath  = "/v1/checkout/sessions"
	customersPath = "/v1/customers"
	tablePath     = "/rest/v1/customers"

	billingUnchecked = "Your billing account could not be checked. Please try again."
)

// customerOf returns what the customers table says of a user.
func (w *site) customerOf(userID string) any {
	for _, row := range w.supabase.Rows("customers") {
		if row["id"] == userID {
			return row["stripe_customer_id"]
		}
	}
	return nil
}

// customersSold returns the Customer of each Checkout Session, oldest first.
func (w *site) customersSold() []string {
	var ids []string
	for _, s := range w.stripe.CheckoutSessions() {
		ids = append(ids, s.Customer)
	}
	return ids
}

// TestCallsMade counts what each kind of request costs, the key set being there.
func TestCallsMade(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, session := w.signUp("ada@example.com")
	w.portal(`{}`, session...) // brings in the key set
	tests := []struct {
		name    string
		request func() answer
		want    []string
	}{
		{"guest", func() answer { return w.checkout(buyOnce) }, []string{"POST " + sessionsPath}},
		{"first checkout", func() answer { return w.checkout(buyOnce, session...) },
			[]string{"GET " + tablePath, "POST " + customersPath, "POST " + tablePath, "POST " + sessionsPath}},
		{"later checkout", func() answer { return w.checkout(buyPro, session...) }, []string{"GET " + tablePath, "POST " + sessionsPath}},
		{"portal", func() answer { return w.portal(openPortal, session...) },
			[]string{"GET " + tablePath, "GET /auth/v1/user", "POST /v1/billing_portal/sessions"}},
	}
	for _, test := range tests {
		w.stripe.ForgetCalls()
		w.supabase.ForgetCalls()
		if got := test.request(); got.status != 200 {
			t.Errorf("%s = %d %s; want 200", test.name, got.status, got.body)
		}
		var calls []string
		for _, c := range append(w.supabase.Calls(), w.stripe.Calls()...) {
			calls = append(calls, c.Method+" "+c.Path)
		}
		if !slices.Equal(sorted(calls), sorted(test.want)) {
			t.Errorf("%s: calls = %v; want %v", test.name, calls, test.want)
		}
	}
}

// TestCustomerCreated: the Customer says whose it is, and stays the user's one.
func TestCustomerCreated(t *testing.T) {
	t.Parallel()
	w := start(t)
	u, session := w.signUp("ada@example.com")
	for _, body := range []string{buyPro, buyOnce} {
		if got := w.checkout(body, session...); got.status != 200 {
			t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
		}
	}
	customers := w.stripe.Customers()
	if len(customers) != 1 || customers[0].Email != u.Email || !maps.Equal(customers[0].Metadata, map[string]string{"supabase_user_id": u.ID}) {
		t.Fatalf("Customers = %+v; want one with %s and the user's ID", customers, u.Email)
	}
	id := customers[0].ID
	if got := w.customerOf(u.ID); got != id {
		t.Errorf("customers row = %v; want %s", got, id)
	}
	if got := w.customersSold(); !slices.Equal(got, []string{id, id}) {
		t.Errorf("Checkout Sessions were for %v; want %s twice", got, id)
	}
	if got := w.portal(openPortal, session...); got.status != 200 || w.stripe.PortalSessions()[0].Customer != id {
		t.Errorf("create-portal = %d %s; want the portal of %s", got.status, got.body, id)
	}
}

// TestSameEmail: two users with one address are two people to Stripe, and a
// guest with it is neither.
func TestSameEmail(t *testing.T) {
	t.Parallel()
	w := start(t)
	var sessions [][]string
	for range 2 {
		u := w.supabase.SignUp(fmt.Sprint(len(sessions), "@example.com"), "correct horse battery staple")
		claims := w.supabase.Claims(u.ID)
		claims["email"] = "shared@example.com"
		sessions = append(sessions, bearer(w.supabase.Sign(claims)))
	}
	w.checkout(buyOnce, sessions[0]...)
	w.checkout(buyOnce, sessions[1]...)
	w.checkout(buyOnce)
	sold := w.customersSold()
	if len(sold) != 3 || sold[0] == sold[1] || sold[0] == "" || sold[1] == "" || sold[2] != "" {
		t.Errorf("Checkout Sessions were for %q; want two Customers and a guest", sold)
	}
}

// TestTables: a table of the site's own serves, and a row without a Customer
// counts as none.
func TestTables(t *testing.T) {
	t.Parallel()
	profiles := []fakesupabase.Table{{
		Name: "profiles",
		Columns: []fakesupabase.Column{{Name: "id", Type: "uuid"}, {Name: "customer_id", Type: "text"},
			{Name: "full_name", Type: "text", NotNull: true}},
		Unique: [][]string{{"id"}, {"customer_id"}},
	}}
	useProfiles := func(s *settings) {
		s.supabase.Tables = profiles
		s.customers.Table, s.customers.CustomerColumn = "profiles", "customer_id"
	}
	legacy := func(s *settings) {
		const secret = "a-legacy-secret-of-32-characters"
		s.supabase.JWTSecret = secret
		s.supabase.AnonKey, s.supabase.ServiceRoleKey = fakesupabase.LegacyKeys(secret)
		s.auth.AnonKey, s.customers.ServiceRoleKey = upstream.NewSecret(s.supabase.AnonKey), upstream.NewSecret(s.supabase.ServiceRoleKey)
		s.auth.JWTSecret = upstream.NewSecret(secret)
	}
	tests := []struct {
		name   string
		change func(*settings)
		row    map[string]any // nil for no row
		table  string
		column string
		status int
	}{
		{"customers, no row", func(*settings) {}, nil, "customers", "stripe_customer_id", 200},
		{"customers, null", func(*settings) {}, map[string]any{"stripe_customer_id": nil}, "customers", "stripe_customer_id", 200},
		{"customers, empty text", func(*settings) {}, map[string]any{"stripe_customer_id": ""}, "customers", "stripe_customer_id", 200},
		{"profiles, null", useProfiles, map[string]any{"full_name": "Ada"}, "profiles", "customer_id", 200},
		// A profile is not this service's to invent: full_name is missing.
		{"profiles, no row", useProfiles, nil, "profiles", "", 503},
		{"legacy keys", legacy, nil, "customers", "stripe_customer_id", 200},
		{"wrong service role key", func(s *settings) { s.customers.ServiceRoleKey = upstream.NewSecret(fakesupabase.AnonKey) }, nil, "customers", "", 503},
		{"no such table", func(s *settings) { s.customers.Table = "nothing" }, nil, "customers", "", 503},
		{"no such column", func(s *settings) { s.customers.CustomerColumn = "nothing" }, nil, "customers", "", 503},
		{"user column not unique", func(s *settings) {
			s.supabase.Tables = []fakesupabase.Table{{Name: "customers", Unique: [][]string{{"n"}},
				Columns: []fakesupabase.Column{{Name: "n", Type: "int", Default: func() any { return rand.Int64() }}, {Name: "id", Type: "uuid"}, {Name: "stripe_customer_id", Type: "text"}}}}
		}, nil, "customers", "", 503},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, test.change)
			u, session := w.signUp("ada@example.com")
			if test.row != nil {
				test.row["id"] = u.ID
				w.supabase.Insert(test.table, test.row)
			}
			got := w.checkout(buyOnce, session...)
			if got.status != test.status {
				t.Fatalf("create-checkout = %d %s; want %d\n%s", got.status, got.body, test.status, w.logs)
			}
			if test.status == 503 {
				if got.field("error") != billingUnchecked || got.header.Get("Retry-After") == "" || len(w.stripe.CheckoutSessions()) != 0 {
					t.Errorf("create-checkout = %s %v with %d Checkout Sessions; want %q, Retry-After and none",
						got.body, got.header, len(w.stripe.CheckoutSessions()), billingUnchecked)
				}
				return
			}
			rows, customers := w.supabase.Rows(test.table), w.stripe.Customers()
			if len(rows) != 1 || len(customers) != 1 || rows[0][test.column] != customers[0].ID || rows[0]["id"] != u.ID {
				t.Errorf("rows = %v, Customers = %v; want one of each, the Customer in the row", rows, customers)
			}
			if sold := w.customersSold(); sold[0] != customers[0].ID {
				t.Errorf("Checkout Session is for %s; want %s", sold[0], customers[0].ID)
			}
		})
	}
}

// TestCustomerGone: a Customer that Stripe no longer has is replaced at
// checkout, once, and at the portal it is no Customer.
func TestCustomerGone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		lose func(w *site, u fakesupabase.User, session []string)
	}{
		{"deleted", func(w *site, u fakesupabase.User, session []string) {
			w.checkout(buyOnce, session...)
			w.stripe.DeleteCustomer(w.stripe.Customers()[0].ID)
		}},
		{"of another account or mode", func(w *site, u fakesupabase.User, _ []string) {
			w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_live"})
		}},
	}
	for _, test := range tests {
		for _, oneSubscription := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/one subscription %t", test.name, oneSubscription), func(t *testing.T) {
				t.Parallel()
				w := start(t, func(s *settings) { s.billing.OneSubscription = oneSubscription })
				u, session := w.signUp("ada@example.com")
				test.lose(w, u, session)
				gone := w.customerOf(u.ID)

				got := w.portal(openPortal, session...)
				if got.status != 400 || got.field("error") != "You don't have a billing account yet. Make a purchase first." {
					t.Errorf("create-portal = %d %s; want 400 and the contract's text", got.status, got.body)
				}
				for range 2 {
					if got := w.checkout(buyPro, session...); got.status != 200 {
						t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
					}
				}
				var living []string
				for _, c := range w.stripe.Customers() {
					if !c.Deleted {
						living = append(living, c.ID)
					}
				}
				if now := w.customerOf(u.ID); len(living) != 1 || now != living[0] || now == gone {
					t.Errorf("row = %v, living Customers = %v; want one new Customer in the row", now, living)
				}
				if got := w.portal(openPortal, session...); got.status != 200 {
					t.Errorf("create-portal afterwards = %d %s; want 200", got.status, got.body)
				}
			})
		}
	}
}

// TestReplacementGone: the new Customer of a user whose record could not be
// written is given again by its idempotency key, even if it is gone by then.
func TestReplacementGone(t *testing.T) {
	t.Parallel()
	w := start(t)
	u, session := w.signUp("ada@example.com")
	w.checkout(buyOnce, session...)
	w.stripe.DeleteCustomer(w.stripe.Customers()[0].ID)
	w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		lost := r.Method == "PATCH" && r.URL.Path == tablePath
		if lost {
			rw.WriteHeader(http.StatusBadGateway)
		}
		return lost
	})
	if got := w.checkout(buyOnce, session...); got.status != 503 {
		t.Fatalf("create-checkout without a record = %d %s; want 503", got.status, got.body)
	}
	w.supabase.Intercept(nil)
	w.stripe.DeleteCustomer(w.stripe.Customers()[1].ID)
	got := w.checkout(buyOnce, session...)
	customers, rows := w.stripe.Customers(), w.supabase.Rows("customers")
	if got.status != 200 || len(customers) != 3 || customers[2].Deleted || customers[2].Metadata["supabase_user_id"] != u.ID || rows[0]["stripe_customer_id"] != customers[2].ID {
		t.Errorf("create-checkout = %d %s, Customers %+v, rows %v; want 200 and the third Customer recorded", got.status, got.body, customers, rows)
	}
}

// TestCustomerGoneElsewhere: while a gone Customer is being replaced, another
// replica has already done so; its row stands and is used.
func TestCustomerGoneElsewhere(t *testing.T) {
	t.Parallel()
	w := start(t)
	u, session := w.signUp("ada@example.com")
	w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_gone"})
	var theirs string
	w.supabase.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PATCH" {
			w.supabase.Intercept(nil)
			theirs = createCustomer(t, w)
			patch(t, w, u.ID, theirs)
		}
		return false
	})
	if got := w.checkout(buyOnce, session...); got.status != 200 {
		t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
	}
	if row, sold := w.customerOf(u.ID), w.customersSold(); theirs == "" || row != theirs || sold[len(sold)-1] != theirs {
		t.Errorf("row = %v, sold to %v; want the other replica's %s in both", row, sold, theirs)
	}
}

// TestTwoUsersNeverShare runs checkouts of several users in random order and at
// once, with answers lost and Customers deleted on the way.
func TestTwoUsersNeverShare(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := start(t)
	var users []fakesupabase.User
	var sessions [][]string
	for i := range 6 {
		u, s := w.signUp(fmt.Sprintf("user%d@example.com", i))
		users, sessions = append(users, u), append(sessions, s)
	}
	var mu sync.Mutex
	w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		lost := strings.HasPrefix(r.URL.Path, "/rest/") && random.IntN(5) == 0
		mu.Unlock()
		if lost {
			rw.WriteHeader(http.StatusBadGateway)
		}
		return lost
	})
	for range 10 {
		var wg sync.WaitGroup
		for range 12 {
			mu.Lock()
			i := random.IntN(len(users))
			mu.Unlock()
			wg.Go(func() {
				if got := w.checkout(buyOnce, sessions[i]...); got.status != 200 && got.field("error") != billingUnchecked {
					t.Errorf("create-checkout = %d %s; want 200 or %q", got.status, got.body, billingUnchecked)
				}
			})
		}
		wg.Wait()
		if customers := w.stripe.Customers(); len(customers) > 0 && random.IntN(2) == 0 {
			if c := customers[random.IntN(len(customers))]; !c.Deleted {
				w.stripe.DeleteCustomer(c.ID)
			}
		}
	}
	owner := map[string]string{}
	for _, c := range w.stripe.Customers() {
		owner[c.ID] = c.Metadata["supabase_user_id"]
	}
	for _, row := range w.supabase.Rows("customers") {
		if id, _ := row["stripe_customer_id"].(string); owner[id] != row["id"] {
			t.Errorf("row of %v names %s, which was made for %s", row["id"], id, owner[id])
		}
	}
	for _, s := range w.stripe.CheckoutSessions() {
		if user := s.Params.Get("client_reference_id"); owner[s.Customer] != user || s.Params.Get("metadata[supabase_user_id]") != user {
			t.Errorf("Checkout Session of user %s is for %s, the Customer of %s", user, s.Customer, owner[s.Customer])
		}
	}
	if len(w.stripe.CheckoutSessions()) == 0 {
		t.Error("no Checkout Session was made; want some")
	}
}

// TestCustomersTableDown: no answer from the table is never "no Customer".
func TestCustomersTableDown(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the caller go
		<-r.Context().Done()
	}
	tests := []struct {
		name    string
		methods string // which calls to the table fail
		fail    http.HandlerFunc
	}{
		{"down when read", "GET", stripeSays(503, `{"message":"no connection to the server"}`)},
		{"down when written", "POST", stripeSays(503, `{"message":"no connection to the server"}`)},
		{"HTML", "GET", stripeSays(502, `<html>Bad gateway</html>`)},
		{"HTML for success", "GET", stripeSays(200, `<html>Welcome</html>`)},
		{"an object for rows", "GET", stripeSays(200, `{}`)},
		{"not JSON", "POST", stripeSays(201, `[{`)},
		{"a redirect", "GET", func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/elsewhere", http.StatusFound) }},
		{"hangs when read", "GET", hang},
		{"hangs when written", "POST", hang},
		{"foreign key: the user is gone", "POST", stripeSays(409, `{"code":"23503","message":"violates foreign key constraint"}`)},
		{"the Customer is another user's", "POST", stripeSays(409, `{"code":"23505","message":"duplicate key value violates unique constraint"}`)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(s *settings) {
				if strings.HasPrefix(test.name, "hangs") {
					s.api.UpstreamTimeout = 2 * time.Second
				}
			})
			_, session := w.signUp("ada@example.com")
			w.portal(`{}`, session...)
			w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/rest/") || !strings.Contains(test.methods, r.Method) {
					return false
				}
				test.fail(rw, r)
				return true
			})
			got := w.checkout(buyOnce, session...)
			if got.status != 503 || got.field("error") != billingUnchecked || got.header.Get("Retry-After") == "" {
				t.Errorf("create-checkout = %d %s %v; want 503 %q with Retry-After", got.status, got.body, got.header, billingUnchecked)
			}
			if test.methods == "GET" {
				if got := w.portal(openPortal, session...); got.status != 503 || got.field("error") != billingUnchecked {
					t.Errorf("create-portal = %d %s; want 503 %q", got.status, got.body, billingUnchecked)
				}
			}
			if n := len(w.stripe.CheckoutSessions()); n != 0 {
				t.Errorf("Checkout Sessions = %d; want 0", n)
			}
			if calls := w.supabase.CallsTo("", "/elsewhere"); len(calls) != 0 {
				t.Errorf("the redirect was followed with %v; want the service role key kept back", calls[0].Header)
			}
		})
	}
}

// TestOneSubscription: who has a live subscription gets the portal.
func TestOneSubscription(t *testing.T) {
	t.Parallel()
	for status, portal := range map[string]bool{
		"active": true, "trialing": true, "past_due": true,
		"canceled": false, "unpaid": false, "incomplete": false, "incomplete_expired": false, "paused": false, "": false,
	} {
		t.Run("status "+status, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(s *settings) { s.billing.OneSubscription = true })
			_, session := w.signUp("ada@example.com")
			w.checkout(buyOnce, session...)
			if status != "" {
				w.stripe.AddSubscription(w.stripe.Customers()[0].ID, "price_basic_monthly", status)
			}
			got := w.checkout(buyPro, session...)
			opened := w.stripe.PortalSessions()
			if got.status != 200 || (len(opened) == 1) != portal {
				t.Fatalf("create-checkout = %d %s with %d portal sessions; want the portal: %t", got.status, got.body, len(opened), portal)
			}
			if portal {
				form := w.stripe.CallsTo("POST", "/v1/billing_portal/sessions")[0].Form
				if got.field("url") != opened[0].URL || form.Get("return_url") != "https://8space.app/cancel" {
					t.Errorf("create-checkout = %s returning to %s; want %s returning to cancelUrl", got.body, form.Get("return_url"), opened[0].URL)
				}
			}
			before := len(w.stripe.CheckoutSessions())
			if got := w.checkout(buyOnce, session...); got.status != 200 || len(w.stripe.CheckoutSessions()) != before+1 {
				t.Errorf("create-checkout for a payment = %d %s; want a Checkout Session", got.status, got.body)
			}
			if got := w.checkout(buyPro); got.status != 200 || len(w.stripe.CheckoutSessions()) != before+2 {
				t.Errorf("create-checkout as a guest = %d %s; want a Checkout Session", got.status, got.body)
			}
		})
	}
}

// TestOneSubscriptionConfirms: the portal that a subscriber gets instead of a
// second subscription opens for no session that Supabase refuses.
func TestOneSubscriptionConfirms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		refuse func(w *site, u fakesupabase.User)
		status int
		guest  bool
	}{
		{"signed out", func(w *site, u fakesupabase.User) { w.supabase.SignOut(u.ID) }, 200, true},
		{"banned", func(w *site, u fakesupabase.User) { w.supabase.Ban(u.ID) }, 200, true},
		{"Supabase down", func(w *site, _ fakesupabase.User) {
			w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				down := strings.HasPrefix(r.URL.Path, "/auth/")
				if down {
					rw.WriteHeader(http.StatusBadGateway)
				}
				return down
			})
		}, 503, false},
	}
	for _, test := range tests {
		w := start(t, func(s *settings) { s.billing.OneSubscription = true })
		u, session := w.signUp("ada@example.com")
		w.checkout(buyOnce, session...)
		w.stripe.AddSubscription(w.stripe.Customers()[0].ID, "price_basic_monthly", "active")
		test.refuse(w, u)
		got := w.checkout(buyPro, session...)
		if got.status != test.status || len(w.stripe.PortalSessions()) != 0 {
			t.Errorf("%s: create-checkout = %d %s with %d portal sessions; want %d and none", test.name, got.status, got.body, len(w.stripe.PortalSessions()), test.status)
		}
		if sold := w.customersSold(); (len(sold) == 2 && sold[1] == "") != test.guest {
			t.Errorf("%s: Checkout Sessions were for %q; want a guest's: %t", test.name, sold, test.guest)
		}
	}
}

// TestIdempotencyKeyInFlight: a second click while Stripe is slow.
func TestIdempotencyKeyInFlight(t *testing.T) {
	t.Parallel()
	arrived, refused, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var executing, calls atomic.Int32
	w := start(t, func(s *settings) {
		s.stripe.Executing = func(*http.Request) {
			if executing.Add(1) == 1 {
				close(arrived)
				<-release
			}
		}
	})
	w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool {
		if calls.Add(1) == 5 { // after the three that stripe-go makes itself
			close(refused)
		}
		return false
	})
	first := make(chan answer)
	go func() { first <- w.checkout(buyOnce, "Idempotency-Key", "k", "X-Forwarded-For", "192.0.2.1") }()
	<-arrived
	second := make(chan answer)
	go func() { second <- w.checkout(buyOnce, "Idempotency-Key", "k", "X-Forwarded-For", "192.0.2.1") }()
	<-refused
	close(release)
	a, b := <-first, <-second
	if a.status != 200 || b.status != 200 || a.field("url") != b.field("url") {
		t.Errorf("two clicks = %d %s, %d %s; want one Checkout Session", a.status, a.body, b.status, b.body)
	}
}

// TestEmailThatStripeRefuses: who has one can buy all the same.
func TestEmailThatStripeRefuses(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, session := w.signUp("ada@example.com")
	w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != customersPath || r.FormValue("email") == "" {
			return false
		}
		stripeSays(400, `{"error":{"type":"invalid_request_error","code":"email_invalid","param":"email","message":"Invalid email address: ada@example.com"}}`)(rw, r)
		return true
	})
	got := w.checkout(buyOnce, session...)
	if customers := w.stripe.Customers(); got.status != 200 || len(customers) != 1 || customers[0].Email != "" {
		t.Errorf("create-checkout = %d %s, Customers %v; want 200 and one without an e-mail address", got.status, got.body, customers)
	}
}

// TestIdempotencyKey: the same key from the same caller is the same Checkout
// Session; callers are users, and guests by address.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, ada := w.signUp("ada@example.com")
	_, eve := w.signUp("eve@example.com")
	key := []string{"Idempotency-Key", "k1"}
	from := func(address string) []string { return append([]string{"X-Forwarded-For", address}, key...) }
	url := func(headers ...string) string {
		t.Helper()
		got := w.checkout(buyOnce, headers...)
		if got.status != 200 {
			t.Fatalf("create-checkout with %q = %d %s; want 200", headers, got.status, got.body)
		}
		return got.field("url")
	}
	adas := url(append(ada, key...)...)
	same := map[string][2]string{
		"a user's":            {adas, url(append(ada, key...)...)},
		"a guest's":           {url(from("203.0.113.1")...), url(from("203.0.113.1")...)},
		"behind an invention": {url(from("203.0.113.1")...), url(from("198.51.100.9, 203.0.113.1")...)},
	}
	for name, urls := range same {
		if urls[0] != urls[1] {
			t.Errorf("%s key twice = %s, %s; want the same Checkout Session", name, urls[0], urls[1])
		}
	}
	different := map[string][2]string{
		"two users": {adas, url(append(eve, key...)...)},
		// Behind a proxy that does not tell, everybody would be one guest.
		"guests unknown":  {url(key...), url(key...)},
		"user and guest":  {adas, url(key...)},
		"two guests":      {url(from("203.0.113.1")...), url(from("203.0.113.2")...)},
		"two keys":        {adas, url(append(ada, "Idempotency-Key", "k2")...)},
		"no key at all":   {url(ada...), url(ada...)},
		"guests, no key":  {url("X-Forwarded-For", "203.0.113.1"), url("X-Forwarded-For", "203.0.113.1")},
		"an empty header": {url(append(ada, "Idempotency-Key", "")...), url(append(ada, "Idempotency-Key", "")...)},
	}
	for name, urls := range different {
		if urls[0] == urls[1] {
			t.Errorf("%s = %s twice; want two Checkout Sessions", name, urls[0])
		}
	}
	got := w.checkout(buyPro, append(ada, key...)...)
	if want := "This Idempotency-Key was used before with another request. Use a new one."; got.status != 500 || got.field("error") != want {
		t.Errorf("create-checkout of something else with the same key = %d %s; want 500 %q", got.status, got.body, want)
	}
	if url(append(ada, "Idempotency-Key", strings.Repeat("long", 500))...) == adas {
		t.Error("a long key = the Checkout Session of another key; want its own")
	}
	// Stripe keeps the refusal of a gone Customer under the key it was sent with.
	u, bob := w.signUp("bob@example.com")
	w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_gone"})
	if first := url(append(bob, key...)...); first != url(append(bob, key...)...) {
		t.Error("a key used while the Customer was replaced = two Checkout Sessions; want one")
	}
}

// createCustomer has another program create a Customer.
func createCustomer(t *testing.T, w *site) string {
	t.Helper()
	r := httptest.NewRequest("POST", customersPath, strings.NewReader(""))
	r.Header.Set("Authorization", "Bearer "+secretKey)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.stripe.ServeHTTP(rec, r)
	var c struct{ ID string }
	if err := json.Unmarshal(rec.Body.Bytes(), &c); err != nil || c.ID == "" {
		t.Errorf("creating a Customer = %d %s; want an id", rec.Code, rec.Body)
	}
	return c.ID
}

// patch has another program write a user's row.
func patch(t *testing.T, w *site, userID, customerID string) {
	t.Helper()
	r := httptest.NewRequest("PATCH", tablePath+"?id=eq."+userID, strings.NewReader(`{"stripe_customer_id":"`+customerID+`"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("apikey", fakesupabase.ServiceRoleKey)
	rec := httptest.NewRecorder()
	w.supabase.ServeHTTP(rec, r)
	if rec.Code >= 300 {
		t.Errorf("PATCH %s = %d %s; want success", tablePath, rec.Code, rec.Body)
	}
}

// TestSavedFailure: a failure of Stripe's own while a user's Customer was
// created is answered again under its key for a day; the user can buy all the
// same, as one Customer.
func TestSavedFailure(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, session := w.signUp("ada@example.com")
	w.stripe.Fail(func(r *http.Request) bool { return r.URL.Path == customersPath })
	for range 2 { // the second is replayed, and fails under the key that follows
		if got := w.checkout(buyOnce, session...); got.status != 500 {
			t.Fatalf("create-checkout while Stripe fails = %d %s; want 500", got.status, got.body)
		}
	}
	w.stripe.Fail(nil)
	for range 3 {
		if got := w.checkout(buyOnce, session...); got.status != 200 {
			t.Errorf("create-checkout after the failure = %d %s; want 200", got.status, got.body)
		}
	}
	if n := len(w.stripe.Customers()); n != 1 {
		t.Errorf("Customers = %d; want 1", n)
	}
}

// TestUserUnknown: a token outlives its user by up to an hour. The database
// refuses the row, Supabase Auth tells whether the user was deleted, and no
// Customer is left behind either way.
func TestUserUnknown(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{true, false} {
		w := start(t)
		u := w.supabase.SignUp("ada@example.com", "correct horse battery staple")
		cookie := cookieName + "=base64-" + base64URL(w.supabase.SignIn(u.ID).JSON)
		if deleted {
			w.supabase.DeleteUser(u.ID)
		}
		w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != "POST" || r.URL.Path != tablePath {
				return false
			}
			rw.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(rw, `{"code":"23503","message":"violates foreign key constraint"}`)
			return true
		})
		got := w.checkout(buyOnce, "Cookie", cookie)
		cleared := strings.Contains(got.header.Get("Set-Cookie"), "Max-Age=0")
		if want := map[bool]int{true: 200, false: 503}[deleted]; got.status != want || cleared != deleted {
			t.Errorf("deleted %t: create-checkout = %d %s, Set-Cookie %q; want %d, cleared: %t", deleted, got.status, got.body, got.header["Set-Cookie"], want, deleted)
		}
		if sold := w.customersSold(); deleted && (len(sold) != 1 || sold[0] != "") {
			t.Errorf("deleted: Checkout Sessions were for %q; want one for a guest", sold)
		}
		for _, c := range w.stripe.Customers() {
			if !c.Deleted {
				t.Errorf("deleted %t: Customer %s is left; want none", deleted, c.ID)
			}
		}
		line := w.logs.lines(t)[0]
		if id := line["user_id"]; deleted && id != nil {
			t.Errorf("user_id in the log = %v; want none for a guest", id)
		}
		const want = "the user is not in the database: customers unavailable: "
		if err := fmt.Sprint(line["err"]); !deleted && (!strings.HasPrefix(err, want) || strings.Count(err, "unavailable") > 1) {
			t.Errorf("err in the log = %s; want %s… and each cause once", err, want)
		}
	}
}

// TestTooManyCookies: a session among cookies that are not read is not a guest.
func TestTooManyCookies(t *testing.T) {
	t.Parallel()
	w := start(t)
	got := w.checkout(buyOnce, "Cookie", "x="+strings.Repeat("x", 64<<10))
	if want := "The cookies are larger than 64 KiB"; got.status != 431 || got.field("error") != want {
		t.Errorf("create-checkout = %d %s; want 431 %q", got.status, got.body, want)
	}
}

// TestDeletedAgainAndAgain: each Customer that was deleted within a day is given
// again by its idempotency key; the chain is followed until one lives.
func TestDeletedAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := start(t)
	u, session := w.signUp("ada@example.com")
	w.checkout(buyOnce, session...)
	first := w.stripe.Customers()[0].ID
	for n := range 6 {
		all := w.stripe.Customers()
		w.stripe.DeleteCustomer(all[len(all)-1].ID)
		// As a backup that was restored has it: the chain begins with the first.
		r := httptest.NewRequest("PATCH", tablePath+"?id=eq."+u.ID, strings.NewReader(`{"stripe_customer_id":"`+first+`"}`))
		r.Header.Set("apikey", fakesupabase.ServiceRoleKey)
		r.Header.Set("Authorization", "Bearer "+fakesupabase.ServiceRoleKey)
		w.supabase.ServeHTTP(httptest.NewRecorder(), r)
		if got := w.supabase.Rows("customers")[0]["stripe_customer_id"]; got != first {
			t.Fatalf("row = %v; want %s", got, first)
		}
		got := w.checkout(buyOnce, session...)
		all = w.stripe.Customers()
		if got.status != 200 || len(all) != n+2 || all[n+1].Deleted || w.supabase.Rows("customers")[0]["stripe_customer_id"] != all[n+1].ID {
			t.Errorf("create-checkout after %d deletions = %d %s, Customers %+v; want 200 and a new one recorded", n+1, got.status, got.body, all)
		}
	}
}

// TestOtherMode: a Customer that Stripe knows in the other mode is not replaced.
func TestOtherMode(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		"No such customer: 'cus_live'; a similar object exists in live mode, but a test mode key was used to make this request.",
		"No such customer: 'cus_live'; a similar object exists in test mode, but a live mode key was used to make this request.",
	} {
		w := start(t)
		u, session := w.signUp("ada@example.com")
		w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_live"})
		w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
			stripeSays(400, `{"error":{"type":"invalid_request_error","code":"resource_missing","param":"customer","message":"`+message+`"}}`)(rw, r)
			return true
		})
		for _, got := range []answer{w.checkout(buyOnce, session...), w.portal(openPortal, session...)} {
			if want := "Billing is not set up correctly. Please contact the site."; got.status != 500 || got.field("error") != want {
				t.Errorf("answer = %d %s; want 500 %q", got.status, got.body, want)
			}
		}
		for _, line := range w.logs.lines(t) {
			if err, _ := line["err"].(string); line["level"] != "ERROR" || !strings.Contains(err, "test and live were mixed up") && !strings.Contains(err, "similar object exists") {
				t.Errorf("log = %v; want an error that names the mistake", line)
			}
		}
		if rows := w.supabase.Rows("customers"); len(rows) != 1 || rows[0]["stripe_customer_id"] != "cus_live" {
			t.Errorf("customers = %v; want the row untouched", rows)
		}
		if created := w.stripe.CallsTo("POST", customersPath); len(created) != 0 {
			t.Errorf("Customers created = %d; want none", len(created))
		}
	}
}

// TestProxyThatDoesNotTell: one warning, however many requests.
func TestProxyThatDoesNotTell(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.api.RatePerMinute = 60 })
	for range 3 {
		w.checkout(buyOnce)
		w.checkout(buyOnce, "X-Forwarded-For", "203.0.113.1")
	}
	if n := strings.Count(w.logs.String(), "sends no X-Forwarded-For"); n != 1 {
		t.Errorf("warnings = %d; want 1\n%s", n, w.logs)
	}
}

// TestSubscriberOfAnotherApplication: who may not see the portal is not sold a
// second subscription as a guest either.
func TestSubscriberOfAnotherApplication(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.billing.OneSubscription = true })
	u, session := w.signUp("ada@example.com")
	w.checkout(buyOnce, session...)
	w.stripe.AddSubscription(w.stripe.Customers()[0].ID, "price_basic_monthly", "active")
	claims := w.supabase.Claims(u.ID)
	claims["client_id"] = "9a2b"
	another := bearer(w.supabase.Sign(claims))
	for _, got := range []answer{w.checkout(buyPro, another...), w.portal(openPortal, another...)} {
		if got.status != 401 || got.field("error") != "Not signed in" {
			t.Errorf("answer = %d %s; want 401 Not signed in", got.status, got.body)
		}
	}
	if sold := w.customersSold(); len(sold) != 1 {
		t.Errorf("Checkout Sessions = %q; want the first alone", sold)
	}
}
