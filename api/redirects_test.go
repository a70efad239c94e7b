package api_test

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// redirectSites are the sites that testdata/redirects.json is about.
const redirectSites = "https://example.com, https://shop.example:8443, http://localhost:3000, http://127.0.0.1:8080, " +
	"https://[2001:db8::1], https://kiosk.example, https://xn--mnchen-3ya.example, https://*.preview.example.com, https://*.apps.example:4443"

//go:embed testdata/redirects.json
var redirectsJSON []byte

type redirect struct {
	About, URL, Want string
	Length           int // characters that the last one is repeated up to
}

func redirects(tb testing.TB) []redirect {
	tb.Helper()
	var list []redirect
	if err := json.Unmarshal(redirectsJSON, &list); err != nil {
		tb.Fatal(err)
	}
	for i, r := range list {
		_, size := utf8.DecodeLastRuneInString(r.URL)
		list[i].URL += strings.Repeat(r.URL[len(r.URL)-size:], max(0, r.Length-utf8.RuneCountInString(r.URL)))
	}
	return list
}

// startForRedirects has Stripe take every URL, so that what is refused was
// refused by the service.
func startForRedirects(tb testing.TB, changes ...func(*settings)) *site {
	tb.Helper()
	sites, err := api.ParseSites(redirectSites)
	if err != nil {
		tb.Fatal(err)
	}
	w := start(tb, append(changes, func(s *settings) { s.api.Sites = sites })...)
	w.stripe.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		stripeSays(200, `{"id":"some_1","url":"https://stripe.example/"}`)(rw, r)
		return true
	})
	return w
}

// TestRedirects goes through the corpus with each of the three URLs.
func TestRedirects(t *testing.T) {
	t.Parallel()
	w := startForRedirects(t)
	user, session := w.signUp("ada@example.com")
	w.supabase.Insert("customers", map[string]any{"id": user.ID, "stripe_customer_id": "cus_1"})
	fields := []struct {
		name, form string
		ask        func(url string) answer
	}{
		{"successUrl", "success_url", func(u string) answer {
			return w.checkout(`{"priceId":"price_p","mode":"payment","cancelUrl":"https://example.com","successUrl":` + quote(u) + `}`)
		}},
		{"cancelUrl", "cancel_url", func(u string) answer {
			return w.checkout(`{"priceId":"price_p","mode":"payment","successUrl":"https://example.com","cancelUrl":` + quote(u) + `}`)
		}},
		{"returnUrl", "return_url", func(u string) answer { return w.portal(`{"returnUrl":`+quote(u)+`}`, session...) }},
	}
	for _, r := range redirects(t) {
		for _, f := range fields {
			w.stripe.ForgetCalls()
			got := f.ask(r.URL)
			calls := w.stripe.Calls()
			switch r.Want {
			case "allowed":
				if got.status != 200 || len(calls) != 1 || calls[0].Form.Get(f.form) != r.URL {
					t.Errorf("%s: %s %.200q = %d %s; want it at Stripe byte for byte", r.About, f.name, r.URL, got.status, got.body)
				}
			case "not allowed", "invalid":
				want := map[string]string{"not allowed": " is not on an allowed site", "invalid": " must be a valid URL"}[r.Want]
				if got.status != 400 || got.field("error") != f.name+want || len(calls) != 0 {
					t.Errorf("%s: %s %.200q = %d %s; want 400 %q", r.About, f.name, r.URL, got.status, got.body, f.name+want)
				}
			default:
				t.Errorf("%q: want is %q; want a verdict", r.URL, r.Want)
			}
		}
	}
}

// TestRedirectsInBrowsers: where the service allows a URL, the parser that
// browsers have finds one of the sites in it.
// https://url.spec.whatwg.org/#concept-url-parser
func TestRedirectsInBrowsers(t *testing.T) {
	t.Parallel()
	node := sandboxtest.Program(t, "node", "nodejs")
	list := redirects(t)
	urls := make([]string, len(list))
	for i, r := range list {
		urls[i] = r.URL
	}
	input, err := json.Marshal(urls)
	if err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), node, "-e", `
		const urls = JSON.parse(require('fs').readFileSync(0, 'utf8'))
		const origin = url => { try { return new URL(url).origin } catch { return '' } }
		console.log(JSON.stringify(urls.map(origin)))`)
	run.Stdin = bytes.NewReader(input)
	out, err := run.Output()
	var origins []string
	if err != nil || json.Unmarshal(out, &origins) != nil || len(origins) != len(list) {
		t.Fatalf("node = %v, %s; want %d origins", err, out, len(list))
	}
	w := startForRedirects(t)
	for i, r := range list {
		got := w.checkout(fmt.Sprintf(`{"priceId":"price_p","mode":"payment","cancelUrl":%s,"successUrl":%[1]s}`, quote(r.URL)))
		if got.status == 200 && !redirectOrigin(origins[i]) {
			t.Errorf("%s: successUrl %.200q = 200, in a browser at %q; want one of the sites", r.About, r.URL, origins[i])
		}
	}
}

// redirectOrigin tells whether an origin, as browsers write it, is one of
// redirectSites.
func redirectOrigin(origin string) bool {
	for site := range strings.SplitSeq(redirectSites, ", ") {
		before, after, wildcard := strings.Cut(site, "*")
		if origin == site || wildcard && strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after) &&
			len(origin) > len(before)+len(after) {
			return true
		}
	}
	return false
}
