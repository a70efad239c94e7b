package fakestripe

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
	"github.com/stripe/stripe-go/v76/webhook"
	"go.uber.org/goleak"
)

// newCheckout makes a Checkout Session, given as in a URL on top of what every
// one needs.
func newCheckout(t *testing.T, s *Account, price, mode, more string) string {
	t.Helper()
	made := post(t, s, "/v1/checkout/sessions", "success_url=https://example.com/ok?s={CHECKOUT_SESSION_ID}&cancel_url=https://example.com/back&line_items[0][quantity]=1&line_items[0][price]="+price+"&mode="+mode+"&"+more)
	id, _ := made.Get("id").(string)
	if made.Status != 200 {
		t.Fatalf("create = %d %s; want 200", made.Status, made.Body)
	}
	return id
}

// types are the types of the Events since n.
func types(s *Account, n int) string {
	var all []string
	for _, e := range s.Events()[n:] {
		all = append(all, e.Type)
	}
	return strings.Join(all, " ")
}

func TestCheckoutPayment(t *testing.T) {
	s, api := newClient(t, Options{})
	id := newCheckout(t, s, "price_lifetime", "payment", "customer_creation=always&payment_intent_data[metadata][k]=v")
	s.PayCheckout(id)
	p := &stripe.CheckoutSessionParams{}
	p.AddExpand("payment_intent.latest_charge")
	p.AddExpand("line_items")
	c, err := api.CheckoutSessions.Get(id, p)
	if err != nil {
		t.Fatal(err)
	}
	intent := c.PaymentIntent
	if c.Status != "complete" || c.PaymentStatus != "paid" || c.URL != "" || c.Customer == nil || c.CustomerDetails.Email != "buyer@example.com" ||
		intent.Status != "succeeded" || intent.AmountReceived != 19900 || intent.Metadata["k"] != "v" ||
		!intent.LatestCharge.Paid || intent.LatestCharge.Amount != 19900 || c.LineItems.Data[0].Price.ID != "price_lifetime" {
		t.Errorf("Get = %+v, %+v; want a paid one", c, intent)
	}
	list := api.CheckoutSessions.List(&stripe.CheckoutSessionListParams{PaymentIntent: &intent.ID})
	if !list.Next() || list.CheckoutSession().ID != id || list.Next() {
		t.Errorf("List by payment intent = %v, %v; want %s only", list.CheckoutSession(), list.Err(), id)
	}

	s.Refund(intent.ID, 900)
	if charge, err := api.Charges.Get(intent.LatestCharge.ID, nil); err != nil || charge.AmountRefunded != 900 || charge.Refunded {
		t.Errorf("charge = %+v, %v; want 900 refunded", charge, err)
	}
	s.Refund(intent.ID, 19000)
	dispute := s.Dispute(intent.ID)
	s.CloseDispute(dispute, "won")
	charge, err := api.Charges.Get(intent.LatestCharge.ID, nil)
	if err != nil || !charge.Refunded || !charge.Disputed {
		t.Errorf("charge = %+v, %v; want it refunded and disputed", charge, err)
	}
	if d, err := api.Disputes.Get(dispute, nil); err != nil || d.Status != "won" || d.PaymentIntent.ID != intent.ID {
		t.Errorf("dispute = %+v, %v; want it won", d, err)
	}
	if got, want := types(s, 0), "customer.created payment_intent.created charge.succeeded payment_intent.succeeded checkout.session.completed "+
		"charge.refunded charge.refunded charge.dispute.created charge.dispute.funds_withdrawn charge.dispute.funds_reinstated charge.dispute.closed"; got != want {
		t.Errorf("events = %s; want %s", got, want)
	}
}

