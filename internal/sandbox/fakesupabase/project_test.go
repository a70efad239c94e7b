package fakesupabase

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

func TestGetUser(t *testing.T) {
	const secret = "legacy-secret-of-at-least-32-characters"
	s := New(Options{LegacyJWTSecret: secret})
	var ids []string
	for _, name := range []string{"ann", "out", "banned", "gone"} {
		ids = append(ids, s.SignUp(name+"@example.com", "correct horse").ID)
	}
	ann := ids[0]
	var tokens []string
	for _, id := range ids {
		tokens = append(tokens, s.SignIn(id).AccessToken)
	}
	s.SignOut(ids[1])
	s.Ban(ids[2])
	s.DeleteUser(ids[3])
	altered := func(name string, value any) string {
		c := s.Claims(ann)
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return s.Sign(c)
	}
	legacy, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(s.Claims(ann))).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(s.Claims(ann))).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, token string
		status      int
		code        string
	}{
		{"signed in", tokens[0], 200, ""},
		{"legacy secret", legacy, 200, ""},
		{"other audience", altered("aud", "someone else"), 200, ""},
		{"no session claim", altered("session_id", nil), 200, ""},
		{"no token", "", 401, "no_authorization"},
		{"the key itself", AnonKey, 403, "bad_jwt"},
		{"garbage", "a.b.c", 403, "bad_jwt"},
		{"alg none", none, 403, "bad_jwt"},
		{"no sub", altered("sub", nil), 403, "bad_jwt"},
		{"expired", s.SignInFor(ann, -time.Minute).AccessToken, 403, "bad_jwt"},
		{"signed out", tokens[1], 403, "session_not_found"},
		{"banned", tokens[2], 403, "user_banned"},
		{"deleted", tokens[3], 403, "user_not_found"},
	} {
		headers := []string{"apikey", AnonKey}
		if tt.token != "" {
			headers = append(headers, "Authorization", "Bearer "+tt.token)
		}
		got := sandboxtest.Send(t, s, "GET", "/auth/v1/user", "", headers...)
		if code, _ := got.Get("error_code").(string); got.Status != tt.status || code != tt.code {
			t.Errorf("GET user, %s = %d %s; want %d %q", tt.name, got.Status, got.Body, tt.status, tt.code)
		}
		got = sandboxtest.Send(t, s, "GET", "/auth/v1/user", "", append(headers, "X-Supabase-Api-Version", "2024-01-01")...)
		if code, _ := got.Get("code").(string); got.Status != tt.status || code != tt.code {
			t.Errorf("GET user, %s, newer shape = %d %s; want %d %q", tt.name, got.Status, got.Body, tt.status, tt.code)
		}
	}
	if got := sandboxtest.Send(t, s, "GET", "/auth/v1/user", "", "Authorization", "Bearer "+tokens[0]); got.Status != 401 {
		t.Errorf("GET user without apikey = %d; want 401", got.Status)
	}
}

func TestKeys(t *testing.T) {
	s := New(Options{})
	id := s.SignUp("ann@example.com", "correct horse").ID
	user := func(token string) int {
		return sandboxtest.Send(t, s, "GET", "/auth/v1/user", "", "apikey", AnonKey, "Authorization", "Bearer "+token).Status
	}
	old := s.SignIn(id).AccessToken
	s.UseKey("RS256")
	s.UseKey("EdDSA")
	set := sandboxtest.Send(t, s, "GET", "/auth/v1/.well-known/jwks.json", "")
	for i, want := range []string{"EC", "RSA", "OKP"} {
		keys, _ := set.Get("keys").([]any)
		if len(keys) != 3 || keys[i].(map[string]any)["kty"] != want {
			t.Fatalf("key set = %s; want EC, RSA, OKP", set.Body)
		}
	}
	if got, want := set.Header.Get("Cache-Control"), "public, max-age=600"; got != want {
		t.Errorf("key set Cache-Control = %q; want %q", got, want)
	}
	if got := user(old); got != 200 {
		t.Errorf("user with the older key = %d; want 200", got)
	}
	s.RotateKey()
	if got := user(old); got != 403 {
		t.Errorf("user after RotateKey = %d; want 403", got)
	}
	if got := user(s.SignIn(id).AccessToken); got != 200 {
		t.Errorf("user with the new key = %d; want 200", got)
	}
	hs := New(Options{JWTSecret: "a-secret-of-at-least-32-characters-long"})
	if got, want := string(hs.KeySet()), `{"keys":[]}`; got != want {
		t.Errorf("key set of an HS256 project = %s; want %s", got, want)
	}
}

