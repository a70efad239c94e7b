package auth_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

func TestKeyRotation(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	old := p.SignIn(p.user.ID)
	if got := ask(p.auth, "/", bearer(old.AccessToken)...); got.who != p.user.ID {
		t.Fatalf("CurrentUser = %s (%v); want %s", got.who, got.err, p.user.ID)
	}
	p.clock.pass(time.Minute)
	p.RotateKey()
	fresh := p.SignIn(p.user.ID)
	if got := ask(p.auth, "/", bearer(fresh.AccessToken)...); got.who != p.user.ID {
		t.Errorf("CurrentUser with the new key = %s (%v); want %s", got.who, got.err, p.user.ID)
	}
	if got, want := p.calls(), [3]int{0, 0, 2}; got != want {
		t.Errorf("calls for user, token, keys = %v; want %v", got, want)
	}
	// The old key has left the set, so Supabase Auth decides, and refuses.
	if got := ask(p.auth, "/", bearer(old.AccessToken)...); got.who != "guest" {
		t.Errorf("CurrentUser with the old key = %s (%v); want guest", got.who, got.err)
	}
	if got, want := p.calls(), [3]int{1, 0, 2}; got != want {
		t.Errorf("calls for user, token, keys = %v; want %v", got, want)
	}
}

func TestFloodOfUnknownKeys(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	good := p.SignIn(p.user.ID)
	stranger := newProject(t, fakesupabase.Options{}, "")
	var wg sync.WaitGroup
	for range 3 {
		for range 20 {
			stranger.RotateKey()
			token := stranger.SignIn(stranger.user.ID).AccessToken
			wg.Go(func() {
				if got := ask(p.auth, "/", bearer(token)...); got.who != "guest" {
					t.Errorf("CurrentUser = %s (%v); want guest", got.who, got.err)
				}
				if got := ask(p.auth, "/", bearer(good.AccessToken)...); got.who != p.user.ID {
					t.Errorf("CurrentUser = %s (%v); want %s", got.who, got.err, p.user.ID)
				}
			})
		}
		wg.Wait()
		p.clock.pass(10 * time.Second)
	}
	if got, want := p.calls(), [3]int{60, 0, 3}; got != want {
		t.Errorf("calls for user, token, keys = %v; want %v", got, want)
	}
}

func TestKeySetAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProject(t, fakesupabase.Options{AccessTokenTTL: 24 * time.Hour}, "")
		token := bearer(p.SignIn(p.user.ID).AccessToken)
		p.fault(keysPath, 503, "")
		for _, step := range []struct {
			pass  time.Duration
			down  bool
			want  string
			calls int
		}{
			{0, true, "asked", 1},
			{999 * time.Millisecond, false, "asked", 1}, // not yet again
			{1 * time.Millisecond, false, "", 2},
			{299 * time.Second, true, "", 2},
			{1 * time.Second, true, "", 3},  // old: a fetch beside the request, which fails
			{9 * time.Second, true, "", 3},  // not yet again
			{1 * time.Second, false, "", 4}, // succeeds
			{1 * time.Second, true, "", 4},
			{9 * time.Minute, true, "", 5},
			{58 * time.Second, true, "", 6},
			{1 * time.Second, true, "asked", 6}, // too old
			{9 * time.Second, false, "", 7},
			{time.Hour, false, "", 8},
		} {
			p.clock.pass(step.pass)
			p.Intercept(nil)
			if step.down {
				p.fault(keysPath, 503, "")
			}
			before := p.calls()[0]
			got := ask(p.auth, "/", token...)
			synctest.Wait() // for a fetch beside the request
			asked := p.calls()[0] > before
			if calls := p.calls()[2]; got.who != p.user.ID || asked != (step.want == "asked") || calls != step.calls {
				t.Errorf("%v: CurrentUser = %s (%v), asked %t, after %d fetches; want %s after %d",
					step, got.who, got.err, asked, calls, p.user.ID, step.calls)
			}
			if got := ask(p.auth, "/"); got.who != "guest" {
				t.Errorf("%v: CurrentUser without a session = %s; want guest", step, got.who)
			}
		}
	})
}

