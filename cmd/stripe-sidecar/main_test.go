package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
)

// setenv sets the whole environment of the service: what is not named is unset.
func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for _, field := range variables() {
		name := field.Tag.Get("envconfig")
		t.Setenv(name, env[name]) // empty counts as unset
	}
	for name := range env {
		t.Setenv(name, env[name])
	}
}

// valid is a configuration that starts, with the changes given.
func valid(changes ...string) map[string]string {
	env := map[string]string{
		"HOST":                      "127.0.0.1",
		"PORT":                      "0",
		"STRIPE_SECRET_KEY":         "sk_test_main_tests",
		"SUPABASE_URL":              "https://abc.supabase.co",
		"SUPABASE_ANON_KEY":         fakesupabase.AnonKey,
		"SUPABASE_SERVICE_ROLE_KEY": fakesupabase.ServiceRoleKey,
	}
	for i := 0; i < len(changes); i += 2 {
		env[changes[i]] = changes[i+1]
	}
	return env
}

// TestCommands: what the command line may hold, and what each answers where.
func TestCommands(t *testing.T) {
	setenv(t, nil)
	const names = "\nThe commands are serve, doctor, webhook, sync, schema, healthcheck, version.\n"
	tests := []struct {
		args           []string
		code           int
		stdout, stderr string // what each must hold
	}{
		{[]string{"version"}, 0, versionString(), ""},
		{[]string{"schema"}, 0, string(api.Schema), ""},
		{[]string{"-h"}, 0, "SUPABASE_SERVICE_ROLE_KEY", ""},
		{[]string{"help"}, 0, "stripe-sidecar healthcheck", ""},
		{[]string{""}, 2, "", "stripe-sidecar: no such command: " + names},
		{[]string{"-env-file", "nofile", "help"}, 2, "", "nofile"},
		{[]string{"serv"}, 2, "", "stripe-sidecar: no such command: serv" + names},
		{[]string{"serv", "please"}, 2, "", "stripe-sidecar: no such command: serv" + names},
		{[]string{"--version"}, 0, versionString(), ""},
		{[]string{"-v"}, 0, versionString(), ""},
		{[]string{"-x"}, 2, "", "stripe-sidecar: flag provided but not defined: -x\n"},
		{[]string{"sync", "abc"}, 2, "", `stripe-sidecar: sync: "abc" is not the ID of a user`},
		{[]string{"sync", "-x"}, 2, "", "stripe-sidecar: sync: flag provided but not defined: -x\n"},
		{[]string{"sync", "6f2e29a1-4a02-44f4-8c0c-4e5be1a1e0a1", "b"}, 2, "", "sync: what is b? stripe-sidecar sync -h tells what it takes"},
		{[]string{"webhook"}, 2, "", "webhook: \"\" is not a URL: https://example.com/api/stripe/webhook, say"},
		{[]string{"version", "please"}, 2, "", "version: what is please? stripe-sidecar version -h tells what it takes"},
		{[]string{"doctor", "json"}, 2, "", "doctor: what is json?"},
		{[]string{"serve", "-json"}, 2, "", "flag provided but not defined: -json"},
		{nil, 2, "", "SUPABASE_URL is not set"},
	}
	for _, c := range commands {
		for _, help := range []string{"-h", "--help"} {
			tests = append(tests, struct {
				args           []string
				code           int
				stdout, stderr string
			}{[]string{c.name, help}, 0, "  stripe-sidecar " + c.name, ""})
		}
	}
	for _, test := range tests {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), test.args, &stdout, &stderr)
		if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) ||
			(test.stdout == "") != (stdout.Len() == 0) || (test.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("run(%q) = %d, stdout %q, stderr %q; want %d, %q, %q", test.args, code, &stdout, &stderr, test.code, test.stdout, test.stderr)
		}
		if slices.Contains(test.args, "schema") && !slices.Contains(test.args, "-h") {
			continue
		}
		for line := range strings.Lines(stdout.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("run(%q) printed a line of %d characters, %q; want 80 at most", test.args, n, line)
			}
		}
	}
	var all, one bytes.Buffer
	run(t.Context(), []string{"-h"}, &all, io.Discard)
	run(t.Context(), []string{"sync", "-h"}, &one, io.Discard)
	if !strings.Contains(all.String(), one.String()) || strings.Contains(one.String(), "webhook") {
		t.Errorf("sync -h = %q; want what -h says of sync alone", &one)
	}
	for _, field := range variables() {
		if name := field.Tag.Get("envconfig"); !strings.Contains(all.String(), "\n  "+name+"\n") {
			t.Errorf("-h lacks the variable %s; want it", name)
		}
	}
}

