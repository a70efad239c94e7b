package api

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"8space.app/stripe-sidecar/internal/billing"
)

// metrics counts what the service does, for GET /metrics. Every label has a
// fixed set of values, whatever callers send.
// https://prometheus.io/docs/practices/naming/
type metrics struct {
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	rateLimited prometheus.Counter
	events      *prometheus.CounterVec
}

// newMetrics returns metrics with everything at zero, registered.
func newMetrics(registry *prometheus.Registry) metrics {
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	register := promauto.With(registry)
	m := metrics{
		requests: register.NewCounterVec(prometheus.CounterOpts{Name: "stripe_sidecar_requests_total",
			Help: "Requests answered."}, []string{"route", "status"}),
		durations: register.NewHistogramVec(prometheus.HistogramOpts{Name: "stripe_sidecar_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}}, []string{"route"}),
		inFlight: register.NewGauge(prometheus.GaugeOpts{Name: "stripe_sidecar_requests_in_flight",
			Help: "Requests that are being worked on."}),
		rateLimited: register.NewCounter(prometheus.CounterOpts{Name: "stripe_sidecar_rate_limited_total",
			Help: "Requests refused with 429."}),
		events: register.NewCounterVec(prometheus.CounterOpts{Name: "stripe_sidecar_events_total",
			Help: "Stripe Events by type, \"other\" for those that mean nothing here, and outcome: stored, ignored or failed."}, []string{"type", "outcome"}),
	}
	// A counter that begins with its first failure has never risen, so that no alert sees it.
	for _, eventType := range billing.HandledEvents() {
		m.events.WithLabelValues(eventType, "stored")
		m.events.WithLabelValues(eventType, "failed")
	}
	return m
}

func metricsHandler(registry *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
