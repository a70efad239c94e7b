package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// answer is a response read to its end; fields of its JSON object by name.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) get(path string) any {
	var v any
	json.Unmarshal([]byte(a.body), &v)
	for name := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// send sends a request with headers given as name, value, name, value, ….
func send(t *testing.T, h http.Handler, method, target, body string, headers ...string) answer {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func TestGetUser(t *testing.T) {
	const secret = "legacy-secret-of-at-least-32-characters"
	s := NewSupabase(SupabaseOptions{LegacyJWTSecret: secret})
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
		got := send(t, s, "GET", "/auth/v1/user", "", headers...)
		if code, _ := got.get("error_code").(string); got.status != tt.status || code != tt.code {
			t.Errorf("GET user, %s = %d %s; want %d %q", tt.name, got.status, got.body, tt.status, tt.code)
		}
		got = send(t, s, "GET", "/auth/v1/user", "", append(headers, "X-Supabase-Api-Version", "2024-01-01")...)
		if code, _ := got.get("code").(string); got.status != tt.status || code != tt.code {
			t.Errorf("GET user, %s, newer shape = %d %s; want %d %q", tt.name, got.status, got.body, tt.status, tt.code)
		}
	}
	if got := send(t, s, "GET", "/auth/v1/user", "", "Authorization", "Bearer "+tokens[0]); got.status != 401 {
		t.Errorf("GET user without apikey = %d; want 401", got.status)
	}
}

