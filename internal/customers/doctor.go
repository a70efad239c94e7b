package customers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/supabase-community/postgrest-go"

	"8space.app/stripe-sidecar/internal/upstream"
)

// Problem is something wrong with the site's database.
type Problem struct {
	Table   string // or "functions", or "schema" for the whole of it
	Problem string
	Remedy  string // SQL, or what to do; "" where that depends on the configuration
}

// CheckSchema returns what the schema in the database finds wrong with itself, and
// with a table of Customers that is the site's own. testMode tells whether what
// Stripe's test mode sells should count as paid.
//
// Errors: *Refusal, with the code PGRST202 where no schema was run, or too old a one.
func (s *Store) CheckSchema(ctx context.Context, testMode bool) (detail string, problems []Problem, err error) {
	answer, err := s.call(ctx, "schema", "stripe_schema", struct{}{})
	if err != nil {
		return "", nil, err
	}
	var schema struct {
		Version            *int
		TestModeCounts     *bool  `json:"test_mode_counts"`
		CustomersTable     string `json:"customers_table"`
		UserColumn         string `json:"customers_user_column"`
		CustomerColumn     string `json:"customers_customer_column"`
		SubscriptionsTable string `json:"subscriptions_table"`
		PurchasesTable     string `json:"purchases_table"`
		Problems           []Problem
	}
	if err := json.Unmarshal([]byte(answer), &schema); err != nil || schema.Problems == nil {
		return "", nil, errors.New("function stripe_schema did not answer with a list of problems")
	}
	whole := func(format string, arguments ...any) {
		problems = append(problems, Problem{Table: "schema", Problem: fmt.Sprintf(format, arguments...)})
	}
	for _, name := range []struct{ what, there, here string }{
		{"table of Customers", schema.CustomersTable, s.Table}, {"column of users", schema.UserColumn, s.UserColumn},
		{"column of Customers", schema.CustomerColumn, s.CustomerColumn},
		{"table of subscriptions", schema.SubscriptionsTable, s.Subscriptions}, {"table of purchases", schema.PurchasesTable, s.Purchases},
	} {
		if name.there != name.here {
			whole("it was printed with the %s %q, which is %q here", name.what, name.there, name.here)
		}
	}
	if v := schema.Version; v != nil {
		detail = fmt.Sprintf("version %d", *v)
		if *v < SchemaVersion {
			whole("it is of version %d, and this program needs %d", *v, SchemaVersion)
		}
	}
	if counts := schema.TestModeCounts; counts != nil && *counts && !testMode {
		whole("what Stripe's test mode sold counts as paid, and the key is a live one")
	} else if counts != nil && !*counts && testMode {
		detail += "; has_paid does not count what test mode sells"
	}
	return detail, append(problems, schema.Problems...), nil
}

// CheckColumns reports whether these columns of the two tables of what was bought can
// be read.
func (s *Store) CheckColumns(ctx context.Context, subscriptions, purchases []string) error {
	if _, err := s.table(s.Subscriptions).first(ctx, strings.Join(subscriptions, ",")); err != nil {
		return err
	}
	_, err := s.table(s.Purchases).first(ctx, strings.Join(purchases, ","))
	return err
}

// CheckTable reports whether the customers table and its columns can be read.
func (s *Store) CheckTable(ctx context.Context) error {
	_, err := s.first(ctx, s.columns())
	return err
}

// CheckWrites reports whether the functions can be called that write what was
// bought. They are given a row that lacks all it needs, and must say so
// (not_null_violation); a ticket is drawn, which does no harm.
func (s *Store) CheckWrites(ctx context.Context) error {
	if _, err := s.Ticket(ctx); err != nil {
		return err
	}
	for name, write := range map[string]func(context.Context, int64, any) error{"subscription": s.WriteSubscription, "purchase": s.WritePurchase} {
		err := write(ctx, 0, struct{}{})
		var refused *Refusal
		switch {
		case err == nil:
			return fmt.Errorf("an empty %s was written", name)
		case !errors.As(err, &refused) || refused.Code != "23502":
			return err
		}
	}
	return nil
}

// first returns these columns of at most one row of the table.
func (s *Store) first(ctx context.Context, columns string) ([]map[string]any, error) {
	return s.rows(ctx, "read", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Select(columns, "", false).Limit(1, "")
	})
}

// CheckClosed reports whether strangers, who have the anon key, are kept from
// writing the customers table, and from reading it unless it is the site's own.
// They are let try on a row that there cannot be.
func (s *Store) CheckClosed(ctx context.Context, anonKey upstream.Secret, sitesOwn bool) error {
	config := s.Config
	config.ServiceRoleKey = anonKey
	stranger := New(config)
	_, err := stranger.rows(ctx, "update", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Update(map[string]any{s.CustomerColumn: nil}, "representation", "").Eq(s.UserColumn, uuid.Nil.String())
	})
	if !denied(err) && (err != nil || !sitesOwn) {
		return open("write", err)
	}
	if sitesOwn { // whose policies may let everybody read
		return nil
	}
	if _, err := stranger.first(ctx, s.columns()); !denied(err) {
		return open("read", err)
	}
	return nil
}

// denied tells whether PostgreSQL did not let the role (insufficient_privilege).
func denied(err error) bool {
	var refused *Refusal
	return errors.As(err, &refused) && refused.Code == "42501"
}

func open(doing string, err error) error {
	if err != nil {
		return fmt.Errorf("as anon: %w", err)
	}
	return fmt.Errorf("anyone on the internet may %s it", doing)
}
