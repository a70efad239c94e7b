package api_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"8space.app/stripe-sidecar/api"
)

// subscriptionStarter is a site that began with the tables that many templates
// for Next.js and Stripe have.
const subscriptionStarter = `
create table public.users (id uuid references auth.users not null primary key, full_name text, payment_method jsonb);
alter table public.users enable row level security;
create policy "See own data" on public.users for select using (auth.uid() = id);
create table public.customers (id uuid references auth.users not null primary key, stripe_customer_id text);
alter table public.customers enable row level security;
create table public.products (id text primary key, active boolean, name text, metadata jsonb);
create type public.interval_of_price as enum ('day', 'week', 'month', 'year');
create table public.prices (id text primary key, product_id text references public.products, unit_amount bigint, "interval" public.interval_of_price);
create type public.state_of_subscription as enum ('trialing', 'active', 'canceled', 'past_due', 'unpaid');
create table public.subscriptions (
  id text primary key, user_id uuid references auth.users on delete cascade not null, status public.state_of_subscription,
  metadata jsonb, price_id text references public.prices, quantity integer, cancel_at_period_end boolean,
  created timestamptz not null default now(), current_period_end timestamptz not null default now());
create index subscriptions_user_id_idx on public.subscriptions (user_id);
alter table public.subscriptions enable row level security;
create policy "Own subscriptions" on public.subscriptions for select using (auth.uid() = user_id);
insert into public.products values ('prod_1', true, 'Pro', '{}');
insert into public.prices values ('price_1', 'prod_1', 900, 'month');
insert into public.customers values ('` + userA + `', 'cus_a');
insert into public.subscriptions values ('sub_old', '` + userA + `', 'active', '{}', 'price_1', 1, false);`

// profiles is a table of users as Supabase's own guides make it, with a column
// for the Customer.
const profiles = `
create table public.profiles (id uuid references auth.users on delete cascade primary key, username text unique, customer_id text);
alter table public.profiles enable row level security;
create policy "Everybody sees profiles" on public.profiles for select using (true);
create policy "Users insert their own profile" on public.profiles for insert with check ((select auth.uid()) = id);
create policy "Users update their own profile" on public.profiles for update using ((select auth.uid()) = id);
insert into public.profiles values ('` + userA + `', 'ada', 'cus_a'), ('` + userB + `', 'bob', null);`

// closedProfiles are such profiles on which nothing is to be said.
const closedProfiles = profiles + `
create unique index on public.profiles (customer_id);
revoke insert, update on public.profiles from anon, authenticated;
grant insert (id, username), update (id, username) on public.profiles to authenticated;`

var onProfiles = api.SchemaConfig{CustomersTable: "profiles", CustomersCustomerColumn: "customer_id"}

