package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/upstream"
)

// TestContract is the published contract: one row for each answer it shows.
func TestContract(t *testing.T) {
	t.Parallel()
	const (
		checkout = "/api/stripe/create-checkout"
		portal   = "/api/stripe/create-portal"

		guest     = "guest"     // no session
		user      = "user"      // signed in, never bought
		customer  = "customer"  // signed in, has a Customer
		signedOut = "signedOut" // the session was ended elsewhere
	)
	modeText := "Mode is required (either 'payment' for one-time payments or 'subscription' for recurring subscription)"
	tests := []struct {
		name, path, caller, body string
		stripe                   http.HandlerFunc // what Stripe answers, nil for what it should
		status                   int
		error                    string // "" for a url
	}{
		{name: "checkout/subscription", path: checkout, caller: guest, body: buyPro, status: 200},
		{name: "checkout/payment", path: checkout, caller: guest, body: buyOnce, status: 200},
		{name: "checkout/signed in", path: checkout, caller: customer, body: buyPro, status: 200},
		{name: "checkout/signed out elsewhere", path: checkout, caller: signedOut, body: buyPro, status: 200},
		{name: "checkout/nothing", path: checkout, caller: guest, body: `{}`, status: 400, error: "Price ID is required"},
		{name: "checkout/priceId missing", path: checkout, caller: guest, status: 400, error: "Price ID is required",
			body: `{"successUrl":"https://a.example","cancelUrl":"https://a.example","mode":"payment"}`},
		{name: "checkout/priceId empty", path: checkout, caller: guest, status: 400, error: "Price ID is required",
			body: `{"priceId":"","successUrl":"https://a.example","cancelUrl":"https://a.example","mode":"payment"}`},
		{name: "checkout/priceId null", path: checkout, caller: guest, status: 400, error: "Price ID is required",
			body: `{"priceId":null,"successUrl":"https://a.example","cancelUrl":"https://a.example","mode":"payment"}`},
		{name: "checkout/successUrl missing", path: checkout, caller: guest, status: 400, error: "Success and cancel URLs are required",
			body: `{"priceId":"price_x","cancelUrl":"https://a.example","mode":"payment"}`},
		{name: "checkout/cancelUrl missing", path: checkout, caller: guest, status: 400, error: "Success and cancel URLs are required",
			body: `{"priceId":"price_x","successUrl":"https://a.example","mode":"payment"}`},
		{name: "checkout/mode missing", path: checkout, caller: guest, status: 400, error: modeText,
			body: `{"priceId":"price_x","successUrl":"https://a.example","cancelUrl":"https://a.example"}`},
		{name: "checkout/mode unknown", path: checkout, caller: guest, status: 400, error: modeText,
			body: `{"priceId":"price_x","successUrl":"https://a.example","cancelUrl":"https://a.example","mode":"setup"}`},
		{name: "checkout/Stripe refuses", path: checkout, caller: guest, status: 500, error: "No such price: 'price_x'",
			body: `{"priceId":"price_x","successUrl":"https://a.example","cancelUrl":"https://a.example","mode":"payment"}`},
		{name: "checkout/Stripe fails", path: checkout, caller: guest, body: buyPro, status: 500,
			stripe: stripeSays(500, `{"error":{"type":"api_error","message":"An unknown error occurred"}}`),
			error:  "The payment provider could not complete the request. Please try again."},

		{name: "portal/open", path: portal, caller: customer, body: openPortal, status: 200},
		{name: "portal/guest", path: portal, caller: guest, body: openPortal, status: 401, error: "Not signed in"},
		{name: "portal/guest, before the body", path: portal, caller: guest, body: `nonsense`, status: 401, error: "Not signed in"},
		{name: "portal/signed out elsewhere", path: portal, caller: signedOut, body: openPortal, status: 401, error: "Not signed in"},
		{name: "portal/returnUrl missing", path: portal, caller: customer, body: `{}`, status: 400, error: "Return URL is required"},
		{name: "portal/returnUrl missing, before the customer", path: portal, caller: user, body: `{}`, status: 400, error: "Return URL is required"},
		{name: "portal/no customer", path: portal, caller: user, body: openPortal, status: 400,
			error: "You don't have a billing account yet. Make a purchase first."},
		{name: "portal/Stripe fails", path: portal, caller: customer, body: openPortal, status: 500,
			stripe: stripeSays(500, `{"error":{"type":"api_error","message":"An unknown error occurred"}}`),
			error:  "The payment provider could not complete the request. Please try again."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t)
			var headers []string
			if test.caller != guest {
				u, session := w.signUp("ada@example.com")
				headers = session
				switch test.caller {
				case customer:
					w.checkout(buyOnce, headers...)
				case signedOut:
					w.supabase.SignOut(u.ID)
				}
			}
			if test.stripe != nil {
				w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool { test.stripe(rw, r); return true })
			}
			got := w.do("POST", test.path, test.body, headers...)
			if got.status != test.status || got.field("error") != test.error {
				t.Errorf("POST %s %s = %d %s; want %d with error %q", test.path, test.body, got.status, got.body, test.status, test.error)
			}
			if hasURL := strings.HasPrefix(got.field("url"), "http"); hasURL != (test.status == 200) {
				t.Errorf("POST %s %s = %s; want a url: %t", test.path, test.body, got.body, test.status == 200)
			}
			for name, want := range map[string]string{"Cache-Control": "no-store", "Content-Type": "application/json"} {
				if got.header.Get(name) != want {
					t.Errorf("header %s = %q; want %q", name, got.header.Get(name), want)
				}
			}
		})
	}
}

