package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/pgtest"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

const (
	subscriber = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa" // has a subscription
	buyer      = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb" // has bought once
	lapsed     = "cccccccc-cccc-4ccc-8ccc-cccccccccccc" // may do all there, and Stripe knows of nothing
)

// starterTables are what a site has that began as vercel/nextjs-subscription-payments.
const starterTables = `
insert into auth.users (id) values ('` + subscriber + `'), ('` + buyer + `'), ('` + lapsed + `');
create type public.pricing_type as enum ('one_time', 'recurring');
create type public.pricing_plan_interval as enum ('day', 'week', 'month', 'year');
create type public.subscription_status as enum ('trialing', 'active', 'canceled', 'incomplete', 'incomplete_expired', 'past_due', 'unpaid', 'paused');
create table public.users (id uuid primary key references auth.users, full_name text, avatar_url text, billing_address jsonb, payment_method jsonb);
create table public.customers (id uuid primary key references auth.users, stripe_customer_id text);
create table public.products (id text primary key, active boolean, name text, description text, image text, metadata jsonb);
create table public.prices (id text primary key, product_id text references public.products, active boolean, description text, unit_amount bigint,
  currency text check (char_length(currency) = 3), type public.pricing_type, "interval" public.pricing_plan_interval, interval_count integer,
  trial_period_days integer, metadata jsonb);
create table public.subscriptions (id text primary key, user_id uuid not null references auth.users, status public.subscription_status, metadata jsonb,
  price_id text references public.prices, quantity integer, cancel_at_period_end boolean,
  created timestamptz not null default now(), current_period_start timestamptz not null default now(), current_period_end timestamptz not null default now(),
  ended_at timestamptz default now(), cancel_at timestamptz default now(), canceled_at timestamptz default now(),
  trial_start timestamptz default now(), trial_end timestamptz default now());
alter table public.users enable row level security;
alter table public.customers enable row level security;
alter table public.products enable row level security;
alter table public.prices enable row level security;
alter table public.subscriptions enable row level security;
create policy "Own user" on public.users for select using (auth.uid() = id);
create policy "Own user, written" on public.users for update using (auth.uid() = id);
create policy "Everybody's" on public.products for select using (true);
create policy "Everybody's" on public.prices for select using (true);
create policy "Own subscriptions" on public.subscriptions for select using (auth.uid() = user_id);
create publication supabase_realtime for table public.products, public.prices;
insert into public.users (id) select id from auth.users;
insert into public.products (id, active, name) values ('prod_basic', true, 'Basic');
insert into public.prices (id, product_id, active) values ('price_basic_monthly', 'prod_basic', true);
insert into public.customers values ('` + subscriber + `', 'cus_1'), ('` + buyer + `', 'cus_2'), ('` + lapsed + `', 'cus_gone');
insert into public.subscriptions (id, user_id, status, price_id, quantity, cancel_at_period_end) values
  ('sub_1', '` + subscriber + `', 'active', 'price_basic_monthly', 1, false),
  ('sub_gone', '` + lapsed + `', 'active', 'price_basic_monthly', 1, null);`

// shipfastTables are what the Supabase variant of ShipFast has.
const shipfastTables = `
insert into auth.users (id) values ('` + subscriber + `'), ('` + buyer + `'), ('` + lapsed + `');
create table public.profiles (id uuid primary key references auth.users on delete cascade, name text, email text, image text,
  customer_id text, price_id text, has_access boolean default false, created_at timestamptz default now(), updated_at timestamptz default now());
alter table public.profiles enable row level security;
create policy "Own profile" on public.profiles for select using (auth.uid() = id);
create policy "Own profile, inserted" on public.profiles for insert with check (auth.uid() = id);
create policy "Own profile, updated" on public.profiles for update using (auth.uid() = id);
insert into public.profiles (id, email, customer_id, price_id, has_access) values
  ('` + subscriber + `', 'ada@example.com', 'cus_1', 'price_basic_monthly', true),
  ('` + buyer + `', 'bob@example.com', 'cus_2', 'price_lifetime', true),
  ('` + lapsed + `', 'eve@example.com', '', null, true);`

// moving is a site on its way here: its own tables, the schema beside or on them, and
// a subscriber and a buyer at Stripe.
type moving struct {
	*setUp
	t        *testing.T
	sql      []string // of the page, in order
	commands []string
	endpoint atomic.Bool // whether what happens at Stripe is written here
}

