package api_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"8space.app/stripe-sidecar/internal/upstream"
)

// leak is in every answer of a faulty upstream that has room for text.
const leak = "for ada@example.com with " + secretKey + ", sb_secret_0123456789 and eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl at 127.0.0.1"

// fault is a way in which an upstream fails.
type fault struct {
	name   string
	serve  http.HandlerFunc
	status int  // of the answer, 0 for none
	proper bool // the answer is an error in the upstream's own words
	hangs  bool // the answer never ends
}

func faults(t *testing.T) []fault {
	list := []fault{
		{name: "reset before the answer", serve: func(w http.ResponseWriter, _ *http.Request) { reset(w) }},
		{name: "reset in the answer", serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"id":"`)
			_ = http.NewResponseController(w).Flush()
			reset(w)
		}},
		{name: "no answer", hangs: true, serve: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{name: "a byte a second", hangs: true, serve: func(w http.ResponseWriter, r *http.Request) {
			second := time.NewTicker(time.Second)
			defer second.Stop()
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-second.C:
				case <-r.Context().Done():
				}
			}
		}},
		{name: "endless", serve: func(w http.ResponseWriter, r *http.Request) {
			mebibyte := make([]byte, 1<<20)
			for range 32 { // more than two sockets can hold
				if _, err := w.Write(mebibyte); err != nil {
					return
				}
			}
			t.Errorf("%s %s: an endless answer was read to 32 MiB; want it cut off", r.Method, r.URL.Path)
		}},
		{name: "redirect", status: 307, serve: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Errorf("a redirect was followed with %v; want keys and tokens kept back", r.Header)
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}},
	}
	says := func(status int, name string, proper bool, body func(path string) string) {
		list = append(list, fault{name: fmt.Sprintf("%d %s", status, name), status: status, proper: proper, serve: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body(r.URL.Path))
		}})
	}
	text := func(s string) func(string) string { return func(string) string { return s } }
	for _, status := range []int{200, 400, 401, 403, 404, 408, 409, 413, 418, 422, 429, 500, 501, 502, 503, 504} {
		proper := func(path string) string { return errorBody(path, status) }
		says(status, "HTML", false, text("<html>Welcome, or not, "+leak+"</html>"))
		if status >= 400 {
			says(status, "JSON", true, proper)
		}
		switch status {
		case 200, 400, 403, 500:
			says(status, "truncated", false, func(path string) string { return proper(path)[:len(proper(path))/2] })
			says(status, "empty", false, text(""))
		}
	}
	says(200, "null", false, text("null"))
	says(200, "{}", false, text("{}"))
	says(500, "null", false, text("null"))
	return list
}

// errorBody is an error in the words of Stripe, PostgREST or Supabase Auth.
func errorBody(path string, status int) string {
	switch {
	case strings.HasPrefix(path, "/v1/") && status < 500:
		return `{"error":{"type":"invalid_request_error","message":"Refused ` + leak + `"}}`
	case strings.HasPrefix(path, "/v1/"):
		return `{"error":{"type":"api_error","message":"Failed ` + leak + `"}}`
	case strings.HasPrefix(path, "/rest/"):
		return `{"code":"XX000","details":null,"hint":null,"message":"Failed ` + leak + `"}`
	}
	return fmt.Sprintf(`{"code":%d,"error_code":"bad_jwt","msg":"Refused %s"}`, status, leak)
}

// reset closes the connection so that the other side gets an error, not an end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // the other side was quicker
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// secrets must not be in the log, strangers in no answer either.
var (
	secrets   = regexp.MustCompile(`@example\.com|sk_test|sb_(secret|publishable)|whsec|eyJ|/p/session`)
	strangers = regexp.MustCompile(secrets.String() + `|127\.0\.0|html|Refused|Failed`)
)

// outcome is how a request ends.
type outcome struct {
	status  int
	text    string
	guest   bool   // 200 without the user
	cookies string // regexp of Set-Cookie
}

var (
	fine            = outcome{status: 200}
	asGuest         = outcome{status: 200, guest: true}
	notSignedIn     = outcome{status: 401, text: "Not signed in"}
	signInUnchecked = outcome{status: 503, text: "Sign-in could not be checked. Please try again."}
	customerUnknown = outcome{status: 503, text: billingUnchecked}
	stripeFailed    = outcome{status: 500, text: "The payment provider could not complete the request. Please try again."}
	eventNotStored  = outcome{status: 500, text: "The event could not be stored. Please send it again."}
)

