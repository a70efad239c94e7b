package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

func TestRefreshMargin(t *testing.T) {
	for _, tc := range []struct {
		left      time.Duration
		refreshed bool
	}{
		{time.Hour, false},
		{90 * time.Second, false},
		{89 * time.Second, true},
		{time.Second, true},
		{0, true},
		{-30 * 24 * time.Hour, true},
	} {
		p := newProject(t, fakesupabase.Options{}, "")
		session := p.SignInFor(p.user.ID, tc.left)
		got := ask(p.auth, "/", "Cookie", ssr(session.JSON))
		if got.who != p.user.ID || len(got.setCookies()) > 0 != tc.refreshed || p.calls()[1] > 0 != tc.refreshed {
			t.Errorf("CurrentUser with %v left = %s (%v), %d token calls; want %s, refreshed %v",
				tc.left, got.who, got.err, p.calls()[1], p.user.ID, tc.refreshed)
		}
		if p.calls()[0] != 0 {
			t.Errorf("asked for the user %d times; want 0", p.calls()[0])
		}
	}
}

// TestRefreshedSession follows a session from cookie to cookie.
func TestRefreshedSession(t *testing.T) {
	object := func(s fakesupabase.Session) string { return string(s.JSON) }
	array := func(s fakesupabase.Session) string {
		return fmt.Sprintf(`[%q,%q,null,null,null]`, s.AccessToken, s.RefreshToken)
	}
	bare := func(s fakesupabase.Session) string {
		var m map[string]any
		_ = json.Unmarshal(s.JSON, &m)
		delete(m, "user")
		b, _ := json.Marshal(m)
		return string(b)
	}
	for _, tc := range []struct {
		name    string
		cookies func(fakesupabase.Session) string
		cleared []string
		bare    bool
	}{
		{"base64", func(s fakesupabase.Session) string { return ssr(s.JSON) }, nil, false},
		{"raw", func(s fakesupabase.Session) string { return cookieName + "=" + escape(object(s)) }, nil, false},
		{"array", func(s fakesupabase.Session) string { return cookieName + "=" + escape(array(s)) }, nil, false},
		{"tokens only", func(s fakesupabase.Session) string { return ssr([]byte(bare(s))) }, nil, true},
		{"chunks, one stale", func(s fakesupabase.Session) string {
			v := encode64(object(s))
			return fmt.Sprintf("%[1]s.0=%[2]s; %[1]s.1=%[3]s; %[1]s.3=x", cookieName, v[:50], v[50:])
		}, []string{cookieName + ".0", cookieName + ".1", cookieName + ".3"}, false},
		{"pair", func(s fakesupabase.Session) string {
			return "sb-access-token=" + s.AccessToken + "; sb-refresh-token=" + s.RefreshToken
		}, []string{"sb-access-token", "sb-refresh-token"}, false},
		{"session beside a pair", func(s fakesupabase.Session) string {
			return ssr(s.JSON) + "; sb-access-token=a; sb-refresh-token=b"
		}, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t, fakesupabase.Options{}, "")
			expired := p.SignInFor(p.user.ID, -time.Minute)
			got := ask(p.auth, "/", "Cookie", tc.cookies(expired))
			if got.who != p.user.ID || got.email != p.user.Email {
				t.Fatalf("CurrentUser = %s (%v); want %s", got.who, got.err, p.user.ID)
			}
			var cleared []string
			for _, c := range got.setCookies() {
				if c[0] == '-' {
					cleared = append(cleared, c[1:])
				}
			}
			if !slices.Equal(cleared, tc.cleared) {
				t.Errorf("cleared = %q; want %q", cleared, tc.cleared)
			}
			if got := got.header.Get("Cache-Control"); !strings.Contains(got, "no-store") {
				t.Errorf("Cache-Control = %q; want no-store", got)
			}
			cookie := cookieHeader(got.header)
			access, refresh, bare, ok := auth.ReadCookies(http.Header{"Cookie": {cookie}}, cookieName)
			if !ok || access == expired.AccessToken || refresh == expired.RefreshToken || bare != tc.bare {
				t.Errorf("new session = %v, bare %v; want a new one, bare %v", ok, bare, tc.bare)
			}
			if got := ask(p.auth, "/confirm", "Cookie", cookie); got.who != p.user.ID || got.confirm != "" || got.setCookies() != nil {
				t.Errorf("CurrentUser with the new cookies = %s, Confirm %s (%v); want %s, no error", got.who, got.confirm, got.err, p.user.ID)
			}
			if got, want := p.calls(), [3]int{1, 1, 1}; got != want {
				t.Errorf("calls for user, token, keys = %v; want %v", got, want)
			}
		})
	}
}

