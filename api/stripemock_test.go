package api_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"

	"8space.app/stripe-sidecar/internal/upstream"
)

// stripeMock returns Stripe's own mock server and the requests it refused.
func stripeMock(t *testing.T) (url string, refused func() []string) {
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
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string { mu.Lock(); defer mu.Unlock(); return list }
}

// TestStripeMock: Stripe's own mock accepts every request that the service
// sends, whatever the configuration, and both endpoints answer with its URLs.
func TestStripeMock(t *testing.T) {
	t.Parallel()
	mockURL, refused := stripeMock(t)
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
