package fakestripe

import (
	"fmt"
	"html"
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
	portal, _ := post(t, s, "/v1/billing_portal/sessions", "return_url=https://example.com/account&customer="+u.Customer).Get("url").(string)
	free := "Free until " + date(u.TrialEnd)
	step := portal + "?flow=subscription_update&subscription=" + u.ID
	plans, first := open(t, s, "GET", step), open(t, s, "GET", portal)
	if !strings.Contains(plans.Body, free+", as before.") || !strings.Contains(first.Body, free) || !strings.Contains(first.Body, "$0.00") {
		t.Errorf("portal = %s, %s; want it to say %q, and an invoice of nothing", first.Body, plans.Body, free)
	}
	n := len(s.Events())
	if open(t, s, "POST", step, "price", "price_basic_monthly"); types(s, n) != "customer.subscription.updated" || s.Subscriptions()[0].Price != "price_basic_monthly" {
		t.Errorf("events of the change = %s; want no invoice", types(s, n))
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

// open sends what a browser sends to a hosted page, and returns what it holds
// below the style sheet.
func open(t *testing.T, s *Account, method, target string, fields ...string) sandboxtest.Answer {
	t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	got := sandboxtest.Send(t, s, method, target, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if _, main, ok := strings.Cut(got.Body, "<main>"); ok {
		got.Body = main
	}
	return got
}

// paid is what a buyer types, with fields on top given as name, value, ….
func paid(fields ...string) []string {
	return append([]string{"email", "ann@example.com", "card", "4242 4242 4242 4242", "expiry", "12 / 34", "cvc", "123", "name", "Ann", "country", "DE"}, fields...)
}

func TestCheckoutPage(t *testing.T) {
	s := New(Options{})
	id := newCheckout(t, s, "price_pro_monthly", "subscription", "")
	page := "/c/pay/" + id
	success := "https://example.com/ok?s=" + id
	secure := func(fields ...string) []string { return append(paid("card", "4000002500003155"), fields...) }
	for _, tt := range []struct {
		method          string
		fields          []string
		status          int
		holds, location string
	}{
		{"GET", nil, 200, "Subscribe to Pro", ""},
		{"POST", nil, 422, "Please enter an e-mail address.", ""},
		{"POST", paid("email", "Ann <ann@example.com>"), 422, "Please enter an e-mail address.", ""},
		{"POST", paid("card", ""), 422, "Your card number is incomplete.", ""},
		{"POST", paid("card", "4012 8888 8888 1881"), 422, "The sandbox takes only the test cards that this page names.", ""},
		{"POST", paid("expiry", ""), 422, "expiration date is incomplete.", ""},
		{"POST", paid("expiry", "13/34"), 422, "expiration date is incomplete.", ""},
		{"POST", paid("expiry", "1/2020"), 422, "expiration date is in the past.", ""},
		{"POST", paid("cvc", "12"), 422, "security code is incomplete.", ""},
		{"POST", paid("name", " "), 422, "Please enter the name on the card.", ""},
		{"POST", paid("card", "4000 0000 0000 0002"), 402, "Your card was declined.", ""},
		{"POST", paid("card", "4000000000009995"), 402, "Your card has insufficient funds.", ""},
		{"POST", paid("card", "4000-0000-0000-0069"), 402, "Your card has expired.", ""},
		{"POST", paid("card", "4000 0000 0000 0127"), 402, "security code is incorrect.", ""},
		{"POST", paid("card", "4000 0000 0000 0127"), 402, `<option value="DE" selected>`, ""}, // as typed
		{"POST", paid("promotion", "SAVE20"), 303, "", success},                                // which this page does not ask for
		{"POST", paid(), 303, "", success},
		{"GET", nil, 200, "This purchase is complete.", ""},
	} {
		got := open(t, s, tt.method, page, tt.fields...)
		if got.Status != tt.status || !strings.Contains(html.UnescapeString(got.Body), tt.holds) || got.Header.Get("Location") != tt.location || strings.Contains(got.Body, "4012") {
			t.Errorf("%s %q = %d, Location %q, %s; want %d, %q, %q", tt.method, tt.fields, got.Status, got.Header.Get("Location"), got.Body, tt.status, tt.location, tt.holds)
		}
	}
	if n := len(s.Subscriptions()); n != 1 {
		t.Errorf("subscriptions = %d; want 1", n)
	}
	again := "/c/pay/" + newCheckout(t, s, "price_pro_monthly", "subscription", "")
	for _, tt := range []struct {
		fields []string
		status int
		holds  string
	}{
		{secure(), 200, `type="hidden" name="email" value="ann@example.com"`},
		{secure("3ds", "Fail"), 402, "We are unable to authenticate your payment method."},
		{secure("3ds", "Complete"), 303, ""},
	} {
		before := len(s.Subscriptions())
		got := open(t, s, "POST", again, tt.fields...)
		if bought := len(s.Subscriptions()) > before; got.Status != tt.status || !strings.Contains(got.Body, tt.holds) || bought != (tt.status == 303) {
			t.Errorf("POST %q = %d, bought %v, %s; want %d, %q", tt.fields, got.Status, bought, got.Body, tt.status, tt.holds)
		}
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

// TestCheckoutOrder: the buyer chooses the quantity, where the session lets them,
// and has a promotion code; what is recorded is what the page has shown.
func TestCheckoutOrder(t *testing.T) {
	s, api := newClient(t, Options{})
	id := newCheckout(t, s, "price_lifetime", "payment", "allow_promotion_codes=true&line_items[0][adjustable_quantity][enabled]=true&line_items[0][adjustable_quantity][maximum]=5&customer_creation=always")
	quantity := "quantity-" + s.CheckoutSessions()[0].LineItems[0].ID
	for _, tt := range []struct {
		fields []string
		status int
		holds  []string
	}{
		{paid("promotion", "save 10"), 422, []string{"This code is invalid.", `value="save 10"`, `value="ann@example.com"`, "Pay $199.00"}},
		{paid("apply", ""), 422, []string{"This code is invalid."}},
		{paid("promotion", " save20 "), 200, []string{"20% off", "−$39.80", "Pay $159.20", `value="4242 4242 4242 4242"`}},
		{paid(quantity, "9", "update", ""), 200, []string{`max="5" value="5"`, "Lifetime × 5", "−$199.00", "Pay $796.00"}},
		{paid("remove", ""), 200, []string{"Promotion code", "Pay $995.00"}},
		{paid(quantity, "2"), 200, []string{"Pay $398.00"}}, // not paid before it was shown
		{paid("promotion", "SAVE20", quantity, "2"), 200, []string{"Pay $318.40"}},
		{paid(quantity, "2"), 303, nil},
	} {
		got := open(t, s, "POST", "/c/pay/"+id, tt.fields...)
		for _, want := range tt.holds {
			if !strings.Contains(got.Body, want) {
				t.Errorf("POST %q = %s; want %q", tt.fields, got.Body, want)
			}
		}
		if got.Status != tt.status {
			t.Errorf("POST %q = %d; want %d", tt.fields, got.Status, tt.status)
		}
	}
	p := &stripe.CheckoutSessionParams{}
	p.AddExpand("payment_intent.latest_charge")
	p.AddExpand("line_items")
	c, err := api.CheckoutSessions.Get(id, p)
	if err != nil {
		t.Fatal(err)
	}
	item := c.LineItems.Data[0]
	if c.AmountSubtotal != 39800 || c.AmountTotal != 31840 || c.TotalDetails.AmountDiscount != 7960 || item.Quantity != 2 || item.AmountTotal != 31840 ||
		c.PaymentIntent.Amount != 31840 || c.CustomerDetails.Name != "Ann" || c.CustomerDetails.Address.Country != "DE" || s.Customers()[0].Name != "Ann" {
		t.Errorf("session = %+v, %+v, %+v; want two, less 20%%, of Ann in Germany", c, c.TotalDetails, item)
	}
	receipt := open(t, s, "GET", "/receipts/"+c.PaymentIntent.LatestCharge.ID).Body
	if !strings.Contains(receipt, "Lifetime × 2") || !strings.Contains(receipt, "−$79.60") || !strings.Contains(receipt, "$318.40") {
		t.Errorf("receipt = %s; want two, less 20%%", receipt)
	}

	fixed := newCheckout(t, s, "price_basic_monthly", "subscription", "allow_promotion_codes=true&subscription_data[trial_period_days]=7")
	of := s.CheckoutSessions()[1].LineItems[0].ID
	got := open(t, s, "POST", "/c/pay/"+fixed, "quantity-"+of, "3", "promotion", "SAVE20")
	if !strings.Contains(got.Body, `7 days free,<small class="then"> then $7.20 per month`) || strings.Contains(got.Body, `type="number"`) {
		t.Errorf("trial = %s; want one of 7 days, the quantity fixed", got.Body)
	}
	if got := open(t, s, "POST", "/c/pay/"+fixed, paid("card", "4000 0025 0000 3155")...); strings.Contains(got.Body, "$") || !strings.Contains(got.Body, "card ending in 3155") {
		t.Errorf("the bank's page for a trial = %s; want it without an amount", got.Body)
	}
	day := newCheckout(t, s, "price_basic_monthly", "subscription", "subscription_data[trial_period_days]=1")
	if got := open(t, s, "GET", "/c/pay/"+day); !strings.Contains(got.Body, "1 day free,") {
		t.Errorf("trial = %s; want one of 1 day", got.Body)
	}
	open(t, s, "POST", "/c/pay/"+fixed, paid()...)
	u := s.Subscriptions()[0]
	s.Renew(u.ID)
	invoiced := &stripe.SubscriptionParams{}
	invoiced.AddExpand("latest_invoice")
	renewed, err := api.Subscriptions.Get(u.ID, invoiced)
	if err != nil || u.Quantity != 1 || renewed.Discount.Coupon.PercentOff != 20 || renewed.LatestInvoice.Subtotal != 900 || renewed.LatestInvoice.AmountPaid != 720 {
		t.Errorf("after the trial = %+v, %v; want one, less 20%%", renewed, err)
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
	go func() { back <- open(t, s, "POST", page, paid()...).Status }()
	<-arrived
	status := 0
	select {
	case status = <-back:
		t.Errorf("POST = %d before the endpoint has answered; want it to wait", status)
	default:
	}
	close(answer)
	if status == 0 {
		status = <-back
	}
	if status != 303 {
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
	if got := open(t, s, "GET", page); !strings.Contains(got.Body, "/receipts/in_") || !strings.Contains(got.Body, `href="https://example.com/account"`) {
		t.Errorf("page = %s; want the receipt and the way back", got.Body)
	}
	if got := sandboxtest.Send(t, s, "GET", u.Path, "", "Referer", "https://example.com"+page); got.Status != 200 ||
		!strings.Contains(got.Body, "$29.00") || !strings.Contains(got.Body, `href="https://example.com`+page) {
		t.Errorf("GET %s = %d %s; want a receipt and the way back", u.Path, got.Status, got.Body)
	}
}

// TestPortalSteps: plan and card are changed, from the portal's first page and
// from a deep link.
func TestPortalSteps(t *testing.T) {
	clock := sandboxtest.NewClock()
	s, api := newClient(t, Options{Now: clock.Now})
	s.PayCheckout(newCheckout(t, s, "price_basic_monthly", "subscription", ""))
	u := s.Subscriptions()[0]
	other, _ := post(t, s, "/v1/customers", "").Get("id").(string)
	portal := func(customer, flow string) string {
		t.Helper()
		made := post(t, s, "/v1/billing_portal/sessions", "return_url=https://example.com/account&customer="+customer+flow)
		if made.Status != 200 {
			t.Fatalf("create = %d %s; want 200", made.Status, made.Body)
		}
		return fmt.Sprint(made.Get("url"))
	}
	page, others := portal(u.Customer, ""), portal(other, "")
	plan, card := page+"?flow=subscription_update&subscription="+u.ID, page+"?flow=payment_method_update"
	link := portal(u.Customer, "&flow_data[type]=subscription_update&flow_data[subscription_update][subscription]="+u.ID)
	clock.Advance(u.CurrentPeriodEnd.Sub(u.CurrentPeriodStart) / 2)
	const updated, bill = "customer.subscription.updated", "payment_intent.created charge.succeeded payment_intent.succeeded invoice.paid "
	for _, tt := range []struct {
		url      string
		fields   []string
		says     string // before
		status   int
		location string
		price    string
		events   string
	}{
		{plan, []string{"price", "price_pro_monthly"}, "$10.00 today, the difference", 303, page, "price_pro_monthly", bill + updated},
		{link, []string{"price", "price_basic_monthly"}, "$10.00, the difference for the time until", 303, "https://example.com/account", "price_basic_monthly", "customer.updated " + updated},
		{plan, []string{"price", "price_pro_monthly"}, "Nothing today; $10.00, the difference", 303, page, "price_pro_monthly", "customer.updated invoice.paid " + updated},
		{link, []string{"price", "price_basic_monthly"}, "$10.00, the difference for the time until", 303, "https://example.com/account", "price_basic_monthly", "customer.updated " + updated},
		{plan, []string{"price", "price_lifetime"}, "Change Basic", 303, page, "price_basic_monthly", ""},
		{page + "?flow=subscription_update&subscription=sub_x", nil, "Your billing", 404, "", "price_basic_monthly", ""},
		{others + "?flow=subscription_update&subscription=" + u.ID, []string{"price", "price_pro_monthly"}, "Your billing", 404, "", "price_basic_monthly", ""},
		{card, paid("card", "4000 0000 0000 0002"), "Change your card", 402, "", "price_basic_monthly", ""},
		{card, paid("card", "4000 0025 0000 3155"), "Visa", 200, "", "price_basic_monthly", ""},
		{card, paid("card", "5555 5555 5555 4444"), "Change your card", 303, page, "price_basic_monthly", "payment_method.attached customer.updated"},
	} {
		n := len(s.Events())
		before := open(t, s, "GET", tt.url)
		got := open(t, s, "POST", tt.url, tt.fields...)
		if price := s.Subscriptions()[0].Price; got.Status != tt.status || got.Header.Get("Location") != tt.location || price != tt.price || types(s, n) != tt.events {
			t.Errorf("POST %s %q = %d, Location %q, price %s, events %s; want %d, %q, %s, %s", tt.url, tt.fields, got.Status, got.Header.Get("Location"), price, types(s, n), tt.status, tt.location, tt.price, tt.events)
		}
		if tt.says != "Visa" && !strings.Contains(before.Body, tt.says) {
			t.Errorf("GET %s = %s; want %q", tt.url, before.Body, tt.says)
		}
	}
	if c, err := api.Customers.Get(u.Customer, nil); err != nil || c.Balance != -1000 || c.InvoiceSettings.DefaultPaymentMethod == nil {
		t.Errorf("Customer = %+v, %v; want a credit of 1000 and the card", c, err)
	}
	n := len(s.Events())
	s.Renew(u.ID) // 9 dollars, all of it from the credit
	if got, want := types(s, n), "customer.updated invoice.paid "+updated; got != want {
		t.Errorf("events of a month paid from the credit = %s; want %s", got, want)
	}
	if got := open(t, s, "GET", plan).Body; !strings.Contains(got, "$19.00 today") || !strings.Contains(got, "less your credit of $1.00") {
		t.Errorf("plans = %s; want 20 dollars less the credit of one", got)
	}
	s.Renew(u.ID) // and one more dollar
	shown := open(t, s, "GET", page).Body
	if !strings.Contains(shown, "Mastercard ending in 4444, expires 12/34") {
		t.Errorf("page = %s; want the new card", shown)
	}
	var amounts []int64
	list := api.Invoices.List(&stripe.InvoiceListParams{Customer: &u.Customer})
	for list.Next() {
		n := list.Invoice()
		amounts = append(amounts, n.AmountPaid)
		u, err := url.Parse(n.HostedInvoiceURL)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(shown, u.Path) || !strings.Contains(open(t, s, "GET", u.Path).Body, n.Number) {
			t.Errorf("page = %s; want invoice %s at %s", shown, n.Number, u.Path)
		}
	}
	if want := []int64{800, 0, 0, 1000, 900}; !slices.Equal(amounts, want) {
		t.Errorf("paid = %d; want %d", amounts, want)
	}
	s.FailPayment(u.ID) // for a month that nobody has paid nothing is given back
	if got := open(t, s, "GET", plan).Body; !strings.Contains(got, "Nothing today; from ") || !strings.Contains(open(t, s, "GET", page).Body, "<td>Open</td>") {
		t.Errorf("past due = %s; want no proration, and an open invoice", got)
	}
	s.CancelSubscription(u.ID) // while a step is open
	for _, step := range []string{link, plan, page + "?flow=subscription_cancel&subscription=" + u.ID} {
		if got := open(t, s, "GET", step).Body; !strings.Contains(got, "Your billing") || !strings.Contains(got, "Ended on") {
			t.Errorf("GET %s of a subscription that has ended = %s; want the portal's page", step, got)
		}
		first, _, _ := strings.Cut(step, "?")
		if got := open(t, s, "POST", step, "price", "price_pro_monthly"); got.Status != 303 || got.Header.Get("Location") != first || s.Subscriptions()[0].CancelAtPeriodEnd {
			t.Errorf("POST %s of a subscription that has ended = %d, Location %q; want the portal's page, and no change", step, got.Status, got.Header.Get("Location"))
		}
	}
}
