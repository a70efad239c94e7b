package customers

import (
	"context"
	"errors"
	"fmt"

	"github.com/supabase-community/postgrest-go"

	"8space.app/stripe-sidecar/internal/upstream"
)

// CheckTable reports whether the customers table and its columns can be read.
func (s *Store) CheckTable(ctx context.Context) error {
	_, err := s.first(ctx, s.columns())
	return err
}

// first returns these columns of at most one row of the table.
func (s *Store) first(ctx context.Context, columns string) ([]map[string]any, error) {
	return s.rows(ctx, "read", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Select(columns, "", false).Limit(1, "")
	})
}

// CheckClosed reports whether strangers, who have the anon key, are kept out of
// the customers table.
func (s *Store) CheckClosed(ctx context.Context, anonKey upstream.Secret) (detail string, err error) {
	config := s.Config
	config.ServiceRoleKey = anonKey
	seen, err := New(config).first(ctx, s.columns())
	var refused *refusal
	switch {
	case errors.As(err, &refused) && refused.Code == "42501": // insufficient_privilege
		return "", nil
	case err != nil:
		return "", fmt.Errorf("as anon: %w", err)
	case len(seen) > 0:
		return "", errors.New("anyone on the internet can read it")
	}
	rows, err := s.first(ctx, s.columns())
	if err == nil && len(rows) == 0 {
		detail = "there is no row to try it on"
	}
	return detail, err
}

// CheckPurchases reports whether the tables and functions are there that what
// was bought is written with. It draws a ticket, which does no harm.
func (s *Store) CheckPurchases(ctx context.Context) error {
	for _, table := range []string{s.Subscriptions, s.Purchases} {
		if _, err := s.table(table).first(ctx, "id,user_id,ticket"); err != nil {
			return err
		}
	}
	_, err := s.Ticket(ctx)
	return err
}