// TestSchema prints the SQL for configurations, of which nothing else has to be
// right or there.
func TestSchema(t *testing.T) {
	const counts, not = "\nupdate public.stripe_settings set test_mode_counts = true;", "\nupdate public.stripe_settings set test_mode_counts = false;"
	tests := []struct {
		name          string
		env           map[string]string
		has, lacks    []string
		code          int
		stderr        string
		exactlySchema bool
	}{
		{name: "no variable", exactlySchema: true},
		{name: "the defaults, and other mistakes", env: map[string]string{"CUSTOMERS_TABLE": "customers", "PORT": "none", "SUPABASE_URL": "abc", "STRIPE_WEBHOOK_SECRET": "x"}, exactlySchema: true},
		{name: "test key", env: map[string]string{"STRIPE_SECRET_KEY": "sk_test_1"}, has: []string{counts}, lacks: []string{not}},
		{name: "live key without sites", env: map[string]string{"STRIPE_SECRET_KEY": "rk_live_1"}, has: []string{not}, lacks: []string{counts}},
		{name: "other names", env: map[string]string{"SUBSCRIPTIONS_TABLE": "stripe_subscriptions", "PURCHASES_TABLE": "Orders"},
			has:   []string{"create table if not exists public.stripe_subscriptions (", `create table if not exists public."Orders" (`, "create table if not exists public.customers ("},
			lacks: []string{"public.subscriptions", "public.purchases", counts, not}},
		{name: "a table of the site's own", env: map[string]string{"CUSTOMERS_TABLE": "profiles", "CUSTOMERS_CUSTOMER_COLUMN": "customer_id"},
			has:   []string{"select customers.id, customers.customer_id from public.profiles as customers"},
			lacks: []string{"public.customers", "create table if not exists public.profiles", "\nalter table public.profiles", "\nrevoke all on public.profiles", "\nupdate public.profiles"}},
		{name: "columns of the site's own", env: map[string]string{"CUSTOMERS_USER_COLUMN": "user_id"}, lacks: []string{"create table if not exists public.customers"}},
		{name: "no name", env: map[string]string{"PURCHASES_TABLE": "public.purchases"}, code: 2, stderr: "PURCHASES_TABLE is not the name"},
		{name: "one name twice", env: map[string]string{"SUBSCRIPTIONS_TABLE": "orders", "PURCHASES_TABLE": "orders"}, code: 2, stderr: "PURCHASES_TABLE is the name of SUBSCRIPTIONS_TABLE too"},
		{name: "a name of the schema", env: map[string]string{"SUBSCRIPTIONS_TABLE": "stripe_settings"}, code: 2, stderr: "SUBSCRIPTIONS_TABLE is the name of a table of the schema"},
		{name: "a publishable key", env: map[string]string{"STRIPE_SECRET_KEY": "pk_test_1"}, code: 2, stderr: "STRIPE_SECRET_KEY is a publishable key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			setenv(t, test.env)
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), []string{"schema"}, &stdout, &stderr); code != test.code || !strings.Contains(stderr.String(), test.stderr) || (code == 0) != (stderr.Len() == 0) {
				t.Fatalf("schema = %d, %s; want %d, %q", code, &stderr, test.code, test.stderr)
			}
			if test.exactlySchema && !bytes.Equal(stdout.Bytes(), api.Schema) {
				t.Error("schema printed something else than api/schema.sql; want it as it is")
			}
			for _, want := range test.has {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("schema lacks %q; want it", want)
				}
			}
			for _, other := range test.lacks {
				if i := strings.Index(stdout.String(), other); i >= 0 {
					t.Errorf("schema has %q; want none", stdout.String()[max(0, i-80):min(stdout.Len(), i+80)])
				}
			}
		})
	}
}

