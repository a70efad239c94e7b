package api_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

const (
	userA  = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
	userB  = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
	userC  = "cccccccc-cccc-4ccc-8ccc-cccccccccccc"
	nobody = "00000000-0000-4000-8000-000000000000" // never in auth.users
)

// sqlState returns PostgreSQL's code for what happened, "" for success.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

const (
	denied  = "42501"
	taken   = "42P07" // a table of this name is there already
	notNull = "23502"
	notOnce = "23505" // violates a unique constraint
)

// writer is one of the two functions that write a row, and all that one knows
// of the row's table.
type writer struct {
	table, function string
	row             map[string]any // a complete one
	required        []string
	defaults        map[string]any // of keys that are missing; else null
	kept            []string       // what version 1 did not know: as it was, when the key is missing
}

var writers = []writer{{
	table:    "subscriptions",
	function: "stripe_write_subscription",
	row: map[string]any{
		"id": "sub_1", "user_id": userA, "stripe_customer_id": "cus_1", "status": "active",
		"price_id": "price_pro", "product_id": "prod_pro", "quantity": 1, "cancel_at_period_end": true,
		"items": []any{map[string]any{"price_id": "price_pro", "product_id": "prod_pro", "quantity": 1},
			map[string]any{"price_id": "price_calls", "product_id": "prod_calls", "quantity": nil}},
		"cancel_at": "2026-12-01T00:00:00+00:00", "canceled_at": "2026-11-02T00:00:00+00:00",
		"current_period_start": "2026-11-01T00:00:00+00:00", "current_period_end": "2026-12-01T00:00:00+00:00",
		"trial_start": "2026-10-01T00:00:00+00:00", "trial_end": "2026-11-01T00:00:00+00:00",
		"ended_at": "2026-12-01T00:00:00+00:00", "created": "2026-10-01T00:00:00+00:00",
		"metadata": map[string]any{"seat": "window"}, "livemode": true,
	},
	kept:     []string{"items", "livemode"},
	required: []string{"id", "stripe_customer_id", "status", "cancel_at_period_end", "created"},
}, {
	table:    "purchases",
	function: "stripe_write_purchase",
	row: map[string]any{
		"id": "cs_1", "user_id": userA, "stripe_customer_id": "cus_1", "email": "ada@example.com", "payment_intent_id": "pi_1",
		"status": "complete", "payment_status": "paid", "price_id": "price_lifetime", "product_id": "prod_lifetime",
		"line_items":   []any{map[string]any{"price_id": "price_lifetime", "product_id": "prod_lifetime", "quantity": 1, "amount_total": 4900}},
		"amount_total": 4900, "amount_refunded": 900, "disputed": true, "currency": "usd",
		"created": "2026-11-01T00:00:00+00:00", "metadata": map[string]any{"seat": "aisle"}, "livemode": true,
	},
	kept:     []string{"email", "product_id", "livemode"},
	required: []string{"id", "line_items", "created"},
	defaults: map[string]any{"amount_refunded": 0, "disputed": false},
}}

// forWriters runs f for each of the writers.
func forWriters(t *testing.T, f func(t *testing.T, db *database, w writer)) {
	for _, w := range writers {
		t.Run(w.table, func(t *testing.T) {
			db := postgres(t).install()
			db.AddUser(userA)
			db.AddUser(userB)
			f(t, db, w)
		})
	}
}

// with returns the complete row with changes, given as key, value, key, value.
func (w writer) with(changes ...any) map[string]any {
	row := maps.Clone(w.row)
	for i := 0; i < len(changes); i += 2 {
		row[changes[i].(string)] = changes[i+1]
	}
	return row
}

func (w writer) without(key string) map[string]any {
	row := maps.Clone(w.row)
	delete(row, key)
	return row
}

// write calls the function as the service role.
func (w writer) write(db *database, ticket any, row map[string]any) error {
	_, err := db.Exec("service_role", "", "select public."+w.function+"($1, $2)", ticket, row)
	return err
}

// mustWrite is write that succeeds.
func (w writer) mustWrite(db *database, ticket int, row map[string]any) {
	db.tb.Helper()
	if err := w.write(db, ticket, row); err != nil {
		db.tb.Fatalf("%s(%d, %v) = %v; want no error", w.function, ticket, row, err)
	}
}

