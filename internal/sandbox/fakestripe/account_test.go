package fakestripe

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
)

const annID = "8cd2e9d1-4a43-4a37-a96d-620447495c12" // a user of Supabase

// newClient returns the real client of a fresh account, without retries.
func newClient(t *testing.T, o Options) (*Account, *client.API) {
	t.Helper()
	s := New(o)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, client.New("sk_test_0123456789", stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		URL: stripe.String(server.URL), HTTPClient: server.Client(),
		MaxNetworkRetries: stripe.Int64(0), LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	}))
}

// stripeErr returns the error as Stripe's, an empty one if there is none.
func stripeErr(t *testing.T, err error) *stripe.Error {
	t.Helper()
	if err == nil {
		return &stripe.Error{}
	}
	e, ok := errors.AsType[*stripe.Error](err)
	if !ok {
		t.Fatalf("error = %v; want one of Stripe's", err)
	}
	return e
}

// post sends a form, given as in a URL, with a test key.
func post(t *testing.T, h http.Handler, path, form string, headers ...string) sandboxtest.Answer {
	t.Helper()
	return sandboxtest.Send(t, h, "POST", path, form, append([]string{
		"Authorization", "Bearer sk_test_0123456789", "Content-Type", "application/x-www-form-urlencoded"}, headers...)...)
}