// startMoving sets a site up whose tables stand as the page says they should before
// the schema runs, with the variables of the page.
func startMoving(t *testing.T, tables func(sql []string) string) *moving {
	t.Helper()
	m := &moving{t: t}
	var given []string
	for _, s := range sandboxtest.Snippets(t, "api/site/README.md") {
		if s.Language == "sql" {
			m.sql = append(m.sql, s.Text)
			continue
		}
		for line := range strings.Lines(s.Text) {
			line = strings.TrimSpace(line)
			if arguments, ok := strings.CutPrefix(line, "stripe-sidecar "); ok {
				m.commands = append(m.commands, arguments)
			} else if name, value, ok := strings.Cut(line, "="); ok {
				if !slices.ContainsFunc(variables(), func(f reflect.StructField) bool { return f.Tag.Get("envconfig") == name }) {
					t.Errorf("%s:%d: %s is none of the program's variables", s.File, s.Line, name)
				}
				given = append(given, name, value)
			} else {
				t.Fatalf("%s:%d: %q is neither a variable nor a command", s.File, s.Line, line)
			}
		}
	}
	m.setUp = newSetUp(t, tables(m.sql), given...)

	table, column := cmp.Or(m.env["CUSTOMERS_TABLE"], "customers"), cmp.Or(m.env["CUSTOMERS_CUSTOMER_COLUMN"], "stripe_customer_id")
	m.supabase.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/rest/v1/rpc/stripe_ticket" && !m.endpoint.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		if r.URL.Path != "/rest/v1/"+table || r.Method != http.MethodHead && !r.URL.Query().Has("order") {
			return m.db.ServeREST(w, r)
		}
		// Whom sync is about: how many, and one page of them.
		from := "from public." + table + " where " + column + " <> '' and id > '" + cmp.Or(strings.TrimPrefix(r.URL.Query().Get("id"), "gt."), "00000000-0000-0000-0000-000000000000") + "'"
		w.Header().Set("Content-Range", "*/"+m.db.Text("select count(*) "+from))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, m.db.Text("select coalesce(jsonb_agg(jsonb_build_object('id', id, '"+column+"', "+column+") order by id), '[]') "+from))
		return true
	})
	for _, id := range []string{"cus_1", "cus_2"} {
		m.db.Must("update public."+table+" set "+column+" = $1 where "+column+" = $2", stripeCustomer(t, m.env["STRIPE_API_BASE"]), id)
	}
	m.stripe.AddSubscription(m.stripe.Customers()[0].ID, "price_basic_monthly", "active")
	m.stripe.PayCheckout(stripeCheckout(t, m.env["STRIPE_API_BASE"], m.stripe.Customers()[1].ID))
	return m
}

// stripeCustomer makes a Customer at Stripe.
func stripeCustomer(t *testing.T, stripe string) (id string) {
	t.Helper()
	r, err := http.NewRequest("POST", stripe+"/v1/customers", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk_test_x")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var customer struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&customer); err != nil || customer.ID == "" {
		t.Fatalf("creating a Customer = %s, %v; want an id", resp.Status, err)
	}
	return customer.ID
}

// run runs the commands of the page, all of which are to succeed.
func (m *moving) run() {
	m.t.Helper()
	m.endpoint.Store(true)
	for _, command := range m.commands {
		var output bytes.Buffer
		if code := run(m.t.Context(), strings.Fields(command), &output, &output); code != 0 {
			m.t.Fatalf("stripe-sidecar %s = %d; want 0\n%s", command, code, &output)
		}
	}
	if len(m.commands) == 0 {
		m.t.Fatal("commands of the page = none; want some")
	}
}

// found returns the rows of a query as text, a row a line.
func found(db *pgtest.Database, query string) string {
	return db.Text("select coalesce(string_agg(found::text, E'\n'), '') from (" + strings.TrimSuffix(strings.TrimSpace(query), ";") + ") found")
}

// pays tells whether the database thinks that a user has paid.
func pays(t *testing.T, db *pgtest.Database, userID string) bool {
	t.Helper()
	n, err := db.Exec("authenticated", userID, "select where public.has_paid()")
	if err != nil {
		t.Fatalf("has_paid() = %v; want no error", err)
	}
	return n == 1
}

func (m *moving) paid(want ...string) {
	m.t.Helper()
	for _, user := range []string{subscriber, buyer, lapsed} {
		if got := pays(m.t, m.db, user); got != slices.Contains(want, user) {
			m.t.Errorf("has_paid() of %s = %t; want %t", user, got, !got)
		}
	}
}

