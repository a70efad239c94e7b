package api

import (
	"net/http"
	"path"
	"strings"

	"github.com/rs/cors"
)

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
		client := entryOf(r.Context()).client()
		if !client.IsValid() {
			s.untold.Do(func() {
				s.Logger.Warn("a trusted proxy sends no X-Forwarded-For: its callers are not rate-limited, and guests' Idempotency-Keys are ignored", "proxy", r.RemoteAddr)
			})
		} else if s.limiter.OnLimit(w, r, client.String()) {
			s.metrics.rateLimited.Inc()
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
