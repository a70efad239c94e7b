package api_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is one that a test sets.
type clock struct{ past atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1795000000, 0).Add(time.Duration(c.past.Load())) }
func (c *clock) advance(d time.Duration) { c.past.Add(int64(d)) }

const pricesPath = "/api/stripe/prices"

// TestLookupKeys: a price may be named by a lookup key, also in ALLOWED_PRICES.
func TestLookupKeys(t *testing.T) {
	t.Parallel()
	mixed := []string{"pro_monthly", "price_lifetime"}
	const notForSale = "This price is not for sale"
	tests := []struct {
		name    string
		allowed []string
		price   string
		sold    string // the Price's ID; "": the error below
		status  int
		error   string
		calls   int // to Stripe, at most
	}{
		{"an ID", nil, "price_pro_monthly", "price_pro_monthly", 0, "", 1},
		{"a key", nil, "pro_monthly", "price_pro_monthly", 0, "", 2},
		{"no such key", nil, "x", "", 500, "No such price: 'x'", 1},
		{"another case", nil, "Pro_monthly", "", 500, "No such price: 'Pro_monthly'", 1},
		{"a product", nil, "prod_1", "", 500, "No such price: 'prod_1'", 1},
		{"an inactive price's", nil, "old", "", 500, "No such price: 'old'", 1},
		{"longer than any", nil, strings.Repeat("x", 201), "", 500, "No such price: '" + strings.Repeat("x", 201) + "'", 0},
		{"an e-mail address", nil, "ada@example.com", "", 500, "The payment provider could not complete the request. Please try again.", 1},
		{"a key that is listed", mixed, "pro_monthly", "price_pro_monthly", 0, "", 2},
		{"the ID of one whose key is listed", mixed, "price_pro_monthly", "price_pro_monthly", 0, "", 3},
		{"the key of one whose ID is listed", mixed, "lifetime", "price_lifetime", 0, "", 4},
		{"an ID that is not listed", mixed, "price_basic_monthly", "", 400, notForSale, 2},
		{"a key that is not listed", mixed, "basic_monthly", "", 400, notForSale, 2},
		{"an inactive one that is listed", []string{"price_basic_monthly"}, "old", "", 400, notForSale, 1},
		{"IDs alone", []string{"price_lifetime"}, "price_pro_monthly", "", 400, notForSale, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(s *settings) { s.billing.Prices = test.allowed })
			_, session := w.signUp("ada@example.com")
			w.stripe.SetLookupKey("price_basic_monthly", "old")
			if !strings.HasPrefix(test.price, "basic") && test.price != "price_basic_monthly" {
				w.stripe.DeactivatePrice("price_basic_monthly")
			} else {
				w.stripe.SetLookupKey("price_basic_monthly", "basic_monthly")
			}
			body := buyPro
			if test.sold == "price_lifetime" {
				body = strings.Replace(buyOnce, "price_lifetime", test.price, 1)
			} else {
				body = strings.Replace(body, "price_pro_monthly", test.price, 1)
			}
			got := w.checkout(body)
			if n := len(w.stripe.Calls()); n > test.calls {
				t.Errorf("calls to Stripe = %d; want %d at most", n, test.calls)
			}
			if test.sold == "" {
				if got.status != test.status || got.field("error") != test.error {
					t.Errorf("create-checkout = %d %s; want %d %s", got.status, got.body, test.status, test.error)
				}
				if w.checkout(body, session...); len(w.stripe.Customers()) != 0 {
					t.Errorf("Customers = %v; want none for a price that there is not", w.stripe.Customers())
				}
				return
			}
			sold := w.stripe.CheckoutSessions()
			if got.status != 200 || sold[0].LineItems[0].Price != test.sold {
				t.Errorf("create-checkout = %d %s, sold %v; want %s", got.status, got.body, sold, test.sold)
			}
		})
	}

	w := start(t, func(s *settings) { s.billing.Prices = []string{"pro_monthly"} })
	w.stripe.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(500); return true })
	if got := w.checkout(strings.Replace(buyPro, "price_pro", "price_basic", 1)); got.status != 500 {
		t.Errorf("create-checkout while Stripe is down = %d %s; want 500, not that it is not for sale", got.status, got.body)
	}
}

// TestLookupKeyRemembered: for a minute, and not for longer.
func TestLookupKeyRemembered(t *testing.T) {
	t.Parallel()
	var c clock
	w := start(t, func(s *settings) { s.billing.Now = c.now })
	buy := func() string {
		t.Helper()
		if got := w.checkout(strings.Replace(buyPro, "price_pro_monthly", "pro_monthly", 1)); got.status != 200 {
			t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
		}
		sold := w.stripe.CheckoutSessions()
		return sold[len(sold)-1].LineItems[0].Price
	}
	buy()
	w.stripe.SetLookupKey("price_basic_monthly", "pro_monthly")
	c.advance(59 * time.Second)
	if got, n := buy(), len(w.stripe.CallsTo("GET", "/v1/prices")); got != "price_pro_monthly" || n != 1 {
		t.Errorf("within the minute = %s after %d look-ups; want the price remembered", got, n)
	}
	c.advance(time.Second)
	if got := buy(); got != "price_basic_monthly" {
		t.Errorf("after the minute = %s; want the price that has the key now", got)
	}
}

