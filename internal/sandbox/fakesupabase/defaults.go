package fakesupabase

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// DefaultTables are those of the service's schema.sql. A project that has them
// has its functions too: stripe_ticket, stripe_write_subscription,
// stripe_write_purchase, stripe_users_left, has_paid and stripe_schema.
func DefaultTables() []Table {
	own := func(row map[string]any, userID string) bool { return userID != "" && row["user_id"] == userID }
	return []Table{{
		Name: "customers",
		Columns: []Column{
			{Name: "id", Type: "uuid"},
			{Name: "stripe_customer_id", Type: "text"},
		},
		Unique: [][]string{{"id"}, {"stripe_customer_id"}},
	}, {
		Name: "subscriptions",
		Columns: []Column{
			{Name: "id", Type: "text"},
			{Name: "user_id", Type: "uuid"},
			{Name: "stripe_customer_id", Type: "text", NotNull: true},
			{Name: "status", Type: "text", NotNull: true},
			{Name: "price_id", Type: "text"},
			{Name: "product_id", Type: "text"},
			{Name: "quantity", Type: "int"},
			{Name: "items", Type: "jsonb"},
			{Name: "cancel_at_period_end", Type: "bool", NotNull: true},
			{Name: "cancel_at", Type: "timestamptz"},
			{Name: "canceled_at", Type: "timestamptz"},
			{Name: "current_period_start", Type: "timestamptz"},
			{Name: "current_period_end", Type: "timestamptz"},
			{Name: "trial_start", Type: "timestamptz"},
			{Name: "trial_end", Type: "timestamptz"},
			{Name: "ended_at", Type: "timestamptz"},
			{Name: "created", Type: "timestamptz", NotNull: true},
			{Name: "metadata", Type: "jsonb"},
			{Name: "livemode", Type: "bool"},
			{Name: "ticket", Type: "int", NotNull: true},
		},
		Unique: [][]string{{"id"}}, Select: own, SignedInOnly: true,
	}, {
		Name: "purchases",
		Columns: []Column{
			{Name: "id", Type: "text"},
			{Name: "user_id", Type: "uuid"},
			{Name: "stripe_customer_id", Type: "text"},
			{Name: "email", Type: "text"},
			{Name: "payment_intent_id", Type: "text"},
			{Name: "status", Type: "text"},
			{Name: "payment_status", Type: "text"},
			{Name: "price_id", Type: "text"},
			{Name: "product_id", Type: "text"},
			{Name: "line_items", Type: "jsonb", NotNull: true},
			{Name: "amount_total", Type: "int"},
			{Name: "amount_refunded", Type: "int", NotNull: true, Default: func() any { return 0 }},
			{Name: "disputed", Type: "bool", NotNull: true, Default: func() any { return false }},
			{Name: "currency", Type: "text"},
			{Name: "created", Type: "timestamptz", NotNull: true},
			{Name: "metadata", Type: "jsonb"},
			{Name: "livemode", Type: "bool"},
			{Name: "ticket", Type: "int", NotNull: true},
		},
		Unique: [][]string{{"id"}}, Select: own, SignedInOnly: true,
	}, {
		Name: "stripe_settings",
		Columns: []Column{
			{Name: "id", Type: "bool", Default: func() any { return true }},
			{Name: "version", Type: "int", NotNull: true},
			{Name: "test_mode_counts", Type: "bool", NotNull: true, Default: func() any { return false }},
		},
		Unique: [][]string{{"id"}},
	}, {
		Name: "stripe_deleted_users",
		Columns: []Column{
			{Name: "stripe_customer_id", Type: "text"},
			{Name: "user_id", Type: "uuid", NotNull: true},
			{Name: "left_at", Type: "timestamptz", NotNull: true, Default: func() any { return time.Now() }},
			{Name: "done_at", Type: "timestamptz"},
		},
		Unique: [][]string{{"stripe_customer_id"}},
	}}
}

// defaultFunctions do what those of schema.sql do.
func (s *Project) defaultFunctions() {
	s.Function("stripe_ticket", func(tx *Tx, _ map[string]any) (any, error) {
		if err := tx.onlyServiceRole("stripe_ticket"); err != nil {
			return nil, err
		}
		return tx.Nextval("stripe_tickets"), nil
	})
	s.Function("stripe_write_subscription", func(tx *Tx, args map[string]any) (any, error) {
		return nil, tx.writeNewer("stripe_write_subscription", "subscriptions", args["ticket"], args["subscription"])
	})
	s.Function("stripe_write_purchase", func(tx *Tx, args map[string]any) (any, error) {
		return nil, tx.writeNewer("stripe_write_purchase", "purchases", args["ticket"], args["purchase"])
	})
	s.Function("stripe_users_left", func(tx *Tx, args map[string]any) (any, error) {
		if err := tx.onlyServiceRole("stripe_users_left"); err != nil {
			return nil, err
		}
		return tx.usersLeft(args["most"])
	})
	// Nothing is sold for money here, so that test mode counts.
	s.Function("has_paid", func(tx *Tx, args map[string]any) (any, error) {
		return tx.hasPaid(args["what"]), nil
	})
	s.Function("stripe_schema", func(tx *Tx, _ map[string]any) (any, error) {
		if err := tx.onlyServiceRole("stripe_schema"); err != nil {
			return nil, err
		}
		return map[string]any{
			"version": schemaVersion, "test_mode_counts": true, "problems": []any{},
			"customers_table": "customers", "customers_user_column": "id", "customers_customer_column": "stripe_customer_id",
			"subscriptions_table": "subscriptions", "purchases_table": "purchases",
		}, nil
	})
}