func always(o outcome) func(fault) outcome { return func(fault) outcome { return o } }

// userRefused: Supabase Auth's own 401 and 403 are a no, all else is no answer.
func userRefused(o outcome) func(fault) outcome {
	return func(f fault) outcome {
		if f.proper && (f.status == 401 || f.status == 403) {
			return o
		}
		return signInUnchecked
	}
}

// refreshRefused: of Supabase Auth's own answers 408, 409, 429 and 5xx mean
// later, the others no.
func refreshRefused(o outcome) func(fault) outcome {
	o.cookies = "^" + cookieName + "=; .*Max-Age=0"
	return func(f fault) outcome {
		if f.proper && f.status < 500 && f.status != 408 && f.status != 409 && f.status != 429 {
			return o
		}
		return signInUnchecked
	}
}

const (
	checkoutPath = "/api/stripe/create-checkout"
	portalPath   = "/api/stripe/create-portal"
	webhookPath  = "/api/stripe/webhook"

	legacySecret = "a-legacy-secret-of-32-characters"
)

// upset is a request one of whose calls to an upstream fails.
type upset struct {
	path, caller, body string
	call               string // regexp of the calls that fail
	want               func(fault) outcome
}

var upsets = []upset{
	{checkoutPath, "guest", buyOnce, "POST /v1/checkout/sessions", always(stripeFailed)},
	{checkoutPath, "bearer", buyOnce, "POST /v1/checkout/sessions", always(stripeFailed)},
	{checkoutPath, "bearer", buyPro, "GET /v1/subscriptions", always(stripeFailed)},
	{checkoutPath, "newcomer", buyOnce, "POST /v1/customers", always(stripeFailed)},
	{portalPath, "bearer", openPortal, "POST /v1/billing_portal/sessions", always(stripeFailed)},
	{webhookPath, "", "checkout.session.completed", "GET /v1/checkout/sessions/", always(eventNotStored)},
	{webhookPath, "", "customer.subscription.updated", "GET /v1/subscriptions/", always(eventNotStored)},

	{checkoutPath, "guest", buyOnce, "[A-Z]+ /(auth|rest)/", always(fine)},
	{checkoutPath, "HS256", buyOnce, "GET /auth/v1/user", userRefused(asGuest)},
	{portalPath, "HS256", openPortal, "GET /auth/v1/user", userRefused(notSignedIn)},
	{portalPath, "bearer", openPortal, "GET /auth/v1/user", userRefused(notSignedIn)},
	{portalPath, "cookie", openPortal, "GET /auth/v1/user", userRefused(notSignedIn)},
	{checkoutPath, "bearer", buyOnce, "GET /auth/v1/.well-known/jwks.json", always(fine)},
	{checkoutPath, "cookie", buyOnce, "GET /auth/v1/.well-known/jwks.json", always(fine)},
	{portalPath, "cookie", openPortal, "GET /auth/v1/.well-known/jwks.json", always(fine)},
	{checkoutPath, "expired cookie", buyOnce, "POST /auth/v1/token", refreshRefused(asGuest)},
	{portalPath, "expired cookie", openPortal, "POST /auth/v1/token", refreshRefused(notSignedIn)},
	{checkoutPath, "ending cookie", buyOnce, "POST /auth/v1/token", always(fine)},
	{portalPath, "ending cookie", openPortal, "POST /auth/v1/token", always(fine)},

	{checkoutPath, "newcomer", buyOnce, "GET /rest/v1/customers", always(customerUnknown)},
	{checkoutPath, "newcomer", buyOnce, "POST /rest/v1/customers", always(customerUnknown)},
	{checkoutPath, "ending cookie", buyOnce, "GET /rest/v1/customers", func(fault) outcome {
		o := customerUnknown
		o.cookies = "^" + cookieName + "=base64-" // the old refresh token is spent
		return o
	}},
	{portalPath, "bearer", openPortal, "GET /rest/v1/customers", always(customerUnknown)},
	{webhookPath, "", "checkout.session.completed", "POST /rest/v1/rpc/stripe_ticket", always(eventNotStored)},
	{webhookPath, "", "checkout.session.completed", "POST /rest/v1/rpc/stripe_write_purchase", always(eventNotStored)},
	{webhookPath, "", "customer.subscription.updated", "GET /rest/v1/customers", always(eventNotStored)},
}