// TestWrongConfiguration: every mistake at once, by name, and exit code 2.
func TestWrongConfiguration(t *testing.T) {
	anon, service := fakesupabase.LegacyKeys("a-legacy-secret-of-32-characters")
	tests := []struct {
		name string
		env  map[string]string
		want []string // one for each mistake, in order
	}{
		{"nothing set", nil, []string{"STRIPE_SECRET_KEY is not set", "SUPABASE_URL is not set", "SUPABASE_ANON_KEY is not set", "SUPABASE_SERVICE_ROLE_KEY is not set"}},
		{"white space is not set", valid("SUPABASE_URL", "  "), []string{"SUPABASE_URL is not set"}},
		{"many at once", valid("PORT", "http", "STRIPE_SECRET_KEY", "pk_test_1", "SUPABASE_URL", "abc.supabase.co", "CHECKOUT_TRIAL_DAYS", "731", "CHECKOUT_REQUIRE_SIGN_IN", "yes",
			"CHECKOUT_AUTOMATIC_TAX", "sure", "CUSTOMERS_TABLE", "public.customers", "TRUSTED_PROXIES", "nginx", "UPSTREAM_TIMEOUT", "15", "SHUTDOWN_TIMEOUT", "-1s",
			"LOG_LEVEL", "loud", "LOG_FORMAT", "xml", "PORTAL_CONFIGURATION", "pc_1", "SITE_ORIGINS", "*,example.com"),
			[]string{"PORT is not a number", "STRIPE_SECRET_KEY is a publishable key", "SUPABASE_URL is not a URL", "SITE_ORIGINS entry 1 would let", "SITE_ORIGINS entry 2 has no scheme",
				"CHECKOUT_REQUIRE_SIGN_IN must be none, subscription or all", "CHECKOUT_AUTOMATIC_TAX is neither", "CHECKOUT_TRIAL_DAYS is over 730", "PORTAL_CONFIGURATION is no", "CUSTOMERS_TABLE is not the name", "TRUSTED_PROXIES entry 1 is neither an address",
				"UPSTREAM_TIMEOUT is not a duration", "SHUTDOWN_TIMEOUT must be longer", "LOG_LEVEL must be debug, info, warn or error", "LOG_FORMAT is neither"}},
		{"live key and a mock", valid("STRIPE_SECRET_KEY", "sk_live_1", "STRIPE_API_BASE", "http://localhost:12111", "SITE_ORIGINS", "https://a.example"),
			[]string{"STRIPE_API_BASE would send a live key"}},
		{"live key without sites", valid("STRIPE_SECRET_KEY", "rk_live_1"), []string{"SITE_ORIGINS is not set, but"}},
		{"live key with wrong sites", valid("STRIPE_SECRET_KEY", "rk_live_1", "SITE_ORIGINS", "*"), []string{"SITE_ORIGINS entry 1"}},
		{"no Stripe key", valid("STRIPE_SECRET_KEY", "whsec_1"), []string{"STRIPE_SECRET_KEY is not a secret key"}},
		{"key with a line break inside", valid("STRIPE_SECRET_KEY", "sk_test_1\n2"), []string{"STRIPE_SECRET_KEY holds white space"}},
		{"new keys swapped", valid("SUPABASE_ANON_KEY", "sb_secret_1", "SUPABASE_SERVICE_ROLE_KEY", "sb_publishable_1"),
			[]string{"SUPABASE_ANON_KEY is a service_role key", "SUPABASE_SERVICE_ROLE_KEY is a key of the role anon"}},
		{"old keys swapped", valid("SUPABASE_ANON_KEY", service, "SUPABASE_SERVICE_ROLE_KEY", anon),
			[]string{"SUPABASE_ANON_KEY is a service_role key", "SUPABASE_SERVICE_ROLE_KEY is a key of the role anon"}},
		{"URL of one API", valid("SUPABASE_URL", "https://abc.supabase.co/rest/v1/"), []string{"SUPABASE_URL is the URL of one API: leave /rest/v1 out"}},
		{"endpoint's id for its secret", valid("STRIPE_WEBHOOK_SECRET", "whsec_1, we_2"), []string{"STRIPE_WEBHOOK_SECRET is not a signing secret"}},
		{"secrets in the wrong place", valid("SITE_ORIGINS", "sk_test_HIDDEN", "TRUSTED_PROXIES", "whsec_HIDDEN", "SUPABASE_URL", "sb_secret_HIDDEN",
			"CUSTOMERS_TABLE", "sk-HIDDEN", "PORTAL_CONFIGURATION", "sk_test_HIDDEN", "LOG_FORMAT", "HIDDEN", "PORT", "HIDDEN"),
			[]string{"PORT is not", "SUPABASE_URL is not a URL", "SITE_ORIGINS entry 1 has no scheme", "PORTAL_CONFIGURATION is no", "CUSTOMERS_TABLE is no", "TRUSTED_PROXIES entry 1", "LOG_FORMAT is neither"}},
		{"placeholders", valid("STRIPE_SECRET_KEY", "sk_test_...", "SUPABASE_ANON_KEY", "'sb_publishable_1'"), []string{"STRIPE_SECRET_KEY is a placeholder", "SUPABASE_ANON_KEY stands in quotation marks"}},
		{"dashboard and product", valid("SUPABASE_URL", "https://supabase.com/dashboard/project/abc", "ALLOWED_PRICES", "price_1,prod_1"),
			[]string{"SUPABASE_URL is the dashboard's", "ALLOWED_PRICES entry 2 is a product"}},
		{"one column for both", valid("CUSTOMERS_CUSTOMER_COLUMN", "id"), []string{"CUSTOMERS_CUSTOMER_COLUMN is the same column"}},
		{"http to a host elsewhere", valid("SUPABASE_URL", "http://abc.supabase.co"), []string{"SUPABASE_URL is http to a host elsewhere"}},
		{"anybody's domains", valid("SITE_ORIGINS", "https://*.vercel.app,https://*.co.uk,https://*.com,https://*.a.vercel.app"),
			[]string{"SITE_ORIGINS entry 1 takes in domains", "SITE_ORIGINS entry 2 takes in domains", "SITE_ORIGINS entry 3 takes in domains"}},
		{"everybody's X-Forwarded-For", valid("TRUSTED_PROXIES", "10.0.0.0/8,0.0.0.0/0"), []string{"TRUSTED_PROXIES entry 2 is every address"}},
		{"everybody's, IPv6", valid("TRUSTED_PROXIES", "::/0"), []string{"TRUSTED_PROXIES entry 1 is every address"}},
		{"live key and a site of http", valid("STRIPE_SECRET_KEY", "sk_live_1", "SITE_ORIGINS", "https://a.example,http://b.example"), []string{"SITE_ORIGINS has a site of http"}},
		{"prefix alone", valid("STRIPE_WEBHOOK_SECRET", "whsec_"), []string{"STRIPE_WEBHOOK_SECRET is not a signing secret"}},
		{"short JWT secret", valid("SUPABASE_JWT_SECRET", "secret"), []string{"SUPABASE_JWT_SECRET has fewer than 32"}},
		{"another project's JWT secret", valid("SUPABASE_ANON_KEY", anon, "SUPABASE_JWT_SECRET", "another-secret-of-32-characters-"), []string{"SUPABASE_JWT_SECRET did not sign SUPABASE_ANON_KEY"}},
		{"not for sale", valid("ALLOWED_PRICES", "price_1,pro-monthly,sub_1,a b,whsec_1"),
			[]string{"ALLOWED_PRICES entry 3 is neither", "ALLOWED_PRICES entry 4 is neither", "ALLOWED_PRICES entry 5 is neither"}},
		{"patience", valid("UPSTREAM_TIMEOUT", "61s"), []string{"UPSTREAM_TIMEOUT is over 60s"}},
		{"cookie options", valid("SUPABASE_COOKIE_OPTIONS", "samesite=none"), []string{"SUPABASE_COOKIE_OPTIONS has samesite=none without secure"}},
		{"checkout parameters", valid("CHECKOUT_PARAMS", "customer=cus_HIDDEN&customer_email=a&customer_update[name]=auto&client_reference_id=x&mode=payment&line_items[0][price]=p&success_url=u&cancel_url=u&return_url=u&"+
			"metadata[a]=b&invoice_creation[invoice_data][metadata][a]=b&ui_mode=embedded&allow_promotion_codes=true&discounts[0][coupon]=c&locale=a&locale=b&payment_intent_data[description]=x&Locale[=HIDDEN&automatic_tax[enabled]=true",
			"CHECKOUT_PAYMENT_PARAMS", "payment_intent_data[metadata][supabase_user_id]=x&payment_intent_data=x&metadata=",
			"CHECKOUT_SUBSCRIPTION_PARAMS", "subscription_data[trial_period_days]=9&subscription_data[trial_end]=1&subscription_data[metadata][a]=b"),
			[]string{"CHECKOUT_PARAMS has something that is not the name", "CHECKOUT_PARAMS may not hold allow_promotion_codes", "CHECKOUT_PARAMS may not hold automatic_tax[enabled]", "CHECKOUT_PARAMS may not hold cancel_url", "CHECKOUT_PARAMS may not hold client_reference_id",
				"CHECKOUT_PARAMS may not hold customer:", "CHECKOUT_PARAMS may not hold customer_email", "CHECKOUT_PARAMS may not hold customer_update[name]",
				"CHECKOUT_PARAMS may not hold invoice_creation[invoice_data][metadata][a]", "CHECKOUT_PARAMS may not hold line_items[0][price]", "CHECKOUT_PARAMS holds locale more than once", "CHECKOUT_PARAMS may not hold metadata[a]", "CHECKOUT_PARAMS may not hold mode",
				"CHECKOUT_PARAMS may not hold return_url", "CHECKOUT_PARAMS may not hold success_url", "CHECKOUT_PARAMS may not hold ui_mode",
				"CHECKOUT_PAYMENT_PARAMS may not hold metadata", "CHECKOUT_PAYMENT_PARAMS may not hold payment_intent_data itself", "CHECKOUT_PAYMENT_PARAMS may not hold payment_intent_data[metadata][supabase_user_id]",
				"CHECKOUT_SUBSCRIPTION_PARAMS may not hold subscription_data[metadata][a]", "CHECKOUT_SUBSCRIPTION_PARAMS may not hold subscription_data[trial_end]", "CHECKOUT_SUBSCRIPTION_PARAMS may not hold subscription_data[trial_period_days]"}},
		{"checkout parameters for the wrong mode", valid("CHECKOUT_PARAMS", "payment_intent_data[description]=x&subscription_data[description]=x&locale=de&discounts[0][coupon]=c", "CHECKOUT_PAYMENT_PARAMS", "subscription_data[description]=x", "CHECKOUT_SUBSCRIPTION_PARAMS", "payment_intent_data[description]=x&locale=fr"),
			[]string{"CHECKOUT_PARAMS holds discounts[0][coupon], which Stripe does not take together with promotion codes", "CHECKOUT_PARAMS holds payment_intent_data[description], which is for one mode only: move it to CHECKOUT_PAYMENT_PARAMS", "CHECKOUT_PARAMS holds subscription_data[description]",
				"CHECKOUT_PAYMENT_PARAMS holds subscription_data[description]", "CHECKOUT_PAYMENT_PARAMS holds subscription_data[description], as CHECKOUT_PARAMS does",
				"CHECKOUT_SUBSCRIPTION_PARAMS holds locale, as", "CHECKOUT_SUBSCRIPTION_PARAMS holds payment_intent_data[description], which is", "CHECKOUT_SUBSCRIPTION_PARAMS holds payment_intent_data[description], as"}},
		{"checkout parameters that are no form", valid("CHECKOUT_PARAMS", "locale=%zzHIDDEN"), []string{"CHECKOUT_PARAMS is not form-encoded"}},
		{"one port for both", valid("PORT", "8080", "ADMIN_PORT", "8080"), []string{"ADMIN_PORT is the same as PORT"}},
		{"no cookie name", valid("SUPABASE_COOKIE_NAME", "a b"), []string{"SUPABASE_COOKIE_NAME is not the name of a cookie"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			setenv(t, test.env)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), nil, &stdout, &stderr)
			lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")[1:]
			if code != 2 || len(lines) != len(test.want) {
				t.Fatalf("run = %d with %d mistakes; want 2 with %d:\n%s", code, len(lines), len(test.want), &stderr)
			}
			for i, want := range test.want {
				if !strings.HasPrefix(lines[i], "  "+want) {
					t.Errorf("mistake %d = %q; want %q", i, lines[i], want)
				}
			}
			if strings.Contains(stderr.String(), "HIDDEN") {
				t.Errorf("stderr = %s; want no value in it", &stderr)
			}
			for _, key := range []string{"STRIPE_SECRET_KEY", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"} {
				if value := test.env[key]; value != "" && strings.Contains(stderr.String(), value) {
					t.Errorf("stderr = %s; want no value of %s", &stderr, key)
				}
			}
		})
	}
}