// stored returns the table's only row as JSON.
func (w writer) stored(db *database) string {
	db.tb.Helper()
	return db.Text("select to_jsonb(r) from public." + w.table + " r")
}

// asStored returns row as the table shows it, in the form of stored.
func (w writer) asStored(db *database, ticket int, row map[string]any) string {
	db.tb.Helper()
	row = maps.Clone(row)
	row["ticket"] = ticket
	return db.Text("select $1::jsonb", row)
}

func (db *database) catalogue() string {
	db.tb.Helper()
	return db.Text(`select string_agg(line, E'\n' order by line) from (
		select format('%s %s %s %s %s', relname, relkind, relrowsecurity, relacl,
			(select array_agg((attname, atttypid::regtype, attnotnull) order by attname) from pg_attribute where attrelid = c.oid))
			from pg_class c where relnamespace = 'public'::regnamespace
		union all select format('%s %s %s %s', oid::regprocedure, proacl, proconfig, prosecdef)
			from pg_proc where pronamespace = 'public'::regnamespace
		union all select format('%s', p) from pg_policies p
		union all select format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) from pg_constraint
			where connamespace = 'public'::regnamespace
	) as lines (line)`)
}

func TestSchemaAgain(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	for _, w := range writers {
		w.mustWrite(db, 7, w.row)
	}
	before := db.catalogue()
	db.install()
	if after := db.catalogue(); after != before {
		t.Errorf("catalogue after a second run =\n%s\nwant\n%s", after, before)
	}
	for _, w := range writers {
		if got, want := w.stored(db), w.asStored(db, 7, w.row); got != want {
			t.Errorf("row of %s after a second run = %s; want %s", w.table, got, want)
		}
	}
}

// TestSchemaOnTop runs the schema where a customers table is there already.
func TestSchemaOnTop(t *testing.T) {
	t.Parallel()
	const rows = "insert into public.customers values ('" + userA + "', 'cus_a'), ('" + userB + "', null);"
	for name, existing := range map[string]string{
		"no table":       ``,
		"primary key":    `create table public.customers (id uuid primary key, stripe_customer_id text);` + rows,
		"no primary key": `create table public.customers (id uuid, stripe_customer_id text);` + rows,
		"no rows":        `create table public.customers (id uuid, stripe_customer_id text);`,
		"unique already": `create table public.customers (id uuid unique, stripe_customer_id text unique);` + rows,
		"unique, for other uses": `create table public.customers (id uuid, stripe_customer_id text, unique (id, stripe_customer_id));
			create unique index on public.customers (stripe_customer_id) where stripe_customer_id <> '';` + rows,
		"earlier version": `create table public.customers (id uuid primary key references auth.users (id) on delete cascade, stripe_customer_id text);
			create unique index customers_stripe_customer_id_key on public.customers (stripe_customer_id);
			alter table public.customers enable row level security;
			revoke all on public.customers from anon, authenticated;` + rows,
	} {
		t.Run(name, func(t *testing.T) {
			db := postgres(t)
			db.AddUser(userA)
			db.AddUser(userB)
			db.Script(existing)
			db.install().install()
			if strings.Contains(existing, rows) {
				got := db.Text("select string_agg(format('%s %s', id, stripe_customer_id), ', ' order by id) from public.customers")
				if want := userA + " cus_a, " + userB + " "; got != want {
					t.Errorf("rows afterwards = %q; want %q", got, want)
				}
				db.Must("delete from public.customers")
			}
			const insert = "insert into public.customers (id, stripe_customer_id) values ($1, $2)"
			for _, step := range []struct {
				sql, user string
				customer  any
				rows      int64
				state     string
			}{
				{insert, userA, "cus_1", 1, ""},
				{insert, userA, "cus_2", 0, notOnce},
				{insert, userB, "cus_1", 0, notOnce},
				{insert + " on conflict (id) do nothing", userA, "cus_2", 0, ""},
				{insert + " on conflict (stripe_customer_id) do nothing", userB, "cus_1", 0, ""},
				{insert, userB, nil, 1, ""},
				{"update public.customers set stripe_customer_id = $2 where id = $1", userB, "cus_1", 0, notOnce},
			} {
				n, err := db.Exec("service_role", "", step.sql, step.user, step.customer)
				if n != step.rows || sqlState(err) != step.state {
					t.Errorf("%s (%s, %v) = %d, %v; want %d, %q", step.sql, step.user, step.customer, n, err, step.rows, step.state)
				}
			}
		})
	}
}