func TestPassword(t *testing.T) {
	s := New(Options{})
	post := func(path, body string) sandboxtest.Answer {
		return sandboxtest.Send(t, s, "POST", "/auth/v1/"+path, body, "apikey", AnonKey)
	}
	for _, tt := range []struct {
		path, body string
		status     int
		code       any
	}{
		{"signup", `{"email":"Ann@Example.com","password":"correct horse","data":{"name":"Ann"}}`, 200, nil},
		{"signup", `{"email":"ann@example.com","password":"correct horse"}`, 422, "user_already_exists"},
		{"signup", `{"email":"bob@example.com","password":"short"}`, 422, "weak_password"},
		{"signup", `{"email":"bob","password":"correct horse"}`, 400, "validation_failed"},
		{"signup", `{`, 400, "bad_json"},
		{"token?grant_type=password", `{"email":"ann@example.com","password":"correct horse"}`, 200, nil},
		{"token?grant_type=password", `{"email":"ann@example.com","password":"wrong horse"}`, 400, "invalid_credentials"},
		{"token?grant_type=password", `{"email":"no@example.com","password":"correct horse"}`, 400, "invalid_credentials"},
	} {
		got := post(tt.path, tt.body)
		if got.Status != tt.status || got.Get("error_code") != tt.code {
			t.Errorf("POST %s %s = %d %s; want %d %v", tt.path, tt.body, got.Status, got.Body, tt.status, tt.code)
		}
		if tt.status == 200 && got.Get("user.email") != "ann@example.com" {
			t.Errorf("POST %s user.email = %v; want ann@example.com", tt.path, got.Get("user.email"))
		}
	}
}

func TestRefresh(t *testing.T) {
	c := sandboxtest.NewClock()
	s := New(Options{Now: c.Now})
	id := s.SignUp("ann@example.com", "correct horse").ID
	refresh := func(token string) (string, string) {
		body, _ := json.Marshal(map[string]string{"refresh_token": token})
		got := sandboxtest.Send(t, s, "POST", "/auth/v1/token?grant_type=refresh_token", string(body), "apikey", AnonKey)
		next, _ := got.Get("refresh_token").(string)
		code, _ := got.Get("error_code").(string)
		return next, code
	}
	expect := func(what, token, want string) string {
		t.Helper()
		next, code := refresh(token)
		if code != want {
			t.Fatalf("%s = %q; want %q", what, code, want)
		}
		return next
	}
	first := s.SignIn(id).RefreshToken
	children := make([]string, 20)
	var wg sync.WaitGroup
	for i := range children {
		wg.Go(func() { children[i], _ = refresh(first) })
	}
	wg.Wait()
	child := children[0]
	for _, other := range children {
		if other == "" || other != child {
			t.Fatalf("parallel refreshes = %q; want one child", children)
		}
	}
	c.Advance(time.Hour)
	if again := expect("late reuse, child unused", first, ""); again != child {
		t.Errorf("late reuse, child unused = %q; want the child %q", again, child)
	}
	grandchild := expect("child", child, "")
	c.Advance(reuseInterval + time.Second)
	expect("late reuse, child used", first, "refresh_token_already_used")
	expect("after the family was revoked", grandchild, "refresh_token_already_used")
	expect("unknown", "nonsense", "refresh_token_not_found")
	last := s.SignIn(id).RefreshToken
	s.SignOut(id)
	expect("signed out", last, "refresh_token_not_found")
}

func TestSessionJSON(t *testing.T) {
	c := sandboxtest.NewClock()
	s := New(Options{Now: c.Now})
	got := s.SignIn(s.SignUp("ann@example.com", "correct horse").ID)
	var body struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresAt    int64  `json:"expires_at"`
		ExpiresIn    int    `json:"expires_in"`
		User         struct{ Identities []any }
	}
	if err := json.Unmarshal(got.JSON, &body); err != nil {
		t.Fatal(err)
	}
	if body.AccessToken != got.AccessToken || body.RefreshToken != got.RefreshToken ||
		body.ExpiresAt != got.ExpiresAt.Unix() || body.ExpiresIn != 3600 || len(body.User.Identities) != 1 {
		t.Errorf("session = %s; want it to agree with %+v", got.JSON, got)
	}
}