func TestCheckoutLater(t *testing.T) {
	s, api := newClient(t, Options{})
	for _, tt := range []struct {
		succeeded                     bool
		status, intent, event, charge string
	}{
		{true, "paid", "succeeded", "checkout.session.async_payment_succeeded", "ch_"},
		{false, "unpaid", "requires_payment_method", "checkout.session.async_payment_failed", ""},
	} {
		id := newCheckout(t, s, "price_lifetime", "payment", "")
		s.PayCheckoutLater(id)
		if c, err := api.CheckoutSessions.Get(id, nil); err != nil || c.Status != "complete" || c.PaymentStatus != "unpaid" {
			t.Errorf("before it is settled = %+v, %v; want complete and unpaid", c, err)
		}
		s.SettleCheckout(id, tt.succeeded)
		p := &stripe.CheckoutSessionParams{}
		p.AddExpand("payment_intent")
		c, err := api.CheckoutSessions.Get(id, p)
		if err != nil || string(c.PaymentStatus) != tt.status || string(c.PaymentIntent.Status) != tt.intent || (c.PaymentIntent.LatestCharge != nil) != tt.succeeded {
			t.Errorf("settled %v = %+v, %v; want %s, %s", tt.succeeded, c, err, tt.status, tt.intent)
		}
		if got := types(s, 0); !strings.HasSuffix(got, tt.event) {
			t.Errorf("events = %s; want %s at the end", got, tt.event)
		}
	}
}

func TestCheckoutExpires(t *testing.T) {
	c := sandboxtest.NewClock()
	s := New(Options{Now: c.Now})
	newCheckout(t, s, "price_lifetime", "payment", "")
	id := newCheckout(t, s, "price_lifetime", "payment", "")
	if got := post(t, s, "/v1/checkout/sessions/"+id+"/expire", ""); got.Get("status") != "expired" || got.Get("url") != nil {
		t.Errorf("expire = %s; want it expired", got.Body)
	}
	c.Advance(25 * time.Hour)
	for range 2 {
		if all := s.CheckoutSessions(); all[0].Status != "expired" || types(s, 0) != "checkout.session.expired checkout.session.expired" {
			t.Errorf("a day later = %s, events %s; want it expired, told once", all[0].Status, types(s, 0))
		}
	}
}

// TestSubscriptionLife drives a subscription as a test of the webhook does.
func TestSubscriptionLife(t *testing.T) {
	s, api := newClient(t, Options{})
	s.PayCheckout(newCheckout(t, s, "price_basic_monthly", "subscription", "subscription_data[metadata][supabase_user_id]="+annID))
	id := s.Subscriptions()[0].ID
	get := func() *stripe.Subscription {
		t.Helper()
		p := &stripe.SubscriptionParams{}
		p.AddExpand("latest_invoice.payment_intent")
		u, err := api.Subscriptions.Get(id, p)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	first := get()
	if first.Status != "active" || first.Metadata["supabase_user_id"] != annID || first.LatestInvoice.PaymentIntent.Status != "succeeded" {
		t.Errorf("bought = %+v; want it active, paid, with the metadata", first)
	}
	for _, tt := range []struct {
		do     func()
		ok     func(*stripe.Subscription) bool
		events string
	}{
		{func() { s.ChangePrice(id, "price_pro_monthly") }, func(u *stripe.Subscription) bool { return u.Items.Data[0].Price.ID == "price_pro_monthly" }, "customer.subscription.updated"},
		{func() { s.CancelAtPeriodEnd(id) }, func(u *stripe.Subscription) bool {
			return u.CancelAtPeriodEnd && u.CancelAt == u.CurrentPeriodEnd && u.CanceledAt > 0
		}, "customer.subscription.updated"},
		{func() { s.Resume(id) }, func(u *stripe.Subscription) bool { return !u.CancelAtPeriodEnd && u.CancelAt == 0 && u.CanceledAt == 0 }, "customer.subscription.updated"},
		{func() { s.FailPayment(id) }, func(u *stripe.Subscription) bool {
			return u.Status == "past_due" && u.CurrentPeriodStart == first.CurrentPeriodEnd && !u.LatestInvoice.Paid
		}, "payment_intent.created payment_intent.payment_failed invoice.payment_failed customer.subscription.updated"},
		{func() { s.Renew(id) }, func(u *stripe.Subscription) bool { return u.Status == "active" && u.LatestInvoice.AmountPaid == 2900 },
			"payment_intent.created charge.succeeded payment_intent.succeeded invoice.paid customer.subscription.updated"},
		{func() { s.DeleteCustomer(s.Customers()[0].ID) }, func(u *stripe.Subscription) bool { return u.Status == "canceled" && u.EndedAt > 0 },
			"customer.subscription.deleted customer.deleted"},
	} {
		n := len(s.Events())
		tt.do()
		if got := types(s, n); got != tt.events {
			t.Errorf("events = %s; want %s", got, tt.events)
		}
		if u := get(); !tt.ok(u) {
			t.Errorf("after %s = %+v; want what they tell", tt.events, u)
		}
	}
}

func TestTrial(t *testing.T) {
	s := New(Options{})
	id := newCheckout(t, s, "price_pro_monthly", "subscription", "subscription_data[trial_period_days]=7")
	s.PayCheckout(id)
	u := s.Subscriptions()[0]
	c := sandboxtest.Send(t, s, "GET", "/v1/checkout/sessions/"+id+"?expand[]=invoice", "", "Authorization", "Bearer sk_test_0123456789")
	if u.Status != "trialing" || !u.TrialEnd.Equal(u.CurrentPeriodEnd) || c.Get("payment_status") != "no_payment_required" || c.Get("amount_total") != 0.0 || c.Get("invoice.paid") != true {
		t.Errorf("trial = %+v, %s; want one of 7 days, not paid for", u, c.Body)
	}
}

// TestDelivery: signed as the real library checks it, again until it is taken,
// and never after Close.
func TestDelivery(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var calls atomic.Int64
	var seen sync.Map // IDs of the events that came
	taken := make(chan string, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e, err := webhook.ConstructEvent(body, r.Header.Get("Stripe-Signature"), "whsec_test")
		if err != nil {
			t.Errorf("ConstructEvent = %v; want no error", err)
		}
		seen.Store(e.ID, true)
		switch calls.Add(1) {
		case 1:
			w.WriteHeader(500)
		case 2:
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case 3:
			taken <- e.ID + " " + string(e.Type)
		default:
			w.WriteHeader(400) // for ever
		}
	}))
	defer endpoint.Close()
	s := New(Options{Webhooks: []WebhookEndpoint{{URL: endpoint.URL, Secret: "whsec_test"}}, RetryDelay: time.Millisecond})
	post(t, s, "/v1/customers", "")
	event := s.Events()[0]
	if got, want := <-taken, event.ID+" customer.created"; got != want {
		t.Errorf("delivered = %s; want %s", got, want)
	}
	post(t, s, "/v1/customers", "")
	s.Close()
	post(t, s, "/v1/customers", "")
	endpoint.Close() // after what is under way
	events := s.Events()
	if len(events) != 3 {
		t.Fatalf("after Close %d events; want 3", len(events))
	}
	if _, sent := seen.Load(events[2].ID); sent {
		t.Error("an event was delivered after Close; want none")
	}
}

