package api_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"8space.app/stripe-sidecar/api"
)

// TestDeletedUsers: who was deleted and was a Customer is remembered, by whatever
// way they went; nobody else is, and nobody is kept from going.
func TestDeletedUsers(t *testing.T) {
	t.Parallel()
	const (
		deleteA = "delete from auth.users where id = '" + userA + "'"
		ledger  = "create table public.ledger (owner uuid unique%s, customer text unique); alter table public.ledger enable row level security"
	)
	onLedger := api.SchemaConfig{CustomersTable: "ledger", CustomersUserColumn: "owner", CustomersCustomerColumn: "customer"}
	tests := []struct {
		name   string
		before string // the site's own, before the schema
		config api.SchemaConfig
		site   string // what the site has done since
		delete string // as Supabase Auth; else deleteA
		want   string // those who are remembered
		stays  bool   // whether user A is there afterwards
	}{
		{name: "a Customer", want: userA + " cus_a"},
		{name: "all at once", delete: "delete from auth.users", want: userA + " cus_a," + userB + " cus_b"},
		{name: "never a Customer", site: "update public.customers set stripe_customer_id = null", want: ""},
		{name: "an empty Customer", site: "update public.customers set stripe_customer_id = '' where id = '" + userA + "'", want: ""},
		{name: "the row deleted by hand", site: "delete from public.customers", want: ""},
		{name: "only the row deleted", delete: "select", site: "delete from public.customers", want: "", stays: true},
		{name: "undone", delete: "begin; " + deleteA + "; rollback", want: "", stays: true},
		{name: "prevented by the site", site: `create function public.no() returns trigger language plpgsql as 'begin return null; end';
			create trigger keep_users before delete on auth.users for each row execute function public.no()`, want: "", stays: true},
		{name: "nowhere to remember", site: "drop table public.stripe_deleted_users", want: "none"},
		{name: "no table of Customers any more", site: "drop table public.customers", want: ""},
		{name: "a Customer who had left as another", site: "insert into public.stripe_deleted_users values ('cus_a', '" + nobody + "', '2020-01-01', '2020-01-02')", want: userA + " cus_a"},
		{name: "the site's own table", before: strings.ReplaceAll(ledger, "%s", " references auth.users on delete cascade"), config: onLedger, want: userA + " cus_a"},
		{name: "the site's own table, which keeps the row", before: strings.ReplaceAll(ledger, "%s", " references auth.users on delete set null"), config: onLedger, want: userA + " cus_a"},
		{name: "the site's own table without a foreign key", before: strings.ReplaceAll(ledger, "%s", ""), config: onLedger, want: userA + " cus_a"},
		{name: "another table since", before: strings.ReplaceAll(ledger, "%s", ""), site: string(api.SchemaFor(onLedger)), want: userA + " cus_a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			db := postgres(t)
			db.AddUser(userA)
			db.AddUser(userB)
			db.Script(test.before)
			db.Script(api.SchemaFor(test.config))
			table := "public.customers"
			if test.before != "" {
				table = "public.ledger"
			}
			db.Must("insert into "+table+" values ($1, 'cus_a'), ($2, 'cus_b')", userA, userB)
			db.Script(test.site)
			sql := test.delete
			if sql == "" {
				sql = deleteA
			}
			if err := db.RunAs("supabase_admin", "set session authorization supabase_auth_admin; "+sql); err != nil {
				t.Fatalf("%s = %v; want no error", sql, err)
			}
			if got := db.Text("select count(*) from auth.users where id = $1", userA) == "1"; got != test.stays {
				t.Errorf("user A is there afterwards = %t; want %t", got, test.stays)
			}
			if test.want == "none" {
				return
			}
			if got := db.Text("select coalesce(string_agg(concat_ws(' ', user_id, stripe_customer_id, done_at), ',' order by user_id), '') from public.stripe_deleted_users"); got != test.want {
				t.Errorf("remembered = %q; want %q", got, test.want)
			}
		})
	}
}

// TestUsersLeft: who counts as a user who has left.
func TestUsersLeft(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	for i, step := range []struct {
		name, do string
		most     int
		want     string
	}{
		{"nobody", "select", 9, `{"total": 0, "customers": []}`},
		{"two, the first of them first", "insert into public.stripe_deleted_users values ('cus_b', '" + userB + "', '2020-01-02'), ('cus_a', '" + userA + "', '2020-01-01')",
			9, `{"total": 2, "customers": ["cus_a", "cus_b"]}`},
		{"as many as asked for", "select", 1, `{"total": 2, "customers": ["cus_a"]}`},
		{"none asked for", "select", 0, `{"total": 2, "customers": []}`},
		{"a user is there again", "insert into auth.users values ('" + userA + "')", 9, `{"total": 1, "customers": ["cus_b"]}`},
		{"another user's Customer now", "insert into public.customers values ('" + userA + "', 'cus_b')", 9, `{"total": 0, "customers": []}`},
		{"nobody's again", "delete from auth.users", 9, `{"total": 2, "customers": ["cus_a", "cus_b"]}`},
		{"one settled", "update public.stripe_deleted_users set done_at = now() where stripe_customer_id = 'cus_a'", 9, `{"total": 1, "customers": ["cus_b"]}`},
	} {
		db.Must(step.do)
		var got string
		if err := db.As("service_role", "", func(tx pgx.Tx) error {
			return tx.QueryRow(context.Background(), "select public.stripe_users_left($1)::text", step.most).Scan(&got)
		}); err != nil || got != step.want {
			t.Errorf("step %d, %s: stripe_users_left(%d) = %s, %v; want %s", i, step.name, step.most, got, err, step.want)
		}
	}
}

