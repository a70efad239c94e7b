package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

// shop is a site with the service's tables in a real database.
type shop struct {
	*site
	db *database
}

func startShop(t *testing.T) *shop {
	t.Helper()
	return startShopOn(t, postgres(t).install())
}

func startShopOn(t *testing.T, db *database) *shop {
	t.Helper()
	w := start(t, func(s *settings) { s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)} })
	db.Connect(t, w.supabase)
	return &shop{site: w, db: db}
}

// customer signs a user up who has a Customer already.
func (s *shop) customer(email string) (u fakesupabase.User, session []string, customerID string) {
	s.tb.Helper()
	u, session = s.signUp(email)
	s.db.AddUser(u.ID)
	if got := s.checkout(buyOnce, session...); got.status != 200 {
		s.tb.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
	}
	return u, session, s.customerOf(u.ID).(string)
}

// deliverAll delivers the Events from one on, and returns how many there are.
func (s *shop) deliverAll(from int) int {
	s.tb.Helper()
	events := s.stripe.Events()
	for _, e := range events[from:] {
		if got := s.deliver(string(e.Payload), whsec, time.Now()); got.status != 200 {
			s.tb.Errorf("webhook %s = %d %s; want 200", e.Type, got.status, got.body)
		}
	}
	return len(events)
}

// subscriptionState is what the row of a subscription must say, from Stripe.
func subscriptionState(u fakestripe.Subscription, userID string) string {
	return fmt.Sprintf("%s %s %s %s %t %d %d", u.Customer, userID, u.Status, u.Price, u.CancelAtPeriodEnd,
		u.CurrentPeriodStart.Unix(), u.CurrentPeriodEnd.Unix())
}

const subscriptionStateSQL = `select concat_ws(' ', stripe_customer_id, coalesce(user_id::text, 'null'), status, price_id, cancel_at_period_end,
	extract(epoch from current_period_start)::bigint, extract(epoch from current_period_end)::bigint) from subscriptions where id = $1`

func (s *shop) subscription(id string) string {
	s.tb.Helper()
	state := s.db.Text(subscriptionStateSQL, id)
	return strings.NewReplacer(" t ", " true ", " f ", " false ").Replace(state)
}

// TestSubscriptionEvents follows one subscription from the Checkout Session to
// its end; after each step the row says what Stripe says.
func TestSubscriptionEvents(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	u, session, _ := s.customer("ada@example.com")
	if got := s.checkout(buyPro, session...); got.status != 200 {
		t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
	}
	sessions := s.stripe.CheckoutSessions()
	seen := s.deliverAll(0)
	s.stripe.PayCheckout(sessions[len(sessions)-1].ID)
	id := s.stripe.Subscriptions()[0].ID
	steps := []struct {
		name string
		do   func()
	}{
		{"paid", func() {}},
		{"upgraded", func() { s.stripe.ChangePrice(id, "price_basic_monthly") }},
		{"cancelled at period end", func() { s.stripe.CancelAtPeriodEnd(id) }},
		{"resumed", func() { s.stripe.Resume(id) }},
		{"renewed", func() { s.stripe.Renew(id) }},
		{"payment failed", func() { s.stripe.FailPayment(id) }},
		{"ended", func() { s.stripe.CancelSubscription(id) }},
	}
	for _, step := range steps {
		step.do()
		seen = s.deliverAll(seen)
		if got, want := s.subscription(id), subscriptionState(s.stripe.Subscriptions()[0], u.ID); got != want {
			t.Errorf("%s: row = %s; want %s", step.name, got, want)
		}
	}
	if got := s.db.Text(`select count(*) from purchases where id = $1`, sessions[len(sessions)-1].ID); got != "0" {
		t.Errorf("purchases of the subscription's Checkout Session = %s; want 0", got)
	}
}

