package auth_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cookieName = "sb-127-auth-token"
	userPath   = "/auth/v1/user"
	tokenPath  = "/auth/v1/token"
	keysPath   = "/auth/v1/.well-known/jwks.json"
)

// clock is a clock that stands until it is moved.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()) }
func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }

// direct is a transport that calls a handler in place of a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func through(t http.RoundTripper) *upstream.Network {
	return upstream.New(upstream.Config{Transport: t})
}

// project is an imitation Supabase with one user, and what asks it.
type project struct {
	*fakesupabase.Project
	clock *clock
	user  fakesupabase.User
	auth  *auth.Authenticator
}

func newProject(t testing.TB, o fakesupabase.Options, secret string) *project {
	p := &project{clock: newClock()}
	o.Now = p.clock.now
	p.Project = fakesupabase.New(o)
	p.user = p.SignUp("zoe@example.com", "correct horse")
	p.auth = newAuth(t, auth.Config{
		URL: "http://127.0.0.1:54321", AnonKey: upstream.NewSecret(fakesupabase.AnonKey), JWTSecret: upstream.NewSecret(secret), CookieName: cookieName,
		Network: through(direct{p.Project}), Timeout: 5 * time.Second, Now: p.clock.now,
	})
	return p
}

func newAuth(t testing.TB, c auth.Config) *auth.Authenticator {
	t.Helper()
	if c.Network == nil {
		c.Network = through(http.DefaultTransport)
	}
	a, err := auth.New(c)
	if err != nil {
		t.Fatalf("New = %v; want no error", err)
	}
	return a
}

// answer is what a request came to: who is the ID of a user, "guest", or the
// name of an error.
type answer struct {
	who, email, confirm string
	err                 error
	header              http.Header
}

// ask sends a request with the headers, given as name and value, through
// Middleware, and Confirm too if the path is /confirm.
func ask(a *auth.Authenticator, path string, headers ...string) answer {
	return askCtx(context.Background(), a, path, headers...)
}

func askCtx(ctx context.Context, a *auth.Authenticator, path string, headers ...string) answer {
	var out answer
	name := func(err error) string {
		switch {
		case errors.Is(err, auth.ErrUnavailable):
			return "unavailable"
		case errors.Is(err, auth.ErrSignedOut):
			return "signed out"
		case errors.Is(err, auth.ErrInsufficient):
			return "insufficient"
		case errors.Is(err, auth.ErrCookiesTooLarge):
			return "too large"
		case err != nil:
			return "error"
		}
		return ""
	}
	h := a.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := auth.CurrentUser(r.Context())
		out.who, out.err = name(err), err
		if err == nil {
			out.who = "guest"
		}
		if u != nil {
			out.who, out.email = u.ID, u.Email
		}
		if path == "/confirm" {
			err := auth.Confirm(r.Context())
			out.confirm = name(err)
			out.err = errors.Join(out.err, err)
		}
	}))
	r := httptest.NewRequestWithContext(ctx, "POST", path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	out.header = w.Result().Header
	return out
}

// setCookies returns the Set-Cookie lines as name=value, or -name for a clear.
func (a answer) setCookies() (all []string) {
	for _, line := range a.header["Set-Cookie"] {
		c, err := http.ParseSetCookie(line)
		switch {
		case err != nil:
			all = append(all, "bad: "+line)
		case c.MaxAge < 0:
			all = append(all, "-"+c.Name)
		default:
			all = append(all, c.Name+"="+c.Value)
		}
	}
	return all
}

func (a answer) cleared() bool {
	set := a.setCookies()
	return len(set) > 0 && !slices.ContainsFunc(set, func(s string) bool { return s[0] != '-' })
}

// ssr returns a Cookie header with the session as @supabase/ssr writes it.
func ssr(sessionJSON []byte) string {
	return cookieHeader(auth.WriteCookies(nil, cookieName, sessionJSON))
}

// cookieHeader returns what a browser sends after these Set-Cookie lines.
func cookieHeader(h http.Header) string {
	var pairs []string
	for _, line := range h["Set-Cookie"] {
		pair, attributes, _ := strings.Cut(line, ";")
		if !strings.Contains(attributes, "Max-Age=0") {
			pairs = append(pairs, pair)
		}
	}
	return strings.Join(pairs, "; ")
}

// calls returns how often the project was asked for user, token and key set.
func (p *project) calls() [3]int {
	return [3]int{len(p.CallsTo("GET", userPath)), len(p.CallsTo("POST", tokenPath)), len(p.CallsTo("GET", keysPath))}
}