func TestCheckoutSession(t *testing.T) {
	s, api := newClient(t, Options{PublicURL: "http://localhost:1/"})
	c, err := api.Customers.New(&stripe.CustomerParams{Email: stripe.String("ann@example.com"), Metadata: map[string]string{"supabase_user_id": annID}})
	if err != nil {
		t.Fatal(err)
	}
	const success = "https://example.com/ok?s={CHECKOUT_SESSION_ID}&a=%20#x"
	p := &stripe.CheckoutSessionParams{
		Mode: stripe.String("subscription"), SuccessURL: stripe.String(success), CancelURL: stripe.String("https://example.com/"),
		Customer: &c.ID, ClientReferenceID: stripe.String(annID), Metadata: map[string]string{"supabase_user_id": annID},
		LineItems: []*stripe.CheckoutSessionLineItemParams{{Price: stripe.String("price_pro_monthly"), Quantity: stripe.Int64(2)}},
	}
	p.AddExpand("line_items")
	p.AddExpand("customer")
	made, err := api.CheckoutSessions.New(p)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := made.URL, "http://localhost:1/c/pay/"+made.ID; got != want || !strings.HasPrefix(made.ID, "cs_test_") {
		t.Errorf("URL = %s; want %s", got, want)
	}
	if made.LineItems.Data[0].Price.ID != "price_pro_monthly" || made.AmountTotal != 5800 || made.Customer.Email != "ann@example.com" {
		t.Errorf("session = %+v; want two of price_pro_monthly for ann@example.com", made)
	}
	got, err := api.CheckoutSessions.Get(made.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.SuccessURL != success || got.Metadata["supabase_user_id"] != annID || got.ClientReferenceID != annID ||
		got.Status != "open" || got.PaymentStatus != "unpaid" || got.LastResponse.RequestID == "" {
		t.Errorf("Get = %+v; want what was created", got)
	}
	if kept := s.CheckoutSessions(); len(kept) != 1 || kept[0].Customer != c.ID || kept[0].Params.Get("success_url") != success {
		t.Errorf("CheckoutSessions = %+v; want the one made", kept)
	}
	if ended, err := api.CheckoutSessions.Expire(made.ID, nil); err != nil || ended.Status != "expired" || ended.URL != "" {
		t.Errorf("Expire = %v, %v; want an expired session without a url", ended, err)
	}
}

func TestCheckoutRules(t *testing.T) {
	const basic = "success_url=https://a.example/&cancel_url=https://a.example/&"
	const once = basic + "mode=payment&line_items[0][price]=price_lifetime&line_items[0][quantity]=1&"
	const monthly = basic + "mode=subscription&line_items[0][price]=price_basic_monthly&line_items[0][quantity]=1&"
	s := New(Options{})
	id, _ := post(t, s, "/v1/customers", "email=ann@example.com").Get("id").(string)
	gone, _ := post(t, s, "/v1/customers", "").Get("id").(string)
	s.DeleteCustomer(gone)
	for _, tt := range []struct {
		name, form, code, param, message string // no message: success
	}{
		{"payment", once, "", "", ""},
		{"subscription", monthly, "", "", ""},
		{"guest's customer", once + "customer_creation=always", "", "", ""},
		{"customer", once + "customer=" + id, "", "", ""},
		{"trial", monthly + "subscription_data[trial_period_days]=7&subscription_data[metadata][a]=b", "", "", ""},
		{"taxes", monthly + "automatic_tax[enabled]=true&tax_id_collection[enabled]=true&customer_update[address]=auto&customer_update[name]=auto&customer=" + id, "", "", ""},
		{"200 characters", once + "client_reference_id=" + strings.Repeat("é", 200), "", "", ""},
		{"no price", basic + "mode=payment&line_items[0][price]=price_x&line_items[0][quantity]=1", "resource_missing", "line_items[0][price]", "No such price: 'price_x'"},
		{"no customer", once + "customer=cus_x", "resource_missing", "customer", "No such customer: 'cus_x'"},
		{"deleted customer", once + "customer=" + gone, "resource_missing", "customer", "No such customer: '" + gone + "'"},
		{"recurring in payment", basic + "mode=payment&line_items[0][price]=price_basic_monthly&line_items[0][quantity]=1", "", "mode", "You specified `payment` mode but passed a recurring price"},
		{"one-time in subscription", basic + "mode=subscription&line_items[0][price]=price_lifetime&line_items[0][quantity]=1", "", "mode", "You must provide at least one recurring price"},
		{"customer_creation with customer", once + "customer_creation=always&customer=" + id, "", "customer", "You may only specify one of these parameters"},
		{"customer_creation in subscription", monthly + "customer_creation=always", "", "customer_creation", "payment` mode"},
		{"automatic_tax", monthly + "automatic_tax[enabled]=true&customer=" + id, "customer_tax_location_invalid", "", "Automatic tax"},
		{"tax_id_collection", monthly + "tax_id_collection[enabled]=true&customer=" + id, "", "", "Tax ID collection"},
		{"no success_url", "mode=payment&line_items[0][price]=price_lifetime&line_items[0][quantity]=1", "parameter_missing", "success_url", "Missing required param"},
		{"no line_items", basic + "mode=payment", "parameter_missing", "line_items", "Missing required param"},
		{"no mode", basic + "line_items[0][price]=price_lifetime&line_items[0][quantity]=1", "parameter_missing", "mode", "Missing required param"},
		{"no quantity", basic + "mode=payment&line_items[0][price]=price_lifetime", "", "line_items[0]", "Quantity is required"},
		{"201 characters", once + "client_reference_id=" + strings.Repeat("x", 201), "", "client_reference_id", "at most 200 characters"},
		{"5001 characters", basic + "mode=payment&line_items[0][price]=price_lifetime&line_items[0][quantity]=1&cancel_url=https://a.example/" + strings.Repeat("x", 5001), "url_invalid", "cancel_url", "5000"},
		{"relative url", "success_url=/ok&mode=payment&line_items[0][price]=price_lifetime&line_items[0][quantity]=1", "url_invalid", "success_url", "explicit scheme"},
		{"trial of no days", monthly + "subscription_data[trial_period_days]=0", "", "subscription_data[trial_period_days]", "minimum"},
		{"subscription_data in payment", once + "subscription_data[metadata][a]=b", "", "subscription_data", "You can not pass"},
		{"unknown", once + "nope=1", "parameter_unknown", "nope", "Received unknown parameter: nope"},
		{"unknown inside", monthly + "subscription_data[nope]=1", "parameter_unknown", "subscription_data[nope]", "Received unknown parameter"},
		{"wrong mode", basic + "mode=rent&line_items[0][price]=price_lifetime&line_items[0][quantity]=1", "", "", "validation error"},
	} {
		got := post(t, s, "/v1/checkout/sessions", tt.form)
		code, _ := got.Get("error.code").(string)
		param, _ := got.Get("error.param").(string)
		message, _ := got.Get("error.message").(string)
		if wantOK := tt.message == ""; wantOK != (got.Status == 200) || !wantOK && got.Status != 400 ||
			code != tt.code || param != tt.param || !strings.Contains(message, tt.message) {
			t.Errorf("checkout, %s = %d %s; want %q, %q, %q", tt.name, got.Status, got.Body, tt.code, tt.param, tt.message)
		}
		if got.Status == 400 && (got.Get("error.type") != "invalid_request_error" || !strings.HasPrefix(got.Header.Get("Request-Id"), "req_")) {
			t.Errorf("checkout, %s: error = %s, Request-Id %q; want an invalid_request_error with one", tt.name, got.Body, got.Header.Get("Request-Id"))
		}
	}
}

func TestAuthentication(t *testing.T) {
	for _, tt := range []struct {
		option, key string
		status      int
		message     string
	}{
		{"", "sk_test_51abcdefghij1234", 200, ""},
		{"", "rk_test_51abcdefghij1234", 200, ""},
		{"sk_test_mine", "sk_test_mine", 200, ""},
		{"sk_test_mine", "sk_test_51abcdefghij1234", 401, "Invalid API Key provided: sk_test_************1234"},
		{"", "sk_live_51abcdefghij1234", 401, "Invalid API Key provided: sk_live_************1234"},
		{"sk_live_x", "sk_live_x", 401, "Invalid API Key provided: sk_live_"},
		{"", "pk_test_51abcdefghij1234", 401, "Invalid API Key provided: pk_test_************1234"},
		{"", "", 401, "You did not provide an API key."},
	} {
		s := New(Options{SecretKey: tt.option})
		var headers []string
		if tt.key != "" {
			headers = []string{"Authorization", "Bearer " + tt.key}
		}
		got := sandboxtest.Send(t, s, "GET", "/v1/balance", "", headers...)
		message, _ := got.Get("error.message").(string)
		if got.Status != tt.status || !strings.HasPrefix(message, tt.message) {
			t.Errorf("GET balance with %q, account %q = %d %s; want %d %s", tt.key, tt.option, got.Status, got.Body, tt.status, tt.message)
		}
	}
}

func TestIdempotency(t *testing.T) {
	c := sandboxtest.NewClock()
	s := New(Options{Now: c.Now})
	do := func(path, form string) (status int, kind any, id any, replayed bool) {
		got := post(t, s, path, form, "Idempotency-Key", "k")
		return got.Status, got.Get("error.type"), got.Get("id"), got.Header.Get("Idempotent-Replayed") == "true"
	}
	if status, _, _, _ := do("/v1/customers", "nope=1"); status != 400 {
		t.Fatalf("unknown parameter = %d; want 400", status)
	}
	status, _, id, replayed := do("/v1/customers", "email=a@example.com&name=A")
	if status != 200 || replayed {
		t.Fatalf("after a validation error = %d, replayed %v; want 200, executed", status, replayed)
	}
	if status, _, again, replayed := do("/v1/customers", "name=A&email=a%40example.com"); status != 200 || again != id || !replayed {
		t.Errorf("same parameters = %d %v, replayed %v; want 200 %v, replayed", status, again, replayed, id)
	}
	if status, kind, _, _ := do("/v1/customers", "email=b@example.com"); status != 400 || kind != "idempotency_error" {
		t.Errorf("other parameters = %d %v; want 400 idempotency_error", status, kind)
	}
	if status, kind, _, _ := do("/v1/billing_portal/sessions", "email=a@example.com&name=A"); status != 400 || kind != "idempotency_error" {
		t.Errorf("other endpoint = %d %v; want 400 idempotency_error", status, kind)
	}
	c.Advance(keyLife + time.Second)
	if status, _, again, replayed := do("/v1/customers", "email=b@example.com"); status != 200 || again == id || replayed {
		t.Errorf("a day later = %d %v, replayed %v; want a new customer", status, again, replayed)
	}
	if n := len(s.Customers()); n != 2 {
		t.Errorf("customers = %d; want 2", n)
	}
}

// A 500 of Stripe's own stays under its key; what never reached Stripe leaves
// the key free.
func TestIdempotencyOf500(t *testing.T) {
	s, api := newClient(t, Options{})
	create := func(key string) (*stripe.Customer, *stripe.Error) {
		c, err := api.Customers.New(&stripe.CustomerParams{Params: stripe.Params{IdempotencyKey: &key}})
		return c, stripeErr(t, err)
	}
	s.Fail(func(r *http.Request) bool { return r.URL.Path == "/v1/customers" })
	_, first := create("k")
	if first.HTTPStatusCode != 500 || first.Type != stripe.ErrorTypeAPI || first.LastResponse.Header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("New while Stripe fails = %v; want 500 api_error, executed", first)
	}
	s.Fail(nil)
	_, again := create("k")
	if again.HTTPStatusCode != 500 {
		t.Fatalf("same key later = %v; want the 500 again", again)
	}
	if h := again.LastResponse.Header; h.Get("Idempotent-Replayed") != "true" || h.Get("Original-Request") != first.RequestID ||
		again.RequestID == first.RequestID || string(again.LastResponse.RawJSON) != string(first.LastResponse.RawJSON) {
		t.Errorf("same key later = %v %v; want the answer of %s, replayed", again, h, first.RequestID)
	}
	if c, err := create("l"); err.HTTPStatusCode != 0 || len(s.Customers()) != 1 {
		t.Errorf("another key later = %v, %v; want the only Customer", c, err)
	}

	s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(500)
		_, _ = io.WriteString(w, `{"error":{"type":"api_error"}}`)
		return true
	})
	if _, err := create("m"); err.HTTPStatusCode != 500 {
		t.Errorf("New in front of which a gateway fails = %v; want 500", err)
	}
	s.Intercept(nil)
	if c, err := create("m"); err.HTTPStatusCode != 0 || c.LastResponse.Header.Get("Idempotent-Replayed") != "" || len(s.Customers()) != 2 {
		t.Errorf("the same key at Stripe = %v, %v; want it executed", c, err)
	}
}