// TestConfigurationsTaken: what is near to a mistake and none.
func TestConfigurationsTaken(t *testing.T) {
	anon, _ := fakesupabase.LegacyKeys("a-legacy-secret-of-32-characters")
	for name, test := range map[string]struct {
		env      map[string]string
		warnings string // what they hold, "" for no matter
	}{
		"http on this machine":          {valid("SUPABASE_URL", "http://127.0.0.1:54321"), ""},
		"http to a private address":     {valid("SUPABASE_URL", "http://10.1.2.3:8000"), ""},
		"http to a container":           {valid("SUPABASE_URL", "http://kong:8000"), ""},
		"a wildcard below a site's own": {valid("SITE_ORIGINS", "https://*.team.vercel.app"), ""},
		"the secret of the anon key":    {valid("SUPABASE_ANON_KEY", anon, "SUPABASE_JWT_SECRET", "a-legacy-secret-of-32-characters"), ""},
		"a new anon key and a secret":   {valid("SUPABASE_JWT_SECRET", "a-legacy-secret-of-32-characters"), ""},
		"discounts without codes":       {valid("CHECKOUT_PROMOTION_CODES", "false", "CHECKOUT_PARAMS", "discounts[0][coupon]=c&consent_collection[terms_of_service]=required&payment_method_types[]=card&payment_method_types[]=link"), ""},
		"prices and lookup keys":        {valid("ALLOWED_PRICES", "price_1, pro-monthly, gold"), ""},
		"a live key for any price":      {valid("STRIPE_SECRET_KEY", "sk_live_1", "SITE_ORIGINS", "https://a.example"), "ALLOWED_PRICES is not set"},
	} {
		setenv(t, test.env)
		c, err := loadConfig()
		if got := strings.Join(c.warnings(), "\n"); err != nil || !strings.Contains(got, test.warnings) {
			t.Errorf("%s: loadConfig = %v, warnings %q; want none, and %q", name, err, got, test.warnings)
		}
	}
}