// TestSchemaRefuses is about tables that the schema cannot be run on: it must
// say so and leave everything as it was.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ existing, state string }{
		"one Customer of two users": {`create table public.customers (id uuid, stripe_customer_id text);
			insert into public.customers values ('` + userA + `', 'cus_1'), ('` + userB + `', 'cus_1')`, notOnce},
		"subscriptions of another make": {`create table public.subscriptions (id text primary key, user_id uuid, status text)`, taken},
		"purchases of another make":     {`create table public.purchases (id text primary key, user_id uuid)`, taken},
	} {
		t.Run(name, func(t *testing.T) {
			db := postgres(t)
			db.Script(test.existing)
			before := db.catalogue()
			if err := db.Try(string(api.Schema)); sqlState(err) != test.state {
				t.Errorf("running the schema = %v; want %s", err, test.state)
			}
			// psql goes on after an error, statement by statement.
			psql := db.Psql("-v", "VERBOSITY=sqlstate", "-f", "schema.sql")
			if output, err := psql.CombinedOutput(); err != nil || !strings.Contains(string(output), test.state) {
				t.Errorf("psql -f schema.sql = %s (%v); want %s", output, err, test.state)
			}
			if after := db.catalogue(); after != before {
				t.Errorf("catalogue afterwards =\n%s\nwant\n%s", after, before)
			}
		})
	}
}

func TestCustomersInsertAtOnce(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	var inserted atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			n, err := db.Exec("service_role", "", "insert into public.customers values ($1, $2) on conflict (id) do nothing",
				userA, fmt.Sprintf("cus_%d", i))
			if err != nil {
				t.Errorf("insert = %v; want no error", err)
			}
			inserted.Add(n)
		})
	}
	wg.Wait()
	if n := inserted.Load(); n != 1 {
		t.Errorf("rows inserted = %d; want 1", n)
	}
}

