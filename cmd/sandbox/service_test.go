package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestEnvironment: what the caller has set reaches the service, but for what
// README.md lists.
func TestEnvironment(t *testing.T) {
	site, err := listen("site", "127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	printed := variables(site, site, site)
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	get := func() map[string]string {
		values := map[string]string{}
		for _, variable := range environment(printed, site) { // the last one counts
			name, value, _ := strings.Cut(variable, "=")
			values[name] = value
		}
		return values
	}
	t.Setenv("ALLOWED_PRICES", "")
	if got, want := get()["ALLOWED_PRICES"], "price_basic_monthly,pro_monthly,lifetime"; got != want {
		t.Errorf("ALLOWED_PRICES = %q; want %q", got, want)
	}

	ours := strings.Join(printed, "\n")
	for name := range get() {
		known := slices.ContainsFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, name+"=") })
		if !known && !strings.HasSuffix(name, "_FILE") && !strings.Contains(ours, name+"=") && !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not say that the sandbox sets %s", name)
		}
	}
	for _, tt := range []struct{ name, want string }{
		{"ALLOWED_PRICES", "own"},
		{"CHECKOUT_TRIAL_DAYS", "own"},
		{"SSL_CERT_FILE", "own"},
		{"STRIPE_SECRET_KEY_FILE", ""},
		{"STRIPE_WEBHOOK_SECRET_FILE", ""},
		{"SUPABASE_ANON_KEY_FILE", ""},
		{"SUPABASE_SERVICE_ROLE_KEY_FILE", ""},
		{"SUPABASE_JWT_SECRET_FILE", ""},
		{"SUBSCRIPTIONS_TABLE", ""},
		{"STRIPE_SECRET_KEY", stripeKey},
		{"SITE_ORIGINS", site.url + ",http://" + site.Addr().String() + ",own"},
	} {
		t.Setenv(tt.name, "own")
		if got := get()[tt.name]; got != tt.want {
			t.Errorf("%s=own: the service has %q; want %q", tt.name, got, tt.want)
		}
	}
}