// open sends what a browser sends to a hosted page.
func open(t *testing.T, s *Account, method, target string, fields ...string) sandboxtest.Answer {
	t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return sandboxtest.Send(t, s, method, target, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

func TestCheckoutPage(t *testing.T) {
	s := New(Options{})
	id := newCheckout(t, s, "price_pro_monthly", "subscription", "")
	page := "/c/pay/" + id
	success := "https://example.com/ok?s=" + id
	for _, tt := range []struct {
		method          string
		fields          []string
		status          int
		holds, location string
	}{
		{"GET", nil, 200, "Subscribe to Pro", ""},
		{"POST", nil, 422, "Please enter an e-mail address.", ""},
		{"POST", []string{"email", "Ann <ann@example.com>", "card", cardPays}, 422, "Please enter an e-mail address.", ""},
		{"POST", []string{"email", "ann@example.com", "card", "5555 5555 5555 4444"}, 422, "The sandbox takes only the two card numbers below.", ""},
		{"POST", []string{"email", "ann@example.com", "card", "4000 0000 0000 0002"}, 402, "Your card was declined.", ""},
		{"POST", []string{"email", "ann@example.com", "card", "4242 4242 4242 4242"}, 303, "", success},
		{"POST", []string{"email", "ann@example.com", "card", "4242 4242 4242 4242"}, 303, "", success},
		{"GET", nil, 200, "This purchase is complete.", ""},
	} {
		got := open(t, s, tt.method, page, tt.fields...)
		if got.Status != tt.status || !strings.Contains(got.Body, tt.holds) || got.Header.Get("Location") != tt.location || strings.Contains(got.Body, "5555") {
			t.Errorf("%s %q = %d, Location %q, %s; want %d, %q, %q", tt.method, tt.fields, got.Status, got.Header.Get("Location"), got.Body, tt.status, tt.location, tt.holds)
		}
	}
	if n := len(s.Subscriptions()); n != 1 {
		t.Errorf("subscriptions = %d; want 1", n)
	}
	late := newCheckout(t, s, "price_pro_monthly", "subscription", "")
	post(t, s, "/v1/checkout/sessions/"+late+"/expire", "")
	if got := open(t, s, "GET", "/c/pay/"+late); !strings.Contains(got.Body, "This page has expired.") {
		t.Errorf("an expired page = %s; want it to say so", got.Body)
	}
	if got := open(t, s, "GET", "/c/pay/cs_test_x"); got.Status != 404 {
		t.Errorf("GET /c/pay/cs_test_x = %d; want 404", got.Status)
	}
}

// TestCheckoutWaits: the site knows of the purchase before its buyer is back.
func TestCheckoutWaits(t *testing.T) {
	arrived, answer := make(chan bool), make(chan bool)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), `"checkout.session.completed"`) {
			arrived <- true
			<-answer
		}
	}))
	defer endpoint.Close()
	s := New(Options{Webhooks: []WebhookEndpoint{{URL: endpoint.URL, Secret: "whsec_test"}}})
	defer s.Close()
	page := "/c/pay/" + newCheckout(t, s, "price_lifetime", "payment", "")
	back := make(chan int, 1)
	go func() { back <- open(t, s, "POST", page, "email", "ann@example.com", "card", cardPays).Status }()
	<-arrived
	select {
	case status := <-back:
		t.Errorf("POST = %d before the endpoint has answered; want it to wait", status)
	default:
	}
	close(answer)
	if status := <-back; status != 303 {
		t.Errorf("POST = %d; want 303", status)
	}
}