// TestSchemaFits runs the schema, as a role that is no superuser, on databases as they
// are found: it fits, or it says what to do, leaves all as it was, and fits once
// that was done.
func TestSchemaFits(t *testing.T) {
	t.Parallel()
	beside := api.SchemaConfig{SubscriptionsTable: "stripe_subscriptions"}
	ledger := api.SchemaConfig{CustomersTable: "ledger", CustomersUserColumn: "owner", CustomersCustomerColumn: "customer"}
	tests := []struct {
		name     string
		existing string
		config   api.SchemaConfig
		refused  []string // what the first run's error and hint say; none: it fits
		hinted   bool     // whether the hint is SQL, after which it fits
		instead  *api.SchemaConfig
		notices  []string // what the notices of the run that fits say
		tables   string   // those that it leaves as they were
	}{
		{name: "fresh"},
		{name: "subscription starter", existing: subscriptionStarter,
			refused: []string{"public.subscriptions is there already", "SUBSCRIPTIONS_TABLE", "stripe_subscriptions"}, instead: &beside,
			notices: []string{"replaced foreign key customers_id_fkey of customers", "revoked DELETE, INSERT, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE on public.customers from anon"},
			tables:  "subscriptions prices products users"},
		{name: "purchases of the site's own", existing: `create table public.purchases (id bigserial primary key, what text)`,
			refused: []string{"public.purchases is there already", "PURCHASES_TABLE"}, instead: &api.SchemaConfig{PurchasesTable: "stripe_purchases"}, tables: "purchases"},
		{name: "a view of that name", existing: `create view public.subscriptions as select 1::bigint as ticket, 'cus_1'::text as stripe_customer_id`,
			refused: []string{"public.subscriptions is there already", "SUBSCRIPTIONS_TABLE"}, instead: &beside},
		{name: "customers of another kind", existing: `create table public.customers (id bigserial primary key, name text, stripe_customer_id text);
				create table public.ledger (id uuid primary key references auth.users on delete cascade, stripe_customer_id text unique);
				alter table public.ledger enable row level security`,
			refused: []string{"public.customers is there already", "CUSTOMERS_TABLE"}, instead: &api.SchemaConfig{CustomersTable: "ledger"},
			tables: "customers"},
		{name: "names in capitals, and words of SQL",
			existing: `create table public."Order" (id uuid primary key references auth.users on delete cascade, "select" text unique);
				alter table public."Order" enable row level security`,
			config: api.SchemaConfig{CustomersTable: "Order", CustomersCustomerColumn: "select", SubscriptionsTable: "table", PurchasesTable: "User"}, tables: `"Order"`},

		{name: "profiles", existing: profiles + `create unique index on public.profiles (customer_id);`, config: onProfiles,
			refused: []string{"authenticated may insert column customer_id", "authenticated may update column customer_id",
				"revoke update on public.profiles from public, anon, authenticated; grant update (id, username) on public.profiles to authenticated"},
			hinted: true, tables: "profiles"},
		{name: "profiles, granted by column", existing: profiles + `create unique index on public.profiles (customer_id);
				revoke insert, update on public.profiles from anon, authenticated; grant update (customer_id) on public.profiles to authenticated;`,
			config: onProfiles, refused: []string{"public.profiles: authenticated may update column customer_id"}, hinted: true, tables: "profiles"},
		{name: "profiles without row level security", existing: closedProfiles + `alter table public.profiles disable row level security;`, config: onProfiles,
			refused: []string{"row level security is off", "alter table public.profiles enable row level security"}},
		{name: "profiles, nothing to say", existing: closedProfiles, config: onProfiles, tables: "profiles"},
		{name: "profiles, written by an administrator alone", existing: profiles + `create unique index on public.profiles (customer_id);
				drop policy "Users insert their own profile" on public.profiles; drop policy "Users update their own profile" on public.profiles;
				create role office; create policy "The office" on public.profiles for all to office using (true);`, config: onProfiles, tables: "profiles"},
		{name: "profiles with two that have ''", existing: closedProfiles + `drop index public.profiles_customer_id_idx; update public.profiles set customer_id = '';`,
			config: onProfiles, refused: []string{"column customer_id is not unique", "= null where customer_id = ''"}, hinted: true, tables: "profiles"},
		{name: "profiles of which a Customer may not be null", existing: closedProfiles + `update public.profiles set customer_id = id; alter table public.profiles alter customer_id set not null;`,
			config: onProfiles, refused: []string{"customer_id may not be null"}, hinted: true},
		{name: "no such column", existing: closedProfiles, config: api.SchemaConfig{CustomersTable: "profiles", CustomersCustomerColumn: "customer"},
			refused: []string{"column customer is missing", "CUSTOMERS_CUSTOMER_COLUMN"}, instead: &onProfiles},
		{name: "no such table", config: api.SchemaConfig{CustomersTable: "buyers", CustomersUserColumn: "owner"},
			refused: []string{"public.buyers: there is no such table: correct CUSTOMERS_TABLE, or make one"}, hinted: true, tables: "buyers"},
		{name: "closed to the service", existing: closedProfiles + `revoke update on public.profiles from service_role;`, config: onProfiles,
			refused: []string{"service_role may not update", "grant select, insert, update on public.profiles to service_role"}, hinted: true},
		{name: "the site's own with a foreign key without ON DELETE",
			existing: `create table public.ledger (owner uuid unique references auth.users, customer text unique); alter table public.ledger enable row level security;`,
			config:   ledger, refused: []string{"foreign key ledger_owner_fkey keeps users from being deleted", "on delete cascade"}, hinted: true},
		{name: "the site's own, users not unique",
			existing: `create table public.ledger (owner uuid, customer text unique, unique (owner, customer)); alter table public.ledger enable row level security;`,
			config:   ledger, refused: []string{"column owner is not unique"}, hinted: true},

		{name: "customers with a foreign key without ON DELETE", existing: `create table public.customers (id uuid primary key references auth.users, stripe_customer_id text unique)`,
			notices: []string{"replaced foreign key customers_id_fkey"}},
		{name: "customers without a foreign key, and a row of somebody who is gone",
			existing: `create table public.customers (id uuid primary key, stripe_customer_id text); insert into public.customers values ('` + nobody + `', 'cus_gone')`,
			notices:  []string{"revoked"}},
		{name: "two customers that have ''", existing: `create table public.customers (id uuid primary key, stripe_customer_id varchar(40) not null);
			insert into public.customers values ('` + userA + `', ''), ('` + userB + `', '')`,
			notices: []string{"revoked"}},
		{name: "policies and grants", existing: `create table public.customers (id uuid primary key, stripe_customer_id text);
			create policy "Anyone" on public.customers using (true);
			revoke all on public.customers from anon, authenticated;
			grant select on public.customers to public; grant update (stripe_customer_id) on public.customers to authenticated`,
			notices: []string{`dropped policy "Anyone" on public.customers`, "revoked SELECT on public.customers from public",
				"revoked UPDATE (stripe_customer_id) on public.customers from authenticated"}},
		{name: "has_paid of the site's own", existing: `create function public.has_paid(plan text) returns boolean language sql as 'select true'`,
			refused: []string{"has_paid(text) is there already"}},
		{name: "a newer schema", existing: `create table public.stripe_settings (id boolean primary key, version integer); insert into public.stripe_settings values (true, 3)`,
			refused: []string{"newer"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			db := postgres(t)
			db.AddUser(userA)
			db.AddUser(userB)
			db.Script(test.existing)
			config := test.config
			if len(test.refused) > 0 {
				before := db.catalogue()
				_, err := db.Run(api.SchemaFor(config))
				e, _ := errors.AsType[*pgconn.PgError](err)
				if e == nil {
					t.Fatalf("running the schema = %v; want an error about %q", err, test.refused)
				}
				for _, want := range test.refused {
					if !strings.Contains(e.Message+"\n"+e.Hint, want) {
						t.Errorf("running the schema = %s\nhint: %s\nwant %q in it", e.Message, e.Hint, want)
					}
				}
				if after := db.catalogue(); after != before {
					t.Errorf("catalogue after an error =\n%s\nwant\n%s", after, before)
				}
				switch {
				case test.hinted:
					db.Script(strings.ReplaceAll(e.Hint, "\n", ";\n"))
				case test.instead != nil:
					config = *test.instead
				default:
					return
				}
			}
			before := db.describe(test.tables)
			notices, err := db.Run(api.SchemaFor(config))
			if err != nil {
				t.Fatalf("running the schema = %v; want no error", err)
			}
			if after := db.describe(test.tables); after != before {
				t.Errorf("%s after the schema =\n%s\nwant\n%s", test.tables, after, before)
			}
			for _, want := range test.notices {
				if !slices.ContainsFunc(notices, func(n string) bool { return strings.Contains(n, want) }) {
					t.Errorf("notices = %q; want %q in one", notices, want)
				}
			}
			if len(test.notices) == 0 && len(notices) > 0 {
				t.Errorf("notices = %q; want none", notices)
			}
			db.serves(config)
			if _, err := db.Run(api.SchemaFor(config)); err != nil {
				t.Errorf("running the schema again = %v; want no error", err)
			}
		})
	}
}

