package auth_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
	"8space.app/stripe-sidecar/internal/upstream"
)

// TestPublishedLibraryReadsOurCookies refreshes sessions and has the published
// @supabase/ssr read what a browser would hold afterwards.
func TestPublishedLibraryReadsOurCookies(t *testing.T) {
	npm, node := sandboxtest.Program(t, "npm", "npm"), sandboxtest.Program(t, "node", "nodejs")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/ssr")); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), npm, "install", "--no-audit", "--no-fund", "--ignore-scripts",
		"--fetch-retries=1", "--fetch-timeout=30000")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		sandboxtest.Skip(t, "make the npm registry reachable to run this test: npm install: "+err.Error()+"\n"+string(out))
	}

	// The library takes the time from the machine, so the project does too.
	p := fakesupabase.New(fakesupabase.Options{})
	a := newAuth(t, auth.Config{
		URL: "http://127.0.0.1:54321", AnonKey: upstream.NewSecret(fakesupabase.AnonKey), CookieName: cookieName, Network: through(direct{p}),
	})
	for _, tc := range []struct {
		name   string
		note   string // in the user's metadata
		cookie func(s fakesupabase.Session) string
		chunks int
		bare   bool
	}{
		{"one cookie", "Zoë 日本語 😀 \"%41\" \\ ;,", func(s fakesupabase.Session) string { return ssr(s.JSON) }, 1, false},
		{"chunks", strings.Repeat("é", 3000), func(s fakesupabase.Session) string { return ssr(s.JSON) }, 7, false},
		{"chunks after one", strings.Repeat("日", 1000), func(s fakesupabase.Session) string {
			return cookieName + "=" + escape(string(s.JSON))
		}, 4, false},
		{"one after chunks", "x", func(s fakesupabase.Session) string {
			v := encode64(string(s.JSON))
			return cookieName + ".0=" + v[:9] + "; " + cookieName + ".1=" + v[9:] + "; " + cookieName + ".5=stale"
		}, 1, false},
		{"auth-helpers", "x", func(s fakesupabase.Session) string {
			b, _ := json.Marshal([]any{s.AccessToken, s.RefreshToken, nil, nil, nil})
			return cookieName + "=" + escape(string(b))
		}, 1, false},
		{"pair", "x", func(s fakesupabase.Session) string {
			return "sb-access-token=" + s.AccessToken + "; sb-refresh-token=" + s.RefreshToken
		}, 1, false},
		{"tokens only", "x", func(s fakesupabase.Session) string {
			var m map[string]any
			_ = json.Unmarshal(s.JSON, &m)
			delete(m, "user")
			b, _ := json.Marshal(m)
			return ssr(b)
		}, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			userID := signUp(t, p, map[string]any{"note": tc.note})
			expired := p.SignInFor(userID, -time.Minute)
			cookie := tc.cookie(expired)
			got := ask(a, "/", "Cookie", cookie)
			if got.who != userID {
				t.Fatalf("CurrentUser = %s (%v); want %s", got.who, got.err, userID)
			}
			input, err := json.Marshal(map[string]any{"cookie": cookie, "lines": got.header["Set-Cookie"], "tokensOnly": tc.bare})
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			run := exec.CommandContext(t.Context(), node, filepath.Join(dir, "read.js"))
			run.Stdin, run.Stderr = bytes.NewReader(input), &stderr
			out, err := run.Output()
			var read struct {
				Names, Wrote                           []string
				Access, Refresh, User, Metadata, Error string
				Expires                                int64
			}
			if err != nil || json.Unmarshal(out, &read) != nil {
				t.Fatalf("node = %v, %s\n%s", err, out, stderr.Bytes())
			}
			access, refresh, bare, _ := auth.ReadCookies(map[string][]string{"Cookie": {cookieHeader(got.header)}}, cookieName)
			if read.Access != access || read.Refresh != refresh || read.Access == expired.AccessToken || read.Error != "" || bare != tc.bare {
				t.Errorf("session = %.9q…, %q, error %q; want the new one, %q", read.Access, read.Refresh, read.Error, refresh)
			}
			if left := time.Until(time.Unix(read.Expires, 0)); left < 59*time.Minute || left > time.Hour {
				t.Errorf("expires_at is in %v; want an hour", left)
			}
			if !tc.bare && (read.User != userID || read.Metadata != tc.note) {
				t.Errorf("user = %s, %.20q…; want %s, %.20q…", read.User, read.Metadata, userID, tc.note)
			}
			var names []string
			for pair := range strings.SplitSeq(cookieHeader(got.header), "; ") {
				name, _, _ := strings.Cut(pair, "=")
				names = append(names, name)
			}
			slices.Sort(read.Names)
			if !slices.Equal(read.Names, names) || len(names) != tc.chunks {
				t.Errorf("cookies = %q; want %d, %q", read.Names, tc.chunks, names)
			}
			if len(read.Wrote) > 0 {
				t.Errorf("the library wrote %q; want none", read.Wrote)
			}
		})
	}
}

// signUp adds a user with metadata and returns the ID.
func signUp(t *testing.T, p *fakesupabase.Project, metadata map[string]any) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"email": strings.ToLower(rand.Text()) + "@example.com", "password": "correct horse", "data": metadata,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/auth/v1/signup", bytes.NewReader(body))
	r.Header.Set("apikey", fakesupabase.AnonKey)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	var session struct{ User struct{ ID string } }
	if err := json.Unmarshal(w.Body.Bytes(), &session); err != nil || session.User.ID == "" {
		t.Fatalf("signup = %d, %s; want a session", w.Code, w.Body)
	}
	return session.User.ID
}