// fault has the project answer one path with a status and a body.
func (p *project) fault(path string, status int, body string) {
	p.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
		return true
	})
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// recording is a cookie that a published library wrote.
type recording struct {
	Name         string
	Header       string   `json:"cookie_header"`
	CookieNames  []string `json:"cookie_names"`
	AccessToken  string   `json:"access_token"`
	RefreshToken string   `json:"refresh_token"`
	ExpiresAt    int64    `json:"expires_at"`
	User         struct{ ID, Email string }
}

// storageKey is the cookie's name without the number of a chunk.
func (r recording) storageKey() string {
	name := r.CookieNames[0]
	if chunk := strings.TrimSuffix(name, ".0"); len(r.CookieNames) > 1 {
		return chunk
	}
	return name
}

func recordings(t testing.TB) (all []recording) {
	t.Helper()
	files, err := filepath.Glob("testdata/cookies/*.json")
	if err != nil || len(files) < 25 {
		t.Fatalf("Glob = %d files, %v; want the recorded cookies", len(files), err)
	}
	for _, file := range files {
		if filepath.Base(file) == "keys.json" {
			continue
		}
		var r recording
		readJSON(t, file, &r)
		all = append(all, r)
	}
	return all
}

func readJSON(t testing.TB, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// recordedKeys are those that the recorded tokens are signed with.
type recordedKeys struct {
	Public  json.RawMessage `json:"es256_public_jwks"`
	Private json.RawMessage `json:"es256_private_jwk"`
	Secret  string          `json:"hs256_secret"`
}

// recorded returns an Authenticator at a fixed time for the project whose
// cookies were recorded. Of its Auth service only the key set answers.
func recorded(t testing.TB, name string, now time.Time) *auth.Authenticator {
	t.Helper()
	var keys recordedKeys
	readJSON(t, "testdata/cookies/keys.json", &keys)
	return newAuth(t, auth.Config{
		URL: "http://127.0.0.1:54321", AnonKey: upstream.NewSecret("anon"), JWTSecret: upstream.NewSecret(keys.Secret), CookieName: name,
		Now: func() time.Time { return now },
		Network: through(direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != keysPath {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write(keys.Public)
		})}),
	})
}

