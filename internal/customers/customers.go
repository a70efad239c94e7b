// Package customers keeps what the site's own database knows: which Stripe
// Customer a Supabase user is, and what was bought. It reaches the project
// through PostgREST with the service role key, which no other package holds.
package customers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/supabase-community/postgrest-go"
	"github.com/supabase-community/supabase-go"

	"8space.app/stripe-sidecar/internal/upstream"
)

// Config says where the table is and what its columns are called.
type Config struct {
	URL            string          // base URL of the Supabase project, no trailing slash
	ServiceRoleKey upstream.Secret // a legacy service_role JWT or an sb_secret_… key
	Table          string          // in the schema public
	UserColumn     string          // uuid, unique: auth.users.id
	CustomerColumn string          // text, unique, may be null: cus_…
	Subscriptions  string          // the tables of what was bought, likewise in public
	Purchases      string
	Network        *upstream.Network
}

// Store reads and writes the tables. It is safe for concurrent use.
//
// Every error of its methods means that a table could not be read or written;
// it never means that there is no row.
type Store struct{ Config }

// New returns a Store; nothing is asked of Supabase before the first call.
func New(c Config) *Store { return &Store{c} }

// table is the Store with another table in the place of the Customers'.
func (s *Store) table(name string) *Store {
	config := s.Config
	config.Table = name
	return New(config)
}

// CustomerID returns the Stripe Customer recorded for a user. found tells
// whether the user has a row at all; customerID is "" when there is none or
// when the row names no Customer yet.
func (s *Store) CustomerID(ctx context.Context, userID string) (customerID string, found bool, err error) {
	rows, err := s.rows(ctx, "read", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Select(s.CustomerColumn, "", false).Eq(s.UserColumn, userID)
	})
	return s.one(rows, err)
}

// Insert records the Customer of a user who has no row. Where another request
// or replica was first, its row stands. Insert returns the Customer that
// stands afterwards, "" when the row that was there names none.
func (s *Store) Insert(ctx context.Context, userID, customerID string) (stands string, err error) {
	row := map[string]string{s.UserColumn: userID, s.CustomerColumn: customerID}
	// postgrest-go can only ask to merge, which would let the last one win.
	// on_conflict also makes PostgreSQL refuse a table whose user column is not
	// unique, where one user could end up with two Customers.
	rows, err := s.rows(ctx, "insert into", "resolution=ignore-duplicates,return=representation",
		func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
			return t.Insert(row, true, s.UserColumn, "representation", "")
		})
	return s.standing(ctx, userID, rows, err)
}

// Replace records customerID for a user whose row names was ("" for none), and
// leaves any other row alone. It returns the Customer that stands afterwards.
func (s *Store) Replace(ctx context.Context, userID, was, customerID string) (stands string, err error) {
	rows, err := s.rows(ctx, "update", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		q := t.Update(map[string]string{s.CustomerColumn: customerID}, "representation", "").Eq(s.UserColumn, userID)
		if was == "" {
			return q.Or(s.CustomerColumn+".is.null,"+s.CustomerColumn+".eq.", "")
		}
		return q.Eq(s.CustomerColumn, was)
	})
	return s.standing(ctx, userID, rows, err)
}

// UserID returns the user whose recorded Customer this is, "" when there is none.
func (s *Store) UserID(ctx context.Context, customerID string) (string, error) {
	rows, err := s.rows(ctx, "read", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Select(s.UserColumn, "", false).Eq(s.CustomerColumn, customerID).Limit(1, "")
	})
	if err != nil || len(rows) == 0 {
		return "", err
	}
	userID, _ := rows[0][s.UserColumn].(string)
	return userID, nil
}

// Forget takes a Customer that Stripe has deleted out of its user's row.
func (s *Store) Forget(ctx context.Context, customerID string) error {
	_, err := s.rows(ctx, "update", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		return t.Update(map[string]any{s.CustomerColumn: nil}, "representation", "").Eq(s.CustomerColumn, customerID)
	})
	return err
}

// Record is a row of the customers table that names a Customer.
type Record struct{ UserID, CustomerID string }

// Page returns the next records in the order of their users' IDs, at most
// limit; after is the user of the last one seen, "" to begin.
func (s *Store) Page(ctx context.Context, after string, limit int) ([]Record, error) {
	rows, err := s.rows(ctx, "read", "", func(t *postgrest.QueryBuilder) *postgrest.FilterBuilder {
		// Not equal to "" is not null either.
		q := t.Select(s.columns(), "", false).Neq(s.CustomerColumn, "").
			Order(s.UserColumn, &postgrest.OrderOpts{Ascending: true}).Limit(limit, "")
		if after != "" {
			q = q.Gt(s.UserColumn, after)
		}
		return q
	})
	records := make([]Record, 0, len(rows))
	for _, row := range rows {
		userID, _ := row[s.UserColumn].(string)
		customerID, _ := row[s.CustomerColumn].(string)
		records = append(records, Record{userID, customerID})
	}
	return records, err
}

