package api_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The benchmarks measure one request through the whole service, the two calls
// over loopback to upstreams that answer at once included.

func benchmarkSite(b *testing.B) (w *site, session []string) {
	b.Helper()
	answers := func(body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		}))
		b.Cleanup(s.Close)
		return s
	}
	stripe := answers(`{"id":"cs_test_1","object":"checkout.session","url":"https://checkout.example/c/pay/cs_test_1"}`)
	rows := answers(`[{"stripe_customer_id":"cus_1"}]`)
	w = start(b, func(s *settings) {
		s.billing.APIBase = stripe.URL
		s.customers.URL = rows.URL
		s.api.Logger = slog.New(slog.DiscardHandler)
	})
	u := w.supabase.SignUp("ada@example.com", "correct horse battery staple")
	cookie := cookieName + "=base64-" + base64URL(w.supabase.SignIn(u.ID).JSON)
	w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/auth/v1/user" {
			return false
		}
		_, _ = io.WriteString(rw, `{"id":"`+u.ID+`"}`)
		return true
	})
	return w, []string{"Cookie", cookie}
}

func benchmark(b *testing.B, path, body string, w *site, headers []string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	b.Cleanup(client.CloseIdleConnections)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequest("POST", w.url+path, strings.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			for i := 0; i < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
			resp, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				b.Errorf("POST %s = %s; want 200", path, resp.Status)
				return
			}
		}
	})
}

func BenchmarkCheckoutGuest(b *testing.B) {
	w, _ := benchmarkSite(b)
	benchmark(b, "/api/stripe/create-checkout", buyPro, w, nil)
}

func BenchmarkCheckoutSignedIn(b *testing.B) {
	w, session := benchmarkSite(b)
	benchmark(b, "/api/stripe/create-checkout", buyPro, w, session)
}

func BenchmarkPortal(b *testing.B) {
	w, session := benchmarkSite(b)
	benchmark(b, "/api/stripe/create-portal", openPortal, w, session)
}
