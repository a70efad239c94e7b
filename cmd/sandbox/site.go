package main

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

//go:embed site
var siteFiles embed.FS

// newSite is the web server of a site: its page, and the service below
// /api/stripe/ as a reverse proxy before it has it. The page's panel watches;
// complete tells whether a Checkout Session is.
func newSite(serviceAddr, supabaseURL string, p *panel, complete func(id string) bool) http.Handler {
	files, err := fs.Sub(siteFiles, "site")
	if err != nil {
		panic(err) // the embedded folder
	}
	var page bytes.Buffer
	if err := template.Must(template.ParseFS(files, "index.html")).Execute(&page, map[string]string{
		"SupabaseURL": supabaseURL, "AnonKey": fakesupabase.AnonKey, "CookieName": cookieName(supabaseURL),
		"DemoEmail": demoEmail, "DemoPassword": demoPassword,
	}); err != nil {
		panic(err) // the embedded page
	}
	service := p.watch("service", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: serviceAddr})
		r.Out.Host = r.In.Host // the service compares it with Origin
		r.SetXForwarded()
	}})
	mux := http.NewServeMux()
	mux.Handle("/api/stripe/", service)
	mux.Handle("/healthz", service)
	mux.Handle("/readyz", service)
	mux.HandleFunc("GET /sandbox/events", p.stream)
	mux.HandleFunc("GET /sandbox/checkout", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"complete":%t}`, complete(r.FormValue("id")))
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "require-trusted-types-for 'script'; default-src 'self'; img-src data:; connect-src 'self' "+supabaseURL)
		_, _ = w.Write(page.Bytes())
	})
	mux.Handle("/", http.FileServerFS(files))
	return mux
}

// cookieName is what @supabase/ssr and the service make of the project's URL.
func cookieName(supabaseURL string) string {
	label, _, _ := strings.Cut(strings.TrimPrefix(supabaseURL, "http://"), ".")
	return "sb-" + label + "-auth-token"
}

// greet says what there is to see.
func greet(w io.Writer, site, token string, variables []string) {
	buy := func(price, mode string) string {
		return fmt.Sprintf(`-d '{"priceId":"%s","mode":"%s","successUrl":"%s/?bought={CHECKOUT_SESSION_ID}","cancelUrl":"%s/?back"}' %s/api/stripe/create-checkout`, price, mode, site, site, site)
	}
	fmt.Fprintf(w, `The sandbox runs: nothing leaves this machine, and no money moves.

  %s  a page that sells, and shows what happens;
  sign in as %s, password %s

Each of these answers with a page to open, to buy as a guest and as that user:

  curl %s

  curl -H 'Authorization: Bearer %s' %s

The prices are price_basic_monthly, price_pro_monthly and price_lifetime.

For a site of your own, start this with SITE_ORIGINS=http://localhost:3000 (its
address), have the site send /api/stripe/ to %s,
and give it the first two of these variables. All of them, and another PORT, are
for a stripe-sidecar of your own beside the one that runs here, to which Events
go all the same:

  %s

Ctrl-C stops it.
`, site, demoEmail, demoPassword, buy("price_lifetime", "payment"), token, buy("price_pro_monthly", "subscription"), site, strings.Join(variables, "\n  "))
}
