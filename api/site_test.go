package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

const (
	secretKey  = "sk_test_apitests0123456789"
	cookieName = "sb-127-auth-token"
	whsec      = "whsec_api_tests"
)

// settings are what a test can change about the service and its surroundings
// before they start.
type settings struct {
	supabase  fakesupabase.Options
	stripe    fakestripe.Options
	auth      auth.Config
	customers customers.Config
	billing   billing.Config
	api       api.Config
	transport http.RoundTripper // to Stripe and Supabase
}

// site is the service with an imitation of Stripe and one of Supabase, each
// behind HTTP, and the real SDKs in between.
type site struct {
	tb       testing.TB
	url      string
	stripe   *fakestripe.Account
	supabase *fakesupabase.Project
	logs     *logBuffer
	logged   bool // to logs
}

func start(tb testing.TB, changes ...func(*settings)) *site {
	tb.Helper()
	logs := newLogBuffer()
	logger := slog.New(slog.NewJSONHandler(logs, nil))
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	tb.Cleanup(transport.CloseIdleConnections)
	s := settings{
		transport: transport,
		stripe:    fakestripe.Options{SecretKey: secretKey},
		auth:      auth.Config{CookieName: cookieName, Timeout: time.Minute},
		customers: customers.Config{Table: "customers", UserColumn: "id", CustomerColumn: "stripe_customer_id",
			Subscriptions: "subscriptions", Purchases: "purchases",
			ServiceRoleKey: upstream.NewSecret(fakesupabase.ServiceRoleKey)},
		billing: billing.Config{SecretKey: upstream.NewSecret(secretKey), PromotionCodes: true},
		api: api.Config{
			Logger:          logger,
			TrustedProxies:  []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			UpstreamTimeout: time.Minute, // room for a busy machine: tests of the deadline set their own
			MaxInFlight:     1000,
			MaxEvents:       1000,
			Registry:        prometheus.NewRegistry(),
			Ready:           func() bool { return true },
		},
	}
	for _, change := range changes {
		change(&s)
	}
	w := &site{tb: tb, logs: logs, logged: s.api.Logger == logger, stripe: fakestripe.New(s.stripe), supabase: fakesupabase.New(s.supabase)}
	serve := func(h http.Handler) string {
		server := httptest.NewServer(h)
		tb.Cleanup(server.Close)
		return server.URL
	}
	stripeURL, supabaseURL := serve(w.stripe), serve(w.supabase)
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&s.auth.URL, supabaseURL)
	if s.auth.AnonKey == (upstream.Secret{}) {
		s.auth.AnonKey = upstream.NewSecret(fakesupabase.AnonKey)
	}
	set(&s.customers.URL, supabaseURL)
	set(&s.billing.APIBase, stripeURL)
	s.api.Prices = len(s.billing.Prices) > 0
	s.api.Webhook = len(s.billing.WebhookSecrets) > 0

	network := upstream.New(upstream.Config{Transport: s.transport, Registry: s.api.Registry})
	s.auth.Network, s.customers.Network, s.billing.Network = network, network, network
	authenticator, err := auth.New(s.auth)
	if err != nil {
		tb.Fatalf("auth.New = %v; want no error", err)
	}
	s.api.Auth = authenticator
	s.api.Billing = billing.New(s.billing, customers.New(s.customers))
	handler, _ := api.New(s.api)
	w.url = serve(handler)
	return w
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// field returns a field of the JSON answer.
func (a answer) field(name string) string {
	var fields map[string]string
	_ = json.Unmarshal([]byte(a.body), &fields)
	return fields[name]
}

// do sends a request and returns its answer, once the request is in the log and
// in the metrics too; headers are name, value, name, value.
func (w *site) do(method, path, body string, headers ...string) answer {
	w.tb.Helper()
	r, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.tb.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.tb.Fatalf("%s %s = %v; want an answer", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.tb.Fatalf("%s %s: reading the answer = %v; want no error", method, path, err)
	}
	if id := resp.Header.Get("X-Request-Id"); w.logged && !w.logs.await(id) {
		w.tb.Errorf("%s %s: log = %s; want a line of %q", method, path, w.logs, id)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func (w *site) checkout(body string, headers ...string) answer {
	w.tb.Helper()
	return w.do("POST", "/api/stripe/create-checkout", body, headers...)
}

func (w *site) portal(body string, headers ...string) answer {
	w.tb.Helper()
	return w.do("POST", "/api/stripe/create-portal", body, headers...)
}

// signUp returns a new user and the header lines of their session.
func (w *site) signUp(email string) (fakesupabase.User, []string) {
	u := w.supabase.SignUp(email, "correct horse battery staple")
	return u, bearer(w.supabase.SignIn(u.ID).AccessToken)
}

// deliver sends an Event as Stripe does, signed at a time with a secret.
func (w *site) deliver(payload, secret string, at time.Time) answer {
	w.tb.Helper()
	return w.do("POST", "/api/stripe/webhook", payload, "Stripe-Signature", fakestripe.Sign(secret, []byte(payload), at))
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

const (
	buyPro     = `{"priceId":"price_pro_monthly","mode":"subscription","successUrl":"https://8space.app/success","cancelUrl":"https://8space.app/cancel"}`
	buyOnce    = `{"priceId":"price_lifetime","mode":"payment","successUrl":"https://8space.app/success","cancelUrl":"https://8space.app/cancel"}`
	openPortal = `{"returnUrl":"https://8space.app/account"}`
)

// logBuffer keeps log lines for several goroutines.
type logBuffer struct {
	mu      sync.Mutex
	written *sync.Cond
	b       bytes.Buffer
}

func newLogBuffer() *logBuffer {
	l := &logBuffer{}
	l.written = sync.NewCond(&l.mu)
	return l
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written.Broadcast()
	return l.b.Write(p)
}

// await returns when there is a line of a request, false when none comes.
func (l *logBuffer) await(requestID string) bool {
	expired := false
	timer := time.AfterFunc(10*time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		expired = true
		l.written.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !bytes.Contains(l.b.Bytes(), []byte(`"request_id":"`+requestID+`"`)) {
		if expired {
			return false
		}
		l.written.Wait()
	}
	return true
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines returns the log lines as JSON objects.
func (l *logBuffer) lines(tb testing.TB) []map[string]any {
	tb.Helper()
	var lines []map[string]any
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			tb.Fatalf("log line %q = %v; want JSON", line, err)
		}
		lines = append(lines, fields)
	}
	return lines
}

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