const schemaVersion = 2

// rememberUser is what the deletion of a user does to the tables. s.mu is held.
func (s *Project) rememberUser(userID string) {
	if err := s.inTx("service_role", "", func(tx *Tx) error {
		var others []row
		for _, r := range tx.Rows("customers") {
			if r["id"] != userID {
				others = append(others, r)
				continue
			}
			if id, _ := r["stripe_customer_id"].(string); id != "" {
				tx.changed["stripe_deleted_users"] = slices.DeleteFunc(tx.Rows("stripe_deleted_users"), func(d row) bool { return d["stripe_customer_id"] == id })
				if err := tx.Insert("stripe_deleted_users", row{"stripe_customer_id": id, "user_id": userID}); err != nil {
					return err
				}
			}
		}
		tx.changed["customers"] = others
		for _, table := range []string{"subscriptions", "purchases"} {
			if _, err := tx.Update(table, func(r map[string]any) bool { return r["user_id"] == userID }, row{"user_id": nil}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		panic("fakesupabase: delete user: " + err.Error())
	}
}

// usersLeft is the answer of stripe_users_left.
func (tx *Tx) usersLeft(most any) (any, error) {
	limit, err := strconv.Atoi(fmt.Sprint(most))
	if err != nil {
		return nil, pgErrorf("22P02", "invalid input syntax for type integer: %q", fmt.Sprint(most))
	}
	all := []string{}
	for _, d := range tx.Rows("stripe_deleted_users") {
		id := d["stripe_customer_id"].(string)
		anothers := slices.ContainsFunc(tx.Rows("customers"), func(c map[string]any) bool {
			return c["stripe_customer_id"] == id && c["id"] != d["user_id"]
		})
		if d["done_at"] == nil && tx.s.users[d["user_id"].(string)] == nil && !anothers {
			all = append(all, id)
		}
	}
	return map[string]any{"total": len(all), "customers": all[:min(limit, len(all))]}, nil
}

// hasPaid tells whether the caller's user may use a price or a product, nil for
// anything.
func (tx *Tx) hasPaid(what any) bool {
	bought := func(row map[string]any, items any) bool {
		if row["user_id"] != tx.userID || tx.userID == "" {
			return false
		}
		all, _ := items.([]any)
		return what == nil || row["price_id"] == what || row["product_id"] == what ||
			slices.ContainsFunc(all, func(item any) bool {
				i, _ := item.(map[string]any)
				return i["price_id"] == what || i["product_id"] == what
			})
	}
	return slices.ContainsFunc(tx.Rows("subscriptions"), func(s map[string]any) bool {
		return bought(s, s["items"]) && (s["status"] == "active" || s["status"] == "trialing" || s["status"] == "past_due")
	}) || slices.ContainsFunc(tx.Rows("purchases"), func(p map[string]any) bool {
		refunded := p["amount_refunded"].(int64)
		total, known := p["amount_total"].(int64)
		return bought(p, p["line_items"]) && p["status"] == "complete" && p["payment_status"] != "unpaid" &&
			p["disputed"] == false && (refunded == 0 || known && refunded < total)
	})
}

func (tx *Tx) onlyServiceRole(function string) error {
	if tx.role != "service_role" {
		return pgErrorf("42501", "permission denied for function %s", function)
	}
	return nil
}

// newer are the columns that version 1 of the program does not write; they stay
// as they are when it writes a row.
var newer = map[string][]string{"subscriptions": {"items", "livemode"}, "purchases": {"email", "product_id", "livemode"}}

// writeNewer writes a row unless one with a newer ticket is there. A user is
// kept when the write does not know one, and filled in by a late write too; one
// who is not in auth.users is not known.
func (tx *Tx) writeNewer(function, table string, ticket, given any) error {
	if err := tx.onlyServiceRole(function); err != nil {
		return err
	}
	t := tx.s.mustTable(table)
	from, _ := given.(map[string]any)
	next := row{}
	for _, c := range t.Columns {
		next[c.Name] = from[c.Name]
		if next[c.Name] == nil && c.Default != nil {
			next[c.Name] = c.Default()
		}
	}
	next["ticket"] = ticket
	userID, _ := next["user_id"].(string)
	if tx.s.users[userID] == nil {
		userID, next["user_id"] = "", nil
	}
	next, err := parseGo(t, next)
	if err == nil {
		err = t.checkNulls(next) // before it looks for a conflict, as PostgreSQL does
	}
	if err != nil {
		return err
	}
	same := func(r map[string]any) bool { return r["id"] == next["id"] }
	for _, stored := range tx.Rows(table) {
		if !same(stored) {
			continue
		}
		if stored["ticket"].(int64) >= next["ticket"].(int64) {
			if stored["user_id"] == nil && userID != "" {
				_, err = tx.Update(table, same, row{"user_id": userID})
			}
			return err
		}
		if userID == "" {
			next["user_id"] = stored["user_id"]
		}
		for _, name := range newer[table] {
			if _, said := from[name]; !said {
				next[name] = stored[name]
			}
		}
		_, err = tx.Update(table, same, next)
		return err
	}
	return tx.Insert(table, next)
}