func (s *Store) columns() string { return s.UserColumn + "," + s.CustomerColumn }

// Count returns how many records there are after a user, as Page goes.
func (s *Store) Count(ctx context.Context, after string) (int64, error) {
	c := s.begin(ctx, "count")
	q := c.client.From(s.Table).Select(s.UserColumn, "exact", true).Neq(s.CustomerColumn, "")
	if after != "" {
		q = q.Gt(s.UserColumn, after)
	}
	_, n, err := q.Execute()
	return n, c.failure("count rows of table "+s.Table, err)
}

// standing returns the Customer in the row just written or, when the write
// touched none, the one that somebody else wrote.
func (s *Store) standing(ctx context.Context, userID string, written []map[string]any, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if len(written) == 0 {
		customerID, _, err := s.CustomerID(ctx, userID)
		return customerID, err
	}
	customerID, _, err := s.one(written, nil)
	return customerID, err
}

func (s *Store) one(rows []map[string]any, err error) (customerID string, found bool, _ error) {
	switch {
	case err != nil:
		return "", false, err
	case len(rows) == 0:
		return "", false, nil
	case len(rows) > 1:
		return "", false, fmt.Errorf("table %s has %d rows for one user: column %s must be unique", s.Table, len(rows), s.UserColumn)
	}
	switch v := rows[0][s.CustomerColumn].(type) {
	case nil:
		return "", true, nil
	case string:
		return v, true, nil
	default:
		return "", false, fmt.Errorf("column %s of table %s is not text", s.CustomerColumn, s.Table)
	}
}

// rows runs one PostgREST request and returns the rows it answered with.
// https://docs.postgrest.org/en/stable/references/api/tables_views.html
func (s *Store) rows(ctx context.Context, doing, prefer string, query func(*postgrest.QueryBuilder) *postgrest.FilterBuilder) ([]map[string]any, error) {
	name := "write_customer"
	switch doing {
	case "read":
		name = "read_customer"
	case "list":
		name = "list_bought"
	}
	c := s.begin(ctx, name)
	if prefer != "" {
		c.Header = http.Header{"Prefer": {prefer}}
	}
	body, _, err := query(c.client.From(s.Table)).Execute()
	if err := c.failure(doing+" table "+s.Table, err); err != nil {
		return nil, err
	}
	var rows []map[string]any
	if err := json.Unmarshal(body, &rows); err != nil || rows == nil {
		return nil, fmt.Errorf("%s table %s: the answer is not a list of rows", doing, s.Table)
	}
	return rows, nil
}

// call is one request to PostgREST. postgrest-go takes no context, and a client
// that is shared would keep its first error for good.
type call struct {
	*upstream.Exchange
	client *postgrest.Client
}

func (s *Store) begin(ctx context.Context, name string) call {
	key := s.ServiceRoleKey.Reveal()
	c := call{s.Network.Exchange(ctx, upstream.Database, name), postgrest.NewClient(s.URL+supabase.REST_URL, "public", map[string]string{
		// A new-style key is not a JWT: the gateway lets it stand as the Bearer
		// token only where it equals the apikey, so both kinds are sent alike.
		// https://supabase.com/docs/guides/api/api-keys
		"apikey":        key,
		"Authorization": "Bearer " + key,
	})}
	c.client.Transport.Parent = c.Exchange
	return c
}

// failure is the error of a call that failed with err; nil stays nil.
func (c call) failure(doing string, err error) error {
	if err == nil {
		return nil
	}
	if c.Status != 0 && c.Status/100 != 2 {
		refused := &Refusal{Status: c.Status}
		_ = json.Unmarshal(c.Body, refused) // a gateway's answer has no code
		err = refused
	}
	// Without the URL, which has the filters in it, that http.Client adds.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Refusal is an answer of PostgREST that is not a success. Its message is left
// out, because it can quote what somebody entered.
// https://docs.postgrest.org/en/stable/references/errors.html
type Refusal struct {
	Status int    `json:"-"` // of HTTP
	Code   string // PostgreSQL's or PostgREST's, "" when something else answered
}

// UserUnknown tells whether a row was refused because its user is not in
// auth.users (foreign_key_violation).
func (e *Refusal) UserUnknown() bool { return e.Code == "23503" }

func (e *Refusal) Error() string {
	text := fmt.Sprintf("status %d", e.Status)
	if e.Code != "" {
		text += fmt.Sprintf(", code %.10s", e.Code)
	}
	switch {
	case e.Code == "PGRST202", e.Code == "PGRST205", e.Code == "42703", e.Code == "42P10":
		text += ": has the schema been run, with the names of these tables and columns?"
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		text += ": is the key the service role's?"
	}
	return text
}