func TestCookieName(t *testing.T) {
	for url, want := range map[string]string{
		"https://abc.supabase.co":       "sb-abc-auth-token",
		"https://ABC.supabase.co/":      "sb-abc-auth-token",
		"http://127.0.0.1:54321":        "sb-127-auth-token",
		"http://localhost:54321":        "sb-localhost-auth-token",
		"https://auth.example.com/base": "sb-auth-auth-token",
	} {
		setenv(t, valid("SUPABASE_URL", url))
		c, err := loadConfig()
		if got := c.cookieName(); got != want || err != nil {
			t.Errorf("cookieName with SUPABASE_URL=%s = %q, %v; want %q", url, got, err, want)
		}
	}
	setenv(t, valid("SUPABASE_COOKIE_NAME", "my-auth"))
	if c, err := loadConfig(); c.cookieName() != "my-auth" || err != nil {
		t.Errorf("cookieName = %q, %v; want SUPABASE_COOKIE_NAME", c.cookieName(), err)
	}
}

// TestEnvFile: a file of variables, as people write them, and never run.
func TestEnvFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, ".env")
	ran := filepath.Join(dir, "ran")
	content := "# keys\r\nexport STRIPE_SECRET_KEY=sk_test_file\r\nSUPABASE_URL = https://file.supabase.co \n\n" +
		"SUPABASE_ANON_KEY=\"sb_publishable_x\"\nSUPABASE_SERVICE_ROLE_KEY='sb_secret_x'\n" +
		"CHECKOUT_PARAMS=locale=auto&submit_type=book&`touch " + ran + "`=$(touch " + ran + ")\nPORTAL_CONFIGURATION=bpc_$HOME\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	setenv(t, map[string]string{"SUPABASE_URL": "https://environment.supabase.co"})
	if err := readEnvFile(file); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"STRIPE_SECRET_KEY": "sk_test_file", "SUPABASE_URL": "https://environment.supabase.co", "SUPABASE_ANON_KEY": "sb_publishable_x",
		"SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x", "CHECKOUT_PARAMS": "locale=auto&submit_type=book&`touch " + ran + "`=$(touch " + ran + ")", "PORTAL_CONFIGURATION": "bpc_$HOME"} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	if _, err := os.Stat(ran); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was run: %v", err)
	}
	if err := os.WriteFile(file, []byte("STRIPE_SECRET_KEY=sk_test_ok\nsk_test_hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-env-file", file, "version"}, "error on line 2: missing ="},
		{[]string{"--env-file", filepath.Join(dir, "none"), "version"}, "no such file"},
		{[]string{"-env-file"}, "flag needs an argument: -env-file"},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), test.args, io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), test.want) || strings.Contains(stderr.String(), "hidden") {
			t.Errorf("run(%q) = %d, %q; want 2, %q", test.args, code, &stderr, test.want)
		}
	}
}