// TestFaults has each call to an upstream fail in each way. Every request is
// answered in time, as decided, without a word of the upstream's, and the next
// one does not suffer.
func TestFaults(t *testing.T) {
	t.Parallel()
	serve := func(h http.HandlerFunc) *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the caller go
			h(w, r)
		}))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		return server
	}
	// Most of the time of many rows is waiting.
	var rows sync.WaitGroup
	room := make(chan struct{}, 48)
	run := func(f fault, at string) {
		to, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range upsets {
			if u.call == "POST /rest/v1/rpc/stripe_write_purchase" && (f.name == "200 empty" || f.name == "200 null") {
				continue // how older versions of PostgREST say that it is done
			}
			places := 1
			if f.name == "endless" { // which works instead, and would make the others miss their time
				places = 12
			}
			for range places {
				room <- struct{}{}
			}
			rows.Go(func() {
				defer func() {
					for range places {
						<-room
					}
				}()
				t.Run(strings.Join([]string{f.name, u.call, u.path, u.caller}, ","), func(t *testing.T) { u.test(t, f, to) })
			})
		}
	}
	for _, f := range faults(t) {
		server := serve(f.serve)
		server.Start()
		defer server.Close()
		run(f, server.URL)
	}
	stranger := serve(func(http.ResponseWriter, *http.Request) {
		t.Error("a server with a wrong certificate was asked; want it left")
	})
	stranger.StartTLS()
	defer stranger.Close()
	run(fault{name: "wrong certificate"}, stranger.URL)
	run(fault{name: "connection refused"}, "http://127.0.0.1:0")
	rows.Wait()
}

// detour sends the calls that are to fail elsewhere.
type detour struct {
	http.RoundTripper
	calls *regexp.Regexp
	to    *url.URL
	open  atomic.Bool
	taken atomic.Bool
}

func (d *detour) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.open.Load() && d.calls.MatchString(r.Method+" "+r.URL.Path) {
		d.taken.Store(true)
		r = r.Clone(r.Context())
		r.URL.Scheme, r.URL.Host, r.Host = d.to.Scheme, d.to.Host, ""
	}
	return d.RoundTripper.RoundTrip(r)
}

func (u upset) test(t *testing.T, f fault, to *url.URL) {
	timeout := 10 * time.Second
	if f.hangs && u.want(f) != fine { // a refresh that can be done without gets 3 s
		timeout = 4 * time.Second
	}
	faulty := &detour{calls: regexp.MustCompile("^" + u.call), to: to}
	var later atomic.Bool
	w := start(t, func(s *settings) {
		s.supabase.LegacyJWTSecret = legacySecret
		s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)}
		s.billing.OneSubscription = true
		s.api.UpstreamTimeout = timeout
		// A call that outlives its request is over when the next one comes.
		s.auth.Timeout = timeout - 100*time.Millisecond
		s.auth.Now = func() time.Time {
			if later.Load() {
				return time.Now().Add(11 * time.Second) // the key set is asked for every 10
			}
			return time.Now()
		}
		faulty.RoundTripper = s.transport
		s.transport = faulty
	})
	userID, ask := u.prepare(t, w)
	before := w.results(u.path)

	faulty.open.Store(true)
	begin := time.Now()
	got := ask()
	took := time.Since(begin)
	faulty.open.Store(false)

	want := u.want(f)
	if got.status != want.status || got.field("error") != want.text || (got.header.Get("Retry-After") != "") != (want.status == 503) {
		t.Errorf("%s = %d %s, Retry-After %q; want %d %q\n%s", u.path, got.status, got.body, got.header.Get("Retry-After"), want.status, want.text, w.logs)
	}
	// Nothing but the deadline ends a hanging call; the rest is room for a busy machine.
	if took > timeout+20*time.Second {
		t.Errorf("%s took %s; want about %s at most", u.path, took, timeout)
	}
	if faulty.taken.Load() != (u.call != "[A-Z]+ /(auth|rest)/") {
		t.Errorf("%s made a call to the faulty upstream: %t", u.path, faulty.taken.Load())
	}
	cookies := strings.Join(got.header.Values("Set-Cookie"), "\n")
	if (cookies == "") != (want.cookies == "") || !regexp.MustCompile(want.cookies).MatchString(cookies) {
		t.Errorf("%s set cookies %q; want %q", u.path, cookies, want.cookies)
	}
	done := w.results(u.path)[len(before):]
	if (len(done) == 1) != (want.status == 200) || len(done) == 1 && u.path == checkoutPath && (done[0] == "") != (want.guest || u.caller == "guest") {
		t.Errorf("%s made %q; want one thing: %t, for the user: %t", u.path, done, want.status == 200, !want.guest)
	}
	if got.status != 200 { // the imitation's own URLs are at 127.0.0.1
		got.header.Del("Set-Cookie")
		if m := strangers.FindString(fmt.Sprint(got.body, got.header)); m != "" {
			t.Errorf("%s = %s %v with %q; want no such thing", u.path, got.body, got.header, m)
		}
	}
	if m := secrets.FindString(w.logs.String()); m != "" {
		t.Errorf("log = %s with %q; want no such thing", w.logs, m)
	}

	later.Store(true)
	got = ask()
	for again := 0; got.status != 200 && again < 2; again++ { // a machine with more to do is slow, too
		got = ask()
	}
	if got.status != 200 {
		t.Errorf("%s afterwards = %d %s; want 200\n%s", u.path, got.status, got.body, w.logs)
	}
	if done := w.results(u.path); len(done) == 0 || u.path != webhookPath && done[len(done)-1] != userID || u.path == webhookPath && len(done) != 1 {
		t.Errorf("%s afterwards made %q; want the last for %q", u.path, done, userID)
	}
}