func TestIdempotencyInFlight(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	var once sync.Once
	s, api := newClient(t, Options{Executing: func(*http.Request) {
		once.Do(func() { close(entered); <-leave })
	}})
	create := func() (string, error) {
		c, err := api.Customers.New(&stripe.CustomerParams{Params: stripe.Params{IdempotencyKey: stripe.String("k")}})
		if err != nil {
			return "", err
		}
		return c.ID, nil
	}
	var first string
	var firstErr error
	done := make(chan bool)
	go func() { first, firstErr = create(); close(done) }()
	<-entered
	_, err := create()
	if e := stripeErr(t, err); e.HTTPStatusCode != 409 || e.Code != stripe.ErrorCodeIdempotencyKeyInUse {
		t.Errorf("same key in flight = %v; want 409 idempotency_key_in_use", err)
	}
	close(leave)
	<-done
	second, err := create()
	if firstErr != nil || err != nil || first != second || len(s.Customers()) != 1 {
		t.Errorf("customers = %s (%v), %s (%v); want one", first, firstErr, second, err)
	}
}

// A connection that drops while a request is executed leaves its key free.
func TestIdempotencyAfterCrash(t *testing.T) {
	crash := true
	s, api := newClient(t, Options{Executing: func(*http.Request) {
		if crash {
			crash = false
			panic(http.ErrAbortHandler)
		}
	}})
	for i, want := range []bool{false, true} {
		_, err := api.Customers.New(&stripe.CustomerParams{Params: stripe.Params{IdempotencyKey: stripe.String("k")}})
		if (err == nil) != want {
			t.Errorf("try %d = %v; want success %v", i+1, err, want)
		}
	}
	if n := len(s.Customers()); n != 1 {
		t.Errorf("customers = %d; want 1", n)
	}
}

