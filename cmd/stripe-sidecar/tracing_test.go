package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// receiver is a small OpenTelemetry collector.
type receiver struct {
	url string

	mu    sync.Mutex
	sent  bytes.Buffer // everything
	spans []*tracepb.Span
	about map[string]string // the resource
}

func startReceiver(t *testing.T) *receiver {
	t.Helper()
	c := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var traces tracepb.TracesData
		if err == nil {
			err = proto.Unmarshal(body, &traces)
		}
		if got := r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type"); err != nil || got != "POST /v1/traces application/x-protobuf" {
			t.Errorf("collector got %s, %v; want POST /v1/traces application/x-protobuf", got, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sent.Write(body)
		for _, resource := range traces.ResourceSpans {
			c.about = attributes(resource.Resource.Attributes)
			for _, scope := range resource.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.url)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "5") // milliseconds
	return c
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	all := map[string]string{}
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			all[a.Key] = fmt.Sprint(v.IntValue)
		default:
			all[a.Key] = fmt.Sprintf("%T", v)
		}
	}
	return all
}

// named returns the spans of a name.
func (c *receiver) named(name string) []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*tracepb.Span
	for _, s := range c.spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// await waits for a span of a name, and returns the first and what it says of its end.
func (c *receiver) await(t *testing.T, name string) (span *tracepb.Span, end string) {
	t.Helper()
	until(t, func() string { return fmt.Sprint(len(c.named(name)) > 0) }, "true")
	span = c.named(name)[0]
	with := attributes(span.Attributes)
	kind := strings.TrimPrefix(span.Kind.String(), "SPAN_KIND_")
	code := strings.TrimPrefix(span.Status.GetCode().String(), "STATUS_CODE_")
	return span, strings.TrimSpace(strings.Join([]string{kind, with["http.request.method"], with["http.route"], with["http.response.status_code"], code, with["error.type"]}, " "))
}

// TestTracing: with a collector named, a request and the calls that it makes are
// spans of the caller's trace, sent before the program ends.
func TestTracing(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	collector := startReceiver(t)
	t.Setenv("OTEL_SERVICE_NAME", "billing-of-the-test")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
	w := startWired(t, "SHUTDOWN_TIMEOUT", "20s")
	if got := w.post(t, "create-checkout", oneTime, append(w.bearer(), "Traceparent", "00-"+trace+"-"+parent+"-01")...); got != "200" {
		t.Fatalf("create-checkout = %s; want 200", got)
	}
	code, logs := w.wait(t)
	if code != 0 || !strings.Contains(logs, `"trace_id":"`+trace+`"`) {
		t.Errorf("exit code = %d, %s; want 0 and the trace in the log", code, logs)
	}
	request, end := collector.await(t, "POST /api/stripe/create-checkout")
	if want := "SERVER POST /api/stripe/create-checkout 200 UNSET"; end != want || hex.EncodeToString(request.ParentSpanId) != parent {
		t.Errorf("span of the request = %s, below %x; want %s below %s", end, request.ParentSpanId, want, parent)
	}
	var calls []string
	for _, s := range collector.spans {
		if hex.EncodeToString(s.TraceId) != trace {
			t.Errorf("%s is in trace %x; want %s", s.Name, s.TraceId, trace)
		}
		if s != request {
			_, end := collector.await(t, s.Name)
			calls = append(calls, s.Name+": "+end)
			if !bytes.Equal(s.ParentSpanId, request.SpanId) {
				t.Errorf("%s is below %x; want the request's span %x", s.Name, s.ParentSpanId, request.SpanId)
			}
		}
	}
	slices.Sort(calls)
	want := []string{
		"auth key_set: CLIENT GET  200 UNSET",
		"database read_customer: CLIENT GET  200 UNSET",
		"database write_customer: CLIENT POST  201 UNSET",
		"stripe create_checkout_session: CLIENT POST  200 UNSET",
		"stripe create_customer: CLIENT POST  200 UNSET",
	}
	if !slices.Equal(calls, want) {
		t.Errorf("spans of the calls = %q; want %q", calls, want)
	}
	// What Stripe is told is the span of that very call.
	call, _ := collector.await(t, "stripe create_checkout_session")
	if got, want := last(w.stripe.CallsTo("POST", "/v1/checkout/sessions")).Header.Get("Traceparent"), fmt.Sprintf("00-%s-%x-01", trace, call.SpanId); got != want {
		t.Errorf("Traceparent at Stripe = %q; want %q", got, want)
	}
	if collector.about["service.name"] != "billing-of-the-test" || collector.about["service.version"] != versionString() {
		t.Errorf("resource = %v; want the name of the environment and the version", collector.about)
	}
}