// rights is what each role can do: the number of rows touched or seen, or
// denied. $1 is user A; the rows are those of addRows. The last two columns are
// what is left when somebody follows the advice, found all over the web, to
// grant everything in public to everybody: row level security still stands, and
// no request can truncate a table or set a sequence.
var rights = []struct {
	sql                           string
	anon, userA, service          string
	anonIfGranted, userAIfGranted string
}{
	{"select from public.customers", denied, denied, "2", "0", "0"},
	{"insert into public.customers (id, stripe_customer_id) values ('" + userC + "', 'cus_new')", denied, denied, "1", denied, denied},
	{"update public.customers set stripe_customer_id = stripe_customer_id", denied, denied, "2", "0", "0"},
	{"delete from public.customers", denied, denied, "2", "0", "0"},
	{"truncate public.customers", denied, denied, "0", "0", "0"},

	{"select from public.subscriptions", denied, "1", "3", "0", "1"},
	{"select from public.subscriptions where user_id = $1", denied, "1", "1", "0", "1"},
	{"select from public.subscriptions where user_id is distinct from $1", denied, "0", "2", "0", "0"},
	{"insert into public.subscriptions (id, user_id, stripe_customer_id, status, cancel_at_period_end, created, ticket)" +
		" values ('sub_new', $1, 'cus_new', 'active', false, now(), 9)", denied, denied, "1", denied, denied},
	{"update public.subscriptions set status = 'active'", denied, denied, "3", "0", "0"},
	{"delete from public.subscriptions", denied, denied, "3", "0", "0"},
	{"truncate public.subscriptions", denied, denied, "0", "0", "0"},

	{"select from public.purchases", denied, "1", "3", "0", "1"},
	{"select from public.purchases where user_id = $1", denied, "1", "1", "0", "1"},
	{"select from public.purchases where user_id is distinct from $1", denied, "0", "2", "0", "0"},
	{"insert into public.purchases (id, user_id, line_items, created, ticket) values ('cs_new', $1, '[]', now(), 9)",
		denied, denied, "1", denied, denied},
	{"update public.purchases set payment_status = 'paid'", denied, denied, "3", "0", "0"},
	{"delete from public.purchases", denied, denied, "3", "0", "0"},
	{"truncate public.purchases", denied, denied, "0", "0", "0"},

	{"select from public.stripe_settings", denied, denied, "1", "0", "0"},
	{"update public.stripe_settings set test_mode_counts = true", denied, denied, "1", "0", "0"},
	{"insert into public.stripe_settings (version) values (1)", denied, denied, notOnce, denied, denied},
	{"select from public.stripe_deleted_users", denied, denied, "0", "0", "0"},
	{"insert into public.stripe_deleted_users (user_id, stripe_customer_id) values ($1, 'cus_a')", denied, denied, "1", denied, denied},
	{"select public.has_paid()", "1", "1", "1", "1", "1"},

	{"select last_value from public.stripe_tickets", denied, denied, "1", "1", "1"},
	{"select nextval('public.stripe_tickets')", denied, denied, "1", "1", "1"},
	{"select setval('public.stripe_tickets', 1)", denied, denied, "1", "1", "1"},

	{"select public.stripe_ticket()", denied, denied, "1", "1", "1"},
	{"select public.stripe_write_subscription(9, '" + `{"id":"a","user_id":"` + userA +
		`","stripe_customer_id":"cus_a","status":"active","cancel_at_period_end":false,"created":"2026-11-01T00:00:00Z"}` + "')",
		denied, denied, "1", denied, denied},
	{"select public.stripe_write_purchase(9, '" + `{"id":"a","user_id":"` + userA +
		`","line_items":[],"created":"2026-11-01T00:00:00Z"}` + "')",
		denied, denied, "1", denied, denied},
	// The same from outside the functions, where what they do may be denied too.
	{"select where has_function_privilege('public.stripe_ticket(integer)', 'execute')", "0", "0", "1", "1", "1"},
	{"select public.stripe_users_left(9)", denied, denied, "1", denied, denied},
	{"select where has_function_privilege('public.stripe_schema()', 'execute')", "0", "0", "1", "1", "1"},
	{"select where has_function_privilege('public.stripe_write_subscription(bigint, jsonb)', 'execute')", "0", "0", "1", "1", "1"},
	{"select where has_function_privilege('public.stripe_write_purchase(bigint, jsonb)', 'execute')", "0", "0", "1", "1", "1"},
}

// addRows adds three users, a row of customers for A and B, and in each of the
// other tables rows of A, of B and of nobody.
func (db *database) addRows() {
	db.AddUser(userA)
	db.AddUser(userB)
	db.AddUser(userC)
	db.Must("insert into public.customers (id, stripe_customer_id) values ($1, 'cus_a'), ($2, 'cus_b')", userA, userB)
	for _, w := range writers {
		for id, user := range map[string]any{"a": userA, "b": userB, "guest": nil} {
			w.mustWrite(db, 1, w.with("id", id, "user_id", user))
		}
	}
}

// attempt tries a statement of rights and undoes it.
func (db *database) attempt(role, userID, sql string) string {
	var result string
	undo := errors.New("undo")
	err := db.As(role, userID, func(tx pgx.Tx) error {
		tag, err := tx.Exec(context.Background(), strings.ReplaceAll(sql, "$1", "'"+userA+"'"))
		if err != nil {
			return err
		}
		result = fmt.Sprint(tag.RowsAffected())
		return undo
	})
	if errors.Is(err, undo) {
		return result
	}
	return sqlState(err)
}