func TestCustomers(t *testing.T) {
	s, api := newClient(t, Options{})
	c, err := api.Customers.New(&stripe.CustomerParams{Email: stripe.String("a@example.com"), Name: stripe.String("Ann"), Metadata: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := api.Customers.Get(c.ID, nil); err != nil || got.Name != "Ann" || got.Email != "a@example.com" || got.Metadata["k"] != "v" {
		t.Errorf("Get = %+v, %v; want what was created", got, err)
	}
	s.DeleteCustomer(c.ID)
	if c, err := api.Customers.Get(c.ID, nil); err != nil || !c.Deleted {
		t.Errorf("Get of a deleted one = %+v, %v; want it, deleted", c, err)
	}
	_, err = api.Customers.Get("cus_x", nil)
	if e := stripeErr(t, err); e.HTTPStatusCode != 404 || e.Code != stripe.ErrorCodeResourceMissing || e.Msg != "No such customer: 'cus_x'" {
		t.Errorf("Get(cus_x) = %v; want 404 resource_missing", err)
	}
}

func TestSubscriptions(t *testing.T) {
	s, api := newClient(t, Options{})
	c, err := api.Customers.New(&stripe.CustomerParams{})
	if err != nil {
		t.Fatal(err)
	}
	active := s.AddSubscription(c.ID, "price_basic_monthly", "active")
	canceled := s.AddSubscription(c.ID, "price_pro_monthly", "canceled")
	due := s.AddSubscription(c.ID, "price_pro_monthly", "past_due")
	for _, tt := range []struct {
		query, want string
	}{
		{"customer=" + c.ID, due + " " + active},
		{"customer=" + c.ID + "&status=all", due + " " + canceled + " " + active},
		{"status=canceled", canceled},
		{"price=price_basic_monthly", active},
	} {
		q, _ := url.ParseQuery(tt.query)
		p := &stripe.SubscriptionListParams{}
		for name, field := range map[string]**string{"customer": &p.Customer, "status": &p.Status, "price": &p.Price} {
			if q.Has(name) {
				*field = stripe.String(q.Get(name))
			}
		}
		var ids []string
		list := api.Subscriptions.List(p)
		for list.Next() {
			ids = append(ids, list.Subscription().ID)
		}
		if got := strings.Join(ids, " "); got != tt.want || list.Err() != nil {
			t.Errorf("List(%s) = %s, %v; want %s", tt.query, got, list.Err(), tt.want)
		}
	}
	p := &stripe.SubscriptionListParams{Status: stripe.String("all"), ListParams: stripe.ListParams{Limit: stripe.Int64(2)}}
	var ids []string
	list := api.Subscriptions.List(p)
	for list.Next() { // over two pages
		ids = append(ids, list.Subscription().ID)
	}
	if got, want := strings.Join(ids, " "), due+" "+canceled+" "+active; got != want || list.Err() != nil {
		t.Errorf("List in pages of two = %s, %v; want %s", got, list.Err(), want)
	}
}

func TestPortalSession(t *testing.T) {
	s, api := newClient(t, Options{})
	c, err := api.Customers.New(&stripe.CustomerParams{})
	if err != nil {
		t.Fatal(err)
	}
	p := &stripe.BillingPortalSessionParams{Customer: &c.ID, ReturnURL: stripe.String("https://example.com/account")}
	made, err := api.BillingPortalSessions.New(p)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(made.URL)
	if err != nil || u.Path != "/p/session/"+made.ID || !strings.HasPrefix(u.Host, "127.0.0.1:") {
		t.Errorf("URL = %s; want /p/session/%s at the host of the request", made.URL, made.ID)
	}
	if kept := s.PortalSessions(); len(kept) != 1 || kept[0].URL != made.URL || kept[0].ReturnURL != made.ReturnURL {
		t.Errorf("PortalSessions = %+v; want the one made", kept)
	}
	list := api.BillingPortalConfigurations.List(&stripe.BillingPortalConfigurationListParams{IsDefault: stripe.Bool(true)})
	if !list.Next() || list.BillingPortalConfiguration().ID != made.Configuration.ID {
		t.Errorf("default configuration = %v; want %s", list.BillingPortalConfiguration(), made.Configuration.ID)
	}
	s.DeleteCustomer(c.ID)
	for _, tt := range []struct {
		params       *stripe.BillingPortalSessionParams
		param, wants string
	}{
		{p, "customer", "No such customer: '" + c.ID + "'"},
		{&stripe.BillingPortalSessionParams{}, "customer", "Missing required param: customer."},
	} {
		_, err := api.BillingPortalSessions.New(tt.params)
		if e := stripeErr(t, err); e.HTTPStatusCode != 400 || e.Param != tt.param || e.Msg != tt.wants {
			t.Errorf("New = %v; want 400 %s", err, tt.wants)
		}
	}
}

// Every list and every lookup answers, be it with nothing.
func TestReads(t *testing.T) {
	s := New(Options{})
	for path, want := range map[string]int{
		"/v1/prices/price_lifetime": 200, "/v1/prices/price_x": 404,
		"/v1/prices/price_lifetime?expand[]=nope": 400, "/v1/charges?limit=0": 400,
		"/v1/payment_intents": 200, "/v1/payment_intents/pi_x": 404, "/v1/charges": 200, "/v1/charges/ch_x": 404,
		"/v1/invoices": 200, "/v1/invoices/in_x": 404,
		"/v1/webhook_endpoints": 200, "/v1/balance": 200,
		"/v1/checkout/sessions": 200, "/v1/checkout/sessions/cs_x": 404, "/v1/subscriptions/sub_x": 404,
		"/v1/billing_portal/configurations": 200, "/v1/billing_portal/configurations/x": 404,
		"/v1/charges?nope=1": 400, "/v1/nope": 404,
	} {
		if got := sandboxtest.Send(t, s, "GET", path, "", "Authorization", "Bearer sk_test_0123456789"); got.Status != want {
			t.Errorf("GET %s = %d %s; want %d", path, got.Status, got.Body, want)
		}
	}
	if got := sandboxtest.Send(t, s, "GET", "/c/pay/cs_test_x", ""); got.Status != 404 { // a buyer has no key
		t.Errorf("GET /c/pay/cs_test_x = %d; want 404", got.Status)
	}
}

// Real time-outs reach the client as they would from Stripe.
func TestInterceptDrops(t *testing.T) {
	s, api := newClient(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		cancel() // once it has come
		<-r.Context().Done()
		return true
	})
	if _, err := api.Customers.New(&stripe.CustomerParams{Params: stripe.Params{Context: ctx}}); !errors.Is(err, context.Canceled) {
		t.Errorf("New = %v; want it canceled", err)
	}
	if calls := s.CallsTo("POST", "/v1/customers"); len(calls) != 1 {
		t.Errorf("calls = %d; want 1", len(calls))
	}
}