const (
	annID = "8cd2e9d1-4a43-4a37-a96d-620447495c12"
	bobID = "9e50376e-1f4a-4ec5-89aa-127c694dac77"
)

// notes is a table with a column of every type and a policy.
func notes() Table {
	return Table{
		Name: "notes",
		Columns: []Column{
			{Name: "id", Type: "int"}, {Name: "owner", Type: "uuid"}, {Name: "body", Type: "text", NotNull: true},
			{Name: "done", Type: "bool", Default: func() any { return false }}, {Name: "due", Type: "timestamptz"}, {Name: "extra", Type: "jsonb"},
		},
		Unique: [][]string{{"id"}, {"owner", "body"}},
		Select: func(row map[string]any, userID string) bool { return row["owner"] == userID },
	}
}

func TestPostgREST(t *testing.T) {
	for _, tt := range []struct {
		method, target, body, prefer, accept string
		status                               int
		want                                 string // the body, or the code of an error
	}{
		{"GET", "notes?select=id&order=id", "", "", "", 200, `[{"id":1},{"id":2},{"id":3}]`},
		{"GET", "notes?select=id&order=due.desc.nullslast", "", "", "", 200, `[{"id":2},{"id":1},{"id":3}]`},
		{"GET", "notes?select=id&owner=is.null", "", "", "", 200, `[{"id":3}]`},
		{"GET", "notes?select=id&owner=neq." + annID, "", "", "", 200, `[{"id":2}]`},
		{"GET", "notes?select=id&id=in.(1,3)", "", "", "", 200, `[{"id":1},{"id":3}]`},
		{"GET", "notes?select=id&body=in.(\"a\",\"b,c\")", "", "", "", 200, `[{"id":1}]`},
		{"GET", "notes?select=id&or=(owner.is.null,body.eq.)", "", "", "", 200, `[{"id":3}]`},
		{"GET", "notes?select=id&due=gte.2026-02-01", "", "", "", 200, `[{"id":2}]`},
		{"GET", "nothing", "", "", "", 404, "PGRST205"},
		{"GET", "notes?nope=eq.1", "", "", "", 400, "42703"},
		{"GET", "notes?select=nope", "", "", "", 400, "42703"},
		{"GET", "notes?owner=eq.nope", "", "", "", 400, "22P02"},
		{"GET", "notes?id=like.1", "", "", "", 400, "PGRST100"},
		{"POST", "notes", `{"id":4,"body":"d"}`, "", "", 201, ""},
		{"POST", "notes?select=id,done", `[{"id":4,"body":"d"},{"id":5,"body":"e"}]`, "return=representation", "", 201, `[{"done":false,"id":4},{"done":false,"id":5}]`},
		{"POST", "notes", `{"id":4,"body":"d"}`, "return=minimal", "", 201, ""},
		{"POST", "notes", `{"id":1,"body":"d"}`, "", "", 409, "23505"},
		{"POST", "notes", `{"id":4,"owner":"` + strings.ToUpper(annID) + `","body":"a"}`, "", "", 409, "23505"},
		{"POST", "notes", `{"id":1}`, "", "", 400, "23502"},
		{"POST", "notes", `{"id":1}`, "resolution=ignore-duplicates", "", 400, "23502"},
		{"POST", "notes", `{"id":1,"body":"z"}`, "resolution=ignore-duplicates,return=representation", "", 201, `[]`},
		{"POST", "notes", `{"id":4,"body":"z","nope":1}`, "", "", 400, "PGRST204"},
		{"POST", "notes", `{"id":4,"body":"z","owner":"nope"}`, "", "", 400, "22P02"},
		{"POST", "notes", `{`, "", "", 400, "PGRST102"},
		{"PATCH", "notes?id=eq.1", `{"done":true}`, "", "", 204, ""},
		{"PATCH", "notes?id=lt.3&select=id,due&order=id", `{"due":"2026-05-01T10:00:00+02:00"}`, "return=representation", "", 200, `[{"due":"2026-05-01T08:00:00+00:00","id":1},{"due":"2026-05-01T08:00:00+00:00","id":2}]`},
		{"PATCH", "notes", `{"done":true}`, "", "", 400, "21000"},
		{"GET", "notes?select=*&id=eq.3", "", "", "", 200, `[{"body":"c","done":true,"due":null,"extra":{"a":[1]},"id":3,"owner":null}]`},
		{"GET", "notes?select=id&order=id.desc&limit=1", "", "", "", 200, `[{"id":3}]`},
		{"POST", "notes?on_conflict=body", `{"id":4,"body":"z"}`, "resolution=ignore-duplicates", "", 400, "42P10"},
		{"PATCH", "notes?id=eq.2", `{"id":1}`, "", "", 409, "23505"},
		{"POST", "rpc/nope", `{}`, "", "", 404, "PGRST202"},
		{"POST", "rpc/add", `{"id":7}`, "", "", 200, `1`},
		{"POST", "rpc/add", `{"id":1}`, "", "", 409, "23505"},
		{"POST", "rpc/fail", `{}`, "", "", 400, "P0001"},
	} {
		s := New(Options{Tables: []Table{notes()}})
		s.Insert("notes", map[string]any{"id": 1, "owner": annID, "body": "a", "due": "2026-01-01T00:00:00Z"})
		s.Insert("notes", map[string]any{"id": 2, "owner": bobID, "body": "b", "due": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)})
		s.Insert("notes", map[string]any{"id": 3, "body": "c", "done": true, "extra": map[string]any{"a": []int{1}}})
		s.Function("add", func(tx *Tx, args map[string]any) (any, error) {
			return tx.Nextval("tickets"), tx.Insert("notes", map[string]any{"id": args["id"], "body": "new"})
		})
		s.Function("fail", func(tx *Tx, args map[string]any) (any, error) {
			if err := tx.Insert("notes", map[string]any{"id": 9, "body": "undone"}); err != nil {
				return nil, err
			}
			return nil, errors.New("no")
		})
		before := len(s.Rows("notes"))
		got := sandboxtest.Send(t, s, tt.method, "/rest/v1/"+strings.ReplaceAll(tt.target, `"`, "%22"), tt.body,
			"apikey", ServiceRoleKey, "Authorization", "Bearer "+ServiceRoleKey, "Prefer", tt.prefer, "Accept", tt.accept, "Content-Type", "application/json")
		body := got.Body
		if code, ok := got.Get("code").(string); ok {
			body = code
		}
		if got.Status != tt.status || body != tt.want {
			t.Errorf("%s %s %s (%s) = %d %s; want %d %s", tt.method, tt.target, tt.body, tt.prefer, got.Status, got.Body, tt.status, tt.want)
		}
		if after := len(s.Rows("notes")); got.Status >= 400 && after != before {
			t.Errorf("%s %s %s: rows after an error = %d; want %d", tt.method, tt.target, tt.body, after, before)
		}
	}
}