// TestRefreshKeepsFields checks that what GoTrue adds one day is kept, and that
// expires_at is there even if it is not.
func TestRefreshKeepsFields(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	expired := p.SignInFor(p.user.ID, -time.Minute)
	fresh := p.SignIn(p.user.ID)
	for _, tc := range []struct{ name, body, want string }{
		{"no expires_at", `{"access_token":%q,"refresh_token":"R","expires_in":3600}`,
			`{"access_token":%q,"expires_at":` + fmt.Sprint(p.clock.now().Unix()+3600) + `,"expires_in":3600,"refresh_token":"R"}`},
		{"unknown fields", `{"new":{"b":[1, 2.50,"é&<"]},"access_token":%q,"refresh_token":"R","expires_in":3600,"expires_at":9,"user":{"id":"x"}}`,
			`{"access_token":%q,"expires_at":9,"expires_in":3600,"new":{"b":[1,2.50,"é\u0026\u003c"]},"refresh_token":"R","user":{"id":"x"}}`},
	} {
		p.fault(tokenPath, 200, fmt.Sprintf(tc.body, fresh.AccessToken))
		got := ask(p.auth, "/", "Cookie", ssr(expired.JSON))
		_, value, _ := strings.Cut(strings.ReplaceAll(cookieHeader(got.header), "; "+cookieName+".1=", ""), "=")
		if want := fmt.Sprintf(tc.want, fresh.AccessToken); string(decode64(t, value)) != want {
			t.Errorf("%s: session = %s; want %s", tc.name, decode64(t, value), want)
		}
		p.clock.pass(10 * time.Second)
	}
}

