package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/sandbox/pgtest"
)

// setUp is a good set-up: the running service behind its endpoint at Stripe, and the
// schema on a real PostgreSQL server.
type setUp struct {
	db       *pgtest.Database
	stripe   *fakestripe.Account
	supabase *fakesupabase.Project
	env      map[string]string
}

func newSetUp(t *testing.T, before string, variables ...string) *setUp {
	t.Helper()
	s := &setUp{db: pgtest.New(t), supabase: fakesupabase.New(fakesupabase.Options{})}
	var handler http.Handler = http.NotFoundHandler()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(front.Close)
	s.stripe = fakestripe.New(fakestripe.Options{Webhooks: []fakestripe.WebhookEndpoint{{URL: front.URL + api.WebhookPath, Secret: "whsec_1"}}})
	t.Cleanup(s.stripe.Close)
	serve := func(h http.Handler) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	s.env = valid(append([]string{"STRIPE_API_BASE", serve(s.stripe), "SUPABASE_URL", serve(s.supabase), "SITE_ORIGINS", front.URL,
		"STRIPE_WEBHOOK_SECRET", "whsec_1", "ALLOWED_PRICES", "price_pro_monthly,price_lifetime"}, variables...)...)
	s.supabase.Intercept(s.db.ServeREST)
	service := startService(t, s.env)
	handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A proxy, as a site has one.
		forwarded, err := http.NewRequestWithContext(r.Context(), r.Method, service.url+r.URL.Path, r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		forwarded.Header = r.Header.Clone()
		resp, err := http.DefaultTransport.RoundTrip(forwarded)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	s.db.Script(before)
	s.schema(t)
	return s
}

// schema runs what the program prints for this set-up.
func (s *setUp) schema(t *testing.T) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"schema"}, &stdout, &stderr); code != 0 {
		t.Fatalf("schema = %d %s; want 0", code, &stderr)
	}
	s.db.Script(stdout.String())
}

// doctor returns the exit code and what was printed, with variables changed.
func (s *setUp) doctor(t *testing.T, changes ...string) (code int, printed string) {
	t.Helper()
	for i := 0; i < len(changes); i += 2 {
		t.Setenv(changes[i], changes[i+1])
	}
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), []string{"doctor"}, &stdout, &stderr)
	return code, stdout.String() + stderr.String()
}

