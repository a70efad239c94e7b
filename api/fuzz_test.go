package api_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/upstream"
)

// startForFuzz is for any number of requests: nothing is kept of them.
func startForFuzz(f *testing.F) *site {
	return startForRedirects(f, func(s *settings) {
		s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)}
		s.api.Logger = slog.New(slog.DiscardHandler)
		s.billing.Prices = []string{"price_lifetime", "price_pro_monthly"}
		s.api.UpstreamTimeout = time.Second
	})
}

// in returns the site for one run of a fuzz target, without any calls.
func (w site) in(t *testing.T) *site {
	w.tb = t
	w.stripe.ForgetCalls()
	w.supabase.ForgetCalls()
	return &w
}

// FuzzCheckoutBody: whatever the body is, the answer is 400 or 413, or 200 to
// one that is right in each field. Nobody is asked before that.
func FuzzCheckoutBody(f *testing.F) {
	site := startForFuzz(f)
	good := strings.ReplaceAll(buyOnce, "8space.app", "example.com")
	for _, body := range []string{
		good, strings.ReplaceAll(buyPro, "8space.app", "a.preview.example.com"), buyOnce,
		``, `null`, `[]`, `{}`, `1`, `"x"`, `{"priceId":"price_lifetime"}`, good + good, good + "\n", "\ufeff" + good, good[:len(good)-1],
		strings.Replace(good, "priceId", "PriceId", 1), strings.Replace(good, `"payment"`, `null`, 1), strings.Replace(good, `"payment"`, `["payment"]`, 1),
		strings.Replace(good, `{`, `{"priceId":1,`, 1), strings.Replace(good, `}`, `,"priceId":"price_other"}`, 1), strings.Replace(good, "success", "{CHECKOUT_SESSION_ID}#é\xff", 1),
		strings.Repeat(`[`, 20000), `{"priceId":` + strings.Repeat(`[`, 20000), good + strings.Repeat(" ", 64<<10),
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := site.in(t)
		got := w.checkout(body)
		calls := w.stripe.Calls()
		if n := len(w.supabase.Calls()); n != 0 {
			t.Errorf("create-checkout of %q as a guest = %d calls to Supabase; want none", body, n)
		}
		if got.status != 200 {
			if got.status != 400 && got.status != 413 || got.field("error") == "" || len(calls) != 0 {
				t.Errorf("create-checkout of %q = %d %s with %d calls to Stripe; want 400 or 413 with a text and none", body, got.status, got.body, len(calls))
			}
			return
		}
		var b map[string]any // unlike a struct to the letter
		if err := json.Unmarshal([]byte(body), &b); err != nil || len(calls) != 1 {
			t.Fatalf("create-checkout of %q = 200 with %d calls to Stripe (%v); want JSON and one", body, len(calls), err)
		}
		form := calls[0].Form
		for name, value := range map[string]any{
			"line_items[0][price]": b["priceId"], "mode": b["mode"], "success_url": b["successUrl"], "cancel_url": b["cancelUrl"],
		} {
			if form.Get(name) != value {
				t.Errorf("create-checkout of %q: %s = %q; want %q", body, name, form.Get(name), value)
			}
		}
		if price, mode := form.Get("line_items[0][price]"), form.Get("mode"); price != "price_lifetime" && price != "price_pro_monthly" ||
			mode != "payment" && mode != "subscription" ||
			!redirectOrigin(browserOrigin(form.Get("success_url"))) || !redirectOrigin(browserOrigin(form.Get("cancel_url"))) {
			t.Errorf("create-checkout of %q = 200; want 400", body)
		}
	})
}