// problem is what stripe_schema finds.
type problem struct{ Table, Problem, Remedy string }

type schemaAnswer struct {
	Version                 int
	TestModeCounts          bool   `json:"test_mode_counts"`
	CustomersTable          string `json:"customers_table"`
	CustomersUserColumn     string `json:"customers_user_column"`
	CustomersCustomerColumn string `json:"customers_customer_column"`
	SubscriptionsTable      string `json:"subscriptions_table"`
	PurchasesTable          string `json:"purchases_table"`
	Problems                []problem
}

func (db *database) schema() (answer schemaAnswer) {
	db.tb.Helper()
	if err := db.As("service_role", "", func(tx pgx.Tx) error {
		if _, err := tx.Exec(context.Background(), "set transaction read only"); err != nil {
			return err
		}
		var body []byte
		if err := tx.QueryRow(context.Background(), "select public.stripe_schema()").Scan(&body); err != nil {
			return err
		}
		return json.Unmarshal(body, &answer)
	}); err != nil {
		db.tb.Fatalf("stripe_schema() = %v; want no error", err)
	}
	return answer
}

// TestSchemaTells: the schema says what it is.
func TestSchemaTells(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	db.Script(closedProfiles[:strings.Index(closedProfiles, "insert into")] + closedProfiles[strings.Index(closedProfiles, "create unique index"):])
	yes := true
	for _, step := range []struct {
		config api.SchemaConfig
		want   schemaAnswer
	}{
		{api.SchemaConfig{}, schemaAnswer{2, false, "customers", "id", "stripe_customer_id", "subscriptions", "purchases", []problem{}}},
		{api.SchemaConfig{CustomersTable: "profiles", CustomersCustomerColumn: "customer_id", SubscriptionsTable: "Abos", TestModeCounts: &yes},
			schemaAnswer{2, true, "profiles", "id", "customer_id", "Abos", "purchases", []problem{}}},
	} {
		db.Script(api.SchemaFor(step.config))
		got, _ := json.Marshal(db.schema())
		if want, _ := json.Marshal(step.want); string(got) != string(want) {
			t.Errorf("stripe_schema() = %s; want %s", got, want)
		}
	}
}