func TestRefreshOutcomes(t *testing.T) {
	const (
		user  = "user"
		clear = "clear"
	)
	code := func(status int, code string) string {
		return fmt.Sprintf(`{"code":%d,"error_code":%q,"msg":"no"}`, status, code)
	}
	newer := func(code string) string { return fmt.Sprintf(`{"code":%q,"message":"no"}`, code) }
	for _, tc := range []struct {
		name    string
		status  int
		body    string
		expired string // "clear": guest, cookies cleared
	}{
		{"not found", 400, code(400, "refresh_token_not_found"), clear},
		{"not found, newer shape", 400, newer("refresh_token_not_found"), clear},
		{"already used", 400, code(400, "refresh_token_already_used"), clear},
		{"already used, newer shape", 400, newer("refresh_token_already_used"), clear},
		{"session expired", 400, code(400, "session_expired"), clear},
		{"session not found", 400, code(400, "session_not_found"), clear},
		{"banned", 400, code(400, "user_banned"), clear},
		{"forbidden", 403, code(403, "user_banned"), clear},
		{"OAuth shape", 400, `{"error":"invalid_grant","error_description":"Invalid Refresh Token"}`, clear},
		{"oldest shape", 400, `{"code":400,"msg":"Invalid Refresh Token"}`, clear},
		{"rate limit", 429, code(429, "over_request_rate_limit"), "unavailable"},
		{"rate limit, newer shape", 429, newer("over_request_rate_limit"), "unavailable"},
		{"conflict", 409, code(409, "conflict"), "unavailable"},
		{"timeout", 408, "", "unavailable"},
		{"server error", 500, code(500, "unexpected_failure"), "unavailable"},
		{"bad gateway", 502, "<html>", "unavailable"},
		{"unavailable", 503, "", "unavailable"},
		{"gateway timeout", 504, newer("request_timeout"), "unavailable"},
		{"Cloudflare", 522, "", "unavailable"},
		{"wrong API key", 401, `{"message":"Invalid API key","hint":"Double check your key."}`, "unavailable"},
		{"wrong address", 404, `{"error":"requested path is invalid"}`, "unavailable"},
		{"firewall", 403, "<html>", "unavailable"},
		{"redirect", 302, "", "unavailable"},
		{"garbage", 200, "<html>", "unavailable"},
		{"nothing", 200, "", "unavailable"},
		{"no session", 200, `{"access_token":"A"}`, "unavailable"},
		{"too long", 200, `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, "unavailable"},
		{"not UTF-8", 200, "{\"access_token\":\"A\",\"refresh_token\":\"R\xff\"}", "unavailable"},
	} {
		for _, left := range []time.Duration{-time.Second, 0, time.Second, 89 * time.Second} {
			p := newProject(t, fakesupabase.Options{}, "")
			session := p.SignInFor(p.user.ID, left)
			p.fault(tokenPath, tc.status, tc.body)
			want, cleared := tc.expired, false
			if left > 0 {
				want = user
			} else if want == clear {
				want, cleared = "guest", true
			}
			if want == user {
				want = p.user.ID
			}
			for range 2 { // the second from the kept result, if it is kept
				got := ask(p.auth, "/", "Cookie", ssr(session.JSON))
				if got.who != want || got.cleared() != cleared || !cleared && got.setCookies() != nil {
					t.Errorf("%s, %v left: CurrentUser = %s (%v), Set-Cookie %q; want %s, cleared %v",
						tc.name, left, got.who, got.err, got.setCookies(), want, cleared)
				}
				checkSecrets(t, got, session)
			}
			if tc.expired == clear && p.calls()[1] != 1 {
				t.Errorf("%s: token calls = %d; want 1", tc.name, p.calls()[1])
			}
		}
	}
}

func TestRefreshUnreachable(t *testing.T) {
	c := newClock()
	p := fakesupabase.New(fakesupabase.Options{Now: c.now})
	session := p.SignInFor(p.SignUp("zoe@example.com", "correct horse").ID, -time.Minute)
	server := httptest.NewServer(p)
	a := newAuth(t, auth.Config{URL: server.URL, AnonKey: upstream.NewSecret(fakesupabase.AnonKey), CookieName: cookieName, Now: c.now})
	server.Close()
	got := ask(a, "/", "Cookie", ssr(session.JSON))
	if got.who != "unavailable" || got.setCookies() != nil {
		t.Errorf("CurrentUser = %s (%v), Set-Cookie %q; want unavailable and none", got.who, got.err, got.setCookies())
	}
	checkSecrets(t, got, session)
}

// TestRefreshOnce sends 20 requests at once over a real connection.
func TestRefreshOnce(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	server := httptest.NewServer(p.Project)
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	a := newAuth(t, auth.Config{URL: server.URL, AnonKey: upstream.NewSecret(fakesupabase.AnonKey), CookieName: cookieName, Network: through(transport), Now: p.clock.now})
	session := p.SignInFor(p.user.ID, -time.Minute)

	var wg sync.WaitGroup
	answers := make([]answer, 20)
	for i := range answers {
		wg.Go(func() { answers[i] = ask(a, "/", "Cookie", ssr(session.JSON)) })
	}
	wg.Wait()
	p.clock.pass(9 * time.Second)
	answers = append(answers, ask(a, "/", "Cookie", ssr(session.JSON))) // a straggler
	for _, got := range answers {
		if got.who != p.user.ID || cookieHeader(got.header) != cookieHeader(answers[0].header) {
			t.Errorf("CurrentUser = %s (%v), %s; want %s and the same session for all",
				got.who, got.err, got.setCookies(), p.user.ID)
		}
	}
	if got, want := p.calls(), [3]int{0, 1, 1}; got != want {
		t.Errorf("calls for user, token, keys = %v; want %v", got, want)
	}
	// Later the result is forgotten. Supabase Auth, whose new refresh token
	// nobody used, gives the same one again.
	p.clock.pass(time.Second)
	if got := ask(a, "/", "Cookie", ssr(session.JSON)); got.who != p.user.ID {
		t.Errorf("CurrentUser = %s (%v); want %s", got.who, got.err, p.user.ID)
	}
	if got, want := p.calls()[1], 2; got != want {
		t.Errorf("token calls = %d; want %d", got, want)
	}
}

func TestRefreshOfTwoUsers(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	ben := p.SignUp("ben@example.com", "battery staple")
	for range 2 {
		for _, id := range []string{p.user.ID, ben.ID} {
			session := p.SignInFor(id, -time.Minute)
			if got := ask(p.auth, "/", "Cookie", ssr(session.JSON)); got.who != id {
				t.Errorf("CurrentUser = %s (%v); want %s", got.who, got.err, id)
			}
		}
	}
}

// TestRefreshOutlivesClient has the first client go away in the middle.
func TestRefreshOutlivesClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProject(t, fakesupabase.Options{}, "")
		session := p.SignInFor(p.user.ID, -time.Minute)
		release := make(chan struct{})
		p.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == tokenPath {
				<-release
			}
			return false
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := askCtx(ctx, p.auth, "/", "Cookie", ssr(session.JSON)); got.who != "unavailable" || got.setCookies() != nil {
				t.Errorf("CurrentUser of the client that left = %s, Set-Cookie %q; want unavailable and none", got.who, got.setCookies())
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if got := ask(p.auth, "/", "Cookie", ssr(session.JSON)); got.who != p.user.ID || got.setCookies() == nil {
				t.Errorf("CurrentUser of the one that waits = %s (%v); want %s", got.who, got.err, p.user.ID)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		if got := ask(p.auth, "/", "Cookie", ssr(session.JSON)); got.who != p.user.ID || got.setCookies() == nil {
			t.Errorf("CurrentUser of a straggler = %s (%v); want %s", got.who, got.err, p.user.ID)
		}
		if got, want := p.calls()[1], 1; got != want {
			t.Errorf("token calls = %d; want %d", got, want)
		}
	})
}

// TestRefreshHangs checks how long a request waits: until the call is given up,
// and with a token that is still good not even that long.
func TestRefreshHangs(t *testing.T) {
	for _, tc := range []struct {
		left, waits time.Duration
		want        string
	}{
		{-time.Second, 5 * time.Second, "unavailable"},
		{time.Minute, 3 * time.Second, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newProject(t, fakesupabase.Options{}, "")
			want := tc.want
			if want == "" {
				want = p.user.ID
			}
			session := p.SignInFor(p.user.ID, tc.left)
			p.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == tokenPath && hang(w, r)
			})
			start := time.Now()
			got := ask(p.auth, "/", "Cookie", ssr(session.JSON))
			if waited := time.Since(start); got.who != want || waited != tc.waits || got.setCookies() != nil {
				t.Errorf("CurrentUser with %v left = %s (%v) after %v; want %s after %v", tc.left, got.who, got.err, waited, want, tc.waits)
			}
			time.Sleep(5 * time.Second) // by the bubble's clock: until the call is given up
		})
	}
}

// TestRefreshedTokenIsVerified has the token endpoint answer a token that is
// nobody's, and then one whose key cannot be fetched while Auth cannot be asked.
func TestRefreshedTokenIsVerified(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	session := p.SignInFor(p.user.ID, -time.Minute)
	stranger := newProject(t, fakesupabase.Options{}, "")
	p.fault(tokenPath, 200, string(stranger.SignIn(stranger.user.ID).JSON))
	if got := ask(p.auth, "/", "Cookie", ssr(session.JSON)); got.who != "guest" {
		t.Errorf("CurrentUser = %s (%v); want guest", got.who, got.err)
	}

	p = newProject(t, fakesupabase.Options{}, "")
	session = p.SignInFor(p.user.ID, -time.Minute)
	p.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == tokenPath {
			return false
		}
		w.WriteHeader(503)
		return true
	})
	got := ask(p.auth, "/", "Cookie", ssr(session.JSON))
	if got.who != "unavailable" || got.cleared() || got.setCookies() == nil {
		t.Errorf("CurrentUser = %s (%v), Set-Cookie %q; want unavailable, and the new session, since the old one is spent",
			got.who, got.err, got.setCookies())
	}
}

func TestManyRefreshes(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	var refused atomic.Int64
	p.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		refused.Add(1)
		w.WriteHeader(400)
		_, _ = w.Write([]byte(`{"code":400,"error_code":"refresh_token_not_found","msg":"no"}`))
		return true
	})
	expired := p.SignInFor(p.user.ID, -time.Minute)
	cookie := func(i int) string {
		return "sb-access-token=" + expired.AccessToken + fmt.Sprintf("; sb-refresh-token=r%d", i)
	}
	for i := range 1200 {
		ask(p.auth, "/", "Cookie", cookie(i))
	}
	ask(p.auth, "/", "Cookie", cookie(1199)) // kept
	ask(p.auth, "/", "Cookie", cookie(0))    // made room
	if got, want := refused.Load(), int64(1201); got != want {
		t.Errorf("token calls = %d; want %d", got, want)
	}
}

func TestConfirm(t *testing.T) {
	refuse := func(status int, body string) func(*project) {
		return func(p *project) { p.fault(userPath, status, body) }
	}
	for _, tc := range []struct {
		name    string
		alter   func(*project)
		want    string
		cleared bool
	}{
		{"stands", func(*project) {}, "", false},
		{"signed out", func(p *project) { p.SignOut(p.user.ID) }, "signed out", true},
		{"banned", func(p *project) { p.Ban(p.user.ID) }, "signed out", false},
		{"deleted", func(p *project) { p.DeleteUser(p.user.ID) }, "signed out", false},
		{"signed out, newer shape", refuse(403, `{"code":"session_not_found","message":"no"}`), "signed out", true},
		{"bad_jwt", refuse(403, `{"code":403,"error_code":"bad_jwt","msg":"no"}`), "signed out", false},
		{"bad_jwt, newer shape", refuse(403, `{"code":"bad_jwt","message":"no"}`), "signed out", false},
		{"no_authorization", refuse(401, `{"code":401,"error_code":"no_authorization","msg":"no"}`), "signed out", false},
		{"another user", refuse(200, `{"id":"8cd2e9d1-4a43-4a37-a96d-620447495c12"}`), "signed out", false},
		{"rate limit", refuse(429, `{"code":429,"error_code":"over_request_rate_limit","msg":"no"}`), "unavailable", false},
		{"server error", refuse(500, `{"code":500,"error_code":"unexpected_failure","msg":"no"}`), "unavailable", false},
		{"wrong address", refuse(404, `{"code":404,"error_code":"x","msg":"no"}`), "unavailable", false},
		{"wrong API key", refuse(401, `{"message":"Invalid API key"}`), "unavailable", false},
		{"firewall", refuse(403, "<html>"), "unavailable", false},
		{"redirect", refuse(302, ""), "unavailable", false},
		{"HTML", refuse(200, "<html>"), "unavailable", false},
		{"no id", refuse(200, `{"email":"zoe@example.com"}`), "unavailable", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t, fakesupabase.Options{}, "")
			session := p.SignIn(p.user.ID)
			tc.alter(p)
			got := ask(p.auth, "/confirm", "Cookie", ssr(session.JSON))
			if got.who != p.user.ID || got.confirm != tc.want || got.cleared() != tc.cleared {
				t.Errorf("CurrentUser, Confirm = %s, %q (%v), Set-Cookie %q; want %s, %q, cleared %v",
					got.who, got.confirm, got.err, got.setCookies(), p.user.ID, tc.want, tc.cleared)
			}
			checkSecrets(t, got, session)
			if tc.cleared {
				got := ask(p.auth, "/confirm", append(bearer(session.AccessToken), "Cookie", ssr(session.JSON))...)
				if got.confirm != tc.want || got.setCookies() != nil {
					t.Errorf("Confirm with a Bearer token = %q, Set-Cookie %q; want %q, none", got.confirm, got.setCookies(), tc.want)
				}
			}
		})
	}
}

func TestConfirmGuest(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	if got := ask(p.auth, "/confirm"); got.confirm != "signed out" || p.calls()[0] != 0 {
		t.Errorf("Confirm = %q after %d calls; want signed out after 0", got.confirm, p.calls()[0])
	}
}

// TestAskedOnce has no local key, so that CurrentUser has to ask, and checks
// what it makes of the answer. Confirm does not ask again.
func TestAskedOnce(t *testing.T) {
	for _, tc := range []struct {
		name          string
		alter         func(*project)
		who, confirm  string
		cleared, same bool
	}{
		{"stands", func(*project) {}, "", "", false, true},
		{"signed out", func(p *project) { p.SignOut(p.user.ID) }, "guest", "signed out", true, false},
		{"banned", func(p *project) { p.Ban(p.user.ID) }, "guest", "signed out", false, false},
		{"down", func(p *project) { p.fault(userPath, 503, "") }, "unavailable", "unavailable", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t, fakesupabase.Options{JWTSecret: strings.Repeat("s", 32)}, "")
			session := p.SignIn(p.user.ID)
			tc.alter(p)
			want := tc.who
			if want == "" {
				want = p.user.ID
			}
			got := ask(p.auth, "/confirm", "Cookie", ssr(session.JSON))
			if got.who != want || got.confirm != tc.confirm || got.cleared() != tc.cleared || p.calls()[0] != 1 {
				t.Errorf("CurrentUser, Confirm = %s, %q (%v), cleared %v, asked %d times; want %s, %q, %v, 1",
					got.who, got.confirm, got.err, got.cleared(), p.calls()[0], want, tc.confirm, tc.cleared)
			}
		})
	}
}

// TestSentUpstream looks at what Supabase is sent.
func TestSentUpstream(t *testing.T) {
	p := newProject(t, fakesupabase.Options{}, "")
	expired := p.SignInFor(p.user.ID, -time.Minute)
	got := ask(p.auth, "/confirm", "Cookie", ssr(expired.JSON), "Authorization", "Basic x")
	if got.confirm != "" {
		t.Fatalf("Confirm = %v; want nil", got.err)
	}
	access, _, _, _ := auth.ReadCookies(http.Header{"Cookie": {cookieHeader(got.header)}}, cookieName)
	for _, c := range p.Calls() {
		if got := c.Header.Get("apikey"); got != fakesupabase.AnonKey {
			t.Errorf("%s: apikey = %q; want the anon key", c.Path, got)
		}
		want := ""
		if c.Path == userPath {
			want = "Bearer " + access
		}
		if got := c.Header.Get("Authorization"); got != want {
			t.Errorf("%s: Authorization = %q; want %q", c.Path, got, want)
		}
		if c.Header.Get("Cookie") != "" {
			t.Errorf("%s: Cookie sent; want none", c.Path)
		}
	}
	calls := p.CallsTo("POST", tokenPath)
	if want := []byte(`"refresh_token":"` + expired.RefreshToken + `"`); len(calls) != 1 ||
		calls[0].Query.Get("grant_type") != "refresh_token" || !bytes.Contains(calls[0].Body, want) {
		t.Errorf("token calls = %+v; want one with %s", calls, want)
	}
}
