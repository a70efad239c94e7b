package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// stripeAnswers has Stripe answer every call to path in this way.
func stripeAnswers(path string, status int, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		stripeSays(status, body)(w, r)
		return true
	}
}

// TestStripeErrors: which of Stripe's messages are for the person who clicked,
// and that no other text of Stripe's gets out.
func TestStripeErrors(t *testing.T) {
	t.Parallel()
	const stable = "The payment provider could not complete the request. Please try again."
	says := func(kind, code, message string) string {
		return `{"error":{"type":` + quote(kind) + `,"code":` + quote(code) + `,"message":` + quote(message) + `}}`
	}
	tests := []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"at fault, 400", 400, says("invalid_request_error", "resource_missing", "No such price: 'price_x'"), "No such price: 'price_x'"},
		{"at fault, 402", 402, says("invalid_request_error", "", "Cannot charge now"), "Cannot charge now"},
		{"at fault, 404", 404, says("invalid_request_error", "resource_missing", "No such coupon"), "No such coupon"},
		{"e-mail in the message", 400, says("invalid_request_error", "", "Invalid email address: ada@example.com"), stable},
		{"secret key in the message", 400, says("invalid_request_error", "", "Invalid key sk_test_abc"), stable},
		{"starred key in the message", 400, says("invalid_request_error", "", "Invalid key rk_live_***********1234"), stable},
		{"webhook secret in the message", 400, says("invalid_request_error", "", "Bad whsec_abcdef"), stable},
		{"token in the message", 400, says("invalid_request_error", "", "Bad eyJhbGciOiJIUzI1NiJ9.x.y"), stable},
		{"wrong key", 401, says("invalid_request_error", "", "Invalid API Key provided: sk_test_****6789"), stable},
		{"not permitted", 403, says("invalid_request_error", "", "The provided key does not have the required permissions"), stable},
		{"too many", 429, says("invalid_request_error", "rate_limit", "Too many requests"), stable},
		{"card error", 402, says("card_error", "card_declined", "Your card was declined."), stable},
		{"api error", 500, says("api_error", "", "Oops"), stable},
		{"idempotency", 400, says("idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters"),
			"This Idempotency-Key was used before with another request. Use a new one."},
		{"HTML", 400, "<html>Bad Request at 10.0.0.1</html>", stable},
		{"nothing", 400, "", stable},
		{"another shape", 400, `{"message":"x"}`, stable},
		{"success that is none", 200, `{}`, stable},
		{"success that is not JSON", 200, `<html>`, stable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t)
			w.stripe.Intercept(stripeAnswers("/v1/checkout/sessions", test.status, test.body))
			got := w.checkout(buyOnce, "X-Request-Id", "the-request")
			if got.status != 500 || got.field("error") != test.want {
				t.Errorf("Stripe answers %d %s: create-checkout = %d %s; want 500 %q", test.status, test.body, got.status, got.body, test.want)
			}
			lines := w.logs.lines(t)
			if len(lines) != 1 || lines[0]["level"] != "ERROR" || lines[0]["err"] == nil || lines[0]["request_id"] != "the-request" {
				t.Errorf("log = %v; want one line at level ERROR with the cause", lines)
			}
			for _, line := range lines {
				delete(line, "time") // whose digits can be those of the key
			}
			if logged := fmt.Sprint(lines); strings.Contains(logged, "ada@example.com") || strings.Contains(logged, "abcdef") || strings.Contains(logged, "6789") {
				t.Errorf("log = %s; want neither e-mail nor parts of a key", logged)
			}
		})
	}
}

// TestPanic: a mistake of ours is a 500, and the service goes on.
func TestPanic(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.api.Ready = func() bool { panic("no such thing") } })
	got := w.do("GET", "/readyz", "")
	if got.status != 500 || got.field("error") != "Something went wrong. Please try again." {
		t.Errorf("GET /readyz = %d %s; want 500 and a fixed text", got.status, got.body)
	}
	if lines := w.logs.lines(t); len(lines) != 1 || !strings.Contains(lines[0]["err"].(string), "no such thing") || !strings.Contains(lines[0]["err"].(string), "errors_test.go") {
		t.Errorf("log = %v; want the panic and where it was", lines)
	}
	if got := w.do("GET", "/healthz", ""); got.status != 200 {
		t.Errorf("GET /healthz afterwards = %d; want 200", got.status)
	}
}

// logChannel is a log of which each line can be waited for.
type logChannel chan string

func (c logChannel) Write(p []byte) (int, error) { c <- string(p); return len(p), nil }

// TestCallerGone: a caller who goes away takes the call to Stripe along, and is
// no error of ours.
func TestCallerGone(t *testing.T) {
	t.Parallel()
	lines, arrived, gone := make(logChannel, 10), make(chan struct{}), make(chan struct{})
	w := start(t, func(s *settings) { s.api.Logger = slog.New(slog.NewJSONHandler(lines, nil)) })
	w.stripe.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		close(arrived)
		<-r.Context().Done()
		close(gone)
		return true
	})
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", w.url+"/api/stripe/create-checkout", strings.NewReader(buyOnce))
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-arrived; leave() }()
	if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
		t.Errorf("create-checkout = %s; want it given up", resp.Status)
	}
	<-gone
	var line struct {
		Level  string
		Status int
	}
	if err := json.Unmarshal([]byte(<-lines), &line); err != nil || line.Level != "INFO" || line.Status != 499 {
		t.Errorf("log line = %+v, %v; want status 499 at level INFO", line, err)
	}
}