func stripeSays(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Request-Id", "req_said")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// TestBadInput shows that a request refused for what it says has cost Stripe
// and Supabase nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	const object = "The request body must be one JSON object"
	long := "https://8space.app/" + strings.Repeat("x", 5000)
	checkoutWith := func(price, success, cancel, mode string) string {
		return `{"priceId":` + price + `,"successUrl":` + success + `,"cancelUrl":` + cancel + `,"mode":` + mode + `}`
	}
	const ok = `"https://8space.app/"`
	tests := []struct {
		name, path, body string
		status           int
		error            string
	}{
		{"empty", "checkout", ``, 400, object},
		{"not JSON", "checkout", `priceId=price_x`, 400, object},
		{"cut off", "checkout", `{"priceId":"price_x"`, 400, object},
		{"null", "checkout", `null`, 400, object},
		{"array", "checkout", `[{"priceId":"price_x"}]`, 400, object},
		{"string", "checkout", `"price_x"`, 400, object},
		{"something behind", "checkout", buyPro + `{}`, 400, object},
		{"garbage behind", "checkout", buyPro + `x`, 400, object},
		{"too large", "checkout", `{"priceId":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "The request body is larger than 64 KiB"},
		{"number for priceId", "checkout", checkoutWith(`1`, ok, ok, `"payment"`), 400, "priceId must be a string"},
		{"array for successUrl", "checkout", checkoutWith(`"p"`, `["x"]`, ok, `"payment"`), 400, "successUrl must be a string"},
		{"object for cancelUrl", "checkout", checkoutWith(`"p"`, ok, `{}`, `"payment"`), 400, "cancelUrl must be a string"},
		{"bool for mode", "checkout", checkoutWith(`"p"`, ok, ok, `true`), 400, "mode must be a string"},
		{"missing before a wrong type", "checkout", `{"mode":5}`, 400, "Price ID is required"},
		{"wrong type before missing", "checkout", `{"priceId":"p","successUrl":5}`, 400, "successUrl must be a string"},
		{"invalid before another site", "checkout", checkoutWith(`"p"`, `"https://evil.example/"`, `"y"`, `"payment"`), 400, "cancelUrl must be a valid URL"},
		{"other case", "checkout", `{"PriceID":"p","priceid":"p","successUrl":"https://8space.app","cancelUrl":"https://8space.app","mode":"payment"}`, 400, "Price ID is required"},
		{"mode in other case", "checkout", checkoutWith(`"p"`, ok, ok, `"Payment"`), 400, "Mode is required (either 'payment' for one-time payments or 'subscription' for recurring subscription)"},
		{"mode before bad URLs", "checkout", checkoutWith(`"p"`, `"x"`, `"y"`, `"z"`), 400, "Mode is required (either 'payment' for one-time payments or 'subscription' for recurring subscription)"},
		{"relative URL", "checkout", checkoutWith(`"p"`, `"/success"`, ok, `"payment"`), 400, "successUrl must be a valid URL"},
		{"no host", "checkout", checkoutWith(`"p"`, ok, `"https:///x"`, `"payment"`), 400, "cancelUrl must be a valid URL"},
		{"javascript", "checkout", checkoutWith(`"p"`, ok, `"javascript:alert(1)"`, `"payment"`), 400, "cancelUrl must be a valid URL"},
		{"long URL", "checkout", checkoutWith(`"p"`, `"`+long+`"`, ok, `"payment"`), 400, "successUrl must be a valid URL"},
		{"other site", "checkout", checkoutWith(`"p"`, `"https://evil.example/"`, ok, `"payment"`), 400, "successUrl is not on an allowed site"},
		{"other site for cancel", "checkout", checkoutWith(`"p"`, ok, `"https://8space.app.evil.example/"`, `"payment"`), 400, "cancelUrl is not on an allowed site"},
		{"price not for sale", "checkout", checkoutWith(`"price_other"`, ok, ok, `"payment"`), 400, "This price is not for sale"},
		{"bad URL before price", "checkout", checkoutWith(`"price_other"`, `"x"`, ok, `"payment"`), 400, "successUrl must be a valid URL"},

		{"empty", "portal", ``, 400, object},
		{"null", "portal", `null`, 400, object},
		{"number", "portal", `{"returnUrl":5}`, 400, "returnUrl must be a string"},
		{"null field", "portal", `{"returnUrl":null}`, 400, "Return URL is required"},
		{"other case", "portal", `{"returnURL":"https://8space.app"}`, 400, "Return URL is required"},
		{"relative URL", "portal", `{"returnUrl":"account"}`, 400, "returnUrl must be a valid URL"},
		{"other site", "portal", `{"returnUrl":"https://evil.example"}`, 400, "returnUrl is not on an allowed site"},
		{"too large", "portal", `{"returnUrl":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "The request body is larger than 64 KiB"},
	}
	sites, err := api.ParseSites("https://8space.app")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, func(s *settings) {
		s.api.Sites = sites
		s.billing.Prices = []string{"price_pro_monthly"}
	})
	u, session := w.signUp("ada@example.com")
	w.supabase.Insert("customers", map[string]any{"id": u.ID, "stripe_customer_id": "cus_1"})
	w.checkout(buyPro, session...) // brings in the key set, which only the first request needs
	w.supabase.ForgetCalls()
	w.stripe.ForgetCalls()
	for _, test := range tests {
		t.Run(test.path+"/"+test.name, func(t *testing.T) {
			got := w.do("POST", "/api/stripe/create-"+test.path, test.body, session...)
			if got.status != test.status || got.field("error") != test.error {
				t.Errorf("create-%s %.80s = %d %s; want %d %q", test.path, test.body, got.status, got.body, test.status, test.error)
			}
			if calls := w.stripe.Calls(); len(calls) != 0 {
				t.Errorf("calls to Stripe = %v; want none", calls)
			}
			// Whether the user is still signed in comes before the body at the portal.
			confirmed := len(w.supabase.CallsTo("GET", "/auth/v1/user"))
			if calls := w.supabase.Calls(); len(calls) != confirmed || (confirmed == 1) != (test.path == "portal") {
				t.Errorf("calls to Supabase = %v; want one for the user at the portal, and no other", calls)
			}
			w.supabase.ForgetCalls()
		})
	}
}

