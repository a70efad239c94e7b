package api_test

import (
	"strings"
	"testing"

	"8space.app/stripe-sidecar/api"
)

func TestParseSitesRefuses(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{
		"*", "https://*", "example.com", "//example.com", "https://", "ftp://example.com", "https://example.com/", "https://example.com/shop",
		"https://example.com?x", "https://example.com#x", "https://user@example.com", "https://*.com", "https://a.*.example.com",
		"https://ex*mple.com", "https://*example.com", "https://example.com:99999", "https://*.127.0.0.1", "https://münchen.example", "javascript:alert(1)", "null",
	} {
		if _, err := api.ParseSites("https://ok.example," + entry); err == nil || !strings.HasPrefix(err.Error(), "entry 2 ") {
			t.Errorf("ParseSites with %q = %v; want an error that says which", entry, err)
		}
	}
	_, err := api.ParseSites("*, example.com ,https://ok.example")
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("ParseSites with two mistakes = %v; want both", err)
	}
}

// TestSites is the list at work in its three places.
func TestSites(t *testing.T) {
	t.Parallel()
	sites, err := api.ParseSites("https://example.com, http://localhost:3000, https://*.preview.example.com, https://[::1]:8443, HTTPS://Upper.Example:443")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, func(s *settings) { s.api.Sites = sites })

	for origin, allowed := range map[string]bool{
		"https://example.com":               true,
		"https://example.com:443":           true,
		"https://EXAMPLE.com":               true,
		"http://localhost:3000":             true,
		"https://a.preview.example.com":     true,
		"https://a.b.preview.example.com":   true,
		"https://[::1]:8443":                true,
		"https://upper.example":             true,
		"http://example.com":                false,
		"https://example.com:8443":          false,
		"https://www.example.com":           false,
		"https://preview.example.com":       false,
		"https://evilpreview.example.com":   false,
		"https://a.preview.example.com:444": false,
		"http://a.preview.example.com":      false,
		"https://example.com.evil.example":  false,
		"http://localhost":                  false,
		"null":                              false,
	} {
		// Where a buyer may be sent to.
		got := w.checkout(`{"priceId":"price_lifetime","mode":"payment","successUrl":"` + origin + `/a?b=c#d","cancelUrl":"https://example.com"}`)
		if (got.status == 200) != allowed {
			t.Errorf("successUrl at %s = %d %s; want it allowed: %t", origin, got.status, got.body, allowed)
		}
		// Whose pages may call with cookies, and read the answer.
		got = w.checkout(buyOnceAt("https://example.com"), "Origin", origin, "Sec-Fetch-Site", "cross-site")
		wantStatus, wantOrigin := 403, ""
		if allowed {
			wantStatus, wantOrigin = 200, origin
		}
		if got.status != wantStatus || got.header.Get("Access-Control-Allow-Origin") != wantOrigin ||
			(got.header.Get("Access-Control-Allow-Credentials") == "true") != allowed || !strings.Contains(got.header.Get("Vary"), "Origin") {
			t.Errorf("create-checkout from %s = %d %v; want %d with Access-Control-Allow-Origin %q", origin, got.status, got.header, wantStatus, wantOrigin)
		}
		got = w.do("OPTIONS", "/api/stripe/create-portal", "", "Origin", origin,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type")
		if got.status != 204 || got.header.Get("Access-Control-Allow-Origin") != wantOrigin {
			t.Errorf("preflight from %s = %d %v; want 204 with Access-Control-Allow-Origin %q", origin, got.status, got.header, wantOrigin)
		}
	}
	if got := w.checkout(`{"priceId":"price_lifetime","mode":"payment","successUrl":"https://user@example.com/","cancelUrl":"https://example.com"}`); got.field("error") != "successUrl is not on an allowed site" {
		t.Errorf("successUrl with a user = %d %s; want it refused", got.status, got.body)
	}
	if got := w.checkout(buyOnceAt("https://example.com")); got.status != 200 {
		t.Errorf("create-checkout without Origin = %d %s; want 200", got.status, got.body)
	}
}

// TestWithoutSites: any return URL, no CORS, and no request that another site
// made a browser send.
func TestWithoutSites(t *testing.T) {
	t.Parallel()
	w := start(t)
	tests := []struct {
		name    string
		headers []string
		status  int
	}{
		{"curl", nil, 200},
		{"same origin", []string{"Origin", w.url, "Sec-Fetch-Site", "same-origin"}, 200},
		{"same origin behind a proxy that changes Host", []string{"Origin", "https://example.com", "Sec-Fetch-Site", "same-origin"}, 200},
		{"older browser, same origin", []string{"Origin", w.url}, 200},
		{"older browser, other site", []string{"Origin", "https://evil.example"}, 403},
		{"same site", []string{"Origin", "https://other.example.com", "Sec-Fetch-Site", "same-site"}, 403},
		{"other site", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
	}
	for _, test := range tests {
		got := w.checkout(buyOnceAt("https://anywhere.example"), test.headers...)
		if got.status != test.status || got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: create-checkout = %d %s %v; want %d without CORS", test.name, got.status, got.body, got.header, test.status)
		}
	}
}

func buyOnceAt(site string) string { return strings.ReplaceAll(buyOnce, "https://8space.app", site) }
