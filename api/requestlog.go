package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"strconv"
	"time"

	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/upstream"
)

// entry is what a request's log line gathers on the way through the service.
type entry struct {
	requestID       string     // as it may be logged
	addr            netip.Addr // the caller's, the zero Addr where it is unknown
	userID          string
	stripeRequestID string
	event           billing.Event
	route           string // the pattern that the path fits, "" for none
	traceID         string // of the caller's trace, or of one that began here; "" for none
	err             error  // the private cause of a failure
}

// client is what counts as one caller, the zero Prefix where that is unknown.
func (e *entry) client() netip.Prefix { return Network(e.addr) }

type entryKey struct{}

// entryOf returns the log entry of the request, which identified has put there.
func entryOf(ctx context.Context) *entry { return ctx.Value(entryKey{}).(*entry) }

// https://www.w3.org/TR/trace-context/#traceparent-header
var validTraceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$`)

var validRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// identified gives every request its log entry, and every answer the
// X-Request-Id; the caller's trace goes on to the services that are called.
func (s *service) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		e := &entry{requestID: billing.Redact(id), addr: s.TrustedProxies.clientAddr(r)}
		if !validRequestID.MatchString(id) {
			id = rand.Text()
			e.requestID = id
		}
		w.Header().Set("X-Request-Id", id)
		ctx := context.WithValue(r.Context(), entryKey{}, e)
		if t := validTraceparent.FindStringSubmatch(r.Header.Get("Traceparent")); t != nil {
			e.traceID = t[1]
			ctx = upstream.WithTraceparent(ctx, t[0])
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// logged writes the request's one log line and counts it.
func (s *service) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		sw := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(sw, r)

		e, took := entryOf(r.Context()), time.Since(start)
		level := slog.LevelInfo
		switch {
		case sw.status >= 500 && r.Context().Err() == context.Canceled:
			sw.status = 499 // nginx's status for a caller who went away
		case sw.status >= 500:
			level = slog.LevelError
		case sw.status < 400 && e.err != nil: // answered, but somebody should look
			level = slog.LevelWarn
		}
		s.metrics.requests.WithLabelValues(e.route, strconv.Itoa(sw.status)).Inc()
		s.metrics.durations.WithLabelValues(e.route).Observe(took.Seconds())
		if s.Answered != nil {
			s.Answered(r.Context(), r.Method, e.route, sw.status)
		}

		method, path := r.Method, e.route
		if path == "" { // a stranger's, which may hold anything
			method, path = billing.Redact(method), billing.Redact(r.URL.Path)
		}
		attrs := []slog.Attr{
			slog.String("request_id", e.requestID),
			slog.String("method", method),
			slog.String("path", path),
			slog.Int("status", sw.status),
			slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		}
		known := func(name, value string) {
			if value != "" {
				attrs = append(attrs, slog.String(name, value))
			}
		}
		known("trace_id", e.traceID)
		known("user_id", e.userID)
		known("event_id", e.event.ID)
		known("event_type", e.event.Type)
		known("stripe_request_id", e.stripeRequestID)
		if e.err != nil {
			known("err", billing.Redact(e.err.Error()))
		}
		s.Logger.LogAttrs(r.Context(), level, "request", attrs...)
	})
}

// recovered turns a panic into an answer.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				fail(w, r, panicked(p))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func panicked(p any) error { return fmt.Errorf("%w: panic: %v\n%s", errInternal, p, debug.Stack()) }

// statusWriter remembers the status of the answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
