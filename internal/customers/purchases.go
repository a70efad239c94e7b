package customers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Ticket draws the next number from the database's sequence. Whoever draws one
// before asking Stripe for an object, and writes the object with it, never
// overwrites what was fetched later: see api/schema.sql.
func (s *Store) Ticket(ctx context.Context) (int64, error) {
	answer, err := s.call(ctx, "stripe_ticket", struct{}{})
	if err != nil {
		return 0, err
	}
	var ticket int64
	if err := json.Unmarshal([]byte(answer), &ticket); err != nil {
		return 0, fmt.Errorf("function stripe_ticket answered no number")
	}
	return ticket, nil
}

// WriteSubscription writes a row of the table subscriptions; row marshals to
// an object of its columns. A row with a later ticket stands.
func (s *Store) WriteSubscription(ctx context.Context, ticket int64, row any) error {
	_, err := s.call(ctx, "stripe_write_subscription", map[string]any{"ticket": ticket, "subscription": row})
	return err
}

// WritePurchase writes a row of the table purchases, as WriteSubscription does.
func (s *Store) WritePurchase(ctx context.Context, ticket int64, row any) error {
	_, err := s.call(ctx, "stripe_write_purchase", map[string]any{"ticket": ticket, "purchase": row})
	return err
}

// call calls a function of the database and returns its answer, JSON.
// https://docs.postgrest.org/en/stable/references/api/functions.html
func (s *Store) call(ctx context.Context, function string, arguments any) (string, error) {
	client, call := s.client(ctx, "")
	answer := client.Rpc(function, "", arguments)
	if err := client.ClientError; err != nil {
		return "", fmt.Errorf("call function %s (status %d): %w", function, call.status, err)
	}
	if call.status >= 300 {
		var e struct{ Code, Message string }
		_ = json.Unmarshal([]byte(answer), &e)
		if e.Code == "PGRST202" {
			e.Message += ": run `stripe-sidecar schema` in the database"
		}
		return "", fmt.Errorf("call function %s (status %d): (%s) %s", function, call.status, e.Code, e.Message)
	}
	return strings.TrimSpace(answer), nil
}