// TestSecretFiles: every secret can come from a file, and nothing else.
func TestSecretFiles(t *testing.T) {
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	jwtSecret := strings.Repeat("s", 40)
	values := map[string]string{"STRIPE_SECRET_KEY": "sk_test_f", "STRIPE_WEBHOOK_SECRET": "whsec_1,whsec_2", "SUPABASE_ANON_KEY": "sb_publishable_f",
		"SUPABASE_SERVICE_ROLE_KEY": "sb_secret_f", "SUPABASE_JWT_SECRET": jwtSecret}
	env := valid()
	for name, value := range values {
		env[name], env[name+"_FILE"] = "", write(value+" \r\n")
	}
	setenv(t, env)
	c, err := loadConfig()
	if err != nil || len(c.warnings()) != 1 { // of SITE_ORIGINS
		t.Fatalf("loadConfig() = %v, warnings %q; want one, of SITE_ORIGINS", err, c.warnings())
	}
	if got := []string{c.StripeSecretKey.Reveal(), c.StripeWebhookSecret[1].Reveal(), c.SupabaseAnonKey.Reveal(), c.SupabaseServiceRoleKey.Reveal(), c.SupabaseJWTSecret.Reveal()}; !slices.Equal(got,
		[]string{"sk_test_f", "whsec_2", "sb_publishable_f", "sb_secret_f", jwtSecret}) {
		t.Errorf("secrets = %q; want those of the files", got)
	}
	for _, test := range []struct{ file, want string }{
		{write(""), "is empty in the file of STRIPE_SECRET_KEY_FILE"},
		{write("sk_test_a sk_test_b"), "holds white space"},
		{write(strings.Repeat("x", maxSecretFile+1)), "is over 65536 bytes in the file of STRIPE_SECRET_KEY_FILE: that is not a secret"},
		{"/nowhere/secret", "cannot be read from STRIPE_SECRET_KEY_FILE: open /nowhere/secret"},
	} {
		t.Setenv("STRIPE_SECRET_KEY_FILE", test.file)
		if _, err := loadConfig(); err == nil || !strings.Contains(err.Error(), "STRIPE_SECRET_KEY "+test.want) || strings.Contains(err.Error(), "sk_test_a") {
			t.Errorf("loadConfig() = %v; want STRIPE_SECRET_KEY %s", err, test.want)
		}
	}
	t.Setenv("STRIPE_SECRET_KEY_FILE", write("sk_test_f"))
	t.Setenv("STRIPE_SECRET_KEY", "sk_test_e")
	if _, err := loadConfig(); err == nil || !strings.Contains(err.Error(), "STRIPE_SECRET_KEY is set, and STRIPE_SECRET_KEY_FILE too") {
		t.Errorf("loadConfig() with both = %v; want a mistake", err)
	}
}