func TestKeys(t *testing.T) {
	s := NewSupabase(SupabaseOptions{})
	id := s.SignUp("ann@example.com", "correct horse").ID
	user := func(token string) int {
		return send(t, s, "GET", "/auth/v1/user", "", "apikey", AnonKey, "Authorization", "Bearer "+token).status
	}
	old := s.SignIn(id).AccessToken
	s.UseKey("RS256")
	s.UseKey("EdDSA")
	set := send(t, s, "GET", "/auth/v1/.well-known/jwks.json", "")
	for i, want := range []string{"EC", "RSA", "OKP"} {
		keys, _ := set.get("keys").([]any)
		if len(keys) != 3 || keys[i].(map[string]any)["kty"] != want {
			t.Fatalf("key set = %s; want EC, RSA, OKP", set.body)
		}
	}
	if got, want := set.header.Get("Cache-Control"), "public, max-age=600"; got != want {
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
	hs := NewSupabase(SupabaseOptions{JWTSecret: "a-secret-of-at-least-32-characters-long"})
	if got, want := string(hs.KeySet()), `{"keys":[]}`; got != want {
		t.Errorf("key set of an HS256 project = %s; want %s", got, want)
	}
}

func TestPassword(t *testing.T) {
	s := NewSupabase(SupabaseOptions{})
	post := func(path, body string) answer {
		return send(t, s, "POST", "/auth/v1/"+path, body, "apikey", AnonKey)
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
		if got.status != tt.status || got.get("error_code") != tt.code {
			t.Errorf("POST %s %s = %d %s; want %d %v", tt.path, tt.body, got.status, got.body, tt.status, tt.code)
		}
		if tt.status == 200 && got.get("user.email") != "ann@example.com" {
			t.Errorf("POST %s user.email = %v; want ann@example.com", tt.path, got.get("user.email"))
		}
	}
}

func TestRefresh(t *testing.T) {
	c := newClock()
	s := NewSupabase(SupabaseOptions{Now: c.now})
	id := s.SignUp("ann@example.com", "correct horse").ID
	refresh := func(token string) (string, string) {
		body, _ := json.Marshal(map[string]string{"refresh_token": token})
		got := send(t, s, "POST", "/auth/v1/token?grant_type=refresh_token", string(body), "apikey", AnonKey)
		next, _ := got.get("refresh_token").(string)
		code, _ := got.get("error_code").(string)
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
	c.advance(time.Hour)
	if again := expect("late reuse, child unused", first, ""); again != child {
		t.Errorf("late reuse, child unused = %q; want the child %q", again, child)
	}
	grandchild := expect("child", child, "")
	c.advance(reuseInterval + time.Second)
	expect("late reuse, child used", first, "refresh_token_already_used")
	expect("after the family was revoked", grandchild, "refresh_token_already_used")
	expect("unknown", "nonsense", "refresh_token_not_found")
	last := s.SignIn(id).RefreshToken
	s.SignOut(id)
	expect("signed out", last, "refresh_token_not_found")
}

func TestSessionJSON(t *testing.T) {
	c := newClock()
	s := NewSupabase(SupabaseOptions{Now: c.now})
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
	const one = "application/vnd.pgrst.object+json"
	for _, tt := range []struct {
		method, target, body, prefer, accept string
		status                               int
		want                                 string // the body, or the code of an error
	}{
		{"GET", "notes?select=id&order=id", "", "", "", 200, `[{"id":1},{"id":2},{"id":3}]`},
		{"GET", "notes?select=n:id,done&id=eq.1", "", "", "", 200, `[{"done":false,"n":1}]`},
		{"GET", "notes?select=*&id=eq.3", "", "", one, 200, `{"body":"c","done":true,"due":null,"extra":{"a":[1]},"id":3,"owner":null}`},
		{"GET", "notes?select=id&order=id.desc&limit=1&offset=1", "", "", "", 200, `[{"id":2}]`},
		{"GET", "notes?select=id&order=due.desc.nullslast", "", "", "", 200, `[{"id":2},{"id":1},{"id":3}]`},
		{"GET", "notes?select=id&owner=is.null", "", "", "", 200, `[{"id":3}]`},
		{"GET", "notes?select=id&owner=neq." + annID, "", "", "", 200, `[{"id":2}]`},
		{"GET", "notes?select=id&owner=not.eq." + annID, "", "", "", 200, `[{"id":2}]`},
		{"GET", "notes?select=id&id=in.(1,3)", "", "", "", 200, `[{"id":1},{"id":3}]`},
		{"GET", "notes?select=id&body=in.(\"a\",\"b,c\")", "", "", "", 200, `[{"id":1}]`},
		{"GET", "notes?select=id&or=(owner.is.null,body.eq.)", "", "", "", 200, `[{"id":3}]`},
		{"GET", "notes?select=id&or=(id.eq.1,and(id.gt.1,not.body.eq.c))", "", "", "", 200, `[{"id":1},{"id":2}]`},
		{"GET", "notes?select=id&due=gte.2026-02-01", "", "", "", 200, `[{"id":2}]`},
		{"GET", "notes?id=eq.9", "", "", one, 406, "PGRST116"},
		{"GET", "notes", "", "", one, 406, "PGRST116"},
		{"GET", "nothing", "", "", "", 404, "PGRST205"},
		{"GET", "notes?nope=eq.1", "", "", "", 400, "42703"},
		{"GET", "notes?select=nope", "", "", "", 400, "42703"},
		{"GET", "notes?owner=eq.nope", "", "", "", 400, "22P02"},
		{"GET", "notes?id=like.1", "", "", "", 400, "PGRST100"},
		{"POST", "notes", `{"id":4,"body":"d"}`, "", "", 201, ""},
		{"POST", "notes?select=id,done", `[{"id":4,"body":"d"},{"id":5,"body":"e"}]`, "return=representation", "", 201, `[{"done":false,"id":4},{"done":false,"id":5}]`},
		{"POST", "notes", `{"id":4,"body":"d"}`, "return=minimal", one, 201, ""},
		{"POST", "notes", `{"id":1,"body":"d"}`, "", "", 409, "23505"},
		{"POST", "notes", `{"id":4,"owner":"` + strings.ToUpper(annID) + `","body":"a"}`, "", "", 409, "23505"},
		{"POST", "notes", `{"id":1}`, "", "", 400, "23502"},
		{"POST", "notes", `{"id":1}`, "resolution=ignore-duplicates", "", 400, "23502"},
		{"POST", "notes", `{"id":1,"body":"z"}`, "resolution=ignore-duplicates,return=representation", "", 201, `[]`},
		{"POST", "notes?on_conflict=id&select=id,body,owner", `{"id":1,"body":"z"}`, "resolution=merge-duplicates,return=representation", "", 200, `[{"body":"z","id":1,"owner":"` + annID + `"}]`},
		{"POST", "notes?on_conflict=id", `{"id":4,"body":"z"}`, "resolution=merge-duplicates", "", 201, ""},
		{"POST", "notes?on_conflict=body", `{"id":4,"body":"z"}`, "resolution=merge-duplicates", "", 400, "42P10"},
		{"POST", "notes", `{"id":4,"body":"z","nope":1}`, "", "", 400, "PGRST204"},
		{"POST", "notes", `{"id":4,"body":"z","owner":"nope"}`, "", "", 400, "22P02"},
		{"POST", "notes", `{`, "", "", 400, "PGRST102"},
		{"PATCH", "notes?id=eq.1", `{"done":true}`, "", "", 204, ""},
		{"PATCH", "notes?id=lt.3&select=id,due&order=id", `{"due":"2026-05-01T10:00:00+02:00"}`, "return=representation", "", 200, `[{"due":"2026-05-01T08:00:00+00:00","id":1},{"due":"2026-05-01T08:00:00+00:00","id":2}]`},
		{"PATCH", "notes?id=eq.2", `{"id":1}`, "", "", 409, "23505"},
		{"PATCH", "notes?id=eq.9", `{"done":true}`, "return=representation", one, 406, "PGRST116"},
		{"DELETE", "notes?id=eq.1&select=id", "", "return=representation", "", 200, `[{"id":1}]`},
		{"DELETE", "notes?id=eq.1", "", "", "", 204, ""},
		{"DELETE", "notes", "", "", "", 400, "21000"},
		{"POST", "rpc/nope", `{}`, "", "", 404, "PGRST202"},
		{"POST", "rpc/add", `{"id":7}`, "", "", 200, `1`},
		{"POST", "rpc/add", `{"id":1}`, "", "", 409, "23505"},
		{"POST", "rpc/fail", `{}`, "", "", 400, "P0001"},
	} {
		s := NewSupabase(SupabaseOptions{Tables: []Table{notes()}})
		s.Insert("notes", map[string]any{"id": 1, "owner": annID, "body": "a", "due": "2026-01-01T00:00:00Z"})
		s.Insert("notes", map[string]any{"id": 2, "owner": bobID, "body": "b", "due": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)})
		s.Insert("notes", map[string]any{"id": 3, "body": "c", "done": true, "extra": map[string]any{"a": []int{1}}})
		s.Function("add", func(tx *Tx, args map[string]any) (any, error) {
			return tx.Nextval("tickets"), tx.Insert("notes", map[string]any{"id": args["id"], "body": "new"})
		})
		s.Function("fail", func(tx *Tx, args map[string]any) (any, error) {
			tx.Delete("notes", func(map[string]any) bool { return true })
			return nil, errors.New("no")
		})
		before := len(s.Rows("notes"))
		got := send(t, s, tt.method, "/rest/v1/"+strings.ReplaceAll(tt.target, `"`, "%22"), tt.body,
			"apikey", ServiceRoleKey, "Authorization", "Bearer "+ServiceRoleKey, "Prefer", tt.prefer, "Accept", tt.accept, "Content-Type", "application/json")
		body := got.body
		if code, ok := got.get("code").(string); ok {
			body = code
		}
		if got.status != tt.status || body != tt.want {
			t.Errorf("%s %s %s (%s) = %d %s; want %d %s", tt.method, tt.target, tt.body, tt.prefer, got.status, got.body, tt.status, tt.want)
		}
		if after := len(s.Rows("notes")); got.status >= 400 && after != before {
			t.Errorf("%s %s %s: rows after an error = %d; want %d", tt.method, tt.target, tt.body, after, before)
		}
	}
}

func TestRoles(t *testing.T) {
	const secret = "a-secret-of-at-least-32-characters-long"
	legacyAnon, legacyService := LegacyKeys(secret)
	for _, keys := range [][2]string{{AnonKey, ServiceRoleKey}, {legacyAnon, legacyService}} {
		anon, service := keys[0], keys[1]
		s := NewSupabase(SupabaseOptions{JWTSecret: secret, AnonKey: anon, ServiceRoleKey: service, Tables: append(DefaultTables(), notes())})
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
			{"anon writes", "DELETE", "customers", anon, "", 401, "42501"},
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
			got := send(t, s, tt.method, "/rest/v1/"+tt.target, "{}", headers...)
			body := got.body
			if got.status >= 400 {
				body, _ = got.get("code").(string)
			}
			if got.status != tt.status || body != tt.want {
				t.Errorf("%s %s, %s = %d %s; want %d %s", tt.method, tt.target, tt.name, got.status, got.body, tt.status, tt.want)
			}
		}
	}
}

