package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
)

// TestTracing: with a collector named, a request and its call to Stripe are
// spans of the caller's trace, sent before the program ends.
func TestTracing(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	var mu sync.Mutex
	var sent bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if _, err := io.Copy(&sent, r.Body); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("collector got %s, %v; want /v1/traces", r.URL.Path, err)
		}
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_SERVICE_NAME", "billing-of-the-test")
	stripe, _, env := surroundings(t, fakestripe.Options{})
	s := startService(t, env)

	r, err := http.NewRequest("POST", s.url+"/api/stripe/create-checkout", strings.NewReader(
		`{"priceId":"price_lifetime","mode":"payment","successUrl":"https://a.example","cancelUrl":"https://a.example"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("create-checkout = %v, %v; want 200", resp, err)
	}
	_ = resp.Body.Close()
	if got := stripe.CallsTo("POST", "/v1/checkout/sessions")[0].Header.Get("Traceparent"); !strings.HasPrefix(got, "00-"+trace+"-") || strings.Contains(got, "b7ad6b7169203331") {
		t.Errorf("Traceparent at Stripe = %q; want a span of its own in the caller's trace", got)
	}
	if code, logs := s.wait(t); code != 0 {
		t.Errorf("exit code = %d, %s; want 0", code, logs)
	}
	mu.Lock()
	defer mu.Unlock()
	// The spans are protobuf, in which text stands as it is.
	for _, want := range []string{"billing-of-the-test", "/v1/checkout/sessions"} {
		if !bytes.Contains(sent.Bytes(), []byte(want)) {
			t.Errorf("the collector got no %s; want it in the spans", want)
		}
	}
}