// FuzzRedirect: what is allowed is at one of the sites for a parser of another
// kind too.
func FuzzRedirect(f *testing.F) {
	site := startForFuzz(f)
	for _, r := range redirects(f) {
		if r.Length == 0 {
			f.Add(r.URL)
		}
	}
	f.Fuzz(func(t *testing.T, raw string) {
		w := site.in(t)
		got := w.checkout(fmt.Sprintf(`{"priceId":"price_lifetime","mode":"payment","cancelUrl":"https://example.com","successUrl":%s}`, quote(raw)))
		switch origin := browserOrigin(strings.ToValidUTF8(raw, "\ufffd")); {
		case got.status == 200 && !redirectOrigin(origin):
			t.Errorf("successUrl %q = 200, in a browser at %q; want it refused", raw, origin)
		case got.status != 200 && (got.status != 400 || len(w.stripe.Calls()) != 0):
			t.Errorf("successUrl %q = %d %s; want 200 or 400", raw, got.status, got.body)
		}
	})
}

// browserOrigin finds the origin of a URL as browsers do, "" where they find
// none and for hosts that are not ASCII. It follows
// https://url.spec.whatwg.org/#url-parsing by hand, since net/url, which the
// service uses, follows RFC 3986.
func browserOrigin(raw string) string {
	raw = strings.TrimFunc(raw, func(r rune) bool { return r <= ' ' })
	raw = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(raw)
	scheme, rest, _ := strings.Cut(raw, ":")
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return ""
	}
	rest = strings.TrimLeft(rest, `/\`)
	if end := strings.IndexAny(rest, `/\?#`); end >= 0 {
		rest = rest[:end]
	}
	host, port := strings.ToLower(rest[strings.LastIndexByte(rest, '@')+1:]), ""
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		host, port = host[:colon], host[colon+1:]
	}
	host, err := url.PathUnescape(host)
	name := strings.TrimSuffix(strings.TrimPrefix(host, "[2001:db8::1"), "]") // the one site that is no name
	if err != nil || strings.ContainsAny(name, "\"#%/:<>?@[\\]^`{|}") || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return ""
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return ""
		}
		if port = fmt.Sprint(":", n); scheme+port == "http:80" || scheme+port == "https:443" {
			port = ""
		}
	}
	return scheme + "://" + host + port
}