func TestRoles(t *testing.T) {
	const secret = "a-secret-of-at-least-32-characters-long"
	legacyAnon, legacyService := LegacyKeys(secret)
	for _, keys := range [][2]string{{AnonKey, ServiceRoleKey}, {legacyAnon, legacyService}} {
		anon, service := keys[0], keys[1]
		s := New(Options{JWTSecret: secret, AnonKey: anon, ServiceRoleKey: service, Tables: append(DefaultTables(), notes())})
		ann := s.SignUp("ann@example.com", "correct horse").ID
		s.Insert("notes", map[string]any{"id": 1, "owner": ann, "body": "a"})
		s.Insert("notes", map[string]any{"id": 2, "owner": bobID, "body": "b"})
		s.Insert("customers", map[string]any{"id": ann, "stripe_customer_id": "cus_1"})
		user := s.SignIn(ann).AccessToken
		for _, tt := range []struct {
			name, method, target, key, token string
			status                           int
			want                             string
		}{
			{"service role", "GET", "notes?select=id", service, service, 200, `[{"id":1},{"id":2}]`},
			{"service role without Bearer", "GET", "notes?select=id", service, "", 200, `[{"id":1},{"id":2}]`},
			{"user", "GET", "notes?select=id", anon, user, 200, `[{"id":1}]`},
			{"user behind the service key", "GET", "notes?select=id", service, user, 200, `[{"id":1}]`},
			{"user, no policy", "GET", "customers", anon, user, 403, "42501"},
			{"anon", "GET", "notes", anon, anon, 200, `[]`},
			{"anon, no policy", "GET", "customers", anon, "", 401, "42501"},
			{"anon writes", "PATCH", "customers", anon, "", 401, "42501"},
			{"user writes", "PATCH", "customers", anon, user, 403, "42501"},
			{"garbage", "GET", "notes", anon, "garbage", 401, "PGRST301"},
			{"bad signature", "GET", "notes", anon, user + "x", 401, "PGRST301"},
			{"expired", "GET", "notes", anon, s.SignInFor(ann, -time.Second).AccessToken, 401, "PGRST303"},
			{"unknown key", "GET", "notes", "nonsense", "", 401, ""},
			{"no key", "GET", "notes", "", user, 401, ""},
		} {
			headers := []string{"apikey", tt.key}
			if tt.token != "" {
				headers = append(headers, "Authorization", "Bearer "+tt.token)
			}
			got := sandboxtest.Send(t, s, tt.method, "/rest/v1/"+tt.target, "{}", headers...)
			body := got.Body
			if got.Status >= 400 {
				body, _ = got.Get("code").(string)
			}
			if got.Status != tt.status || body != tt.want {
				t.Errorf("%s %s, %s = %d %s; want %d %s", tt.method, tt.target, tt.name, got.Status, got.Body, tt.status, tt.want)
			}
		}
	}
}

