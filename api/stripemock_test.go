package api_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"

	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

// stripeMock returns Stripe's own mock server and the requests it refused. answers, by
// "METHOD path", take the place of what it answers to those that it accepts.
func stripeMock(t *testing.T, answers map[string]string) (url string, refused func() []string) {
	t.Helper()
	spec, err := server.LoadSpec(embedded.OpenAPISpec, "")
	if err != nil {
		t.Fatal(err)
	}
	fixtures, err := server.LoadFixtures(embedded.OpenAPIFixtures, "")
	if err != nil {
		t.Fatal(err)
	}
	mock, err := server.NewStubServer(fixtures, spec, false, false)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var list []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		mock.HandleRequest(rec, r)
		if rec.Code != http.StatusOK {
			mu.Lock()
			list = append(list, r.Method+" "+r.URL.Path+": "+rec.Body.String())
			mu.Unlock()
		}
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		body := rec.Body.String()
		if answer := answers[r.Method+" "+r.URL.Path]; answer != "" && rec.Code == http.StatusOK {
			w.Header().Del("Content-Length")
			body = answer
		}
		w.WriteHeader(rec.Code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string { mu.Lock(); defer mu.Unlock(); return list }
}

// TestStripeMock: Stripe's own mock accepts every request that the service
// sends, whatever the configuration, and both endpoints answer with its URLs.
func TestStripeMock(t *testing.T) {
	t.Parallel()
	mockURL, refused := stripeMock(t, nil)
	for name, change := range map[string]func(*settings){
		"defaults": func(*settings) {},
		"everything": func(s *settings) {
			s.billing.AutomaticTax, s.billing.TaxIDCollection, s.billing.OneSubscription = true, true, true
			s.billing.Params = url.Values{"locale": {"auto"}, "consent_collection[terms_of_service]": {"required"}}
			s.billing.PaymentParams = url.Values{"submit_type": {"book"}, "payment_intent_data[description]": {"a & b"}}
			s.billing.SubscriptionParams = url.Values{"subscription_data[description]": {"ä"}, "payment_method_types[]": {"card", "link"}}
			s.billing.TrialDays, s.billing.PortalConfiguration = 30, "bpc_123"
		},
		"nothing": func(s *settings) { s.billing.PromotionCodes = false },
	} {
		w := start(t, func(s *settings) {
			s.billing.APIBase, s.billing.WebhookSecrets = mockURL, []upstream.Secret{upstream.NewSecret(whsec)}
		}, change)
		_, newcomer := w.signUp("ada@example.com")
		u, customer := w.signUp("eve@example.com")
		w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_123"})
		for caller, session := range map[string][]string{"guest": nil, "newcomer": newcomer, "customer": customer} {
			for _, body := range []string{buyPro, buyOnce} {
				got := w.checkout(body, append(session, "Idempotency-Key", caller+body)...)
				// The mock's only subscription is active, so one is enough for CHECKOUT_ONE_SUBSCRIPTION.
				if got.status != 200 || !strings.HasPrefix(got.field("url"), "https://") {
					t.Errorf("%s, %s: create-checkout = %d %s; want 200 and a url", name, caller, got.status, got.body)
				}
			}
		}
		if got := w.checkout(quantityOf(buyPro, "3"), customer...); got.status != 200 {
			t.Errorf("%s: create-checkout of three = %d %s; want 200", name, got.status, got.body)
		}
		for _, flow := range []string{"payment_method_update", "subscription_cancel", "subscription_update"} {
			if got := w.portal(portalAt(flow, ""), customer...); got.status != 200 {
				t.Errorf("%s: create-portal at %s = %d %s; want 200", name, flow, got.status, got.body)
			}
		}
		if got := w.do("POST", "/api/stripe/sync", "", customer...); got.status != 200 {
			t.Errorf("%s: sync = %d %s; want 200", name, got.status, got.body)
		}
		if got := w.portal(openPortal, customer...); got.status != 200 || !strings.HasPrefix(got.field("url"), "https://") {
			t.Errorf("%s: create-portal = %d %s; want 200 and a url", name, got.status, got.body)
		}
	}
	w := start(t, func(s *settings) {
		s.billing.APIBase, s.billing.Prices = mockURL, []string{"price_123", "gold", "silver"}
	})
	if got := w.do("GET", "/api/stripe/prices", ""); got.status != 200 {
		t.Errorf("prices = %d %s; want 200", got.status, got.body)
	}
	if got := w.checkout(strings.Replace(buyPro, "price_pro_monthly", "gold", 1)); got.field("error") != "No such price: 'gold'" {
		t.Errorf("create-checkout with a lookup key = %d %s; want one that the mock does not know", got.status, got.body)
	}
	if got := refused(); len(got) != 0 {
		t.Errorf("stripe-mock refused %q; want every request accepted", got)
	}
}

// TestStripeMockRare: it accepts as well what is sent only where there is something to
// expire, to claim, to end or to mend.
func TestStripeMockRare(t *testing.T) {
	t.Parallel()
	list := func(object string) string { return `{"object":"list","data":[` + object + `]}` }
	answers := map[string]string{
		"GET /v1/customers":         list(`{"id":"cus_guest","object":"customer","email":"eve@example.com","metadata":{}}`),
		"GET /v1/subscriptions":     list(""),
		"GET /v1/checkout/sessions": list(`{"id":"cs_open","object":"checkout.session","mode":"subscription","status":"open","url":"https://example.com","created":1}`),
		"GET /v1/webhook_endpoints": list(`{"id":"we_1","object":"webhook_endpoint","url":"https://example.com/api/stripe/webhook","enabled_events":["*"]}`),
		"GET /v1/checkout/sessions/cs_disputed": `{"id":"cs_disputed","object":"checkout.session","mode":"payment","status":"complete","payment_status":"paid","created":1,"metadata":{},
			"payment_intent":{"id":"pi_1","latest_charge":{"id":"ch_1","disputed":true}}}`,
	}
	mockURL, refused := stripeMock(t, answers)
	w := start(t, claiming, func(s *settings) { s.billing.APIBase, s.billing.OneSubscription = mockURL, true })
	supabase := httptest.NewServer(w.supabase)
	t.Cleanup(supabase.Close)
	stripe := billing.Config{SecretKey: upstream.NewSecret("sk_test_123"), APIBase: mockURL, Network: upstream.New(upstream.Config{})}
	database := customers.Config{URL: supabase.URL, ServiceRoleKey: upstream.NewSecret(fakesupabase.ServiceRoleKey), Network: stripe.Network}

	u, session := w.signUp("eve@example.com")
	if got := w.do("POST", syncPath, "", session...); got.status != 200 || w.customerOf(u.ID) != "cus_guest" {
		t.Errorf("sync = %d %s; want 200, and the guest's Customer claimed", got.status, got.body)
	}
	if got := w.checkout(buyPro, session...); got.status != 200 {
		t.Errorf("create-checkout with another open = %d %s; want 200", got.status, got.body)
	}
	if got := w.deliver(`{"id":"evt_1","type":"checkout.session.completed","data":{"object":{"id":"cs_disputed"}}}`, whsec, time.Now()); got.status != 200 {
		t.Errorf("webhook of a disputed payment = %d %s; want 200", got.status, got.body)
	}
	for _, what := range []string{billing.CancelSubscriptions, billing.DeleteCustomer} {
		answers["GET /v1/subscriptions"] = list(`{"id":"sub_1","object":"subscription","status":"active"}`)
		w.supabase.Insert("stripe_deleted_users", map[string]any{"stripe_customer_id": "cus_" + what, "user_id": "99999999-9999-4999-8999-999999999999"})
		stripe.UserDeleted = what
		if left, err := billing.New(stripe, customers.New(database)).SettleDeletedUsers(t.Context()); left != 0 || err != nil {
			t.Errorf("%s: SettleDeletedUsers() = %d, %v; want 0", what, left, err)
		}
	}
	for _, url := range []string{"https://example.com/api/stripe/webhook", "https://example.org/api/stripe/webhook"} {
		if _, err := billing.New(stripe, nil).EnsureEndpoint(t.Context(), url); err != nil && !strings.Contains(err.Error(), "lacks what was asked for") { // the mock tells no secret
			t.Errorf("EnsureEndpoint(%s) = %v; want no error", url, err)
		}
	}
	if got := refused(); len(got) != 0 {
		t.Errorf("stripe-mock refused %q; want every request accepted", got)
	}
}