func TestRights(t *testing.T) {
	t.Parallel()
	for name, setUp := range map[string]string{
		"the project grants new tables to all": ``,
		"the project grants nothing": `
			alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
			alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;
			alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;`,
		"customers stood open": `
			create table public.customers (id uuid, stripe_customer_id text);
			grant all on public.customers to public;
			grant select (id), update (stripe_customer_id) on public.customers to authenticated;
			create policy "Anyone" on public.customers using (true) with check (true);`,
	} {
		t.Run(name, func(t *testing.T) {
			db := postgres(t)
			db.Script(setUp)
			db.install().addRows()
			check := func(when string, granted bool) {
				for _, r := range rights {
					anon, user := r.anon, r.userA
					if granted {
						anon, user = r.anonIfGranted, r.userAIfGranted
					}
					for _, c := range []struct{ role, userID, want string }{
						{"anon", "", anon}, {"anon", userA, anon}, {"authenticated", userA, user}, {"service_role", "", r.service},
					} {
						if got := db.attempt(c.role, c.userID, r.sql); got != c.want {
							t.Errorf("%s: %s as %s = %s; want %s", when, r.sql, c.role, got, c.want)
						}
					}
				}
			}
			check("installed", false)
			db.Script(`grant all on all tables in schema public to anon, authenticated, service_role;
				grant all on all sequences in schema public to anon, authenticated, service_role;
				grant all on all routines in schema public to anon, authenticated, service_role`)
			check("granted to all", true)
			db.install()
			check("installed again", false)
			for _, w := range writers {
				for userID, want := range map[string]string{userA: "a", userB: "b", nobody: "null", "": "null"} {
					var got string
					if err := db.As("authenticated", userID, func(tx pgx.Tx) error {
						return tx.QueryRow(context.Background(), "select coalesce(string_agg(id, ','), 'null') from public."+w.table).Scan(&got)
					}); err != nil || got != want {
						t.Errorf("%s that user %q sees = %s, %v; want %s", w.table, userID, got, err, want)
					}
				}
			}
		})
	}
}

func TestUserDeleted(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.addRows()
	if _, err := db.Exec("supabase_auth_admin", "", "delete from auth.users where id = $1", userA); err != nil {
		t.Fatalf("deleting the user = %v; want no error", err)
	}
	if got := db.Text("select string_agg(stripe_customer_id, ',') from public.customers"); got != "cus_b" {
		t.Errorf("customers afterwards = %s; want cus_b", got)
	}
	for _, w := range writers {
		users := func() string {
			return db.Text("select string_agg(format('%s:%s', id, user_id), ' ' order by id) from public." + w.table)
		}
		want := "a: b:" + userB + " guest:"
		if got := users(); got != want {
			t.Errorf("%s afterwards = %s; want %s", w.table, got, want)
		}
		// An event about the deleted user, then a late one.
		w.mustWrite(db, 3, w.with("id", "a"))
		w.mustWrite(db, 2, w.with("id", "a"))
		if got := users(); got != want {
			t.Errorf("%s after more events = %s; want %s", w.table, got, want)
		}
	}
}

// TestWriteAnyOrder makes four writes in each order, with the user known to any
// of them.
func TestWriteAnyOrder(t *testing.T) {
	t.Parallel()
	forWriters(t, func(t *testing.T, db *database, w writer) {
		for known := range 1 << 4 {
			row := func(ticket int, id string) map[string]any {
				row := w.with("id", id, "user_id", nil, "price_id", fmt.Sprint("price_", ticket))
				if known&(1<<(ticket-1)) != 0 {
					row["user_id"] = userA
				}
				return row
			}
			var batch pgx.Batch
			for _, order := range permutations([]int{1, 2, 3, 4}) {
				for _, ticket := range order {
					batch.Queue("select public."+w.function+"($1, $2)", ticket, row(ticket, fmt.Sprint(order)))
				}
			}
			db.Must("delete from public." + w.table)
			if err := db.As("service_role", "", func(tx pgx.Tx) error {
				return tx.SendBatch(context.Background(), &batch).Close()
			}); err != nil {
				t.Fatalf("writes = %v; want no error", err)
			}
			want := row(4, "")
			if known != 0 {
				want["user_id"] = userA
			}
			want["ticket"] = 4
			wrong := db.Text("select string_agg(id || ' ' || to_jsonb(r), E'\n') from public."+w.table+
				" r where to_jsonb(r) - 'id' <> $1::jsonb - 'id'", want)
			if n := db.Text("select count(*) from public." + w.table); n != "24" || wrong != "null" {
				t.Errorf("user known to %04b: %s rows, wrong ones by order of tickets:\n%s\nwant 24 like %v", known, n, wrong, want)
			}
		}
	})
}

