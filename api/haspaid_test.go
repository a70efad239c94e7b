package api_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"8space.app/stripe-sidecar/api"
)

// hasPaid calls has_paid as PostgREST does for a user; what is nil for anything.
func (db *database) hasPaid(role, userID string, what any) bool {
	db.tb.Helper()
	var paid bool
	if err := db.As(role, userID, func(tx pgx.Tx) error {
		return tx.QueryRow(context.Background(), "select public.has_paid(what => $1)", what).Scan(&paid)
	}); err != nil {
		db.tb.Errorf("has_paid(%v) as %s = %v; want no error", what, role, err)
	}
	return paid
}

// TestHasPaid: which rows give a user something, what they give, and to nobody
// else.
func TestHasPaid(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	db.AddUser(userB)
	subscription, purchase := writers[0], writers[1]
	type row struct {
		w       writer
		changes []any
	}
	sub := func(changes ...any) row { return row{subscription, changes} }
	buy := func(changes ...any) row { return row{purchase, append([]any{"disputed", false}, changes...)} }
	tests := []struct {
		name string
		row  row
		want bool
	}{
		{"active", sub("status", "active"), true},
		{"trialing", sub("status", "trialing"), true},
		{"past due", sub("status", "past_due"), true},
		{"to be cancelled", sub("cancel_at_period_end", true), true},
		{"cancelled", sub("status", "canceled"), false},
		{"unpaid", sub("status", "unpaid"), false},
		{"incomplete", sub("status", "incomplete"), false},
		{"incomplete and expired", sub("status", "incomplete_expired"), false},
		{"paused", sub("status", "paused"), false},
		{"subscription of test mode", sub("livemode", false), false},
		{"subscription of version 1", sub("livemode", nil, "items", nil), true},
		{"subscription of nobody", sub("user_id", nil), false},

		{"paid", buy(), true},
		{"for nothing", buy("payment_status", "no_payment_required", "amount_total", 0, "amount_refunded", 0), true},
		{"paid with a code for nothing", buy("amount_total", 0, "amount_refunded", 0), true},
		{"not paid yet", buy("payment_status", "unpaid"), false},
		{"open", buy("status", "open"), false},
		{"expired", buy("status", "expired", "payment_status", "unpaid"), false},
		{"refunded in part", buy("amount_refunded", 4899), true},
		{"refunded", buy("amount_refunded", 4900), false},
		{"refunded, total unknown", buy("amount_total", nil, "amount_refunded", 1), false},
		{"disputed", buy("disputed", true), false},
		{"purchase of test mode", buy("livemode", false), false},
		{"purchase of version 1", buy("livemode", nil), true},
		{"a guest's", buy("user_id", nil), false},
	}
	for _, test := range tests {
		db.Must("delete from public.subscriptions")
		db.Must("delete from public.purchases")
		test.row.w.mustWrite(db, 1, test.row.w.with(test.row.changes...))
		bought := "price_pro prod_pro price_calls prod_calls"
		if test.row.w.table == "purchases" {
			bought = "price_lifetime prod_lifetime"
		}
		if test.name == "subscription of version 1" {
			bought = "price_pro prod_pro"
		}
		for _, what := range []any{nil, "price_pro", "prod_pro", "price_calls", "prod_calls", "price_lifetime", "prod_lifetime", "price_other", "", "sub_1", "cs_1", "%"} {
			want := test.want && (what == nil || slices.Contains(strings.Fields(bought), what.(string)))
			if got := db.hasPaid("authenticated", userA, what); got != want {
				t.Errorf("%s: has_paid(%v) = %t; want %t", test.name, what, got, want)
			}
		}
		for role, userID := range map[string]string{"authenticated": userB, "anon": "", "service_role": ""} {
			if db.hasPaid(role, userID, nil) {
				t.Errorf("%s: has_paid() as %s %s = true; want false", test.name, role, userID)
			}
		}
	}
}

// TestHasPaidItems: any item counts, not only the first.
func TestHasPaidItems(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	items := []any{map[string]any{"price_id": "price_a", "product_id": "prod_a"}, map[string]any{"price_id": "price_b", "product_id": "prod_b"}}
	writers[1].mustWrite(db, 1, writers[1].with("disputed", false, "line_items", items, "price_id", "price_a", "product_id", "prod_a"))
	for what, want := range map[string]bool{"price_a": true, "prod_a": true, "price_b": true, "prod_b": true, "price_lifetime": false} {
		if got := db.hasPaid("authenticated", userA, what); got != want {
			t.Errorf("has_paid(%s) = %t; want %t", what, got, want)
		}
	}
}

// TestTestModeCounts: the schema that is printed with a test key lets purchases
// of test mode count, the one with a live key does not, and the one without any
// leaves it as it is.
func TestTestModeCounts(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	yes, no := true, false
	for i, step := range []struct {
		counts *bool
		want   bool
	}{{nil, false}, {&yes, true}, {nil, true}, {&no, false}, {nil, false}} {
		db.Script(api.SchemaFor(api.SchemaConfig{TestModeCounts: step.counts}))
		if i == 0 {
			db.AddUser(userA)
			writers[0].mustWrite(db, 1, writers[0].with("livemode", false))
		}
		if got := db.hasPaid("authenticated", userA, nil); got != step.want {
			t.Errorf("step %d: has_paid() with a subscription of test mode = %t; want %t", i, got, step.want)
		}
	}
}

// TestHasPaidInPolicy: a policy of the site's own table, as the README has it,
// also where users may not read the tables themselves.
func TestHasPaidInPolicy(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	db.AddUser(userB)
	writers[0].mustWrite(db, 1, writers[0].row)
	db.Script(`create table public.articles (title text);
		alter table public.articles enable row level security;
		create policy "subscribers read" on public.articles for select using ((select has_paid('price_pro')));
		insert into public.articles values ('a'), ('b');`)
	for _, closed := range []string{"", "revoke select on public.subscriptions, public.purchases from authenticated"} {
		db.Script(closed)
		for _, c := range []struct {
			role, userID string
			want         int64
		}{{"authenticated", userA, 2}, {"authenticated", userB, 0}, {"anon", "", 0}} {
			if n, err := db.Exec(c.role, c.userID, "select from public.articles"); n != c.want || err != nil {
				t.Errorf("%q: articles that %s %s sees = %d, %v; want %d", closed, c.role, c.userID, n, err, c.want)
			}
		}
	}
}

// TestHasPaidSearchPath: nobody passes for paid with tables or functions of
// their own before ours.
func TestHasPaidSearchPath(t *testing.T) {
	t.Parallel()
	db := postgres(t).install()
	db.AddUser(userA)
	db.Script(`create schema eve; grant usage on schema eve to authenticated;
		create table eve.subscriptions (like public.subscriptions); grant select on eve.subscriptions to authenticated;
		insert into eve.subscriptions (id, user_id, stripe_customer_id, status, price_id, cancel_at_period_end, created, ticket)
			values ('sub_eve', '` + userA + `', 'cus_eve', 'active', 'price_pro', false, now(), 1);
		create function eve.jsonb_build_object(text, text) returns jsonb language sql as 'select ''{}''::jsonb';`)
	if err := db.As("authenticated", userA, func(tx pgx.Tx) error {
		var paid bool
		if _, err := tx.Exec(context.Background(), "set local search_path = eve, pg_catalog, public"); err != nil {
			return err
		}
		err := tx.QueryRow(context.Background(), "select public.has_paid('price_pro')").Scan(&paid)
		if paid {
			t.Error("has_paid() = true; want false")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
