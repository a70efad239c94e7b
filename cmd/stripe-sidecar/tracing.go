package main

import (
	"context"
	"net/http"
	"os"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// tracing sends a span for every request, and for every call that it makes, to
// an OpenTelemetry collector.
type tracing struct {
	provider *trace.TracerProvider // nil for no tracing
	options  []otelhttp.Option
}

// newTracing returns tracing that is off unless the standard variables name a
// collector. It does not connect before there is something to send.
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func newTracing(ctx context.Context) (tracing, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return tracing{}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return tracing{}, err
	}
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last and so win.
	about, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName("stripe-sidecar")), resource.WithFromEnv())
	if err != nil {
		return tracing{}, err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))
	return tracing{provider, []otelhttp.Option{
		otelhttp.WithTracerProvider(provider), otelhttp.WithPropagators(propagation.TraceContext{}),
	}}, nil
}

func (t tracing) handler(next http.Handler) http.Handler {
	if t.provider == nil {
		return next
	}
	return otelhttp.NewHandler(next, "request", t.options...)
}

func (t tracing) transport(next http.RoundTripper) http.RoundTripper {
	if t.provider == nil {
		return next
	}
	return otelhttp.NewTransport(next, t.options...)
}

// stop sends what has not been sent yet.
func (t tracing) stop(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}