func TestCount(t *testing.T) {
	s := New(Options{Tables: []Table{notes()}})
	for i := range 5 {
		s.Insert("notes", map[string]any{"id": i, "body": "x"})
	}
	got := sandboxtest.Send(t, s, "GET", "/rest/v1/notes?select=id&order=id&limit=2", "", "apikey", ServiceRoleKey, "Prefer", "count=exact")
	if got.Status != 206 || got.Body != `[{"id":0},{"id":1}]` || got.Header.Get("Content-Range") != "0-1/5" {
		t.Errorf("limit=2 = %d %s, Content-Range %q; want 206, ids 0 and 1, 0-1/5", got.Status, got.Body, got.Header.Get("Content-Range"))
	}
	got = sandboxtest.Send(t, s, "HEAD", "/rest/v1/notes?id=eq.9", "", "apikey", ServiceRoleKey, "Prefer", "count=exact")
	if got.Header.Get("Content-Range") != "*/0" {
		t.Errorf("HEAD without rows: Content-Range = %q; want */0", got.Header.Get("Content-Range"))
	}
}

// Of many who insert the same key at once, one must win.
func TestInsertRace(t *testing.T) {
	s := New(Options{})
	var wg sync.WaitGroup
	status := make([]int, 50)
	for i := range status {
		wg.Go(func() {
			body := `{"id":"` + annID + `","stripe_customer_id":"cus_` + uuid.NewString() + `"}`
			status[i] = sandboxtest.Send(t, s, "POST", "/rest/v1/customers", body, "apikey", ServiceRoleKey).Status
		})
	}
	wg.Wait()
	var won int
	for _, code := range status {
		if code == 201 {
			won++
		}
	}
	if rows := s.Rows("customers"); won != 1 || len(rows) != 1 {
		t.Errorf("inserts that won = %d, rows = %d; want 1, 1", won, len(rows))
	}
}

func TestCallsAndIntercept(t *testing.T) {
	s := New(Options{})
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		b, _ := io.ReadAll(r.Body)
		if !bytes.Contains(b, []byte("fail")) {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	for _, tt := range []struct {
		body string
		want int
	}{{`{"fail":1}`, 502}, {`{"id":"` + annID + `","stripe_customer_id":"cus_1"}`, 201}} {
		if got := sandboxtest.Send(t, s, "POST", "/rest/v1/customers", tt.body, "apikey", ServiceRoleKey); got.Status != tt.want {
			t.Errorf("POST %s = %d; want %d", tt.body, got.Status, tt.want)
		}
	}
	if calls := s.CallsTo("POST", "/rest/v1/customers"); len(calls) != 2 || !bytes.Contains(calls[1].Body, []byte("cus_1")) {
		t.Errorf("CallsTo = %v; want both, with their bodies", calls)
	}
	s.ForgetCalls()
	if calls := s.Calls(); len(calls) != 0 {
		t.Errorf("Calls after ForgetCalls = %v; want none", calls)
	}
	pre := sandboxtest.Send(t, s, "OPTIONS", "/auth/v1/token", "", "Origin", "http://localhost:3000", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "apikey")
	if pre.Status != 204 || pre.Header.Get("Access-Control-Allow-Origin") != "*" || pre.Header.Get("Access-Control-Allow-Headers") != "apikey" {
		t.Errorf("preflight = %d %v; want 204 and everything allowed", pre.Status, pre.Header)
	}
}