// TestProblems takes each thing away from a good set-up, one at a time:
// stripe_schema finds it, and the schema, run again, mends it.
func TestProblems(t *testing.T) {
	t.Parallel()
	const again = `run what "stripe-sidecar schema" prints`
	tests := []struct {
		broken, table, problem string
		remedy                 string // "": to run the schema again
	}{
		{"drop table public.customers", "public.customers", "there is no such table", ""},
		{"drop table public.subscriptions", "public.subscriptions", "there is no such table", ""},
		{"drop table public.purchases", "public.purchases", "there is no such table", ""},
		{"drop table public.stripe_settings", "public.stripe_settings", "there is no such table", ""},
		{"drop table public.stripe_deleted_users", "public.stripe_deleted_users", "there is no such table", ""},
		{"delete from public.stripe_settings", "public.stripe_settings", "it has no row", ""},
		{"alter table public.customers alter stripe_customer_id set not null", "public.customers", "column stripe_customer_id may not be null", ""},
		{"alter table public.customers drop constraint customers_pkey", "public.customers", "column id is not unique", ""},
		{"drop index public.customers_stripe_customer_id_idx", "public.customers", "column stripe_customer_id is not unique", ""},
		{"alter table public.subscriptions drop constraint subscriptions_pkey", "public.subscriptions", "column id is not unique", ""},
		{"alter table public.purchases drop constraint purchases_pkey", "public.purchases", "column id is not unique", ""},
		{"alter table public.customers drop constraint customers_id_fkey", "public.customers", "column id does not refer to auth.users", ""},
		{"alter table public.customers drop constraint customers_id_fkey, add foreign key (id) references auth.users", "public.customers", "keeps users from being deleted", ""},
		{"alter table public.subscriptions drop constraint subscriptions_user_id_fkey", "public.subscriptions", "column user_id does not refer to auth.users", ""},
		{"alter table public.purchases drop constraint purchases_user_id_fkey, add foreign key (user_id) references auth.users on delete restrict",
			"public.purchases", "keeps users from being deleted", ""},
		{"alter table public.customers disable row level security", "public.customers", "row level security is off", ""},
		{"alter table public.subscriptions disable row level security", "public.subscriptions", "row level security is off", ""},
		{"alter table public.purchases disable row level security", "public.purchases", "row level security is off", ""},
		{"alter table public.stripe_settings disable row level security", "public.stripe_settings", "row level security is off", ""},
		{"alter table public.stripe_deleted_users disable row level security", "public.stripe_deleted_users", "row level security is off", ""},
		{"grant select on public.customers to anon", "public.customers", "anon may select", ""},
		{"grant update (stripe_customer_id) on public.customers to authenticated", "public.customers", "authenticated may update", ""},
		{"grant insert, update on public.subscriptions to authenticated", "public.subscriptions", "authenticated may insert, update", ""},
		{"grant truncate on public.purchases to anon", "public.purchases", "anon may truncate", ""},
		{"grant select on public.purchases to anon", "public.purchases", "anon may select", ""},
		{"grant update on public.stripe_settings to authenticated", "public.stripe_settings", "authenticated may update", ""},
		{"grant delete on public.stripe_deleted_users to authenticated", "public.stripe_deleted_users", "authenticated may delete", ""},
		{"revoke insert on public.customers from service_role", "public.customers", "service_role may not insert", ""},
		{"revoke all on public.subscriptions from service_role", "public.subscriptions", "service_role may not select, insert, update", ""},
		{"revoke select on public.stripe_settings from service_role", "public.stripe_settings", "service_role may not select", ""},
		{"revoke select on public.subscriptions from authenticated", "public.subscriptions", "authenticated may not select", ""},
		{`drop policy "Users see their own subscriptions" on public.subscriptions`, "public.subscriptions", "no policy lets users see their own rows", ""},
		{`drop policy "Users see their own purchases" on public.purchases`, "public.purchases", "no policy lets users see their own rows", ""},
		{`create policy "All" on public.purchases for select using (true)`, "public.purchases", `policy "All" is for all rows`, `drop policy "All" on public.purchases`},
		{"drop function public.stripe_ticket", "functions", "function public.stripe_ticket(integer) is missing", ""},
		{"drop function public.stripe_write_subscription", "functions", "function public.stripe_write_subscription(bigint,jsonb) is missing", ""},
		{"drop function public.stripe_write_purchase", "functions", "function public.stripe_write_purchase(bigint,jsonb) is missing", ""},
		{"drop function public.has_paid", "functions", "function public.has_paid(text) is missing", ""},
		{"drop function public.stripe_remember_user cascade", "functions", "function public.stripe_remember_user() is missing", ""},
		{"alter function public.stripe_write_purchase security definer", "functions", "public.stripe_write_purchase(bigint,jsonb) runs with the rights of the wrong role", ""},
		{"drop function public.stripe_users_left", "functions", "function public.stripe_users_left(integer) is missing", ""},
		{"grant execute on function public.stripe_users_left to anon", "functions", "users may call public.stripe_users_left(integer)", ""},
		{"alter function public.has_paid security invoker", "functions", "public.has_paid(text) runs with the rights of the wrong role", ""},
		{"revoke execute on function public.stripe_ticket from service_role", "functions", "service_role may not call public.stripe_ticket(integer)", ""},
		{"grant execute on function public.stripe_write_subscription to authenticated", "functions", "users may call public.stripe_write_subscription(bigint,jsonb)", ""},
		{"revoke execute on function public.has_paid from authenticated", "functions", "users may not call public.has_paid(text)", ""},
		{"drop sequence public.stripe_tickets", "functions", "sequence public.stripe_tickets is missing", ""},
		{"alter sequence public.stripe_tickets cache 20", "functions", "does not rise one by one", ""},
		{"alter sequence public.stripe_tickets increment -1", "functions", "does not rise one by one", ""},
		{"insert into public.purchases (id, line_items, created, ticket) values ('cs_moved', '[]', now(), 700)", "functions", "is behind the rows", ""},
		{"revoke all on sequence public.stripe_tickets from service_role", "functions", "service_role may not use sequence", ""},
		{"alter table auth.users disable trigger zz_stripe_remember_user", "functions", "deleted users are not remembered", ""},
	}
	// One database for all: each row ends with the good set-up that it began with.
	db := postgres(t).install()
	for _, test := range tests {
		t.Run(test.broken, func(t *testing.T) {
			if found := db.schema().Problems; len(found) != 0 {
				t.Fatalf("problems of a good set-up = %v; want none", found)
			}
			user := "postgres"
			if strings.Contains(test.broken, "auth.users disable") {
				user = "supabase_admin"
			}
			if err := db.RunAs(user, test.broken); err != nil {
				t.Fatal(err)
			}
			remedy := test.remedy
			if remedy == "" {
				remedy = again
			}
			found := db.schema().Problems
			if len(found) == 0 || found[0].Table != test.table || !strings.Contains(found[0].Problem, test.problem) || found[0].Remedy != remedy {
				t.Errorf("problems = %v; want first %s: %s (%s)", found, test.table, test.problem, remedy)
			}
			if test.remedy != "" {
				db.Script(test.remedy)
			} else {
				db.install()
			}
			if found := db.schema().Problems; len(found) != 0 {
				t.Errorf("problems after the remedy = %v; want none", found)
			}
		})
	}
}
