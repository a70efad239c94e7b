// Package api is what others rely on: the routes and what they answer.
package api

import (
	"cmp"
	"context"
	_ "embed"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/httprate"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

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

// WebhookPath is where Stripe sends Events.
const WebhookPath = "/api/stripe/webhook"

// Config is what the routes are made of.
type Config struct {
	Auth            *auth.Authenticator
	Billing         *billing.Billing
	Webhook         bool // whether Events are taken; Billing must have a secret then
	Logger          *slog.Logger
	Registry        *prometheus.Registry // what GET /metrics shows
	Sites           Sites
	Prices          bool          // whether there is a list of what may be bought; Billing must have it then
	SignInModes     []string      // the modes of a Checkout Session that a guest gets none of
	TrustedProxies  Proxies       // whose X-Forwarded-For is believed
	UpstreamTimeout time.Duration // for one request's work at Stripe and Supabase together
	RatePerMinute   int           // requests to the POST endpoints per client address; 0 for no limit
	MaxInFlight     int           // requests to the POST endpoints worked on at once; beyond that 503
	MaxEvents       int           // Events of 1 MiB likewise, of which 32 small ones count as one
	ProbesApart     bool          // whether probes and metrics have a listener of their own
	// ClaimGuestPurchases: sync gives users what was bought as a guest with the address
	// that they have confirmed. Off, nobody is matched by e-mail.
	ClaimGuestPurchases bool
	Ready               func() bool // false from the moment the service is told to stop
	// Answered is told of each request when it is done, with what the log says of it: the
	// route is "" for a path that fits none. nil: nobody is told.
	Answered func(ctx context.Context, method, route string, status int)
}

type service struct {
	Config
	metrics metrics
	limiter *httprate.RateLimiter // nil for no limit
	untold  sync.Once             // for the warning of a proxy that forwards no address
}

type route struct {
	method, path string
	handler      http.Handler
}

func (s *service) routes() []route {
	endpoints := &intake{least: 64 << 10, limit: 64 << 10, tooLarge: errBodyTooLarge, patience: 5 * time.Second,
		unread: Shares{Each: min(20, 1+s.MaxInFlight/8), All: s.MaxInFlight}, room: semaphore.NewWeighted(int64(s.MaxInFlight) * 64 << 10)}
	events := &intake{least: 32 << 10, limit: 1 << 20, tooLarge: errEventTooLarge, patience: 2 * time.Second,
		unread: Shares{Each: 4, All: 4 * s.MaxEvents}, room: semaphore.NewWeighted(int64(s.MaxEvents) << 20)}
	post := func(handle endpointFunc) http.Handler {
		return s.limited(s.Auth.Middleware(s.endpoint(endpoints, handle)))
	}
	routes := []route{
		{"POST", "/api/stripe/create-checkout", post(s.createCheckout)},
		{"POST", "/api/stripe/create-portal", post(s.createPortal)},
		{"GET", "/api/stripe/buttons.js", file("text/javascript; charset=utf-8", buttons)},
		{"GET", "/api/stripe/openapi.yaml", file("application/yaml", OpenAPI)},
	}
	if s.Prices {
		routes = append(routes, route{"GET", "/api/stripe/prices", s.endpoint(endpoints, s.prices)})
	}
	if s.Webhook {
		routes = append(routes, route{"POST", WebhookPath, s.endpoint(events, s.webhook)},
			route{"POST", "/api/stripe/sync", post(s.sync)})
	}
	return routes
}

// probes are the routes for whoever runs the service.
func (s *service) probes() []route {
	return []route{
		{"GET", "/healthz", http.HandlerFunc(s.healthz)},
		{"GET", "/readyz", http.HandlerFunc(s.readyz)},
		{"GET", "/metrics", metricsHandler(s.Registry)},
	}
}

// New returns the handler of the whole service, and one of its probes and
// metrics alone, which c.ProbesApart leaves out of the first.
func New(c Config) (whole, probes http.Handler) {
	s := &service{Config: c, metrics: newMetrics(c.Registry)}
	if c.RatePerMinute > 0 {
		s.limiter = httprate.NewRateLimiter(c.RatePerMinute, time.Minute,
			httprate.WithResponseHeaders(httprate.ResponseHeaders{RetryAfter: "Retry-After"}))
	}
	routes := s.routes()
	if !c.ProbesApart {
		routes = append(routes, s.probes()...)
	}
	return s.handler(routes), s.handler(s.probes())
}

// handler returns the handler of some routes.
func (s *service) handler(routes []route) http.Handler {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, route := range routes {
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

	var h http.Handler = mux
	for _, middleware := range slices.Backward([]func(http.Handler) http.Handler{
		s.identified,  // first, because all that follows notes what it finds in the entry
		s.logged,      // around every refusal, and around the panic's answer, whose status it tells
		recovered,     // inside the log, outside all that can panic
		s.crossOrigin, // before every other refusal, so that the page that called can read it
		cleanPaths,    // before the mux, which would redirect
	}) {
		h = middleware(h)
	}
	return h
}

// endpointFunc is a handler that returns what to answer, or its error, for one place to
// say so. A body that could not be read is the handler's to report, at its turn.
type endpointFunc func(w http.ResponseWriter, r *http.Request, raw []byte, unread error) (any, error)

// endpoint reads the body, waits for nobody where there is no room, and bounds the
// time of the work.
func (s *service) endpoint(in *intake, handle endpointFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, unread := in.read(w, r)
		weight := max(int64(len(raw)), in.least)
		if unread == errOverloaded || !in.room.TryAcquire(weight) {
			fail(w, r, errOverloaded)
			return
		}
		defer in.room.Release(weight)
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()
		ctx, cancel := context.WithTimeout(r.Context(), s.UpstreamTimeout)
		defer cancel()
		answer, err := handle(w, r.WithContext(ctx), raw, unread)
		if err != nil {
			fail(w, r, err)
			return
		}
		respond(w, http.StatusOK, answer)
	})
}

// together does several things of one request at once and returns, when all
// are done, the error of the first in their order that failed. A panic is an
// error: in a goroutine of its own it would end the process.
func together(do ...func() error) error {
	errs := make([]error, len(do))
	var group errgroup.Group
	for i, f := range do {
		group.Go(func() error {
			defer func() {
				if p := recover(); p != nil {
					errs[i] = panicked(p)
				}
			}()
			errs[i] = f()
			return nil
		})
	}
	_ = group.Wait() // none returns an error: the first in time is not the one that counts
	return cmp.Or(errs...)
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