// TestPurchaseEvents: what was paid once, what became of the payment, and whose
// it is.
func TestPurchaseEvents(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	u, session, customerID := s.customer("ada@example.com")
	s.db.AddUser("11111111-1111-4111-8111-111111111111")
	const state = `select concat_ws(' ', coalesce(user_id::text, 'null'), coalesce(stripe_customer_id, 'null'), status, payment_status,
		price_id, amount_total, amount_refunded, disputed::text, currency, (line_items #- '{0,product_id}')::text,
		coalesce(email, 'null'), livemode::text, (product_id like 'prod_%' and product_id = line_items -> 0 ->> 'product_id')::text) from purchases where id = $1`
	const lineItems = `[{"price_id": "price_lifetime", "quantity": 1, "amount_total": 19900}]`
	buy := func(headers ...string) string {
		t.Helper()
		if got := s.checkout(buyOnce, headers...); got.status != 200 {
			t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
		}
		sessions := s.stripe.CheckoutSessions()
		return sessions[len(sessions)-1].ID
	}
	paymentIntent := func(id string) string { return s.db.Text("select payment_intent_id from purchases where id = $1", id) }
	seen := s.deliverAll(0)
	check := func(name, id, want string) {
		t.Helper()
		seen = s.deliverAll(seen)
		if got := s.db.Text(state, id); got != want {
			t.Errorf("%s: row = %s; want %s", name, got, want)
		}
	}
	email := "ada@example.com"
	row := func(user, customer, rest string) string {
		return user + " " + customer + " " + rest + " usd " + lineItems + " " + email + " false true"
	}

	id := buy(session...)
	s.stripe.PayCheckout(id)
	check("paid", id, row(u.ID, customerID, "complete paid price_lifetime 19900 0 false"))
	s.stripe.Refund(paymentIntent(id), 900)
	check("partly refunded", id, row(u.ID, customerID, "complete paid price_lifetime 19900 900 false"))
	s.stripe.Refund(paymentIntent(id), 19000)
	check("refunded", id, row(u.ID, customerID, "complete paid price_lifetime 19900 19900 false"))

	s.stripe.FailRefund(paymentIntent(id), 19000)
	check("refund failed", id, row(u.ID, customerID, "complete paid price_lifetime 19900 900 false"))

	id = buy(session...)
	s.stripe.PayCheckout(id)
	check("paid again", id, row(u.ID, customerID, "complete paid price_lifetime 19900 0 false"))
	disputed, stands := row(u.ID, customerID, "complete paid price_lifetime 19900 0 true"), row(u.ID, customerID, "complete paid price_lifetime 19900 0 false")
	first := s.stripe.Dispute(paymentIntent(id))
	check("disputed", id, disputed)
	s.stripe.CloseDispute(first, "won")
	check("dispute won", id, stands)
	second, third := s.stripe.Dispute(paymentIntent(id)), s.stripe.Dispute(paymentIntent(id))
	s.stripe.CloseDispute(second, "warning_closed")
	check("one of two disputes open", id, disputed)
	s.stripe.CloseDispute(third, "warning_closed")
	check("inquiries closed", id, stands)
	s.stripe.CloseDispute(s.stripe.Dispute(paymentIntent(id)), "lost")
	check("dispute lost", id, disputed)
	s.stripe.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/disputes" {
			_, _ = io.WriteString(w, `{"object":"list","data":[]}`)
		}
		return r.URL.Path == "/v1/disputes"
	})
	if got := s.deliver(`{"id":"evt_1","type":"checkout.session.completed","data":{"object":{"id":"`+id+`"}}}`, whsec, time.Now()); got.status != 500 {
		t.Errorf("webhook without the disputes = %d %s; want 500", got.status, got.body)
	}
	s.stripe.Intercept(nil)

	id = buy(session...)
	s.stripe.PayCheckoutLater(id)
	check("paid later", id, row(u.ID, customerID, "complete unpaid price_lifetime 19900 0 false"))
	s.stripe.SettleCheckout(id, true)
	check("settled", id, row(u.ID, customerID, "complete paid price_lifetime 19900 0 false"))
	id = buy(session...)
	s.stripe.PayCheckoutLater(id)
	s.stripe.SettleCheckout(id, false)
	check("not settled", id, row(u.ID, customerID, "complete unpaid price_lifetime 19900 0 false"))

	id = buy()
	s.stripe.PayCheckout(id)
	sessions := s.stripe.CheckoutSessions()
	email = "buyer@example.com" // the imitation's
	check("a guest", id, row("null", sessions[len(sessions)-1].Customer, "complete paid price_lifetime 19900 0 false"))
}