func TestCountAndRange(t *testing.T) {
	s := NewSupabase(SupabaseOptions{Tables: []Table{notes()}})
	for i := range 5 {
		s.Insert("notes", map[string]any{"id": i, "body": "x"})
	}
	got := send(t, s, "GET", "/rest/v1/notes?select=id&order=id", "", "apikey", ServiceRoleKey, "Range", "1-2", "Prefer", "count=exact")
	if got.status != 206 || got.body != `[{"id":1},{"id":2}]` || got.header.Get("Content-Range") != "1-2/5" {
		t.Errorf("Range 1-2 = %d %s, Content-Range %q; want 206, ids 1 and 2, 1-2/5", got.status, got.body, got.header.Get("Content-Range"))
	}
	got = send(t, s, "HEAD", "/rest/v1/notes?id=eq.9", "", "apikey", ServiceRoleKey, "Prefer", "count=exact")
	if got.header.Get("Content-Range") != "*/0" {
		t.Errorf("HEAD without rows: Content-Range = %q; want */0", got.header.Get("Content-Range"))
	}
}

// Of many who insert the same key at once, one must win.
func TestInsertRace(t *testing.T) {
	s := NewSupabase(SupabaseOptions{})
	var wg sync.WaitGroup
	status := make([]int, 50)
	for i := range status {
		wg.Go(func() {
			body := `{"id":"` + annID + `","stripe_customer_id":"cus_` + uuid.NewString() + `"}`
			status[i] = send(t, s, "POST", "/rest/v1/customers", body, "apikey", ServiceRoleKey).status
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
	s := NewSupabase(SupabaseOptions{})
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
		if got := send(t, s, "POST", "/rest/v1/customers", tt.body, "apikey", ServiceRoleKey); got.status != tt.want {
			t.Errorf("POST %s = %d; want %d", tt.body, got.status, tt.want)
		}
	}
	if calls := s.CallsTo("POST", "/rest/v1/customers"); len(calls) != 2 || !bytes.Contains(calls[1].Body, []byte("cus_1")) {
		t.Errorf("CallsTo = %v; want both, with their bodies", calls)
	}
	s.ForgetCalls()
	if calls := s.Calls(); len(calls) != 0 {
		t.Errorf("Calls after ForgetCalls = %v; want none", calls)
	}
	pre := send(t, s, "OPTIONS", "/auth/v1/token", "", "Origin", "http://localhost:3000", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "apikey")
	if pre.status != 204 || pre.header.Get("Access-Control-Allow-Origin") != "*" || pre.header.Get("Access-Control-Allow-Headers") != "apikey" {
		t.Errorf("preflight = %d %v; want 204 and everything allowed", pre.status, pre.header)
	}
}