// TestTracingOfFailures: what failed is marked, whoever it failed at.
func TestTracingOfFailures(t *testing.T) {
	collector := startReceiver(t)
	w := startWired(t, "ALLOWED_PRICES", "price_lifetime", "UPSTREAM_TIMEOUT", "200ms")
	const checkout, call = "POST /api/stripe/create-checkout", "stripe create_checkout_session"
	for _, test := range []struct {
		name, method, path string
		stripe             http.HandlerFunc
		span, end          string // of the request
		callEnd            string // of the call; "" for none
	}{
		{"not allowed", "POST", "/api/stripe/create-portal", nil, "POST /api/stripe/create-portal", "SERVER POST /api/stripe/create-portal 401 UNSET", ""},
		{"no such path", "POST", "/ada@example.com?email=ada@example.com", nil, "POST", "SERVER POST  404 UNSET", ""},
		{"no such method", "BREW", "/api/stripe/create-portal", nil, "HTTP", "SERVER _OTHER  405 UNSET", ""},
		{"Stripe refuses", "POST", "/api/stripe/create-checkout", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error":{"type":"invalid_request_error","message":"no"}}`)
		}, checkout, "SERVER POST /api/stripe/create-checkout 500 ERROR 500", "CLIENT POST  403 ERROR 403"},
		{"the answer breaks off", "POST", "/api/stripe/create-checkout", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
		}, checkout, "SERVER POST /api/stripe/create-checkout 500 ERROR 500", "CLIENT POST   ERROR *errors.errorString"},
		{"no answer", "POST", "/api/stripe/create-checkout", func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}, checkout, "SERVER POST /api/stripe/create-checkout 500 ERROR 500", "CLIENT POST   ERROR context.deadlineExceededError"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if test.stripe != nil {
					test.stripe(rw, r)
				}
				return test.stripe != nil
			})
			collector.mu.Lock()
			collector.spans = nil
			collector.mu.Unlock()
			r, err := http.NewRequest(test.method, w.url+test.path, strings.NewReader(oneTime))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if _, end := collector.await(t, test.span); end != test.end {
				t.Errorf("span of the request = %s; want %s", end, test.end)
			}
			if test.callEnd == "" {
				return
			}
			if _, end := collector.await(t, call); end != test.callEnd {
				t.Errorf("span of the call = %s; want %s", end, test.callEnd)
			}
		})
	}
}

// TestTracesTellOfNobody: a span holds the attributes listed here alone, and nothing
// that says who asked, what they hold, or where they were sent.
func TestTracesTellOfNobody(t *testing.T) {
	collector := startReceiver(t)
	w := startWired(t, "CLAIM_GUEST_PURCHASES", "true", "STRIPE_WEBHOOK_SECRET", "whsec_wired")
	stranger := []string{"User-Agent", "agent-of-ada", "X-Forwarded-For", "203.0.113.77", "Referer", "https://a.example/ada",
		"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate", "who=ada@example.com"}
	w.post(t, "create-checkout", oneTime, append(stranger, w.bearer()...)...)
	_, portal, _ := w.send(t, "create-portal", `{"returnUrl":"https://a.example/ada"}`, append(stranger, w.bearer()...)...)
	w.post(t, "sync", `{}`, append(stranger, w.bearer()...)...)
	w.post(t, "ada@example.com?email=ada@example.com", `{}`, stranger...)
	var page struct{ URL string }
	if err := json.Unmarshal([]byte(portal), &page); err != nil || page.URL == "" {
		t.Fatalf("create-portal = %s, %v; want a URL", portal, err)
	}
	if got := metric(t, w.url, "stripe_sidecar_requests_in_flight"); got != "0" {
		t.Fatalf("requests in flight = %q; want 0", got)
	}
	w.deliver(t, `{"type":"invoice.paid","livemode":false,"data":{"object":{}}}`)
	span, _ := collector.await(t, "POST /api/stripe/webhook")
	if _, logs := w.wait(t); !strings.Contains(logs, fmt.Sprintf(`"trace_id":"%x"`, span.TraceId)) {
		t.Errorf("log = %s; want trace %x, which nobody but the service began", logs, span.TraceId)
	}
	asked := false
	for _, c := range w.stripe.CallsTo("GET", "/v1/customers") {
		asked = asked || c.Query.Get("email") == "ada@example.com"
	}
	if !asked {
		t.Fatal("Stripe was not asked for an address; want the call whose URL holds one")
	}
	collector.mu.Lock()
	defer collector.mu.Unlock()
	for _, secret := range []string{"ada", "203.0.113.77", w.userID, w.token, "cus_", page.URL,
		"sk_test", fakesupabase.ServiceRoleKey, fakesupabase.AnonKey, "email", "https:", "a.example", "/metrics"} {
		if bytes.Contains(collector.sent.Bytes(), []byte(secret)) {
			t.Errorf("the collector was sent %q; want nothing of it", secret)
		}
	}
	allowed := []string{"error.type", "http.request.method", "http.response.status_code", "http.route", "server.address", "server.port", "url.path", "url.scheme"}
	for _, s := range collector.spans {
		if got := slices.Sorted(maps.Keys(attributes(s.Attributes))); slices.ContainsFunc(got, func(a string) bool { return !slices.Contains(allowed, a) }) {
			t.Errorf("%s has the attributes %v; want of %v alone", s.Name, got, allowed)
		}
		if len(s.Events) > 0 || s.Status.GetMessage() != "" {
			t.Errorf("%s = %v; want no event and no message", s.Name, s)
		}
	}
	for _, c := range slices.Concat(w.stripe.Calls(), w.supabase.Calls()) {
		if state := c.Header["Tracestate"]; state != nil {
			t.Errorf("%s %s has the Tracestate %q; want none", c.Method, c.Path, state)
		}
	}
}

// TestCollectorFails: a collector that is away or refuses is one warning, without the
// keys in its URL, and the program serves and ends all the same.
func TestCollectorFails(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer refuses.Close()
	for _, test := range []struct{ url, want string }{
		{gone.URL, "the last traces could not be sent"},
		{refuses.URL, "traces are lost; said at most once a minute"},
	} {
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", test.url+"/?api_key=hidden")
		t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
		w := startWired(t)
		for range 3 {
			if got := w.post(t, "create-checkout", oneTime); got != "200" {
				t.Errorf("create-checkout = %s; want 200", got)
			}
		}
		code, logs := w.wait(t)
		if code != 0 || strings.Count(logs, test.want) != 1 || strings.Contains(logs, "hidden") {
			t.Errorf("exit code = %d, %s; want 0, %q once, and no key", code, logs, test.want)
		}
	}
}