// TestAnswerBreaksOff: an answer that is cut off is asked for again, and no half
// of one is taken.
func TestAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	w := start(t)
	calls := 0
	w.stripe.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
		if calls++; calls == 3 {
			return false
		}
		rw.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(rw, `{"url":"https://checkout.stripe.com/c/pay/half"}`)
		return true
	})
	got := w.checkout(buyOnce)
	sessions := w.stripe.CheckoutSessions()
	if got.status != 200 || calls != 3 || len(sessions) != 1 || got.field("url") != sessions[0].URL {
		t.Errorf("create-checkout = %d %s after %d calls; want 200 and the one session %v after 3", got.status, got.body, calls, sessions)
	}
}

// TestRefusalIsLogged: a refusal and its line do not wait for a body that the
// caller keeps back.
func TestRefusalIsLogged(t *testing.T) {
	t.Parallel()
	lines := make(logChannel, 1)
	w := start(t, func(s *settings) { s.api.Logger = slog.New(slog.NewJSONHandler(lines, nil)) })
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /nope HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\n")
	select {
	case <-lines:
	case <-time.After(10 * time.Second):
		t.Error("no log line while the body is kept back; want one")
		conn.Close()
		<-lines
	}
}

// TestLogIsClean: what callers put where a log line takes something from, and
// what the database says of them, is not carried into the log.
func TestLogIsClean(t *testing.T) {
	t.Parallel()
	w := start(t)
	_, session := w.signUp("ada@example.com")
	for _, path := range []string{"/confirm/ada@example.com/sk_live_12345", "/confirm/ada@%2540example.com", "/confirm/ada%2540example.com",
		"/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"} {
		w.do("GET", path, "")
	}
	w.do("sk_live_12345", "/healthz", "")
	w.logged = false // it does not have this ID
	if got := w.do("GET", "/healthz", "", "X-Request-Id", "sk_live_12345").header.Get("X-Request-Id"); got != "sk_live_12345" {
		t.Errorf("X-Request-Id = %s; want the caller's own", got)
	}
	w.logged = true
	w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/rest/") {
			return false
		}
		stripeSays(400, `{"code":"P0001","message":"profile of ada@example.com is frozen, key sb_secret_abc"}`)(rw, r)
		return true
	})
	w.checkout(buyOnce, session...)
	for _, secret := range []string{"ada@", "ada%40", "example.com", "sk_live_1", "sb_secret_a", "eyJ", "c2lnbmF0dXJl"} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("log = %s; want no %s", w.logs, secret)
		}
	}
	if !strings.Contains(w.logs.String(), "P0001") {
		t.Errorf("log = %s; want the database's code", w.logs)
	}
}

// TestLog: one line a request, with what is known.
func TestLog(t *testing.T) {
	t.Parallel()
	w := start(t)
	u, session := w.signUp("ada@example.com")
	w.checkout(buyPro, session...)
	w.portal(`{}`, session...)
	w.do("GET", "/nowhere", "")
	want := []map[string]any{
		{"level": "INFO", "method": "POST", "path": "/api/stripe/create-checkout", "status": 200., "user_id": u.ID},
		{"level": "INFO", "method": "POST", "path": "/api/stripe/create-portal", "status": 400., "user_id": u.ID},
		{"level": "INFO", "method": "GET", "path": "/nowhere", "status": 404., "user_id": nil},
	}
	lines := w.logs.lines(t)
	if len(lines) != len(want) {
		t.Fatalf("log = %d lines; want %d: %s", len(lines), len(want), w.logs)
	}
	for i, line := range lines {
		for name, value := range want[i] {
			if line[name] != value {
				t.Errorf("line %d: %s = %v; want %v", i, name, line[name], value)
			}
		}
		if d, ok := line["duration_ms"].(float64); !ok || d < 0 || line["request_id"] == "" {
			t.Errorf("line %d = %v; want duration_ms and request_id", i, line)
		}
	}
	if id, _ := lines[0]["stripe_request_id"].(string); !strings.HasPrefix(id, "req_") {
		t.Errorf("stripe_request_id = %q; want the one Stripe answered with", id)
	}
}

// panicking is a way out on which the calls to one path panic.
type panicking struct {
	http.RoundTripper
	path string
}

func (p panicking) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == p.path {
		panic("on purpose")
	}
	return p.RoundTripper.RoundTrip(r)
}

// TestPanicBesideARequest: the portal asks two at once, each in a goroutine of
// its own, where a panic would end the process.
func TestPanicBesideARequest(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/auth/v1/user", tablePath} {
		w := start(t, func(s *settings) { s.transport = panicking{s.transport, path} })
		_, session := w.signUp("ada@example.com")
		got := w.portal(openPortal, session...)
		if want := "Something went wrong. Please try again."; got.status != 500 || got.field("error") != want {
			t.Errorf("create-portal with a panic at %s = %d %s; want 500 %q", path, got.status, got.body, want)
		}
		if !strings.Contains(w.logs.String(), "panic: on purpose") {
			t.Errorf("log = %s; want the panic in it", w.logs)
		}
	}
}