// TestBodyWithoutContentType: a body is JSON whatever its Content-Type says.
func TestContentTypeIsIgnored(t *testing.T) {
	t.Parallel()
	w := start(t)
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"} {
		if got := w.checkout(buyPro+" \n", "Content-Type", contentType); got.status != 200 {
			t.Errorf("create-checkout with Content-Type %q = %d %s; want 200", contentType, got.status, got.body)
		}
	}
}

// TestOtherRequests covers what every route has in common.
func TestOtherRequests(t *testing.T) {
	t.Parallel()
	w := start(t)
	tests := []struct {
		method, path string
		status       int
		allow, error string
	}{
		{"GET", "/api/stripe/create-checkout", 405, "POST", "Method not allowed"},
		{"PUT", "/api/stripe/create-portal", 405, "POST", "Method not allowed"},
		{"OPTIONS", "/api/stripe/create-portal", 405, "POST", "Method not allowed"},
		{"POST", "/healthz", 405, "GET, HEAD", "Method not allowed"},
		{"DELETE", "/api/stripe/openapi.yaml", 405, "GET, HEAD", "Method not allowed"},
		{"GET", "/", 404, "", "Not found"},
		{"POST", "/", 404, "", "Not found"},
		{"POST", "/api/stripe/create-checkout/", 404, "", "Not found"},
		{"POST", "/api/stripe//create-checkout", 404, "", "Not found"},
		{"POST", "/api/stripe/x/../create-checkout", 404, "", "Not found"},
		{"GET", "//", 404, "", "Not found"},
		{"POST", "/API/stripe/create-checkout", 404, "", "Not found"},
		{"POST", "/api/stripe/webhook", 404, "", "Not found"},
		{"GET", "/healthz", 200, "", ""},
		{"HEAD", "/healthz", 200, "", ""},
		{"GET", "/readyz", 200, "", ""},
		{"GET", "/api/stripe/buttons.js", 200, "", ""},
		{"GET", "/api/stripe/openapi.yaml", 200, "", ""},
	}
	for _, test := range tests {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			got := w.do(test.method, test.path, "")
			if got.status != test.status || got.header.Get("Allow") != test.allow || got.field("error") != test.error {
				t.Errorf("%s %s = %d, Allow %q, %s; want %d, %q, %q", test.method, test.path,
					got.status, got.header.Get("Allow"), got.body, test.status, test.allow, test.error)
			}
		})
	}
}

