package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"8space.app/stripe-sidecar/internal/upstream"
)

// tracing sends a span for every request, and for every call that it makes, to
// an OpenTelemetry collector. Spans hold what is listed here and nothing else:
// otelhttp would add addresses of callers, paths of strangers, and URLs that name
// users and their e-mail addresses.
// https://opentelemetry.io/docs/specs/semconv/http/http-spans/
type tracing struct {
	provider *sdktrace.TracerProvider // nil for no tracing
	tracer   trace.Tracer
}

var w3c propagation.TraceContext

// newTracing returns tracing that is off unless the standard variables name a
// collector. It does not connect before there is something to send.
func newTracing(ctx context.Context, logger *slog.Logger) (tracing, error) {
	to, err := newCollector(os.Getenv)
	if to == nil || err != nil {
		return tracing{}, err
	}
	exporter, err := otlptrace.New(ctx, to)
	if err != nil {
		return tracing{}, err
	}
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last and so win.
	about, err := resource.New(ctx, resource.WithAttributes(
		semconv.ServiceName("stripe-sidecar"), semconv.ServiceVersion(versionString())), resource.WithFromEnv())
	if err != nil {
		return tracing{}, err
	}
	warn := rate.Sometimes{Interval: time.Minute}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		warn.Do(func() { logger.Warn("traces are lost; said at most once a minute", "err", err) })
	}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return tracing{provider, provider.Tracer("stripe-sidecar")}, nil
}

// handler begins the span of a request, which answered completes. Probes have none.
func (t tracing) handler(next http.Handler) http.Handler {
	if t.provider == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz", "/readyz", "/metrics":
			next.ServeHTTP(w, r)
			return
		}
		r.Header.Del("Tracestate") // anything, and a span would keep it and every call send it
		ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, "HTTP", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		w3c.Inject(ctx, propagation.HeaderCarrier(r.Header)) // for the trace_id of the log line
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// answered names the span of a request and tells how it ended.
func (t tracing) answered(ctx context.Context, method, route string, status int) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	name, attribute := method, semconv.HTTPRequestMethodKey.String(method)
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "QUERY":
	default: // a stranger's
		name, attribute = "HTTP", semconv.HTTPRequestMethodOther
	}
	span.SetAttributes(attribute, semconv.URLScheme("http"))
	if route != "" {
		name += " " + route
		span.SetAttributes(semconv.HTTPRoute(route), semconv.URLPath(route)) // no route has parameters
	}
	span.SetName(name)
	ended(span, status, http.StatusInternalServerError)
}

// transport gives every call to Stripe and Supabase a span, named by what it is for.
func (t tracing) transport(next http.RoundTripper) http.RoundTripper {
	if t.provider == nil {
		return next
	}
	return upstream.RoundTrip(func(r *http.Request) (*http.Response, error) {
		service, call := upstream.CallOf(r.Context())
		about := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(r.Method), semconv.ServerAddress(r.URL.Hostname())}
		if port, err := strconv.Atoi(r.URL.Port()); err == nil {
			about = append(about, semconv.ServerPort(port))
		}
		ctx, span := t.tracer.Start(r.Context(), service+" "+call, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(about...))
		defer span.End()
		r = r.Clone(ctx)
		w3c.Inject(ctx, propagation.HeaderCarrier(r.Header))
		resp, err := next.RoundTrip(r)
		if err != nil { // its text stays out: it may hold anything
			span.SetStatus(codes.Error, "")
			span.SetAttributes(semconv.ErrorType(err))
			return nil, err
		}
		ended(span, resp.StatusCode, http.StatusBadRequest)
		return resp, nil
	})
}

// ended tells a span's status, which is an error from a status on.
func ended(span trace.Span, status, failed int) {
	span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	if status >= failed {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
	}
}

// stop sends what has not been sent yet. A collector that is away does not hold up
// the end for long.
func (t tracing) stop(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return t.provider.Shutdown(ctx)
}
