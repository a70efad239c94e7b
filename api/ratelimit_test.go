package api_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/upstream"
)

// TestRateLimit: so many requests a minute from one client, whoever carries
// them here.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	const limit = 3
	w := start(t, func(s *settings) {
		s.api.RatePerMinute = limit
		s.api.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	})
	// Each address is new to the service at the beginning of its row.
	tests := []struct {
		name    string
		forward []string // X-Forwarded-For of each request after those that exhaust the first address
		status  int
	}{
		{"same address", []string{"203.0.113.1"}, 429},
		{"other address", []string{"203.0.113.2", "203.0.113.3"}, 400},
		{"same address with a port", []string{"203.0.113.4", "203.0.113.4:1234"}, 429},
		{"same address behind a second proxy", []string{"203.0.113.5", "203.0.113.5, 10.0.0.1"}, 429},
		{"invented address in front", []string{"203.0.113.6", "198.51.100.1, 203.0.113.6"}, 429},
		{"garbage in front", []string{"203.0.113.7", "unknown, 203.0.113.7"}, 429},
		{"mapped IPv4", []string{"203.0.113.8", "::ffff:203.0.113.8"}, 429},
		{"same IPv6 /64", []string{"2001:db8:1:1::1", "2001:db8:1:1:ffff::2"}, 429},
		{"other IPv6 /64", []string{"2001:db8:1:2::1", "2001:db8:1:3::1"}, 400},
		{"a proxy that does not tell", []string{"203.0.113.9", ""}, 400},
		{"a client in the private network", []string{"10.1.2.3"}, 429},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for i := range limit {
				path := []string{"checkout", "portal"}[i%2] // counted together
				if got := w.do("POST", "/api/stripe/create-"+path, `{}`, "X-Forwarded-For", test.forward[0]); got.status == 429 {
					t.Fatalf("request %d of %d = 429; want it taken", i+1, limit)
				}
			}
			last := test.forward[len(test.forward)-1]
			got := w.checkout(`{}`, "X-Forwarded-For", last)
			if got.status != test.status {
				t.Errorf("request %d from %q = %d %s; want %d", limit+1, last, got.status, got.body, test.status)
			}
			seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
			if limited := test.status == 429; limited != (err == nil && seconds > 0 && seconds <= 60) || limited != (got.field("error") == "Too many requests. Please try again later.") {
				t.Errorf("request %d from %q = %s, Retry-After %q; want both only with 429", limit+1, last, got.body, got.header.Get("Retry-After"))
			}
		})
	}
	for range limit + 1 {
		if got := w.do("GET", "/healthz", "", "X-Forwarded-For", "203.0.113.1"); got.status != 200 {
			t.Errorf("GET /healthz = %d; want no limit but on the two endpoints", got.status)
		}
	}
	if got := w.do("GET", "/metrics", "").body; !strings.Contains(got, "stripe_sidecar_rate_limited_total 8\n") {
		t.Errorf("GET /metrics = %s; want stripe_sidecar_rate_limited_total 8", got)
	}
}

// TestUntrustedProxy: what a stranger says about who they are is not believed.
func TestUntrustedProxy(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.api.RatePerMinute, s.api.TrustedProxies = 1, nil })
	w.checkout(`{}`, "X-Forwarded-For", "203.0.113.1")
	if got := w.checkout(`{}`, "X-Forwarded-For", "203.0.113.2"); got.status != 429 {
		t.Errorf("second request with another X-Forwarded-For = %d; want 429", got.status)
	}
}

// TestMetrics: the counters move, and no caller can make new ones.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)} })
	u, session := w.signUp("ada@example.com")
	w.checkout(buyOnce, session...)
	w.portal(openPortal, session...)
	ending := w.supabase.SignInFor(u.ID, time.Second) // to be refreshed
	w.checkout(`{}`, "Cookie", cookieName+"=base64-"+base64URL(ending.JSON))
	w.checkout(buyOnce, "Cookie", cookieName+"=base64-"+base64URL(ending.JSON))
	id := w.stripe.AddSubscription(w.stripe.Customers()[0].ID, "price_basic_monthly", "active")
	w.deliver(`{"id":"evt_1","type":"customer.subscription.updated","data":{"object":{"id":"`+id+`"}}}`, whsec, time.Now())
	w.deliver(notOurs, whsec, time.Now())
	for _, path := range []string{"/x1", "/x2", "/api/stripe/x3"} {
		w.do("BREW", path, "")
	}
	got := w.do("GET", "/metrics", "").body
	for _, want := range []string{
		`stripe_sidecar_requests_total{route="/api/stripe/create-checkout",status="200"} 2`,
		`stripe_sidecar_requests_total{route="/api/stripe/create-portal",status="200"} 1`,
		`stripe_sidecar_requests_total{route="",status="404"} 3`,
		`stripe_sidecar_request_duration_seconds_count{route="/api/stripe/create-portal"} 1`,
		`stripe_sidecar_requests_in_flight 0`,
		`stripe_sidecar_events_total{outcome="stored",type="customer.subscription.updated"} 1`,
		`stripe_sidecar_events_total{outcome="ignored",type="other"} 1`,
		calls("create_checkout_session", "stripe", 2),
		calls("create_portal_session", "stripe", 1),
		calls("create_customer", "stripe", 1),
		calls("fetch_subscription", "stripe", 1),
		calls("key_set", "auth", 1),
		calls("refresh", "auth", 1),
		calls("user", "auth", 1),
		calls("read_customer", "database", 4),
		calls("write_customer", "database", 1),
		calls("ticket", "database", 1),
		calls("write", "database", 1),
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("GET /metrics lacks %s; want it", want)
		}
	}
	if strings.Contains(got, "x1") || strings.Contains(got, "BREW") {
		t.Error("GET /metrics names what a caller made up; want fixed labels")
	}
}

func calls(name, service string, n int) string {
	return fmt.Sprintf(`stripe_sidecar_upstream_calls_total{call=%q,outcome="2xx",service=%q} %d`, name, service, n)
}

// TestTraceContext: a W3C trace goes on to Stripe and Supabase and into the log.
func TestTraceContext(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, session := w.signUp("ada@example.com")
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w.checkout(buyOnce, append(session, "Traceparent", trace)...)
	for _, c := range append(w.stripe.Calls(), w.supabase.CallsTo("GET", tablePath)...) {
		if got := c.Header.Get("Traceparent"); got != trace {
			t.Errorf("%s %s: Traceparent = %q; want %q", c.Method, c.Path, got, trace)
		}
	}
	if got := w.logs.lines(t)[0]["trace_id"]; got != trace[3:35] {
		t.Errorf("trace_id in the log = %v; want %s", got, trace[3:35])
	}
	w.stripe.ForgetCalls()
	w.checkout(buyOnce, "Traceparent", "00-nonsense")
	if got := w.stripe.Calls()[0].Header.Get("Traceparent"); got != "" {
		t.Errorf("Traceparent = %q; want nonsense dropped", got)
	}
}