// describe returns all there is to say about some tables, names with spaces
// between them.
func (db *database) describe(tables string) string {
	db.tb.Helper()
	var all []string
	for table := range strings.FieldsSeq(tables) {
		all = append(all, db.Text(`select jsonb_build_object('table', c.relname, 'acl', c.relacl, 'rls', c.relrowsecurity,
			'columns', (select jsonb_agg(to_jsonb(a) - 'attmissingval' order by attnum) from pg_attribute a where attrelid = c.oid),
			'keys', (select jsonb_agg(pg_get_constraintdef(oid) order by conname) from pg_constraint where conrelid = c.oid),
			'indexes', (select jsonb_agg(pg_get_indexdef(indexrelid) order by indexrelid) from pg_index where indrelid = c.oid),
			'triggers', (select jsonb_agg(pg_get_triggerdef(oid) order by tgname) from pg_trigger where tgrelid = c.oid and not tgisinternal),
			'policies', (select jsonb_agg(to_jsonb(p)) from pg_policies p where tablename = relname))
			from pg_class c where oid = to_regclass($1)`, "public."+table))
		all = append(all, db.Text("select jsonb_agg(r) from public."+table+" r"))
	}
	return strings.Join(all, "\n")
}

// serves has a schema do all that the service asks of it, for a new user.
func (db *database) serves(c api.SchemaConfig) {
	db.tb.Helper()
	db.AddUser(userC)
	name := func(name, otherwise string) string {
		if name == "" {
			name = otherwise
		}
		return pgx.Identifier{name}.Sanitize()
	}
	table := "public." + name(c.CustomersTable, "customers")
	user, customer := name(c.CustomersUserColumn, "id"), name(c.CustomersCustomerColumn, "stripe_customer_id")
	must := func(role, userID, sql string, args ...any) {
		db.tb.Helper()
		if n, err := db.Exec(role, userID, sql, args...); err != nil || n != 1 {
			db.tb.Fatalf("%s as %s = %d rows, %v; want 1", sql, role, n, err)
		}
	}
	must("service_role", "", "insert into "+table+" ("+user+", "+customer+") values ($1, 'cus_c') on conflict ("+user+") do nothing", userC)
	for _, w := range writers {
		must("service_role", "", "select public."+w.function+"(public.stripe_ticket(2), $1)", w.with("user_id", userC, "id", "bought", "disputed", false))
	}
	must("authenticated", userC, "select where public.has_paid('price_lifetime') and public.has_paid('prod_calls') and not public.has_paid('price_other')")
	must("authenticated", userC, "select from public."+name(c.SubscriptionsTable, "subscriptions"))
	must("authenticated", userC, "select from public."+name(c.PurchasesTable, "purchases"))
	if n, err := db.Exec("authenticated", userC, "update "+table+" set "+customer+" = 'cus_a' where "+user+" = $1", userC); n != 0 || err != nil && sqlState(err) != denied {
		db.tb.Errorf("a user writes their own Customer = %d rows, %v; want none, or %s", n, err, denied)
	}
	var problems string
	if err := db.As("service_role", "", func(tx pgx.Tx) error {
		return tx.QueryRow(context.Background(), "select (public.stripe_schema() -> 'problems')::text").Scan(&problems)
	}); err != nil || problems != "[]" {
		db.tb.Errorf("problems of stripe_schema() = %s, %v; want none", problems, err)
	}
	must("supabase_auth_admin", "", "delete from auth.users where id = $1", userC)
	if got, want := db.Text("select string_agg(concat_ws(' ', user_id, stripe_customer_id, done_at), ',') from public.stripe_deleted_users"), userC+" cus_c"; got != want {
		db.tb.Errorf("users remembered = %s; want %s", got, want)
	}
}
