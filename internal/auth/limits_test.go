package auth_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

// with returns an Authenticator of the project with another configuration.
func (p *project) with(t testing.TB, change func(*auth.Config)) *auth.Authenticator {
	c := auth.Config{URL: "http://127.0.0.1:54321", AnonKey: upstream.NewSecret(fakesupabase.AnonKey), CookieName: cookieName,
		Network: through(direct{p.Project}), Timeout: 5 * time.Second, Now: p.clock.now}
	change(&c)
	return newAuth(t, c)
}

// TestStaleSecret: what does not fit the secret is asked about, and the log says
// so once an hour.
func TestStaleSecret(t *testing.T) {
	p := newProject(t, fakesupabase.Options{JWTSecret: strings.Repeat("s", 32), AccessTokenTTL: 24 * time.Hour}, "")
	var log bytes.Buffer
	a := p.with(t, func(c *auth.Config) {
		c.JWTSecret = upstream.NewSecret(strings.Repeat("o", 32))
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	token := p.SignIn(p.user.ID).AccessToken
	for n, pass := range []time.Duration{0, time.Minute, 58 * time.Minute, time.Minute} {
		p.clock.pass(pass)
		if got := ask(a, "/", bearer(token)...); got.who != p.user.ID {
			t.Errorf("CurrentUser = %s (%v); want %s", got.who, got.err, p.user.ID)
		}
		want := 1
		if n == 3 {
			want = 2
		}
		if got := strings.Count(log.String(), "SUPABASE_JWT_SECRET"); got != want {
			t.Errorf("warnings after %d requests = %d; want %d", n+1, got, want)
		}
	}
}

// TestForgedRefresh: an expired token that a known key disproves costs Supabase
// no refresh.
func TestForgedRefresh(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	ask(p.auth, "/", bearer(p.SignIn(p.user.ID).AccessToken)...) // brings in the key set
	expired := p.SignInFor(p.user.ID, -time.Minute)
	head, claims, _ := cutTwice(expired.AccessToken)
	_, _, signature := cutTwice(p.SignInFor(p.user.ID, -2*time.Minute).AccessToken)
	forged := strings.ReplaceAll(string(expired.JSON), expired.AccessToken, head+"."+claims+"."+signature)
	if got := ask(p.auth, "/", "Cookie", ssr([]byte(forged))); got.who != "guest" || p.calls()[1] != 0 {
		t.Errorf("CurrentUser of a forged token = %s (%v) after %d refreshes; want guest after none", got.who, got.err, p.calls()[1])
	}
	if got := ask(p.auth, "/", "Cookie", ssr(expired.JSON)); got.who != p.user.ID || p.calls()[1] != 1 {
		t.Errorf("CurrentUser of an expired token = %s (%v) after %d refreshes; want %s after one", got.who, got.err, p.calls()[1], p.user.ID)
	}
}

func cutTwice(token string) (head, claims, signature string) {
	head, rest, _ := strings.Cut(token, ".")
	claims, signature, _ = strings.Cut(rest, ".")
	return head, claims, signature
}

// TestRefreshesPerClient: one client cannot use up the refreshes of all.
func TestRefreshesPerClient(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	a := p.with(t, func(c *auth.Config) {
		c.Client = func(r *http.Request) netip.Prefix {
			if from := r.Header.Get("From"); from != "192.0.2.9" {
				return netip.MustParsePrefix(from + "/32")
			}
			return netip.Prefix{}
		}
	})
	ask1 := func(from string) answer {
		return ask(a, "/", "From", from, "Cookie", ssr(p.SignInFor(p.user.ID, -time.Minute).JSON))
	}
	for n := range 40 {
		want := p.user.ID
		if n >= 30 {
			want = "unavailable"
		}
		if got := ask1("192.0.2.1"); got.who != want || want == "unavailable" && got.setCookies() != nil {
			t.Fatalf("CurrentUser of refresh %d = %s (%v), Set-Cookie %q; want %s", n+1, got.who, got.err, got.setCookies(), want)
		}
		if got := ask1("192.0.2.9"); got.who != p.user.ID {
			t.Fatalf("CurrentUser of a client unknown = %s (%v); want %s", got.who, got.err, p.user.ID)
		}
	}
	if got := ask1("192.0.2.2"); got.who != p.user.ID {
		t.Errorf("CurrentUser of another client = %s (%v); want %s", got.who, got.err, p.user.ID)
	}
}

// TestConfirmRefuses: who is signed in but may not see billing.
func TestConfirmRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		mfa     bool
		claims  map[string]any
		factors string
		want    string
	}{
		{"the site's own", true, nil, `[]`, ""},
		{"another application's", false, map[string]any{"client_id": "9a2b"}, `[]`, "insufficient"},
		{"no factor", true, map[string]any{"aal": "aal1"}, `[]`, ""},
		{"a factor that was never verified", true, map[string]any{"aal": "aal1"}, `[{"status":"unverified"}]`, ""},
		{"a factor not used", true, map[string]any{"aal": "aal1"}, `[{"status":"unverified"},{"status":"verified"}]`, "insufficient"},
		{"a factor used", true, map[string]any{"aal": "aal2"}, `[{"status":"verified"}]`, ""},
		{"a factor not asked for", false, map[string]any{"aal": "aal1"}, `[{"status":"verified"}]`, ""},
	} {
		// With a secret that is not known here, finding the user has asked already.
		for _, secret := range []string{"", strings.Repeat("s", 32)} {
			p := newProject(t, fakesupabase.Options{JWTSecret: secret}, "")
			a := p.with(t, func(c *auth.Config) { c.RequireMFA = test.mfa })
			p.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != userPath {
					return false
				}
				_, _ = io.WriteString(w, fmt.Sprintf(`{"id":%q,"factors":%s}`, p.user.ID, test.factors))
				return true
			})
			claims := p.Claims(p.user.ID)
			for name, value := range test.claims {
				claims[name] = value
			}
			got := ask(a, "/confirm", bearer(p.Sign(claims))...)
			if got.who != p.user.ID || got.confirm != test.want {
				t.Errorf("%s: CurrentUser = %s, Confirm = %q (%v); want %s, %q", test.name, got.who, got.confirm, got.err, p.user.ID, test.want)
			}
		}
	}
}