// TestMovingStarter follows the page from one of the starters to this service.
func TestMovingStarter(t *testing.T) {
	m := startMoving(t, func([]string) string { return starterTables })
	twice, compare, drop := m.sql[0], m.sql[1], m.sql[2]

	if got := found(m.db, compare); !strings.Contains(got, subscriber) || !strings.Contains(got, lapsed) {
		t.Errorf("subscriptions that are missing before sync = %s; want both", got)
	}
	m.paid()
	m.run()
	m.paid(subscriber, buyer)
	m.db.Must("update public.subscriptions set id = $1 where id = 'sub_1'", m.stripe.Subscriptions()[0].ID)
	if got, want := found(m.db, compare), "("+lapsed+",sub_gone,active)"; got != want {
		t.Errorf("subscriptions that are missing after sync = %s; want %s", got, want)
	}
	m.db.Script(drop)
	m.commands = []string{"doctor"}
	m.run()
	m.paid(subscriber, buyer)
	m.stripe.CancelSubscription(m.stripe.Subscriptions()[0].ID) // of which an Event tells
	until(t, func() string { return strconv.FormatBool(pays(t, m.db, subscriber)) }, "false")

	shared := pgtest.New(t)
	shared.Script(starterTables)
	if got := found(shared, twice); got != "" {
		t.Errorf("shared Customers = %s; want none", got)
	}
	shared.Must("update public.customers set stripe_customer_id = 'cus_1'")
	if got := found(shared, twice); !strings.HasPrefix(got, "(cus_1,") || !strings.Contains(got, buyer) {
		t.Errorf("shared Customers = %s; want cus_1 and its users", got)
	}
}

// TestMovingRenamed gives the old table's name to ours.
func TestMovingRenamed(t *testing.T) {
	t.Parallel()
	snippets := sandboxtest.Snippets(t, "api/site/README.md")
	db := pgtest.New(t)
	db.Script(starterTables)
	db.Script(snippets[0].Text)
	db.Script(string(api.Schema))
	if pays(t, db, subscriber) {
		t.Error("has_paid() before the rows are there = true; want false")
	}
	db.Script(snippets[1].Text)
	if !pays(t, db, subscriber) || !pays(t, db, lapsed) || pays(t, db, buyer) {
		t.Error("has_paid() = other than in the old table; want the same")
	}
	for column, want := range map[string]string{"product_id": "prod_basic", "quantity": "1", "stripe_customer_id": "cus_1", "status": "active", "cancel_at_period_end": "false"} {
		if got := db.Text("select " + column + " from public.subscriptions where id = 'sub_1'"); got != want {
			t.Errorf("%s = %s; want %s", column, got, want)
		}
	}
	if _, err := db.Exec("service_role", "", "select public.stripe_write_subscription(public.stripe_ticket(2), $1)", map[string]any{
		"id": "sub_1", "stripe_customer_id": "cus_1", "status": "canceled", "cancel_at_period_end": false, "created": "2026-01-01T00:00:00Z"}); err != nil {
		t.Fatal(err)
	}
	db.Script(snippets[1].Text) // again does no harm
	db.Script(snippets[2].Text)
	if got, want := found(db, "select id, user_id, status from public.subscriptions"), "(sub_1,"+subscriber+",canceled)"; got != want {
		t.Errorf("rows in the end = %s; want what Stripe said, %s", got, want)
	}
}

// TestMovingShipFast follows the page from the other starter.
func TestMovingShipFast(t *testing.T) {
	m := startMoving(t, func(sql []string) string { return shipfastTables + sql[1] })
	written, compare := m.sql[0], m.sql[2]
	m.paid()
	for column, want := range map[string]bool{"name": true, "has_access": false, "customer_id": false} {
		if _, err := m.db.Exec("authenticated", subscriber, "update public.profiles set "+column+" = null where id = $1", subscriber); (err == nil) != want {
			t.Errorf("a user's update of %s = %v; want it to work: %t", column, err, want)
		}
	}
	if err := m.db.RunAs("supabase_admin", "create extension pg_stat_statements; select from pg_stat_statements"); err != nil {
		sandboxtest.Skip(t, "install postgresql-contrib to run this test: "+err.Error())
	}
	for role, column := range map[string]string{"authenticated": "name", "service_role": "image"} { // as PostgREST does
		if _, err := m.db.Exec(role, subscriber, `with pgrst_source as (update "public"."profiles" set "`+column+`" = $1 returning 1) select from pgrst_source`, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if got := found(m.db, written); !strings.Contains(got, `set ""name"" = $1`) || strings.Contains(got, "image") {
		t.Errorf("what pages write = %s; want the user's update of name, and none of the service role", got)
	}
	m.run()
	m.paid(subscriber, buyer)
	if got, want := found(m.db, compare), "("+lapsed+",eve@example.com,)"; got != want {
		t.Errorf("access that nobody has paid for = %s; want %s", got, want)
	}
	m.stripe.Refund(m.db.Text("select payment_intent_id from public.purchases"), 100)
	m.run()
	if got := found(m.db, compare); !strings.Contains(got, buyer) || strings.Contains(got, subscriber) {
		t.Errorf("access that nobody has paid for, after a refund = %s; want the buyer's too", got)
	}
}