func permutations(of []int) [][]int {
	if len(of) == 0 {
		return [][]int{{}}
	}
	var all [][]int
	for i, first := range of {
		for _, rest := range permutations(slices.Delete(slices.Clone(of), i, i+1)) {
			all = append(all, append([]int{first}, rest...))
		}
	}
	return all
}

// TestWriteAtOnce makes writes with tickets in random order from many
// goroutines, each ticket twice.
func TestWriteAtOnce(t *testing.T) {
	t.Parallel()
	forWriters(t, func(t *testing.T, db *database, w writer) {
		const writes = 24
		for range 8 {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			db.Must("delete from public." + w.table)
			rows := make([]map[string]any, writes)
			users := []any{nil, userA, nobody}
			known := false
			for i := range rows {
				user := users[random.IntN(len(users))]
				known = known || user == userA
				rows[i] = w.with("price_id", fmt.Sprint("price_", i), "user_id", user)
			}
			var wg sync.WaitGroup
			for _, i := range random.Perm(2 * writes) {
				wg.Go(func() {
					if err := w.write(db, i/2, rows[i/2]); err != nil {
						t.Errorf("write %d = %v; want no error", i/2, err)
					}
				})
			}
			wg.Wait()
			final := maps.Clone(rows[writes-1])
			final["user_id"] = nil
			if known {
				final["user_id"] = userA
			}
			if got, want := w.stored(db), w.asStored(db, writes-1, final); got != want {
				t.Errorf("row = %s; want %s", got, want)
			}
		}
	})
}

// TestTickets is the reason for tickets: an object changes, and whoever hears
// of a change draws a ticket, fetches and writes, all of them at once.
func TestTickets(t *testing.T) {
	t.Parallel()
	forWriters(t, func(t *testing.T, db *database, w writer) {
		var changes atomic.Int64 // the object at Stripe
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				changes.Add(1)
				ticket, err := drawTicket(db)
				if err != nil {
					t.Errorf("stripe_ticket() = %v; want no error", err)
					return
				}
				seen := changes.Load()
				if err := w.write(db, ticket, w.with("price_id", fmt.Sprint(seen))); err != nil {
					t.Errorf("write = %v; want no error", err)
				}
			})
		}
		wg.Wait()
		if got := db.Text("select price_id from public." + w.table); got != "40" {
			t.Errorf("change that the row shows = %s; want 40", got)
		}
	})
}

func drawTicket(db *database) (ticket int64, err error) {
	err = db.As("service_role", "", func(tx pgx.Tx) error {
		return tx.QueryRow(context.Background(), "select public.stripe_ticket()").Scan(&ticket)
	})
	return ticket, err
}

// TestConnectTables is about the harness: calls that reach the database do not
// wait for each other. That they reach it is TestWrite's.
func TestConnectTables(t *testing.T) {
	b, w := newBackend(t, postgres(t).install()), writers[0]
	w.row = w.with("user_id", b.known)
	if got := b.write(w, 1, w.row); got != "204" {
		t.Fatalf("write = %s; want 204", got)
	}
	written := make(chan string, 1)
	if err := b.db.As("service_role", "", func(tx pgx.Tx) error {
		if _, err := tx.Exec(context.Background(), "select from public.subscriptions for update"); err != nil {
			return err
		}
		go func() {
			written <- b.write(w, 3, w.row)
		}()
		for b.db.Text("select count(*) from pg_locks where not granted") == "0" {
			select {
			case got := <-written:
				return fmt.Errorf("write to a locked row = %q; want it to wait", got)
			default:
			}
		}
		if got := b.call(fakesupabase.ServiceRoleKey, "stripe_ticket", map[string]any{}); got != "200 1" {
			t.Errorf("stripe_ticket() while a write waits = %q; want 200 1", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := <-written; got != "204" {
		t.Errorf("the write that waited = %q; want 204", got)
	}
}