func TestRecordedSessions(t *testing.T) {
	for _, r := range recordings(t) {
		t.Run(r.Name, func(t *testing.T) {
			for _, tc := range []struct {
				left time.Duration
				want string
			}{
				{time.Hour, r.User.ID},
				{90 * time.Second, r.User.ID},
				{89 * time.Second, r.User.ID}, // the refresh fails, the token is good
				{time.Second, r.User.ID},
				{0, "unavailable"}, // the refresh fails
				{-24 * time.Hour, "unavailable"},
			} {
				a := recorded(t, r.storageKey(), time.Unix(r.ExpiresAt, 0).Add(-tc.left))
				got := ask(a, "/", "Cookie", r.Header)
				if got.who != tc.want {
					t.Errorf("CurrentUser with %v left = %s (%v); want %s", tc.left, got.who, got.err, tc.want)
				}
				if tc.want == r.User.ID && got.email != r.User.Email {
					t.Errorf("CurrentUser's e-mail = %q; want %q", got.email, r.User.Email)
				}
				if set := got.setCookies(); set != nil {
					t.Errorf("Set-Cookie = %q; want none", set)
				}
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	zoe := p.SignIn(p.user.ID)
	expired := p.SignInFor(p.user.ID, -time.Hour)
	ben := p.SignUp("ben@example.com", "battery staple")
	other := p.SignIn(ben.ID)
	cookie := ssr(zoe.JSON)
	for _, tc := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"none", nil, "guest"},
		{"bearer", bearer(zoe.AccessToken), p.user.ID},
		{"bearer in lower case", []string{"Authorization", "bearer " + zoe.AccessToken}, p.user.ID},
		{"bearer with spaces", []string{"Authorization", " BEARER   " + zoe.AccessToken + " "}, p.user.ID},
		{"bearer before cookie", append(bearer(other.AccessToken), "Cookie", cookie), ben.ID},
		{"bad bearer, good cookie", append(bearer("x.y.z"), "Cookie", cookie), "guest"},
		{"empty bearer, good cookie", []string{"Authorization", "Bearer ", "Cookie", cookie}, "guest"},
		{"bare bearer, good cookie", []string{"Authorization", "Bearer", "Cookie", cookie}, "guest"},
		{"expired bearer, good cookie", append(bearer(expired.AccessToken), "Cookie", cookie), "guest"},
		{"publishable key as bearer", bearer(fakesupabase.AnonKey), "guest"},
		{"basic, good cookie", []string{"Authorization", "Basic em9lOng=", "Cookie", cookie}, p.user.ID},
		{"glued scheme, good cookie", []string{"Authorization", "Bearer" + other.AccessToken, "Cookie", cookie}, p.user.ID},
		{"cookie", []string{"Cookie", cookie}, p.user.ID},
		{"second cookie header", []string{"Cookie", "a=b", "Cookie", cookie}, p.user.ID},
		{"pair", []string{"Cookie", "sb-access-token=" + zoe.AccessToken + "; sb-refresh-token=x"}, p.user.ID},
		{"access token alone", []string{"Cookie", "sb-access-token=" + zoe.AccessToken}, p.user.ID},
		{"refresh token alone", []string{"Cookie", "sb-refresh-token=" + zoe.RefreshToken}, "guest"},
		{"cookie before pair", []string{"Cookie", "sb-access-token=" + other.AccessToken + "; " + cookie}, p.user.ID},
		{"pair beside a broken cookie", []string{"Cookie", cookieName + "=base64-e30; sb-access-token=" + other.AccessToken}, ben.ID},
		{"another project's cookie", []string{"Cookie", strings.Replace(cookie, cookieName, "sb-other-auth-token", 1)}, "guest"},
		{"code verifier", []string{"Cookie", strings.Replace(cookie, cookieName, cookieName+"-code-verifier", 1)}, "guest"},
		{"chunk of a code verifier", []string{"Cookie", strings.Replace(cookie, cookieName, cookieName+"-code-verifier.0", 1)}, "guest"},
		{"expired, no refresh token", []string{"Cookie", "sb-access-token=" + expired.AccessToken}, "guest"},
		{"too many cookies", []string{"Cookie", cookie + "; x=" + strings.Repeat("x", 64<<10)}, "too large"},
		{"too many cookies in all", []string{"Cookie", cookie, "Cookie", "x=" + strings.Repeat("x", 63<<10)}, "too large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ask(p.auth, "/", tc.headers...)
			if got.who != tc.want || got.header["Set-Cookie"] != nil {
				t.Errorf("CurrentUser = %s (%v), Set-Cookie %q; want %s and none", got.who, got.err, got.setCookies(), tc.want)
			}
		})
	}
	if got, want := p.calls(), [3]int{0, 0, 1}; got != want {
		t.Errorf("calls for user, token, keys = %v; want %v", got, want)
	}
}

func TestNothingAskedWithoutNeed(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	session := p.SignInFor(p.user.ID, -time.Hour)
	h := p.auth.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("POST", "/", nil)
	r.Header.Set("Cookie", ssr(session.JSON))
	h.ServeHTTP(httptest.NewRecorder(), r)
	for _, headers := range [][]string{nil, bearer(session.AccessToken), {"Cookie", cookieName + "=garbage"}} {
		ask(p.auth, "/", headers...)
	}
	if got := p.Calls(); len(got) != 0 {
		t.Errorf("calls = %d; want 0", len(got))
	}
}

func TestOutsideMiddleware(t *testing.T) {
	if u, err := auth.CurrentUser(context.Background()); u != nil || !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("CurrentUser = %v, %v; want nil, ErrUnavailable", u, err)
	}
	if err := auth.Confirm(context.Background()); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("Confirm = %v; want ErrUnavailable", err)
	}
}

func TestNewRefusesConfig(t *testing.T) {
	good := auth.Config{URL: "https://ref.supabase.co", AnonKey: upstream.NewSecret("anon"), CookieName: "sb-ref-auth-token"}
	for _, tc := range []struct {
		name  string
		alter func(*auth.Config)
	}{
		{"no URL", func(c *auth.Config) { c.URL = "" }},
		{"URL without scheme", func(c *auth.Config) { c.URL = "ref.supabase.co" }},
		{"no key", func(c *auth.Config) { c.AnonKey = upstream.Secret{} }},
		{"no cookie name", func(c *auth.Config) { c.CookieName = "" }},
		{"cookie name with a line break", func(c *auth.Config) { c.CookieName = "a\r\nb" }},
	} {
		c := good
		tc.alter(&c)
		if _, err := auth.New(c); err == nil {
			t.Errorf("New with %s = nil; want an error", tc.name)
		}
	}
	newAuth(t, good)
}

// encode64 is base64url as @supabase/ssr stores it, prefix included.
func encode64(s string) string { return "base64-" + base64.RawURLEncoding.EncodeToString([]byte(s)) }

func decode64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s, "base64-"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func escape(s string) string { return url.PathEscape(s) }