// TestCookieOptions: renewed and cleared cookies have the site's own attributes.
func TestCookieOptions(t *testing.T) {
	for _, test := range []struct {
		name, options string
		https         bool
		want          string // behind Path=/
	}{
		{cookieName, "", false, "SameSite=Lax"},
		{cookieName, "", true, "Secure; SameSite=Lax"},
		{"__Host-session", "", false, "Secure; SameSite=Lax"},
		{"__Secure-session", "domain=example.com", false, "Domain=example.com; Secure; SameSite=Lax"},
		{cookieName, "Domain=.example.com; Secure; SameSite=Strict; HttpOnly", false, "Domain=example.com; HttpOnly; Secure; SameSite=Strict"},
	} {
		cookie, err := auth.ParseCookieOptions(test.options, test.name)
		if err != nil {
			t.Errorf("ParseCookieOptions(%q, %q) = %v; want no error", test.options, test.name, err)
		}
		p := newProject(t, fakesupabase.Options{}, "")
		a := p.with(t, func(c *auth.Config) {
			c.CookieName, c.Cookie = test.name, cookie
			c.Secure = func(*http.Request) bool { return test.https }
		})
		session := cookieHeader(auth.WriteCookies(nil, test.name, p.SignInFor(p.user.ID, -time.Minute).JSON))
		lines := ask(a, "/", "Cookie", session).header["Set-Cookie"]
		for _, line := range lines {
			_, rest, _ := strings.Cut(line, "; Path=/; ")
			attributes := rest
			if before, after, ok := strings.Cut(rest, "Max-Age=34560000; "); ok {
				attributes = before + after
			}
			if attributes != test.want {
				t.Errorf("%s with %q: Set-Cookie …; %s; want %s", test.name, test.options, attributes, test.want)
			}
		}
		if len(lines) == 0 {
			t.Errorf("%s with %q: Set-Cookie = none; want the renewed session", test.name, test.options)
		}
	}
	for options, name := range map[string]string{"secure=1": cookieName, "samesite=maybe": cookieName, "samesite=none": cookieName,
		"domain=example.com": "__Host-session", "path=/x": cookieName, "domain=": cookieName} {
		if _, err := auth.ParseCookieOptions(options, name); err == nil {
			t.Errorf("ParseCookieOptions(%q, %q) = no error; want one", options, name)
		}
	}
}