// sendable tells whether net/http sends a value of a header.
func sendable(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// FuzzWebhookSignature: what Stripe did not sign is refused, and nobody asked.
func FuzzWebhookSignature(f *testing.F) {
	site := startForFuzz(f)
	now := time.Now().Unix()
	for _, signature := range []string{
		"", "t=,v1=", "garbage", fmt.Sprintf("t=%d", now), fmt.Sprintf("t=%d,v1=", now), fmt.Sprintf("t=%d,v1=%064d", now, 0), fmt.Sprintf("t=%d,v0=%064d", now, 0),
		fmt.Sprintf("t=%d,t=0,v1=%064d,v1=zz", now, 0), "t=-1,v1=00", "t=9223372036854775807,v1=00", "t=1e9,v1=00", ",,,=,==,t,v1", "t=1=2,v1=3=4",
	} {
		f.Add(notOurs, signature)
		f.Add(strings.Replace(notOurs, "price.created", "invoice.paid", 1), signature)
	}
	f.Fuzz(func(t *testing.T, payload, signature string) {
		if !sendable(signature) {
			t.Skip("no header")
		}
		w := site.in(t)
		got := w.do("POST", webhookPath, payload, "Stripe-Signature", signature)
		if n := len(w.stripe.Calls()) + len(w.supabase.Calls()); got.status != 400 && got.status != 413 || got.field("error") == "" || n != 0 {
			t.Errorf("webhook of %q signed %q = %d %s with %d calls; want 400 or 413 and none", payload, signature, got.status, got.body, n)
		}
	})
}

// FuzzWebhookEvent: whatever Stripe signs, and whichever object it has for it,
// the answer is one of those decided on, which a panic's is not.
func FuzzWebhookEvent(f *testing.F) {
	site := startForFuzz(f)
	objects := []string{
		`null`, `{}`, `{"id":"x_1","deleted":true}`, `{"id":"x_1","customer":"cus_1"}`, `{"id":"x_1","customer":null,"items":{"data":[{"price":null}]}}`,
		`{"id":"x_1","customer":"cus_1","items":{"data":[{"price":{"id":"price_1","product":"prod_1"}}]},"metadata":{"supabase_user_id":"x"}}`,
		`{"id":"x_1","mode":"payment","created":-1,"payment_intent":{"latest_charge":null},"line_items":{"data":[{"price":null}]}}`,
		`{"id":"x_1","mode":"subscription","subscription":"sub_1"}`, `{"id":"x_1","mode":"setup"}`, `{"data":[{"id":"x_1"}],"has_more":false}`,
	}
	for i := range objects {
		for _, kind := range []string{
			"checkout.session.completed", "customer.subscription.updated", "invoice.paid", "customer.deleted", "charge.refunded", "charge.dispute.created", "price.created",
		} {
			f.Add(`{"id":"evt_1","type":"`+kind+`","data":{"object":{"id":"x_1","payment_intent":"pi_1"}}}`, uint(i))
		}
	}
	for _, event := range []string{
		``, `null`, `[]`, `{}`, `{"type":"invoice.paid"}`, `{"type":"invoice.paid","data":null}`,
		`{"type":"invoice.paid","data":{"object":{"id":"../../.."}}}`, `{"type":"charge.refunded","data":{"object":{"payment_intent":{}}}}`,
	} {
		f.Add(event, uint(1))
	}
	f.Fuzz(func(t *testing.T, event string, n uint) {
		w := site.in(t)
		object := objects[n%uint(len(objects))]
		w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
			stripeSays(200, object)(rw, r)
			return true
		})
		got := w.deliver(event, whsec, time.Now())
		if got.status != 200 && got.status != 400 && got.status != 413 && got.field("error") != eventNotStored.text {
			t.Errorf("webhook of %q about %s = %d %s; want 200, 400, 413 or %q", event, object, got.status, got.body, eventNotStored.text)
		}
	})
}

// FuzzForwardedFor: what a caller puts into X-Forwarded-For changes nothing
// about the address that the trusted proxy adds.
func FuzzForwardedFor(f *testing.F) {
	site := startForFuzz(f)
	body := strings.ReplaceAll(buyOnce, "8space.app", "example.com")
	// The key that Stripe is sent depends on the guest's address and the guest's key.
	key := func(t testing.TB, headers ...string) string {
		site.tb = t
		site.stripe.ForgetCalls()
		got := site.checkout(body, append(headers, "Idempotency-Key", "k1")...)
		calls := site.stripe.Calls()
		if got.status != 200 || len(calls) != 1 {
			t.Fatalf("create-checkout with %q = %d %s; want 200", headers, got.status, got.body)
		}
		return calls[0].Header.Get("Idempotency-Key")
	}
	const name, caller = "X-Forwarded-For", "203.0.113.7"
	want := key(f, name, caller)
	for _, header := range []string{
		"", ",", ", ,", "127.0.0.1", "127.0.0.1, 127.0.0.1", "198.51.100.9", "198.51.100.9:80", "::1", "[::1]:80", "[::1", "::ffff:127.0.0.1", "::ffff:203.0.113.7", "fe80::1%eth0",
		"0x7f.1", "127.1", "unknown", "_hidden", `"198.51.100.9"`, "for=198.51.100.9", "é", strings.Repeat("127.0.0.1,", 1000),
	} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if !sendable(header) || len(header) > 60<<10 {
			t.Skip("no header")
		}
		key(t, name, header)
		for _, headers := range [][]string{{name, header + "," + caller}, {name, header, name, caller}, {name, header, name, caller + ", 127.0.0.2"}} {
			if got := key(t, headers...); got != want {
				t.Errorf("idempotency key with %q = %s; want %s, as with %s alone", headers, got, want, caller)
			}
		}
	})
}