// stripePost has somebody else call Stripe: the dashboard, or a Payment Link.
func stripePost(t *testing.T, w *site, path, form string) (id string) {
	t.Helper()
	r := httptest.NewRequest("POST", path, strings.NewReader(form))
	r.Header.Set("Authorization", "Bearer "+secretKey)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	w.stripe.ServeHTTP(rec, r)
	var object struct{ ID string }
	if err := json.Unmarshal(rec.Body.Bytes(), &object); err != nil || rec.Code != 200 {
		t.Fatalf("POST %s %s = %d %s; want 200", path, form, rec.Code, rec.Body)
	}
	return object.ID
}

// TestWhosePurchase: metadata that our checkout wrote, else the customers
// table; a client_reference_id, which buyers can set themselves, binds nothing.
func TestWhosePurchase(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	ada, _, adasCustomer := s.customer("ada@example.com")
	eve, _, _ := s.customer("eve@example.com")
	stranger := createCustomer(t, s.site)
	const pay = "mode=payment&success_url=https://a.example&line_items[0][price]=price_lifetime&line_items[0][quantity]=1"
	tests := []struct{ name, form, want string }{
		{"nothing", pay, "null"},
		{"client_reference_id only", pay + "&client_reference_id=" + ada.ID, "null"},
		{"client_reference_id of another than the customer", pay + "&client_reference_id=" + eve.ID + "&customer=" + adasCustomer, ada.ID},
		{"customer of a user", pay + "&customer=" + adasCustomer, ada.ID},
		{"customer of nobody", pay + "&customer=" + stranger, "null"},
		{"metadata", pay + "&metadata[supabase_user_id]=" + eve.ID, eve.ID},
		{"metadata before the customer", pay + "&metadata[supabase_user_id]=" + eve.ID + "&customer=" + adasCustomer, eve.ID},
		{"metadata that is no user's ID", pay + "&metadata[supabase_user_id]=ada&customer=" + adasCustomer, ada.ID},
		{"metadata of a user who is gone", pay + "&metadata[supabase_user_id]=22222222-2222-4222-8222-222222222222", "null"},
	}
	seen := s.deliverAll(0)
	for _, test := range tests {
		id := stripePost(t, s.site, sessionsPath, test.form)
		s.stripe.PayCheckout(id)
		seen = s.deliverAll(seen)
		if got := s.db.Text("select coalesce(user_id::text, 'null') from purchases where id = $1", id); got != test.want {
			t.Errorf("%s: user_id = %s; want %s", test.name, got, test.want)
		}
	}
}

// TestOtherEvents: Checkout Sessions that expire, and Customers that go.
func TestOtherEvents(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	u, session, customerID := s.customer("ada@example.com")
	expired := s.stripe.CheckoutSessions()[0].ID
	stripePost(t, s.site, sessionsPath+"/"+expired+"/expire", "")
	seen := s.deliverAll(0)
	if got := s.db.Text("select status || ' ' || payment_status from purchases where id = $1", expired); got != "expired unpaid" {
		t.Errorf("row of an expired Checkout Session = %s; want expired unpaid", got)
	}
	s.stripe.DeleteCustomer(customerID)
	s.deliverAll(seen)
	if got := s.customerOf(u.ID); got != nil {
		t.Errorf("row of a deleted Customer = %v; want null", got)
	}
	if got := s.checkout(buyOnce, session...); got.status != 200 || s.customerOf(u.ID) == nil || s.customerOf(u.ID) == customerID {
		t.Errorf("create-checkout afterwards = %d %s, row %v; want 200 and a new Customer", got.status, got.body, s.customerOf(u.ID))
	}
}