// TestStrangers: a misspelt variable draws one warning, and quotation marks are named.
func TestStrangers(t *testing.T) {
	setenv(t, valid("STRIPE_WEBHOOK_SECRETS", "whsec_1", "CHECKOUT_TRAIL_DAYS", "7", "PORTAL_CONFIGURATION_FILE", "x", "SITE_ORIGINS", "https://a.example", "STRIPE_WEBHOOK_SECRET", "whsec_1"))
	c, err := loadConfig()
	var got []string
	for _, w := range c.warnings() {
		name, _, _ := strings.Cut(w, " is not a variable")
		got = append(got, name)
	}
	if want := []string{"CHECKOUT_TRAIL_DAYS", "PORTAL_CONFIGURATION_FILE", "STRIPE_WEBHOOK_SECRETS"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("warned of %q, %v; want %q", got, err, want)
	}
	for _, field := range variables() {
		name := field.Tag.Get("envconfig")
		setenv(t, valid(name, `"x"`))
		if _, err := loadConfig(); err == nil || !strings.Contains(err.Error(), name+" stands in quotation marks") {
			t.Errorf("loadConfig() with %s in quotation marks = %v; want them named", name, err)
		}
	}
}

// TestBanner is what a terminal is told.
func TestBanner(t *testing.T) {
	for _, test := range []struct {
		env  map[string]string
		addr string
		want string
	}{
		{valid(), "0.0.0.0:8080", "stripe-sidecar at http://localhost:8080, test mode, webhooks off"},
		{valid("STRIPE_SECRET_KEY", "sk_live_1", "SITE_ORIGINS", "https://a.example", "STRIPE_WEBHOOK_SECRET", "whsec_1"), "192.0.2.1:80", "stripe-sidecar at http://192.0.2.1:80, live mode, webhooks on"},
	} {
		setenv(t, test.env)
		c, err := loadConfig()
		if got := c.banner(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.addr))); err != nil || got != test.want {
			t.Errorf("banner = %q, %v; want %q", got, err, test.want)
		}
	}
}

// TestSecretsCannotBePrinted tries every way of printing that the service and
// its libraries use, on the configuration as a whole and on what is made of it.
func TestSecretsCannotBePrinted(t *testing.T) {
	secrets := valid("STRIPE_SECRET_KEY", "sk_test_HIDE1", "SUPABASE_ANON_KEY", "sb_publishable_HIDE2",
		"SUPABASE_SERVICE_ROLE_KEY", "sb_secret_HIDE3", "SUPABASE_JWT_SECRET", "HIDE4"+strings.Repeat("4", 32), "STRIPE_WEBHOOK_SECRET", "whsec_HIDE5, whsec_HIDE6")
	setenv(t, secrets)
	c, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if c.StripeSecretKey.Reveal() != "sk_test_HIDE1" || !strings.HasPrefix(c.SupabaseJWTSecret.Reveal(), "HIDE4") || len(c.StripeWebhookSecret) != 2 {
		t.Fatalf("loadConfig lost the secrets; want them to be there to hide")
	}
	var out bytes.Buffer
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%p", "%e", "%c", "%U"}
	for _, verb := range verbs {
		fmt.Fprintf(&out, verb+"\n", c)
		fmt.Fprintf(&out, verb+"\n", &c)
		fmt.Fprintf(&out, verb+"\n", c.StripeSecretKey)
		fmt.Fprintf(&out, verb+"\n", struct{ c config }{c})
		fmt.Fprintf(&out, verb+"\n", []any{c.SupabaseJWTSecret, map[string]any{"k": c}})
	}
	fmt.Fprintln(&out, fmt.Errorf("wrapped: %w %v", io.EOF, c))
	network := upstream.New(upstream.Config{})
	a, b, s := authConfig(c, network), billingConfig(c, network), customersConfig(c, network)
	authenticator, err := auth.New(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{c, &c, map[string]any{"c": c}, a, b, s, authenticator, billing.New(b, nil), customers.New(s)} {
		for _, verb := range verbs {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		_ = json.NewEncoder(&out).Encode(v) // what cannot be encoded is not printed either
		for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			slog.New(handler).Info("config", "c", v, "key", c.StripeSecretKey, slog.Group("g", "k", c.SupabaseServiceRoleKey))
		}
	}
	printed := out.String()
	hex := fmt.Sprintf("%x", "HIDE")
	for _, leak := range []string{"HIDE", hex, strings.ToUpper(hex)} {
		if i := strings.Index(printed, leak); i >= 0 {
			t.Errorf("printed %q; want no secret", printed[max(0, i-80):min(len(printed), i+20)])
		}
	}
	if !strings.Contains(printed, "[redacted]") {
		t.Error("nothing was redacted; want the secrets to have been printed as [redacted]")
	}
}

// service is the real program, run in this process.
type service struct {
	url, adminURL string
	stop          context.CancelFunc // what a signal does
	done          chan int           // the exit code
	read          chan struct{}      // closed when logs is complete
	logs          *bytes.Buffer
}

// startService runs the program and waits until it listens. Unless the test says
// otherwise it does not linger when it stops.
func startService(t *testing.T, env map[string]string) *service {
	t.Helper()
	env = maps.Clone(env)
	env["SHUTDOWN_TIMEOUT"] = cmp.Or(env["SHUTDOWN_TIMEOUT"], "20ms")
	setenv(t, env)
	ctx, stop := context.WithCancel(context.Background())
	s := &service{stop: stop, done: make(chan int, 1), read: make(chan struct{}), logs: &bytes.Buffer{}}
	reader, writer := io.Pipe()
	go func() {
		code := run(ctx, nil, io.Discard, writer)
		_ = writer.Close()
		s.done <- code
	}()
	listening := make(chan []byte, 1)
	go func() { child.Forward(s.logs, reader, listening); close(s.read) }()
	t.Cleanup(func() { stop(); <-s.read })
	if env["LOG_LEVEL"]+env["LOG_FORMAT"] != "" {
		return s // which has no such line, so nobody knows where it listens
	}
	select {
	case line := <-listening:
		var fields struct {
			Addr      string
			AdminAddr string `json:"admin_addr"`
		}
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatal(err)
		}
		s.url, s.adminURL = "http://"+fields.Addr, "http://"+fields.AdminAddr
	case <-s.read:
		t.Fatalf("the service ended with %d before it listened: %s", <-s.done, s.logs)
	}
	return s
}