// TestDoctorFinds takes each thing away from a good set-up, one at a time: the doctor
// says so first of all, with what to do about it.
func TestDoctorFinds(t *testing.T) {
	s := newSetUp(t, "")
	answer := func(status int, body string, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const (
		again     = "-> run what \"stripe-sidecar schema\" prints"
		printed   = "-> run what `stripe-sidecar schema` prints"
		endpoints = "GET /v1/webhook_endpoints"
		theFirst  = "drop trigger zz_stripe_remember_user on auth.users; drop schema public cascade; create schema public authorization postgres; grant usage on schema public to anon, authenticated, service_role"
	)
	legacyAnon, _ := fakesupabase.LegacyKeys("the present secret of the project")
	listed := func(url string) http.HandlerFunc {
		return answer(200, `{"object":"list","data":[{"status":"enabled","url":"`+url+`","enabled_events":["*"]}]}`)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/moved"):
			http.Redirect(w, r, "https://www.example.com"+r.URL.Path, http.StatusPermanentRedirect)
		case strings.HasPrefix(r.URL.Path, "/page"):
			_, _ = io.WriteString(w, "<!doctype html>")
		default:
			http.NotFound(w, r)
		}
	}))
	defer elsewhere.Close()
	tests := []struct {
		name    string
		sql     string           // as a superuser
		breaks  string           // "METHOD path" of the calls that handler answers
		handler http.HandlerFunc // in place of Stripe or Supabase
		env     []string
		want    []string // in the first line that fails
	}{
		// The database.
		{name: "no schema", sql: theFirst, want: []string{"schema: ", printed}},
		{name: "no table of Customers", sql: "drop table public.customers", want: []string{"public.customers: there is no such table", again}},
		{name: "no table of subscriptions", sql: "drop table public.subscriptions", want: []string{"public.subscriptions: there is no such table", again}},
		{name: "no table of purchases", sql: "drop table public.purchases", want: []string{"public.purchases: there is no such table", again}},
		{name: "an earlier version", sql: "update public.stripe_settings set version = 1", want: []string{"it is of version 1, and this program needs 2", printed}},
		{name: "live mode's settings", sql: "select", env: []string{"CUSTOMERS_TABLE", "profiles"}, want: []string{`"customers", which is "profiles" here`, "or correct the variables of its tables"}},
		{name: "a column of subscriptions", sql: "alter table public.subscriptions drop column items", want: []string{"subscriptions and purchases: ", "42703", printed}},
		{name: "a column of purchases", sql: "alter table public.purchases drop column email", want: []string{"subscriptions and purchases: ", "42703", printed}},
		{name: "users twice", sql: "alter table public.customers drop constraint customers_pkey", want: []string{"column id is not unique", again}},
		{name: "Customers twice", sql: "drop index public.customers_stripe_customer_id_idx", want: []string{"column stripe_customer_id is not unique", again}},
		{name: "subscriptions twice", sql: "alter table public.subscriptions drop constraint subscriptions_pkey", want: []string{"column id is not unique", again}},
		{name: "users undeletable", sql: "alter table public.customers drop constraint customers_id_fkey, add foreign key (id) references auth.users", want: []string{"keeps users from being deleted", again}},
		{name: "no foreign key", sql: "alter table public.subscriptions drop constraint subscriptions_user_id_fkey", want: []string{"does not refer to auth.users", again}},
		{name: "Customers without row level security", sql: "alter table public.customers disable row level security", want: []string{"public.customers: row level security is off", again}},
		{name: "subscriptions without row level security", sql: "alter table public.subscriptions disable row level security", want: []string{"public.subscriptions: row level security is off", again}},
		{name: "purchases without row level security", sql: "alter table public.purchases disable row level security", want: []string{"public.purchases: row level security is off", again}},
		{name: "Customers open to all", sql: "grant select, update on public.customers to anon", want: []string{"public.customers: anon may select, update", again}},
		{name: "Customers open to users", sql: "grant update (stripe_customer_id) on public.customers to authenticated", want: []string{"authenticated may update", again}},
		{name: "subscriptions open to users", sql: "grant insert on public.subscriptions to authenticated", want: []string{"authenticated may insert", again}},
		{name: "a policy for all rows", sql: `create policy "All" on public.purchases for select using (true)`, want: []string{`policy "All" is for all rows -> drop policy "All" on public.purchases`}},
		{name: "no policy", sql: `drop policy "Users see their own purchases" on public.purchases`, want: []string{"no policy lets users see their own rows", again}},
		{name: "the service may not write Customers", sql: "revoke insert on public.customers from service_role", want: []string{"service_role may not insert", again}},
		{name: "the service may not read", sql: "revoke select on public.purchases from service_role", want: []string{"service_role may not select", again}},
		{name: "no tickets", sql: "drop function public.stripe_ticket", want: []string{"public.stripe_ticket(integer) is missing", again}},
		{name: "tickets behind", sql: "insert into public.purchases (id, line_items, created, ticket) values ('cs_moved', '[]', now(), 1 + (select last_value from public.stripe_tickets))", want: []string{"is behind the rows", again}},
		{name: "writes by everybody", sql: "grant execute on function public.stripe_write_purchase to anon", want: []string{"users may call public.stripe_write_purchase(bigint,jsonb)", again}},
		{name: "writes that do not write", sql: "create or replace function public.stripe_write_purchase(ticket bigint, purchase jsonb) returns void language plpgsql as 'begin return; end'",
			want: []string{"recording: an empty purchase was written", printed}},
		{name: "no has_paid", sql: "drop function public.has_paid", want: []string{"function public.has_paid(text) is missing", again}},
		{name: "deleted users are forgotten", sql: "alter table auth.users disable trigger zz_stripe_remember_user", want: []string{"deleted users are not remembered", again}},
		// Keys.
		{name: "another project's service role key", env: []string{"SUPABASE_SERVICE_ROLE_KEY", "sb_secret_other"}, want: []string{"schema: ", "401", "-> take SUPABASE_SERVICE_ROLE_KEY anew"}},
		{name: "another project's anon key", env: []string{"SUPABASE_ANON_KEY", "sb_publishable_other"}, want: []string{"Supabase Auth: ", "-> correct SUPABASE_URL and SUPABASE_ANON_KEY"}},
		{name: "an old JWT secret", env: []string{"SUPABASE_JWT_SECRET", strings.Repeat("old-", 10), "SUPABASE_ANON_KEY", legacyAnon},
			want: []string{"SUPABASE_JWT_SECRET: did not sign SUPABASE_ANON_KEY"}},
		{name: "unusable keys", breaks: "GET /auth/v1/.well-known/jwks.json", handler: answer(200, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`), want: []string{"signing keys: none of the 1 keys"}},
		{name: "a refused Stripe key", breaks: "GET /v1/balance", handler: answer(401, `{"error":{"message":"Invalid API Key provided"}}`), want: []string{"Stripe key: ", "-> take STRIPE_SECRET_KEY anew"}},
		// Stripe's side.
		{name: "no portal settings", breaks: "GET /v1/billing_portal/configurations", handler: answer(200, `{"object":"list","data":[]}`), want: []string{"billing portal: ", "settings/billing/portal"}},
		{name: "no such price", env: []string{"ALLOWED_PRICES", "price_pro_monthly,price_gone"}, want: []string{"prices: ", "price_gone", "-> correct ALLOWED_PRICES"}},
		{name: "no such lookup key", env: []string{"ALLOWED_PRICES", "price_pro_monthly,gone"}, want: []string{"prices: lookup key gone: no active price", "-> correct ALLOWED_PRICES"}},
		{name: "an archived price", breaks: "GET /v1/prices/price_lifetime", handler: answer(200, `{"id":"price_lifetime","active":false}`), want: []string{"prices: price price_lifetime is archived"}},
		{name: "a price of live mode", breaks: "GET /v1/prices/price_lifetime", handler: answer(200, `{"id":"price_lifetime","active":true,"livemode":true}`), want: []string{"prices: price price_lifetime: ", "test and live"}},
		{name: "no endpoint", breaks: endpoints, handler: answer(200, `{"object":"list","data":[]}`), want: []string{"webhook endpoint: ", "-> run `stripe-sidecar webhook"}},
		{name: "an endpoint without Events", breaks: endpoints, handler: answer(200, `{"object":"list","data":[{"status":"enabled","url":"https://a.example/api/stripe/webhook","enabled_events":["invoice.paid"]}]}`),
			want: []string{"does not get charge.dispute.closed", "-> run `stripe-sidecar webhook"}},
		{name: "another secret", env: []string{"STRIPE_WEBHOOK_SECRET", "whsec_other"}, want: []string{"webhook delivery: ", "the service there has another one"}},
		{name: "a redirect", breaks: endpoints, handler: listed(elsewhere.URL + "/moved/api/stripe/webhook"), env: []string{"SITE_ORIGINS", elsewhere.URL}, want: []string{"webhook delivery: ", "redirects to https://www.example.com"}},
		{name: "a page", breaks: endpoints, handler: listed(elsewhere.URL + "/page/api/stripe/webhook"), env: []string{"SITE_ORIGINS", elsewhere.URL}, want: []string{"webhook delivery: ", "not as this service does"}},
		{name: "no route", breaks: endpoints, handler: listed(elsewhere.URL + "/api/stripe/webhook"), env: []string{"SITE_ORIGINS", elsewhere.URL}, want: []string{"webhook delivery: ", "answers 404"}},
		{name: "nothing there", breaks: endpoints, handler: listed("http://127.0.0.1:1/api/stripe/webhook"), env: []string{"SITE_ORIGINS", "http://127.0.0.1:1"}, want: []string{"webhook delivery: ", "could not be reached"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if code, printed := s.doctor(t); code != 0 || !strings.Contains(printed, "ok    webhook delivery: an Event of no meaning was taken") {
				t.Fatalf("doctor of a good set-up = %d; want 0 and a delivery:\n%s", code, printed)
			}
			intercept := func(w http.ResponseWriter, r *http.Request) bool {
				broken := test.breaks == r.Method+" "+r.URL.Path
				if broken {
					w.Header().Set("Content-Type", "application/json")
					test.handler(w, r)
				}
				return broken
			}
			s.stripe.Intercept(intercept)
			s.supabase.Intercept(func(w http.ResponseWriter, r *http.Request) bool { return intercept(w, r) || s.db.ServeREST(w, r) })
			if test.sql != "" {
				if err := s.db.RunAs("supabase_admin", test.sql); err != nil {
					t.Fatal(err)
				}
			}
			code, printed := s.doctor(t, test.env...)
			_, failing, _ := strings.Cut(printed, "FAIL  ")
			failing, _, _ = strings.Cut(failing, "\n")
			for _, want := range test.want {
				if code != 1 || !strings.Contains(failing, want) {
					t.Errorf("doctor = %d, first failing %q; want 1, %q:\n%s", code, failing, want, printed)
				}
			}
			s.stripe.Intercept(nil)
			s.supabase.Intercept(s.db.ServeREST)
			for i := 0; i < len(test.env); i += 2 {
				t.Setenv(test.env[i], s.env[test.env[i]])
			}
			if strings.HasPrefix(test.name, "a policy") {
				s.db.Script(`drop policy "All" on public.purchases`)
			}
			if test.sql != "" {
				s.schema(t)
			}
		})
	}
}

// TestDoctorSitesOwnTable: a table of the site's own is never told to run the schema.
func TestDoctorSitesOwnTable(t *testing.T) {
	s := newSetUp(t, `create table public.profiles (id uuid primary key references auth.users on delete cascade, username text, customer_id text unique);
		alter table public.profiles enable row level security; revoke all on public.profiles from anon, authenticated;
		grant select, update (username) on public.profiles to authenticated;
		create policy "own" on public.profiles for update using (auth.uid() = id)`,
		"CUSTOMERS_TABLE", "profiles", "CUSTOMERS_CUSTOMER_COLUMN", "customer_id")
	for _, test := range []struct{ name, breaks, mends, want string }{
		{"good", "select", "select", ""},
		{"users may put a Customer there", "grant update on public.profiles to authenticated", "revoke update on public.profiles from authenticated; grant update (username) on public.profiles to authenticated",
			"-> revoke update on public.profiles from public, anon, authenticated; grant update (id, username) on public.profiles to authenticated"},
		{"Customers twice", "alter table public.profiles drop constraint profiles_customer_id_key", "create unique index on public.profiles (customer_id)", "create unique index on public.profiles (customer_id)"},
		{"the service may not write", "revoke update on public.profiles from service_role", "grant update on public.profiles to service_role", "grant select, insert, update on public.profiles to service_role"},
		{"another column", "alter table public.profiles rename customer_id to stripe", "alter table public.profiles rename stripe to customer_id", "set CUSTOMERS_USER_COLUMN and CUSTOMERS_CUSTOMER_COLUMN"},
		{"no such table", "alter table public.profiles rename to people", "alter table public.people rename to profiles", "correct CUSTOMERS_TABLE"},
	} {
		s.db.Script(test.breaks)
		code, printed := s.doctor(t)
		_, failing, _ := strings.Cut(printed, "FAIL  ")
		failing, _, _ = strings.Cut(failing, "\n")
		if (code == 0) != (test.want == "") || !strings.Contains(failing, test.want) || strings.Contains(failing, "run what") {
			t.Errorf("%s: doctor = %d, first failing %q; want %q:\n%s", test.name, code, failing, test.want, printed)
		}
		s.db.Script(test.mends)
	}
}