// TestBusy: what is full refuses early and says when to come back; the probes
// and the other routes go on.
func TestBusy(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	w := start(t, func(s *settings) {
		s.api.MaxInFlight, s.api.MaxEvents = 1, 1
		s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)}
	})
	w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { close(arrived); <-release; return false })
	held := make(chan answer)
	go func() { held <- w.checkout(buyOnce) }()
	<-arrived
	for _, path := range []string{"checkout", "portal"} {
		got := w.do("POST", "/api/stripe/create-"+path, buyOnce)
		if got.status != 503 || got.header.Get("Retry-After") == "" || got.field("error") != "Too many requests at once. Please try again." {
			t.Errorf("create-%s while full = %d %s %v; want 503 with Retry-After", path, got.status, got.body, got.header)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/api/stripe/buttons.js"} {
		if got := w.do("GET", path, ""); got.status != 200 {
			t.Errorf("GET %s while full = %d %s; want 200", path, got.status, got.body)
		}
	}
	if got := w.deliver(notOurs, whsec, time.Now()); got.status != 200 {
		t.Errorf("webhook while the endpoints are full = %d %s; want 200", got.status, got.body)
	}
	close(release)
	if got := <-held; got.status != 200 {
		t.Errorf("the request in flight = %d %s; want 200", got.status, got.body)
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	w := start(t)
	for sent, kept := range map[string]bool{
		"":                                 false,
		"abc":                              true,
		"A.b_c-9":                          true,
		strings.Repeat("x", 128):           true,
		strings.Repeat("x", 129):           false,
		"with space":                       false,
		"quote\"":                          false,
		"{\"level\":\"ERROR\"}":            false,
		"0af7651916cd43dd8448eb211c80319c": true,
	} {
		got := w.do("GET", "/healthz", "", "X-Request-Id", sent).header.Get("X-Request-Id")
		if (got == sent) != kept || got == "" {
			t.Errorf("X-Request-Id %q = %q; want it kept: %t", sent, got, kept)
		}
	}
}
