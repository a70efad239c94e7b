package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// BenchmarkCurrentUser verifies an ES256 token with a key set at hand.
// Wanted: under 120 µs and 60 allocations.
func BenchmarkCurrentUser(b *testing.B) {
	p := newProject(b, fakesupabase.Options{}, "")
	session := p.SignIn(p.user.ID)
	for name, headers := range map[string][]string{
		"Bearer": bearer(session.AccessToken),
		"Cookie": {"Cookie", ssr(session.JSON)},
	} {
		b.Run(name, func(b *testing.B) {
			h := p.auth.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if u, err := auth.CurrentUser(r.Context()); u == nil || err != nil {
					b.Fatalf("CurrentUser = %v, %v; want the user", u, err)
				}
			}))
			r := httptest.NewRequestWithContext(context.Background(), "POST", "/", nil)
			r.Header.Set(headers[0], headers[1])
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkReadCookies reads the session that 0.12 wrote in three chunks.
func BenchmarkReadCookies(b *testing.B) {
	for _, r := range recordings(b) {
		if r.Name != "ssr-latest-chunked-unicode" {
			continue
		}
		h := http.Header{"Cookie": {r.Header}}
		b.ReportAllocs()
		b.SetBytes(int64(len(r.Header)))
		for b.Loop() {
			if access, _, _, ok := auth.ReadCookies(h, cookieName); !ok || access != r.AccessToken {
				b.Fatal("no session; want the recorded one")
			}
		}
	}
}
