package customers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/supabase-community/postgrest-go"
)

// SchemaVersion is the version of api/schema.sql that this program writes for. It
// writes to a later one too, and to an earlier one nothing: whatever that one has no
// column for would be lost.
const SchemaVersion = 2

// Ticket draws the next number from the database's sequence. Whoever draws one
// before asking Stripe for an object, and writes the object with it, never
// overwrites what was fetched later: see api/schema.sql. It fails where the schema
// is of an earlier version than SchemaVersion.
func (s *Store) Ticket(ctx context.Context) (int64, error) {
	answer, err := s.call(ctx, "ticket", "stripe_ticket", map[string]int{"needs": SchemaVersion})
	var refused *Refusal
	if errors.As(err, &refused) && (refused.Code == "PGRST202" || refused.Code == "0A000") {
		return 0, fmt.Errorf("the schema in the database is missing, or older than version %d: run what `stripe-sidecar schema` prints (status %d, code %s)",
			SchemaVersion, refused.Status, refused.Code)
	}
	if err != nil {
		return 0, err
	}
	ticket, err := strconv.ParseInt(answer, 10, 64)
	if err != nil {
		return 0, errors.New("function stripe_ticket did not answer with a number")
	}
	return ticket, nil
}

// WriteSubscription writes a row of the table subscriptions; row marshals to
// an object of its columns. A row with a later ticket stands.
func (s *Store) WriteSubscription(ctx context.Context, ticket int64, row any) error {
	return s.write(ctx, "stripe_write_subscription", map[string]any{"ticket": ticket, "subscription": row})
}

// WritePurchase writes a row of the table purchases, as WriteSubscription does.
func (s *Store) WritePurchase(ctx context.Context, ticket int64, row any) error {
	return s.write(ctx, "stripe_write_purchase", map[string]any{"ticket": ticket, "purchase": row})
}

// UsersLeft returns how many Customers of deleted users still stand at Stripe as they
// did, and of those at most as many as asked for, who left first.
func (s *Store) UsersLeft(ctx context.Context, most int) (customerIDs []string, total int, err error) {
	const function = "stripe_users_left"
	answer, err := s.call(ctx, "users_left", function, map[string]int{"most": most})
	if err != nil {
		return nil, 0, err
	}
	var left struct {
		Total     *int
		Customers []string
	}
	if err := json.Unmarshal([]byte(answer), &left); err != nil || left.Total == nil {
		return nil, 0, errors.New("function " + function + " did not answer with a total")
	}
	return left.Customers, *left.Total, nil
}

// Settled records that what is to become of a deleted user's Customer has been done.
func (s *Store) Settled(ctx context.Context, customerID string) error {
	_, err := s.table("stripe_deleted_users").rows(ctx, "update", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Update(map[string]any{"done_at": time.Now()}, "representation", "").Eq("stripe_customer_id", customerID)
	})
	return err
}

// Bought returns the rows of a user in the tables of what was bought, the newest first
// and at most 100 of each.
func (s *Store) Bought(ctx context.Context, userID string) (subscriptions, purchases []map[string]any, err error) {
	theirs := func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Select("*", "", false).Eq("user_id", userID).Order("created", &postgrest.OrderOpts{}).Limit(100, "")
	}
	if subscriptions, err = s.table(s.Subscriptions).rows(ctx, "list", "", theirs); err != nil {
		return nil, nil, err
	}
	purchases, err = s.table(s.Purchases).rows(ctx, "list", "", theirs)
	return subscriptions, purchases, err
}

// write calls a function that returns nothing. An answer with anything in it
// is not the function's, so nothing may have been written.
func (s *Store) write(ctx context.Context, function string, arguments any) error {
	answer, err := s.call(ctx, "write", function, arguments)
	if err == nil && answer != "" {
		err = fmt.Errorf("function %s answered something, which it never does", function)
	}
	return err
}

// call calls a function of the database and returns its answer, JSON.
// https://docs.postgrest.org/en/stable/references/api/functions.html
func (s *Store) call(ctx context.Context, name, function string, arguments any) (string, error) {
	c := s.begin(ctx, name)
	answer := c.client.Rpc(function, "", arguments)
	if err := c.failure("call function "+function, c.client.ClientError); err != nil {
		return "", err
	}
	return strings.TrimSpace(answer), nil
}