// TestPrices: what a pricing page gets.
func TestPrices(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) {
		s.billing.Prices = []string{"price_lifetime", "pro_monthly", "price_unknown", "price_pro_monthly", "price_basic_monthly", "unknown"}
		s.billing.TrialDays = 7
	})
	w.stripe.DeactivatePrice("price_basic_monthly")
	got := w.do("GET", pricesPath, "")
	const want = `{"prices":[` +
		`{"id":"price_lifetime","lookup_key":"lifetime","product_name":"Lifetime","product_description":null,"unit_amount":19900,"currency":"usd","interval":null,"interval_count":null,"trial_days":0},` +
		`{"id":"price_pro_monthly","lookup_key":"pro_monthly","product_name":"Pro","product_description":"As many as you like, with sketches.","unit_amount":2900,"currency":"usd","interval":"month","interval_count":1,"trial_days":7}]}` + "\n"
	if cache := got.header.Get("Cache-Control"); got.status != 200 || got.body != want || cache != "public, max-age=60" {
		t.Errorf("prices = %d %s, Cache-Control %q; want 200 %s, public, max-age=60", got.status, got.body, cache, want)
	}
	if got := start(t).do("GET", pricesPath, ""); got.status != 404 {
		t.Errorf("prices without ALLOWED_PRICES = %d %s; want 404", got.status, got.body)
	}
	none := start(t, func(s *settings) { s.billing.Prices = []string{"unknown"} })
	if got := none.do("GET", pricesPath, ""); got.status != 200 || got.body != `{"prices":[]}`+"\n" {
		t.Errorf("prices of which there is none = %d %s; want an empty list", got.status, got.body)
	}
}

// TestPricesFetchedOnce: Stripe is asked once in five minutes whatever the load,
// and what it said last will do for a day.
func TestPricesFetchedOnce(t *testing.T) {
	t.Parallel()
	var c clock
	w := start(t, func(s *settings) {
		s.billing.Prices, s.billing.Now = []string{"price_lifetime"}, c.now
	})
	asked := func(what string, status, want int) {
		t.Helper()
		w.stripe.ForgetCalls()
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				got := w.do("GET", pricesPath, "")
				if got.status != status || status == 500 && got.header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: prices = %d %s; want %d", what, got.status, got.body, status)
				}
			})
		}
		wg.Wait()
		if n := len(w.stripe.Calls()); n != want {
			t.Errorf("%s: calls to Stripe = %d; want %d", what, n, want)
		}
	}
	refuse := stripeAnswers("/v1/prices/price_lifetime", 403, `{"error":{"type":"invalid_request_error"}}`) // which stripe-go does not try again
	w.stripe.Intercept(refuse)
	asked("down from the start", 500, 1)
	w.stripe.Intercept(nil)
	asked("too soon after a failure", 500, 0)
	c.advance(10 * time.Second)
	asked("up", 200, 1)
	c.advance(4*time.Minute + 59*time.Second)
	asked("fresh", 200, 0)
	c.advance(time.Second)
	asked("five minutes later", 200, 1)
	w.stripe.Intercept(refuse)
	c.advance(23 * time.Hour)
	asked("down, older prices at hand", 200, 1)
	c.advance(time.Hour)
	asked("down for a day", 500, 1)
}

// TestPricesWhileStripeHangs: a pricing page does not wait for what it can do
// without, and gives up on the rest in time.
func TestPricesWhileStripeHangs(t *testing.T) {
	t.Parallel()
	var c clock
	w := start(t, func(s *settings) {
		s.billing.Prices, s.billing.Now = []string{"price_lifetime"}, c.now
		s.api.UpstreamTimeout = 8 * time.Second
	})
	w.do("GET", pricesPath, "")
	hang := make(chan struct{})
	w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { <-hang; return true })
	defer close(hang)
	c.advance(time.Hour)
	begun := time.Now()
	if got := w.do("GET", pricesPath, ""); got.status != 200 || time.Since(begun) > 6*time.Second {
		t.Errorf("prices = %d %s after %s; want the older ones soon", got.status, got.body, time.Since(begun))
	}
	empty := start(t, func(s *settings) {
		s.billing.Prices, s.billing.APIBase = []string{"price_lifetime"}, "http://127.0.0.1:1"
		s.api.UpstreamTimeout = 50 * time.Millisecond
	})
	if got := empty.do("GET", pricesPath, ""); got.status != 500 {
		t.Errorf("prices that were never there = %d %s; want 500", got.status, got.body)
	}
}
