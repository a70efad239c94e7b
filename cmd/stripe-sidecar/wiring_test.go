package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"8space.app/stripe-sidecar/internal/sandbox"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// wired is the real program between an imitation of Stripe and one of Supabase.
type wired struct {
	*service
	stripe                *fakestripe.Account
	supabase              *fakesupabase.Project
	mu                    sync.Mutex
	elsewhere             []string // the paths that another server was asked for
	userID, token, cookie string   // of a user who is signed in
}

const (
	wiredSecret = "a-legacy-secret-of-thirty-two-characters"
	oneTime     = `{"priceId":"price_lifetime","mode":"payment","successUrl":"https://a.example","cancelUrl":"https://a.example"}`
	recurring   = `{"priceId":"price_pro_monthly","mode":"subscription","successUrl":"https://a.example","cancelUrl":"https://a.example"}`
)

// send sends a body to an endpoint.
func (w *wired) send(t *testing.T, path, body string, headers ...string) (status int, answer string, header http.Header) {
	t.Helper()
	r, err := http.NewRequest("POST", w.url+"/api/stripe/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("POST %s = %v; want an answer", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

// post sends a body to an endpoint and returns "status error".
func (w *wired) post(t *testing.T, path, body string, headers ...string) string {
	t.Helper()
	status, answer, _ := w.send(t, path, body, headers...)
	if status == http.StatusOK {
		return "200"
	}
	return fmt.Sprintf("%d %s", status, answer)
}

// deliver sends an Event as Stripe does and returns the status.
func (w *wired) deliver(t *testing.T, event string) string {
	t.Helper()
	return w.post(t, "webhook", event, "Stripe-Signature", fakestripe.Sign("whsec_wired", []byte(event), time.Now()))[:3]
}

func (w *wired) bearer() []string { return []string{"Authorization", "Bearer " + w.token} }

// renewed buys with an expired session and returns the attributes of the cookie
// that the new one comes in.
func (w *wired) renewed(t *testing.T, headers ...string) string {
	t.Helper()
	_, _, header := w.send(t, "create-checkout", oneTime, headers...)
	_, attributes, _ := strings.Cut(header.Get("Set-Cookie"), "; Path=/")
	return strings.Replace(attributes, "; Max-Age=34560000", "", 1)
}

// TestSecureCookies: a session that is renewed on a site of https goes back in a
// cookie for https.
func TestSecureCookies(t *testing.T) {
	for name, test := range map[string]struct {
		origins, proto string
		want           bool
	}{
		"nothing known":          {"", "", false},
		"told by the proxy":      {"", "https", true},
		"a site of https":        {"https://a.example,https://*.b.example", "", true},
		"one of several is http": {"https://a.example,http://localhost:3000", "", false},
	} {
		w := startWired(t, "SITE_ORIGINS", test.origins)
		expired := w.supabase.SignInFor(w.userID, -time.Minute)
		got := w.renewed(t, "Cookie", "sb-127-auth-token=base64-"+base64.RawURLEncoding.EncodeToString(expired.JSON), "X-Forwarded-Proto", test.proto)
		if strings.Contains(got, "; Secure") != test.want {
			t.Errorf("%s: Set-Cookie …%s; want Secure: %t", name, got, test.want)
		}
	}
}

// TestOldSecret: a token that SUPABASE_JWT_SECRET did not sign is warned of in the log.
func TestOldSecret(t *testing.T) {
	w := startWired(t, "SUPABASE_JWT_SECRET", strings.Repeat("another-", 5))
	legacy, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(w.supabase.Claims(w.userID))).SignedString([]byte(wiredSecret))
	if err != nil {
		t.Fatal(err)
	}
	answer := w.post(t, "create-checkout", oneTime, "Authorization", "Bearer "+legacy)
	if _, logs := w.wait(t); answer != "200" || !strings.Contains(logs, "does not fit SUPABASE_JWT_SECRET") {
		t.Errorf("create-checkout = %s, logs %s; want 200 and a warning of SUPABASE_JWT_SECRET", answer, logs)
	}
}

// TestRefreshesOfOneClient: the sessions of one client are renewed only so often a
// minute, and those of another go on to be.
func TestRefreshesOfOneClient(t *testing.T) {
	w := startWired(t, "RATE_LIMIT_PER_MINUTE", "0")
	renew := func(client string) bool {
		expired := w.supabase.SignInFor(w.userID, -time.Minute)
		cookie := "sb-127-auth-token=base64-" + base64.RawURLEncoding.EncodeToString(expired.JSON)
		_, _, header := w.send(t, "create-checkout", oneTime, "Cookie", cookie, "X-Forwarded-For", client)
		return header.Get("Set-Cookie") != ""
	}
	renewed := 0
	for range 61 { // the minute may turn meanwhile, once
		if renew("203.0.113.1") {
			renewed++
		}
	}
	if renewed > 60 || !renew("203.0.113.2") {
		t.Errorf("%d of 61 sessions of one client were renewed; want 30 a minute, and another client's too", renewed)
	}
}

// sold returns a parameter of the Checkout Session that was asked for last.
func (w *wired) sold(parameter string) string {
	return last(w.stripe.CallsTo("POST", "/v1/checkout/sessions")).Form.Get(parameter)
}

func (w *wired) askedElsewhere() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(slices.Compact(w.elsewhere), " ")
}