// results lists what a path has made so far, each by the user it is for.
func (w *site) results(path string) []string {
	var users []string
	switch path {
	case checkoutPath:
		for _, s := range w.stripe.CheckoutSessions() {
			users = append(users, s.Params.Get("client_reference_id"))
		}
	case portalPath:
		for _, s := range w.stripe.PortalSessions() {
			users = append(users, w.userOf(s.Customer))
		}
	case webhookPath:
		for _, row := range append(w.supabase.Rows("purchases"), w.supabase.Rows("subscriptions")...) {
			users = append(users, fmt.Sprint(row["user_id"]))
		}
	}
	return users
}

func (w *site) userOf(customerID string) string {
	for _, row := range w.supabase.Rows("customers") {
		if row["stripe_customer_id"] == customerID {
			return row["id"].(string)
		}
	}
	return ""
}

// prepare returns the request and the user it is made by, "" for a guest.
func (u upset) prepare(t *testing.T, w *site) (userID string, ask func() answer) {
	t.Helper()
	user := w.supabase.SignUp("ada@example.com", "correct horse battery staple")
	var customerID string
	if u.caller != "newcomer" {
		customerID = createCustomer(t, w)
		w.supabase.Insert("customers", map[string]any{"id": user.ID, "stripe_customer_id": customerID})
	}
	cookie := func(left time.Duration) []string {
		return []string{"Cookie", cookieName + "=base64-" + base64URL(w.supabase.SignInFor(user.ID, left).JSON)}
	}
	userID = user.ID
	var headers []string
	switch u.caller {
	case "guest":
		userID = ""
	case "bearer", "newcomer":
		headers = bearer(w.supabase.SignIn(user.ID).AccessToken)
	case "HS256":
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(w.supabase.Claims(user.ID))).SignedString([]byte(legacySecret))
		if err != nil {
			t.Fatal(err)
		}
		headers = bearer(token)
	case "cookie":
		headers = cookie(time.Hour)
	case "ending cookie":
		headers = cookie(time.Minute)
	case "expired cookie":
		headers = cookie(-time.Minute)
	}
	if u.path != webhookPath {
		return userID, func() answer { return w.do("POST", u.path, u.body, headers...) }
	}
	var object string
	if u.body == "checkout.session.completed" {
		if got := w.checkout(buyOnce); got.status != 200 {
			t.Fatalf("create-checkout = %d %s; want 200", got.status, got.body)
		}
		object = w.stripe.CheckoutSessions()[0].ID
		w.stripe.PayCheckout(object)
	} else {
		object = w.stripe.AddSubscription(customerID, "price_pro_monthly", "active")
	}
	payload := `{"id":"evt_1","type":"` + u.body + `","data":{"object":{"id":"` + object + `"}}}`
	return userID, func() answer { return w.deliver(payload, whsec, time.Now()) }
}