// wait stops the service and returns its exit code and its log.
func (s *service) wait(t *testing.T) (int, string) {
	t.Helper()
	s.stop()
	code := <-s.done
	<-s.read
	return code, s.logs.String()
}

// TestStop: after the signal /readyz says no, the request in flight is
// finished, and the program ends with 0.
func TestStop(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	stripe := fakestripe.New(fakestripe.Options{})
	stripe.Intercept(func(http.ResponseWriter, *http.Request) bool {
		close(arrived)
		<-release
		return false
	})
	stripeServer := httptest.NewServer(stripe)
	defer stripeServer.Close()
	let := sync.OnceFunc(func() { close(release) })
	defer let() // before the server is closed, which waits for the request
	s := startService(t, valid("STRIPE_API_BASE", stripeServer.URL, "SHUTDOWN_TIMEOUT", "20s"))

	answer := make(chan string, 1)
	go func() {
		resp, err := http.Post(s.url+"/api/stripe/create-checkout", "application/json", strings.NewReader(
			`{"priceId":"price_lifetime","mode":"payment","successUrl":"https://a.example","cancelUrl":"https://a.example"}`))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		answer <- resp.Status
	}()
	select {
	case <-arrived:
	case got := <-answer:
		t.Fatalf("request in flight = %s before it reached Stripe; want it to wait there", got)
	}
	if status := readyz(t, s.url); status != 200 {
		t.Errorf("GET /readyz before the signal = %d; want 200", status)
	}
	s.stop()
	for readyz(t, s.url) == 200 { // the signal takes a moment to be seen
	}
	if status := readyz(t, s.url); status != 503 {
		t.Errorf("GET /readyz after the signal = %d; want 503", status)
	}
	let()
	if got := <-answer; got != "200 OK" {
		t.Errorf("request in flight = %s; want 200 OK", got)
	}
	if code := <-s.done; code != 0 {
		t.Errorf("exit code = %d; want 0", code)
	}
}

func readyz(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url + "/readyz")
	if err != nil {
		t.Fatalf("GET /readyz = %v; want an answer", err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestHealthcheck(t *testing.T) {
	s := startService(t, valid())
	_, port, _ := strings.Cut(strings.TrimPrefix(s.url, "http://"), ":")
	setenv(t, map[string]string{"HOST": "127.0.0.1", "PORT": port}) // and nothing else
	if code := run(t.Context(), []string{"healthcheck"}, io.Discard, io.Discard); code != 0 {
		t.Errorf("healthcheck of a running service = %d; want 0", code)
	}
	if code, _ := s.wait(t); code != 0 {
		t.Errorf("exit code = %d; want 0", code)
	}
	if code := run(t.Context(), []string{"healthcheck"}, io.Discard, io.Discard); code != 1 {
		t.Errorf("healthcheck of a stopped service = %d; want 1", code)
	}
}

func TestPortTaken(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	setenv(t, valid("PORT", server.URL[strings.LastIndex(server.URL, ":")+1:]))
	var stderr bytes.Buffer
	if code := run(t.Context(), nil, io.Discard, &stderr); code != 1 || !strings.Contains(stderr.String(), "PORT") {
		t.Errorf("run on a taken port = %d, %s; want 1 and PORT named", code, &stderr)
	}
}