func last(calls []sandbox.Call) sandbox.Call {
	if len(calls) == 0 {
		return sandbox.Call{}
	}
	return calls[len(calls)-1]
}

// buys returns what a purchase makes of a parameter of the Checkout Session.
func buys(body, parameter string) func(*testing.T, *wired) string {
	return func(t *testing.T, w *wired) string {
		w.post(t, "create-checkout", body, w.bearer()...)
		return w.sold(parameter)
	}
}

// TestWiring: every variable of the configuration arrives where it is meant to.
// Each row says what a caller or an upstream sees without the variable and with
// it.
func TestWiring(t *testing.T) {
	settleSoon(t)
	port := freePort(t)
	guest := func(t *testing.T, w *wired) string { return w.post(t, "create-checkout", oneTime) }
	table := func(t *testing.T, w *wired) string {
		w.post(t, "create-checkout", oneTime, w.bearer()...)
		for _, c := range w.supabase.Calls() {
			if strings.HasPrefix(c.Path, "/rest/v1/") {
				return c.Path + "?" + regexp.MustCompile(`eq\.[0-9a-f-]+`).ReplaceAllString(c.Query.Encode(), "…")
			}
		}
		return "no call"
	}
	records := func(t *testing.T, w *wired) string { // the tables that a sync reads behind the customers
		w.post(t, "create-checkout", oneTime, w.bearer()...)
		w.post(t, "sync", "", w.bearer()...)
		var tables []string
		for _, c := range w.supabase.Calls() {
			if table, ok := strings.CutPrefix(c.Path, "/rest/v1/"); ok && table != "customers" && !strings.HasPrefix(table, "rpc/") {
				tables = append(tables, table)
			}
		}
		return strings.Join(tables, " ")
	}
	twice := func(t *testing.T, w *wired) string {
		w.post(t, "create-checkout", oneTime, "X-Forwarded-For", "203.0.113.1")
		return w.post(t, "create-checkout", oneTime, "X-Forwarded-For", "203.0.113.2")[:3]
	}
	both := func(parameters ...string) func(*testing.T, *wired) string { // of a payment and of a subscription
		return func(t *testing.T, w *wired) (got string) {
			for _, body := range []string{oneTime, recurring} {
				var values []string
				w.post(t, "create-checkout", body)
				for _, parameter := range parameters {
					values = append(values, w.sold(parameter))
				}
				got += strings.Join(values, " ") + "; "
			}
			return got
		}
	}
	tests := map[string]struct {
		value         string
		base          []string // what else is set, with and without it
		probe         func(*testing.T, *wired) string
		without, with string
		slow          bool // without it there is nothing to see for a long time
	}{
		"PORT": {value: port, probe: func(_ *testing.T, w *wired) string {
			return strconv.FormatBool(strings.HasSuffix(w.url, ":"+port))
		}, without: "false", with: "true"},
		"HOST": {value: "127.0.0.2", probe: func(_ *testing.T, w *wired) string {
			host, _, _ := net.SplitHostPort(strings.TrimPrefix(w.url, "http://"))
			return host
		}, without: "127.0.0.1", with: "127.0.0.2"},
		"ADMIN_PORT": {value: port, probe: func(t *testing.T, w *wired) string {
			return fmt.Sprint(readyz(t, w.url), " ", w.adminURL == "http://127.0.0.1:"+port)
		}, without: "200 false", with: "404 true"},
		"STRIPE_SECRET_KEY": {value: "sk_test_wired", probe: func(t *testing.T, w *wired) string {
			guest(t, w)
			return last(w.stripe.Calls()).Header.Get("Authorization")
		}, without: "Bearer sk_test_main_tests", with: "Bearer sk_test_wired"},
		"STRIPE_WEBHOOK_SECRET": {value: "whsec_wired", probe: func(t *testing.T, w *wired) string {
			return w.deliver(t, `{"type":"price.created"}`)
		}, without: "404", with: "200"},
		"STRIPE_API_BASE": {value: "elsewhere", probe: func(t *testing.T, w *wired) string {
			guest(t, w)
			return w.askedElsewhere()
		}, without: "", with: "/v1/checkout/sessions"},
		"SUPABASE_URL": {value: "elsewhere", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			return w.askedElsewhere()
		}, without: "", with: "/auth/v1/.well-known/jwks.json /auth/v1/user"},
		"SUPABASE_ANON_KEY": {value: "sb_publishable_wired", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-portal", `{}`, w.bearer()...)
			return last(w.supabase.Calls()).Header.Get("Apikey")
		}, without: fakesupabase.AnonKey, with: "sb_publishable_wired"},
		"SUPABASE_SERVICE_ROLE_KEY": {value: "sb_secret_wired", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			return last(w.supabase.Calls()).Header.Get("Apikey")
		}, without: fakesupabase.ServiceRoleKey, with: "sb_secret_wired"},
		"SUPABASE_JWT_SECRET": {value: wiredSecret, probe: func(t *testing.T, w *wired) string {
			legacy, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(w.supabase.Claims(w.userID))).SignedString([]byte(wiredSecret))
			if err != nil {
				t.Fatal(err)
			}
			answer := w.post(t, "create-checkout", oneTime, "Authorization", "Bearer "+legacy)
			return fmt.Sprintf("%s, asked %d", answer, len(w.supabase.CallsTo("GET", "/auth/v1/user")))
		}, without: "200, asked 1", with: "200, asked 0"},
		"SUPABASE_COOKIE_NAME": {value: "my-auth", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, "Cookie", "my-auth="+w.cookie)
			return strconv.FormatBool(w.sold("client_reference_id") != "")
		}, without: "false", with: "true"},
		"SUPABASE_COOKIE_OPTIONS": {value: "domain=.example.com; httponly", probe: func(t *testing.T, w *wired) string {
			expired := w.supabase.SignInFor(w.userID, -time.Minute)
			return w.renewed(t, "Cookie", "sb-127-auth-token=base64-"+base64.RawURLEncoding.EncodeToString(expired.JSON))
		}, without: "; SameSite=Lax", with: "; Domain=example.com; HttpOnly; SameSite=Lax"},
		"PORTAL_REQUIRE_MFA": {value: "true", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/auth/v1/user" {
					return false
				}
				fmt.Fprintf(rw, `{"id":%q,"factors":[{"status":"verified"}]}`, w.userID)
				return true
			})
			return w.post(t, "create-portal", `{"returnUrl":"https://a.example"}`, w.bearer()...)[:3]
		}, without: "200", with: "401"},
		"SITE_ORIGINS": {value: "https://b.example", probe: guest, without: "200", with: `400 {"error":"successUrl is not on an allowed site"}` + "\n"},
		"ALLOWED_PRICES": {value: "price_other", probe: func(t *testing.T, w *wired) string {
			return guest(t, w) + " " + w.post(t, "prices", "")[:3] // 405 is a route, for GET
		}, without: "200 404", with: `400 {"error":"This price is not for sale"}` + "\n 405"},

		"CHECKOUT_REQUIRE_SIGN_IN": {value: "all", probe: guest, without: "200", with: `401 {"error":"Not signed in"}` + "\n"},

		"CHECKOUT_PROMOTION_CODES":   {value: "false", probe: buys(oneTime, "allow_promotion_codes"), without: "true", with: ""},
		"CHECKOUT_AUTOMATIC_TAX":     {value: "true", probe: buys(oneTime, "automatic_tax[enabled]"), without: "", with: "true"},
		"CHECKOUT_TAX_ID_COLLECTION": {value: "true", probe: buys(oneTime, "tax_id_collection[enabled]"), without: "", with: "true"},
		"CHECKOUT_TRIAL_DAYS":        {value: "14", probe: buys(recurring, "subscription_data[trial_period_days]"), without: "", with: "14"},
		"CHECKOUT_ONE_SUBSCRIPTION": {value: "true", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			w.stripe.AddSubscription(w.stripe.Customers()[0].ID, "price_pro_monthly", "active")
			w.post(t, "create-checkout", recurring, w.bearer()...)
			return last(w.stripe.Calls()).Path
		}, without: "/v1/checkout/sessions", with: "/v1/billing_portal/sessions"},
		"CHECKOUT_PARAMS":              {value: "locale=de&custom_text[submit][message]=a%26b", probe: both("locale", "custom_text[submit][message]"), without: " ;  ; ", with: "de a&b; de a&b; "},
		"CHECKOUT_PAYMENT_PARAMS":      {value: "submit_type=book", probe: both("submit_type"), without: "; ; ", with: "book; ; "},
		"CHECKOUT_SUBSCRIPTION_PARAMS": {value: "payment_method_collection=if_required", probe: both("payment_method_collection"), without: "; ; ", with: "; if_required; "},
		"PORTAL_CONFIGURATION": {value: "bpc_wired", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			w.post(t, "create-portal", `{"returnUrl":"https://a.example"}`, w.bearer()...)
			return last(w.stripe.CallsTo("POST", "/v1/billing_portal/sessions")).Form.Get("configuration")
		}, without: "", with: "bpc_wired"},

		"CUSTOMERS_TABLE":           {value: "profiles", probe: table, without: "/rest/v1/customers?id=…&select=stripe_customer_id", with: "/rest/v1/profiles?id=…&select=stripe_customer_id"},
		"CUSTOMERS_USER_COLUMN":     {value: "user_id", probe: table, without: "/rest/v1/customers?id=…&select=stripe_customer_id", with: "/rest/v1/customers?select=stripe_customer_id&user_id=…"},
		"CUSTOMERS_CUSTOMER_COLUMN": {value: "customer_id", probe: table, without: "/rest/v1/customers?id=…&select=stripe_customer_id", with: "/rest/v1/customers?id=…&select=customer_id"},
		"SUBSCRIPTIONS_TABLE":       {value: "abos", base: []string{"STRIPE_WEBHOOK_SECRET", "whsec_wired"}, probe: records, without: "subscriptions purchases", with: "abos"},
		"PURCHASES_TABLE":           {value: "orders", base: []string{"STRIPE_WEBHOOK_SECRET", "whsec_wired"}, probe: records, without: "subscriptions purchases", with: "subscriptions orders"},

		"CLAIM_GUEST_PURCHASES": {value: "true", base: []string{"STRIPE_WEBHOOK_SECRET", "whsec_wired"}, probe: func(t *testing.T, w *wired) string {
			w.post(t, "sync", "", w.bearer()...)
			return strconv.Itoa(len(w.stripe.CallsTo("GET", "/v1/customers")))
		}, without: "0", with: "1"},
		"USER_DELETED": {value: "delete", base: []string{"STRIPE_WEBHOOK_SECRET", "whsec_wired"}, probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			w.supabase.DeleteUser(w.userID)
			deleted := func() bool { return w.stripe.Customers()[0].Deleted }
			until(t, func() string {
				return strconv.FormatBool(deleted() || metric(t, w.url, "stripe_sidecar_customers_left") == "1")
			}, "true")
			return strconv.FormatBool(deleted())
		}, without: "false", with: "true"},

		"RATE_LIMIT_PER_MINUTE": {value: "1", probe: func(t *testing.T, w *wired) string {
			w.post(t, "create-checkout", oneTime, "X-Forwarded-For", "203.0.113.1")
			return w.post(t, "create-checkout", oneTime, "X-Forwarded-For", "203.0.113.1")[:3]
		}, without: "200", with: "429"},
		"TRUSTED_PROXIES": {value: "192.0.2.0/24", base: []string{"RATE_LIMIT_PER_MINUTE", "1"}, probe: twice, without: "200", with: "429"},
		"UPSTREAM_TIMEOUT": {value: "100ms", probe: func(t *testing.T, w *wired) string {
			hang := make(chan struct{})
			defer close(hang)
			w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { <-hang; return true })
			answer := w.post(t, "create-checkout", oneTime)
			got := fmt.Sprintf("%s after %d calls", answer[:3], len(w.stripe.Calls()))
			// What outlives its request is bounded alike.
			var once sync.Once
			givenUp := make(chan struct{})
			w.supabase.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
				keySet := strings.HasSuffix(r.URL.Path, "/jwks.json")
				if keySet {
					<-r.Context().Done()
					once.Do(func() { close(givenUp) })
				}
				return keySet
			})
			w.post(t, "create-checkout", oneTime, w.bearer()...)
			select {
			case <-givenUp:
			case <-time.After(10 * time.Second):
				t.Error("the key set was still awaited after 10 s; want it given up after UPSTREAM_TIMEOUT")
			}
			return got
		}, with: "500 after 1 calls", slow: true},
		"SHUTDOWN_TIMEOUT": {value: "100ms", probe: func(t *testing.T, w *wired) string {
			arrived, hang := make(chan struct{}), make(chan struct{})
			defer close(hang)
			w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { close(arrived); <-hang; return true })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "POST", w.url+"/api/stripe/create-checkout", strings.NewReader(oneTime))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if resp, err := http.DefaultClient.Do(r); err == nil {
					resp.Body.Close()
				}
			}()
			select {
			case <-arrived:
			case <-time.After(10 * time.Second):
				t.Error("create-checkout did not reach Stripe in 10 s; want it in flight")
			}
			code, logs := w.wait(t)
			return fmt.Sprint(code, strings.Contains(logs, "SHUTDOWN_TIMEOUT (100ms)"))
		}, with: "1 true", slow: true},
		"LOG_LEVEL": {value: "warn", probe: func(t *testing.T, w *wired) string {
			_, logs := w.wait(t)
			return fmt.Sprint(strings.Contains(logs, `"level":"INFO"`), strings.Contains(logs, `"level":"WARN"`))
		}, without: "true true", with: "false true"},
		"LOG_FORMAT": {value: "text", probe: func(t *testing.T, w *wired) string {
			_, logs := w.wait(t)
			return strconv.FormatBool(regexp.MustCompile(`(?m)^time=\S+ level=INFO msg=stopping`).MatchString(logs))
		}, without: "false", with: "true"},
	}
	for _, field := range variables() {
		name := field.Tag.Get("envconfig")
		test, ok := tests[name]
		if !ok {
			t.Errorf("%s has no row; want one that shows what it changes", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			if !test.slow {
				if got := test.probe(t, startWired(t, test.base...)); got != test.without {
					t.Errorf("without %s = %q; want %q", name, got, test.without)
				}
			}
			if got := test.probe(t, startWired(t, append(test.base, name, test.value)...)); got != test.with {
				t.Errorf("with %s=%s = %q; want %q", name, test.value, got, test.with)
			}
		})
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// TestOneClient: the connections that one client holds keep nobody else out.
func TestOneClient(t *testing.T) {
	port := freePort(t)
	w := startWired(t, "TRUSTED_PROXIES", "192.0.2.0/24", "ADMIN_PORT", port)
	dial := func(from string) net.Conn {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range boundsFor(memoryLimit()).perClient {
		dial("127.0.0.1")
	}
	oneMore := dial("127.0.0.1")
	_ = oneMore.SetReadDeadline(time.Now().Add(2 * time.Second)) // sooner than one that says nothing is given up
	if n, err := oneMore.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one connection more = %d bytes, %v; want it closed at once", n, err)
	}
	another := dial("127.0.0.2")
	fmt.Fprint(another, "GET /api/stripe/openapi.yaml HTTP/1.1\r\nHost: example.com\r\n\r\n")
	if answer, err := http.ReadResponse(bufio.NewReader(another), nil); err != nil || answer.StatusCode != 200 {
		t.Errorf("another client = %v, %v; want 200", answer, err)
	}
	if status := readyz(t, "http://127.0.0.1:"+port); status != 200 {
		t.Errorf("GET /readyz at ADMIN_PORT = %d; want 200", status)
	}
}

// TestLiveMode: a live key's Events are handled, and test mode's are not. The
// Event names no object, so that nobody is asked.
func TestLiveMode(t *testing.T) {
	w := startWired(t, "STRIPE_SECRET_KEY", "sk_live_wired", "STRIPE_API_BASE", "", "SITE_ORIGINS", "https://a.example", "STRIPE_WEBHOOK_SECRET", "whsec_wired")
	for _, mode := range []struct{ live, want string }{{"true", "500"}, {"false", "200"}} {
		if got := w.deliver(t, `{"type":"invoice.paid","livemode":`+mode.live+`,"data":{"object":{}}}`); got != mode.want {
			t.Errorf("an Event with livemode %s = %s; want %s", mode.live, got, mode.want)
		}
	}
}

// startWired starts the program with variables, name, value, name, value.
func startWired(t *testing.T, variables ...string) *wired {
	t.Helper()
	w := &wired{stripe: fakestripe.New(fakestripe.Options{}), supabase: fakesupabase.New(fakesupabase.Options{LegacyJWTSecret: wiredSecret})}
	serve := func(h http.HandlerFunc) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	elsewhere := serve(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.elsewhere = append(w.elsewhere, r.URL.Path)
		w.mu.Unlock()
		rw.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(rw, `{"error":{"type":"invalid_request_error"}}`) // else stripe-go asks again
	})
	w.userID = w.supabase.SignUp("ada@example.com", "correct horse battery staple").ID
	session := w.supabase.SignIn(w.userID)
	w.token = session.AccessToken
	w.cookie = "base64-" + base64.RawURLEncoding.EncodeToString(session.JSON)

	env := valid("STRIPE_API_BASE", serve(w.stripe.ServeHTTP), "SUPABASE_URL", serve(w.supabase.ServeHTTP))
	for i := 0; i < len(variables); i += 2 {
		env[variables[i]] = strings.ReplaceAll(variables[i+1], "elsewhere", elsewhere)
	}
	w.service = startService(t, env)
	return w
}