// TestNever200BeforeStored cuts the database off at each step of each kind of
// Event: the answer is 500 until the row is there.
func TestNever200BeforeStored(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	_, session, _ := s.customer("ada@example.com")
	s.deliverAll(0)
	s.checkout(buyOnce, session...)
	s.checkout(buyPro, session...)
	sessions := s.stripe.CheckoutSessions()
	for _, c := range sessions[1:] {
		s.stripe.PayCheckout(c.ID)
	}
	s.deliverAll(0)
	s.stripe.Refund(s.db.Text("select payment_intent_id from purchases where payment_intent_id is not null limit 1"), 100)
	s.stripe.FailPayment(s.stripe.Subscriptions()[0].ID)

	done := map[string]bool{}
	for _, e := range s.stripe.Events() {
		if done[e.Type] || !strings.HasPrefix(e.Type, "checkout.") && !strings.HasPrefix(e.Type, "customer.subscription") &&
			e.Type != "invoice.paid" && e.Type != "invoice.payment_failed" && e.Type != "charge.refunded" {
			continue
		}
		done[e.Type] = true
		const rows = "select (select count(*) from subscriptions) + (select count(*) from purchases)"
		for cut := 0; ; cut++ {
			s.db.Must("truncate subscriptions, purchases")
			calls := 0
			s.supabase.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if calls++; calls > cut {
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				}
				return s.db.ServeFunctions(w, r)
			})
			got := s.deliver(string(e.Payload), whsec, time.Now())
			if got.status == 200 && calls <= cut {
				if cut < 2 {
					t.Errorf("%s: stored with %d calls to the database; want a ticket and a write at least", e.Type, cut)
				}
				break
			}
			if stored := s.db.Text(rows); got.status != 500 || stored != "0" || cut > 10 {
				t.Errorf("%s, database cut off after %d calls: webhook = %d %s with %s rows; want 500 and none", e.Type, cut, got.status, got.body, stored)
				break
			}
		}
		if stored := s.db.Text(rows); stored != "1" {
			t.Errorf("%s, database back: rows = %s; want 1", e.Type, stored)
		}
	}
	if len(done) != 6 {
		t.Errorf("event types tried = %v; want 6", done)
	}
}

// TestWritesAnyOrder writes what was fetched for each of the seven Events, the
// one with the highest ticket having seen the end, in every permutation.
func TestWritesAnyOrder(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	// Each call is a subtransaction, of which many in one transaction are slow.
	for orders := range slices.Chunk(permutations([]int{1, 2, 3, 4, 5, 6, 7}), 20) {
		var ids []string
		var tickets []int
		for _, order := range orders {
			for _, ticket := range append(order, order[0]) { // the first one again
				ids, tickets = append(ids, fmt.Sprint(order)), append(tickets, ticket)
			}
		}
		if _, err := db.Exec("service_role", "", `select public.stripe_write_subscription(ticket, jsonb_build_object('id', id,
			'stripe_customer_id', 'cus_1', 'status', 'status' || ticket, 'cancel_at_period_end', ticket % 2 = 0, 'created', '2026-01-01'))
			from unnest($1::text[], $2::bigint[]) with ordinality as writes (id, ticket, n) order by n`, ids, tickets); err != nil {
			t.Fatalf("writes = %v; want no error", err)
		}
		if got := db.Text("select count(*) filter (where status = 'status7' and not cancel_at_period_end and ticket = 7) from subscriptions"); got != fmt.Sprint(len(orders)) {
			t.Errorf("after the permutations from %v on: right rows = %s; want %d", orders[0], got, len(orders))
		}
		db.Must("truncate subscriptions")
	}
}

// TestMeteredPrice: what is billed by usage is sold and recorded without a quantity.
func TestMeteredPrice(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	u, session, _ := s.customer("ada@example.com")
	s.stripe.MeterPrice("price_pro_monthly")
	for range 2 { // with an idempotency key as without
		headers := append([]string{"Idempotency-Key", "once"}, session...)
		if got := s.checkout(buyPro, headers...); got.status != 200 {
			t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
		}
	}
	sessions := s.stripe.CheckoutSessions()
	if last := sessions[len(sessions)-1]; len(sessions) != 2 || last.LineItems[0].Quantity != 0 { // the other is customer's
		t.Fatalf("Checkout Sessions = %d, quantity %d; want 2, none", len(sessions), last.LineItems[0].Quantity)
	}
	s.stripe.PayCheckout(sessions[1].ID)
	s.deliverAll(0)
	if got := s.db.Text(`select concat_ws(' ', user_id, price_id, coalesce(quantity::text, 'null'), coalesce(items -> 0 ->> 'quantity', 'null')) from subscriptions`); got != u.ID+" price_pro_monthly null null" {
		t.Errorf("row = %s; want no quantity", got)
	}
	if got := s.checkout(strings.Replace(buyPro, "price_pro_monthly", "price_x", 1)); got.status != 500 || !strings.Contains(got.body, "No such price: 'price_x'") {
		t.Errorf("create-checkout of no price = %d %s; want 500 and Stripe's text", got.status, got.body)
	}
}