func TestPortalPage(t *testing.T) {
	s, api := newClient(t, Options{})
	portal := func(api *client.API) (customer, path string) {
		c, err := api.Customers.New(&stripe.CustomerParams{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := api.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{Customer: &c.ID, ReturnURL: stripe.String("https://example.com/account")})
		if err != nil {
			t.Fatal(err)
		}
		return c.ID, "/p/session/" + p.ID
	}
	customer, page := portal(api)
	_, others := portal(api)
	id := s.AddSubscription(customer, "price_pro_monthly", "active")
	for _, tt := range []struct {
		page, action string
		status       int
		canceled     bool
		holds        string
	}{
		{page, actionResume, 303, false, actionCancel},
		{others, actionCancel, 404, false, actionCancel},
		{page, actionCancel, 303, true, "Ends on"},
		{page, actionCancel, 303, true, "Ends on"}, // clicked in another window
		{page, actionResume, 303, false, "Renews on"},
	} {
		got := open(t, s, "POST", tt.page, "subscription", id, "action", tt.action)
		shown := open(t, s, "GET", page)
		if u := s.Subscriptions()[0]; got.Status != tt.status || u.CancelAtPeriodEnd != tt.canceled || !strings.Contains(shown.Body, tt.holds) {
			t.Errorf("%s = %d, canceled %v, %s; want %d, %v, %q", tt.action, got.Status, u.CancelAtPeriodEnd, shown.Body, tt.status, tt.canceled, tt.holds)
		}
	}
	if n := strings.Count(types(s, 0), "customer.subscription.updated"); n != 2 {
		t.Errorf("updates told = %d; want 2", n)
	}
	charge := s.Events()[slices.IndexFunc(s.Events(), func(e Event) bool { return e.Type == "charge.succeeded" })]
	receipt := fmt.Sprint(sandboxtest.Answer{Body: string(charge.Payload)}.Get("data.object.receipt_url"))
	u, err := url.Parse(receipt)
	if err != nil {
		t.Fatal(err)
	}
	if got := open(t, s, "GET", page); !strings.Contains(got.Body, u.Path) || !strings.Contains(got.Body, `href="https://example.com/account"`) {
		t.Errorf("page = %s; want the receipt and the way back", got.Body)
	}
	if got := open(t, s, "GET", u.Path); got.Status != 200 || !strings.Contains(got.Body, "$29.00") {
		t.Errorf("GET %s = %d %s; want a receipt", u.Path, got.Status, got.Body)
	}
}