func TestKeySetFaults(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
	}{
		{"not found", 404, `{"keys":[]}`},
		{"server error", 500, ""},
		{"redirect", 302, ""},
		{"HTML", 200, "<html>"},
		{"no keys", 200, `{"message":"hello"}`},
		{"a list", 200, `[]`},
		{"too long", 200, `{"keys":[]}` + strings.Repeat(" ", 8<<20)},
		{"none", 200, `{"keys":[]}`},
		{"strange ones", 200, `{"keys":[{"kty":"XX"},{"kty":"oct","k":"AAAA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},7]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t, fakesupabase.Options{}, "")
			session := p.SignIn(p.user.ID)
			p.fault(keysPath, tc.status, tc.body)
			got := ask(p.auth, "/", bearer(session.AccessToken)...)
			if got.who != p.user.ID || p.calls()[0] != 1 {
				t.Errorf("CurrentUser = %s (%v), asked %d times; want %s, once", got.who, got.err, p.calls()[0], p.user.ID)
			}
			p.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })
			got = ask(p.auth, "/", bearer(session.AccessToken)...)
			if got.who != "unavailable" {
				t.Errorf("CurrentUser when Auth cannot be asked either = %s; want unavailable", got.who)
			}
			checkSecrets(t, got, session)
		})
	}
}

// TestStrangeKeysBesideGood checks that one key of a kind that is not known
// does not spoil the set.
func TestStrangeKeysBesideGood(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	set := strings.Replace(string(p.KeySet()), `{"keys":[`, `{"keys":[{"kty":"XX"},`, 1)
	p.fault(keysPath, 200, set)
	if got := ask(p.auth, "/", bearer(p.SignIn(p.user.ID).AccessToken)...); got.who != p.user.ID || p.calls()[0] != 0 {
		t.Errorf("CurrentUser = %s (%v); want %s from the key set", got.who, got.err, p.user.ID)
	}
}

// TestOneFetchForAll has many requests wait for the first key set. One gives
// up, which costs the others nothing.
func TestOneFetchForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProject(t, fakesupabase.Options{}, "")
		token := bearer(p.SignIn(p.user.ID).AccessToken)
		release := make(chan struct{})
		p.Intercept(func(http.ResponseWriter, *http.Request) bool { <-release; return false })

		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := askCtx(ctx, p.auth, "/", token...); got.who != "unavailable" {
				t.Errorf("CurrentUser of the one that gave up = %s; want unavailable", got.who)
			}
		})
		synctest.Wait() // the first has begun the fetch
		for range 20 {
			wg.Go(func() {
				if got := ask(p.auth, "/", token...); got.who != p.user.ID {
					t.Errorf("CurrentUser = %s (%v); want %s", got.who, got.err, p.user.ID)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		if got, want := p.calls(), [3]int{0, 0, 1}; got != want {
			t.Errorf("calls for user, token, keys = %v; want %v", got, want)
		}
	})
}

// TestFirstFetches: while there is no key set, it is asked for soon again, and
// less and less often.
func TestFirstFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProject(t, fakesupabase.Options{}, "")
		token := bearer(p.SignIn(p.user.ID).AccessToken)
		p.fault(keysPath, 503, "")
		var at []int
		for second := range 40 {
			before := p.calls()[2]
			ask(p.auth, "/", token...)
			if p.calls()[2] > before {
				at = append(at, second)
			}
			p.clock.pass(time.Second)
		}
		if want := []int{0, 1, 3, 7, 15, 25, 35}; !slices.Equal(at, want) {
			t.Errorf("the key set was asked for in the seconds %v; want %v", at, want)
		}
	})
}

// TestPanics: a panic beside a request is an answer, not the end of the process.
func TestPanics(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	fresh, expired := p.SignIn(p.user.ID), p.SignInFor(p.user.ID, -time.Minute)
	a := newAuth(t, auth.Config{URL: "http://127.0.0.1:54321", AnonKey: upstream.NewSecret("anon"), CookieName: cookieName, Now: p.clock.now,
		Network: through(direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/auth/v1/user" {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			panic("on purpose")
		})})})
	for name, session := range map[string]fakesupabase.Session{"key set": fresh, "refresh": expired} {
		got := ask(a, "/", "Cookie", ssr(session.JSON))
		if got.who != "unavailable" || !strings.Contains(fmt.Sprint(got.err), "on purpose") {
			t.Errorf("%s: CurrentUser = %s (%v); want unavailable because of the panic", name, got.who, got.err)
		}
	}
}

// TestFetchIsBounded has the key set hang.
func TestFetchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProject(t, fakesupabase.Options{}, "")
		token := bearer(p.SignIn(p.user.ID).AccessToken)
		p.Intercept(hang)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if got := askCtx(ctx, p.auth, "/", token...); got.who != "unavailable" {
			t.Errorf("CurrentUser = %s (%v); want unavailable", got.who, got.err)
		}
		if got, want := time.Since(start), 5*time.Second; got != want {
			t.Errorf("time waited = %v; want %v", got, want)
		}
	})
}

// hang answers when the caller has given up.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// checkSecrets checks that an error names no token, key or person.
func checkSecrets(t *testing.T, got answer, session fakesupabase.Session) {
	t.Helper()
	text := fmt.Sprintf("%v %+v", got.err, got.err)
	for _, secret := range []string{session.AccessToken[:20], session.RefreshToken, "zoe", fakesupabase.AnonKey} {
		if strings.Contains(text, secret) {
			t.Errorf("error = %s; want no secret in it", text)
		}
	}
}