// TestAllItems: Stripe sends ten items with an object, the others on pages; a
// metered one has no quantity.
func TestAllItems(t *testing.T) {
	t.Parallel()
	s := startShop(t)
	price := func(i int) string {
		usage := "licensed"
		if i == 0 {
			usage = "metered"
		}
		return fmt.Sprintf(`"price":{"id":"price_%d","product":"prod_%d","recurring":{"interval":"month","usage_type":%q}}`, i, i, usage)
	}
	items := func(kind string, from, to int) string {
		var all []string
		for i := from; i < to; i++ {
			quantity := ""
			if i > 0 {
				quantity = fmt.Sprintf(`,"quantity":%d`, i)
			}
			all = append(all, fmt.Sprintf(`{"id":"%s_%d","amount_total":100,%s%s}`, kind, i, price(i), quantity))
		}
		return fmt.Sprintf(`{"object":"list","has_more":%t,"data":[%s]}`, to < 23, strings.Join(all, ","))
	}
	s.stripe.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		answer := map[string]string{
			"/v1/subscriptions/sub_1":                                                  `{"id":"sub_1","customer":"cus_1","status":"active","created":1700000000,"livemode":true,"items":` + items("si", 0, 10) + `}`,
			"/v1/subscription_items?limit=100&subscription=sub_1":                      items("si", 0, 20),
			"/v1/subscription_items?limit=100&starting_after=si_19&subscription=sub_1": items("si", 20, 23),
			"/v1/checkout/sessions/cs_1": `{"id":"cs_1","mode":"payment","status":"complete","payment_status":"paid","created":1700000000,
				"livemode":true,"customer_details":{"email":"eve@example.com"},"line_items":` + items("li", 0, 10) + `}`,
			"/v1/checkout/sessions/cs_1/line_items?limit=100": items("li", 0, 23),
		}
		body := answer[r.URL.Path]
		if body == "" {
			body = answer[r.URL.Path+"?"+r.URL.Query().Encode()]
		}
		_, _ = io.WriteString(w, body)
		return body != ""
	})
	for _, e := range []string{`"type":"customer.subscription.updated","data":{"object":{"id":"sub_1"}}`, `"type":"checkout.session.completed","data":{"object":{"id":"cs_1"}}`} {
		if got := s.deliver(`{"id":"evt_1",`+e+`}`, whsec, time.Now()); got.status != 200 {
			t.Fatalf("webhook %s = %d %s; want 200", e, got.status, got.body)
		}
	}
	var want []string
	for i := range 23 {
		quantity := fmt.Sprint(i)
		if i == 0 {
			quantity = "null"
		}
		want = append(want, fmt.Sprintf("price_%d prod_%d %s", i, i, quantity))
	}
	const list = `select string_agg(format('%s %s %s', i ->> 'price_id', i ->> 'product_id', coalesce(i ->> 'quantity', 'null')), ',' order by n)
		from public.`
	if got := s.db.Text(list + "subscriptions, jsonb_array_elements(items) with ordinality as t (i, n)"); got != strings.Join(want, ",") {
		t.Errorf("items = %s; want %s", got, strings.Join(want, ","))
	}
	want[0] = "price_0 prod_0 0"
	if got := s.db.Text(list + "purchases, jsonb_array_elements(line_items) with ordinality as t (i, n)"); got != strings.Join(want, ",") {
		t.Errorf("line items = %s; want %s", got, strings.Join(want, ","))
	}
	if got := s.db.Text("select concat_ws(' ', s.price_id, s.product_id, coalesce(s.quantity::text, 'null'), s.livemode::text, p.product_id, p.email, p.livemode::text) from public.subscriptions s, public.purchases p"); got != "price_0 prod_0 null true prod_0 eve@example.com true" {
		t.Errorf("rows = %s; want those of the first item", got)
	}
}
