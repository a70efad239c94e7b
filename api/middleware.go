package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/rs/cors"

	"8space.app/stripe-sidecar/internal/billing"
)

// entry is what a request's log line gathers on the way through the service.
type entry struct {
	userID          string
	stripeRequestID string
	event           billing.Event
	route           string // the pattern that the path fits, "" for none
	traceparent     string // the caller's W3C trace context, "" for none
	err             error  // the private cause of a failure
}

type entryKey struct{}

// entryOf returns the log entry of the request, which logged has put there.
func entryOf(ctx context.Context) *entry { return ctx.Value(entryKey{}).(*entry) }

// https://www.w3.org/TR/trace-context/#traceparent-header
var validTraceparent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

var validRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// logged gives every request its X-Request-Id and its one log line, and turns
// a panic into an answer.
func (s *service) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := r.Header.Get("X-Request-Id")
		loggedID := billing.Redact(id)
		if !validRequestID.MatchString(id) {
			id = rand.Text()
			loggedID = id
		}
		w.Header().Set("X-Request-Id", id)
		e := &entry{}
		if t := r.Header.Get("Traceparent"); validTraceparent.MatchString(t) {
			e.traceparent = t
		}
		sw := &statusWriter{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), entryKey{}, e))

		func() {
			defer func() {
				if p := recover(); p != nil {
					fail(sw, r, fmt.Errorf("%w: panic: %v\n%s", errInternal, p, debug.Stack()))
				}
			}()
			next.ServeHTTP(sw, r)
		}()
		level := slog.LevelInfo
		switch {
		case sw.status >= 500 && r.Context().Err() == context.Canceled:
			sw.status = 499 // nginx's status for a caller who went away
		case sw.status >= 500:
			level = slog.LevelError
		}
		took := time.Since(start)
		s.Metrics.requests.WithLabelValues(e.route, strconv.Itoa(sw.status)).Inc()
		s.Metrics.durations.WithLabelValues(e.route).Observe(took.Seconds())

		method, path := r.Method, e.route
		if path == "" { // a stranger's, which may hold anything
			method, path = billing.Redact(method), billing.Redact(r.URL.Path)
		}
		attrs := []slog.Attr{
			slog.String("request_id", loggedID),
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
		if e.traceparent != "" {
			known("trace_id", e.traceparent[3:35])
		}
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

// bounded refuses early what the service could not hold in memory: more than
// n requests at once to what is wrapped. The probes are not bounded, or an
// orchestrator would kill a service for being busy.
func (s *service) bounded(n int) func(http.Handler) http.Handler {
	inFlight := make(chan struct{}, n)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case inFlight <- struct{}{}:
				s.Metrics.inFlight.Inc()
				defer func() { <-inFlight; s.Metrics.inFlight.Dec() }()
				next.ServeHTTP(w, r)
			default:
				fail(w, r, errOverloaded)
			}
		})
	}
}

// named notes the route, for the metrics.
func (s *service) named(route string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entryOf(r.Context()).route = route
		next.ServeHTTP(w, r)
	})
}

// limited refuses a client that calls too often. Who is behind a trusted proxy
// that does not tell is not limited: it would be all of them or nobody.
func (s *service) limited(next http.Handler) http.Handler {
	if s.limiter == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addr, known := s.clientAddr(r)
		bits := addr.BitLen()
		if addr.Is6() {
			bits = 64 // what one customer of a provider has at least
		}
		prefix, _ := addr.Prefix(bits)
		if known && s.limiter.OnLimit(w, r, prefix.String()) {
			s.Metrics.rateLimited.Inc()
			fail(w, r, errRateLimited)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// crossOrigin lets the pages of the configured sites call with cookies, and
// refuses the requests that other sites make a browser send.
func (s *service) crossOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, errCrossOrigin)
	}))
	protected := protection.Handler(next)
	checked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// CrossOriginProtection's own trusted origins know no wildcards.
		if s.Sites.AllowsOrigin(r.Header.Get("Origin")) {
			next.ServeHTTP(w, r)
			return
		}
		protected.ServeHTTP(w, r)
	})
	if s.Sites.Any() {
		return checked
	}
	return cors.New(cors.Options{
		AllowOriginFunc:  s.Sites.AllowsOrigin,
		AllowedMethods:   []string{http.MethodGet, http.MethodPost},
		AllowedHeaders:   []string{"Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"},
		ExposedHeaders:   []string{"Retry-After", "X-Request-Id"},
		AllowCredentials: true,
		MaxAge:           600,
	}).Handler(checked)
}

// cleanPaths refuses paths that ServeMux would redirect, with a page of HTML,
// to what it takes them for.
func cleanPaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p != "/" && (path.Clean(p) != strings.TrimSuffix(p, "/") || p == "//") {
			fail(w, r, errNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
}
