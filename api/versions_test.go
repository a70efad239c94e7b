package api_test

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// schema1 is version 1 of the schema, which had no number yet.
//
//go:embed testdata/schema-1.sql
var schema1 string

// version1 is a row as a program of version 1 writes it.
func (w writer) version1(row map[string]any) map[string]any {
	row = maps.Clone(row)
	for _, key := range w.kept {
		delete(row, key)
	}
	return row
}

// writeAs1 draws a ticket and writes as a program of version 1 does.
func (w writer) writeAs1(db *database, row map[string]any) {
	db.tb.Helper()
	if _, err := db.Exec("service_role", "", "select public."+w.function+"(public.stripe_ticket(), $1)", w.version1(row)); err != nil {
		db.tb.Fatalf("%s of version 1 = %v; want no error", w.function, err)
	}
}

// TestUpgrade runs the schema over version 1: the rows stay as they are, and the
// rest is as if there had never been another.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	db.Script(schema1)
	db.AddUser(userA)
	db.Must("insert into public.customers values ($1, 'cus_a')", userA)
	before := map[string]string{}
	for _, w := range writers {
		w.writeAs1(db, w.row)
		before[w.table] = w.stored(db)
	}
	db.install()
	if got, want := db.catalogue(), postgres(t).install().catalogue(); got != want {
		t.Errorf("catalogue after the upgrade =\n%s\nwant that of a fresh database\n%s", got, want)
	}
	if got := db.Text("select string_agg(id || stripe_customer_id, ',') from public.customers"); got != userA+"cus_a" {
		t.Errorf("customers after the upgrade = %s; want the row as it was", got)
	}
	for i, w := range writers {
		kept := db.Text("select to_jsonb(r) - $1::text[] from public."+w.table+" r", w.kept)
		if kept != db.Text("select $1::jsonb - $2::text[]", before[w.table], w.kept) {
			t.Errorf("row of %s after the upgrade = %s; want %s", w.table, kept, before[w.table])
		}
		w.mustWrite(db, 100+i, w.row)
		if got, want := w.stored(db), w.asStored(db, 100+i, w.row); got != want {
			t.Errorf("row of %s written anew = %s; want %s", w.table, got, want)
		}
	}
}

// TestOldProgram has a program of version 1 write to the schema, beside a later
// one and after it.
func TestOldProgram(t *testing.T) {
	t.Parallel()
	forWriters(t, func(t *testing.T, db *database, w writer) {
		db.Script("select setval('public.stripe_tickets', 100)")
		check := func(name string, ticket int, want map[string]any) {
			t.Helper()
			if got, want := w.stored(db), w.asStored(db, ticket, want); got != want {
				t.Errorf("%s: row = %s; want %s", name, got, want)
			}
		}
		unknown := w.with()
		for _, key := range w.kept {
			unknown[key] = nil
		}
		w.writeAs1(db, w.row)
		check("alone", 101, unknown)
		w.mustWrite(db, 102, w.row)
		check("the later one after it", 102, w.row)
		db.Script("select setval('public.stripe_tickets', 102)")
		w.writeAs1(db, w.with("metadata", nil))
		check("after the later one", 103, w.with("metadata", nil))
		if w.table == "subscriptions" {
			w.writeAs1(db, w.with("price_id", "price_basic"))
			check("another price", 104, w.with("price_id", "price_basic", "items", nil))
		}
	})
}

// TestSchemaVersion: the program and the schema agree on what the version is, and
// a program of a later one draws no ticket.
func TestSchemaVersion(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	if got := db.Text("select version from public.stripe_settings"); got != fmt.Sprint(customers.SchemaVersion) {
		t.Errorf("version of the schema = %s; want %d, the program's", got, customers.SchemaVersion)
	}
	for needs, want := range map[int]string{1: "", customers.SchemaVersion: "", customers.SchemaVersion + 1: "0A000"} {
		if _, err := db.Exec("service_role", "", "select public.stripe_ticket($1)", needs); sqlState(err) != want {
			t.Errorf("stripe_ticket(%d) = %v; want %q", needs, err, want)
		}
	}
}

// TestSandboxSchema: the imitation has the columns of the schema, and no others.
func TestSandboxSchema(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	for _, table := range fakesupabase.DefaultTables() {
		var columns []string
		for _, c := range table.Columns {
			columns = append(columns, c.Name)
		}
		slices.Sort(columns)
		want := db.Text(`select string_agg(attname, ' ' order by attname collate "C") from pg_attribute
			where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`, "public."+table.Name)
		if got := strings.Join(columns, " "); got != want {
			t.Errorf("columns of the imitation's %s = %s; want %s", table.Name, got, want)
		}
	}
}

// TestNewProgramOldSchema: nothing is written for which there is no column. The
// Events come again, and the log says what to do.
func TestNewProgramOldSchema(t *testing.T) {
	t.Parallel()
	for name, old := range map[string]string{"version 1": schema1, "none": "select 1"} {
		t.Run(name, func(t *testing.T) {
			db := postgres(t)
			db.Script(old)
			s := startShopOn(t, db)
			u, session := s.signUp("ada@example.com")
			db.AddUser(u.ID)
			if got := s.checkout(buyOnce, session...); got.status != 200 {
				t.Errorf("create-checkout = %d %s; want 200", got.status, got.body)
			}
			s.stripe.PayCheckout(s.stripe.CheckoutSessions()[0].ID)
			var payload string
			for _, e := range s.stripe.Events() {
				if e.Type == "checkout.session.completed" {
					payload = string(e.Payload)
				}
			}
			if got := s.deliver(payload, whsec, time.Now()); got.status != 500 {
				t.Errorf("webhook = %d %s; want 500", got.status, got.body)
			}
			if logs := s.logs.String(); !strings.Contains(logs, "run what `stripe-sidecar schema` prints") {
				t.Errorf("log = %s; want what to do in it", logs)
			}
			if name == "version 1" && db.Text("select count(*) from public.purchases") != "0" {
				t.Error("a row was written; want none")
			}
			db.install()
			if got := s.deliver(payload, whsec, time.Now()); got.status != 200 {
				t.Errorf("webhook after the schema was run = %d %s; want 200", got.status, got.body)
			}
			if n := db.Text("select count(*) from public.purchases where livemode is not null and user_id = $1", u.ID); n != "1" {
				t.Errorf("rows = %s; want 1", n)
			}
		})
	}
}
