package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts what the service does, for GET /metrics. Every label has a
// fixed set of values, whatever callers send.
// https://prometheus.io/docs/practices/naming/
type Metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	rateLimited prometheus.Counter
	events      *prometheus.CounterVec
	calls       *prometheus.CounterVec
	callTimes   *prometheus.HistogramVec
}

// NewMetrics returns Metrics with everything at zero.
func NewMetrics() *Metrics {
	buckets := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stripe_sidecar_requests_total",
			Help: "Requests answered."}, []string{"route", "status"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "stripe_sidecar_request_duration_seconds",
			Help: "Time from a request's header to the end of its answer.", Buckets: buckets}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "stripe_sidecar_requests_in_flight",
			Help: "Requests that are being worked on."}),
		rateLimited: prometheus.NewCounter(prometheus.CounterOpts{Name: "stripe_sidecar_rate_limited_total",
			Help: "Requests refused with 429."}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stripe_sidecar_events_total",
			Help: "Stripe Events by type, \"other\" for those that mean nothing here, and outcome: stored, ignored or failed."}, []string{"type", "outcome"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stripe_sidecar_upstream_calls_total",
			Help: "Calls to Stripe and Supabase by what they were for and their outcome: a class of status, replayed, timeout, canceled or error."},
			[]string{"service", "call", "outcome"}),
		callTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "stripe_sidecar_upstream_call_duration_seconds",
			Help: "Time to the header of the answer.", Buckets: buckets}, []string{"service", "call"}),
	}
	m.registry.MustRegister(m.requests, m.durations, m.inFlight, m.rateLimited, m.events, m.calls, m.callTimes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Transport counts the calls that go through next to a service, and sends the
// W3C trace context of the request along that a call is made for.
func (m *Metrics) Transport(service Upstream, next http.RoundTripper) http.RoundTripper {
	return &countingTransport{m, service, next}
}

// Upstream is a service that calls are made to.
type Upstream string

// The services that calls are made to.
const (
	UpstreamStripe   Upstream = "stripe"
	UpstreamAuth     Upstream = "auth"
	UpstreamDatabase Upstream = "database"
)

type countingTransport struct {
	metrics *Metrics
	service Upstream
	next    http.RoundTripper
}

func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if e, ok := r.Context().Value(entryKey{}).(*entry); ok && e.traceparent != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Traceparent", e.traceparent)
	}
	start := time.Now()
	resp, err := t.next.RoundTrip(r)
	call := callName(t.service, r)
	t.metrics.callTimes.WithLabelValues(string(t.service), call).Observe(time.Since(start).Seconds())
	t.metrics.calls.WithLabelValues(string(t.service), call, outcome(resp, err)).Inc()
	return resp, err
}

// callNames are the calls that the service makes, by method, "" for any, and
// what the path holds (a base URL may have a path of its own); the first that
// fits counts.
var callNames = map[Upstream][]struct{ method, path, name string }{
	UpstreamStripe: {
		{"POST", "/v1/checkout/sessions", "create_checkout_session"},
		{"POST", "/v1/billing_portal/sessions", "create_portal_session"},
		{"POST", "/v1/customers", "create_customer"},
		{"GET", "/v1/", "fetch"},
	},
	UpstreamAuth: {
		{"GET", "/.well-known/jwks.json", "key_set"},
		{"POST", "/token", "refresh"},
		{"GET", "/user", "user"},
	},
	UpstreamDatabase: {
		{"POST", "/rpc/stripe_ticket", "ticket"},
		{"POST", "/rpc/", "write"},
		{"GET", "/", "read_customer"},
		{"", "/", "write_customer"},
	},
}

func callName(service Upstream, r *http.Request) string {
	for _, c := range callNames[service] {
		if (c.method == "" || c.method == r.Method) && strings.Contains(r.URL.Path, c.path) {
			return c.name
		}
	}
	return "other"
}

func outcome(resp *http.Response, err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case err != nil:
		return "error"
	case resp.Header.Get("Idempotent-Replayed") == "true": // nothing new was created
		return "replayed"
	}
	return strconv.Itoa(resp.StatusCode/100) + "xx"
}
