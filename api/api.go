// Package api is what others rely on: the routes and what they answer.
package api

import (
	"context"
	_ "embed"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/httprate"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// OpenAPI describes every route, OpenAPI 3.1.
//
//go:embed openapi.yaml
var OpenAPI []byte

// buttons are two custom elements for pages without a framework.
//
//go:embed buttons.js
var buttons []byte

// Schema is the SQL that sets up the tables in the site's database; it is safe
// to run again.
//
//go:embed schema.sql
var Schema []byte

// Config is what the routes are made of.
type Config struct {
	Auth            *auth.Authenticator
	Billing         *billing.Billing
	Webhook         bool // whether Events are taken; Billing must have a secret then
	Logger          *slog.Logger
	Metrics         *Metrics
	Sites           Sites
	Prices          []string       // the Price IDs that may be bought; empty for any
	TrustedProxies  []netip.Prefix // whose X-Forwarded-For is believed
	UpstreamTimeout time.Duration  // for one request's work at Stripe and Supabase together
	RatePerMinute   int            // requests to the two POST endpoints per client address; 0 for no limit
	MaxInFlight     int            // requests to the two POST endpoints worked on at once; beyond that 503
	MaxEvents       int            // Events likewise; each takes up to 1 MiB before its signature is known
	Ready           func() bool    // false from the moment the service is told to stop
}

type service struct {
	Config
	limiter *httprate.RateLimiter // nil for no limit
}

type route struct {
	method, path string
	handler      http.Handler
}

func (s *service) routes() []route {
	bounded := s.bounded(s.MaxInFlight) // of both endpoints together
	post := func(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
		return bounded(s.limited(s.Auth.Middleware(s.endpoint(handle))))
	}
	routes := []route{
		{"POST", "/api/stripe/create-checkout", post(s.createCheckout)},
		{"POST", "/api/stripe/create-portal", post(s.createPortal)},
		{"GET", "/api/stripe/buttons.js", file("text/javascript; charset=utf-8", buttons)},
		{"GET", "/api/stripe/openapi.yaml", file("application/yaml", OpenAPI)},
		{"GET", "/healthz", http.HandlerFunc(s.healthz)},
		{"GET", "/readyz", http.HandlerFunc(s.readyz)},
		{"GET", "/metrics", s.Metrics.handler()},
	}
	if s.Webhook {
		routes = append(routes, route{"POST", "/api/stripe/webhook", s.bounded(s.MaxEvents)(s.endpoint(s.webhook))})
	}
	return routes
}

// New returns the handler of the whole service.
func New(c Config) http.Handler {
	s := &service{Config: c}
	if c.RatePerMinute > 0 {
		s.limiter = httprate.NewRateLimiter(c.RatePerMinute, time.Minute,
			httprate.WithResponseHeaders(httprate.ResponseHeaders{RetryAfter: "Retry-After"}))
	}
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, route := range s.routes() {
		mux.Handle(route.method+" "+route.path, s.named(route.path, route.handler))
		methods[route.path] = append(methods[route.path], route.method)
		if route.method == "GET" {
			methods[route.path] = append(methods[route.path], "HEAD")
		}
	}
	// ServeMux's own 404 and 405 are plain text.
	for path, allowed := range methods {
		slices.Sort(allowed)
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			fail(w, r, errMethod)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fail(w, r, errNotFound) })

	// The log line covers everything, and every refusal comes after CORS, so that
	// the page that called can read it.
	return s.logged(s.crossOrigin(cleanPaths(mux)))
}

// endpoint makes a handler of one that returns its error: with a deadline for
// its work, and one place that answers.
func (s *service) endpoint(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.UpstreamTimeout)
		defer cancel()
		if err := handle(w, r.WithContext(ctx)); err != nil {
			fail(w, r, err)
		}
	})
}

// respondURL sends the answer off before the log takes its line. A refusal must
// not be sent so: net/http waits for the body that it may have left unread.
func respondURL(w http.ResponseWriter, r *http.Request, session billing.Session) {
	entryOf(r.Context()).stripeRequestID = session.StripeRequestID
	respond(w, http.StatusOK, map[string]string{"url": session.URL})
	_ = http.NewResponseController(w).Flush()
}

func file(contentType string, content []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(content)
	})
}

// healthz says that the process serves.
func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	respond(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says whether new requests should be sent here.
func (s *service) readyz(w http.ResponseWriter, r *http.Request) {
	if !s.Ready() {
		fail(w, r, errStopping)
		return
	}
	respond(w, http.StatusOK, map[string]string{"status": "ready"})
}
