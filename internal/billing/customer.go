package billing

import (
	"context"
	"errors"
	"fmt"

	"github.com/stripe/stripe-go/v76"
)

// CustomerID returns the Stripe Customer of a user.
//
// Errors: ErrNoCustomer, ErrCustomersUnavailable.
func (b *Billing) CustomerID(ctx context.Context, userID string) (string, error) {
	customerID, _, err := b.store.CustomerID(ctx, userID)
	if err == nil && customerID == "" {
		return "", ErrNoCustomer
	}
	return customerID, unavailable(err)
}

// ensureCustomer returns the Stripe Customer of a user, created if there is none.
func (b *Billing) ensureCustomer(ctx context.Context, u User) (string, error) {
	customerID, found, err := b.store.CustomerID(ctx, u.ID)
	switch {
	case err != nil:
		return "", unavailable(err)
	case customerID != "":
		return customerID, nil
	case found:
		return b.replaceCustomer(ctx, u, "")
	}
	created, err := b.createCustomer(ctx, u, "")
	if err != nil {
		return "", err
	}
	stands, err := b.record(ctx, u.ID, created)
	var refused interface{ UserUnknown() bool }
	if errors.As(err, &refused) && refused.UserUnknown() {
		return "", fmt.Errorf("%w: %w", ErrUserUnknown, errors.Join(err, b.deleteCustomer(ctx, created)))
	}
	return stands, err
}

// record makes a Customer that of a user without one, unless somebody else was first,
// and returns the Customer that stands.
func (b *Billing) record(ctx context.Context, userID, customerID string) (string, error) {
	stands, err := b.store.Insert(ctx, userID, customerID)
	if err == nil && stands == "" {
		// A row without a Customer has come up since the look-up: a trigger on
		// auth.users makes such rows in many projects.
		stands, err = b.store.Replace(ctx, userID, "", customerID)
	}
	return standing(stands, err)
}

// replaceCustomer gives a user a new Customer in place of was, which is "" for
// a row that names none, or a Customer that Stripe no longer has.
func (b *Billing) replaceCustomer(ctx context.Context, u User, was string) (string, error) {
	created, err := b.createCustomer(ctx, u, was)
	if err != nil {
		return "", err
	}
	stands, err := b.store.Replace(ctx, u.ID, was, created)
	if err == nil && stands == "" && was != "" { // its deletion has just been told by an Event
		stands, err = b.store.Replace(ctx, u.ID, "", created)
	}
	return standing(stands, err)
}

func standing(customerID string, err error) (string, error) {
	if err == nil && customerID == "" {
		err = errors.New("the row vanished while it was written")
	}
	return customerID, unavailable(err)
}

// createCustomer creates the Customer of a user in place of was. The
// idempotency key depends on nothing but its arguments, so that any number of
// requests at once, on any number of replicas, and the next one after a crash
// are given the same Customer.
// https://docs.stripe.com/api/customers/create
func (b *Billing) createCustomer(ctx context.Context, u User, was string) (string, error) {
	p := &stripe.CustomerParams{
		Params:   calling(ctx, "create_customer"),
		Metadata: map[string]string{userIDKey: u.ID},
	}
	p.IdempotencyKey = stripe.String(idempotencyKey("customer", u.ID, u.Email, was))
	if u.Email != "" {
		p.Email = &u.Email
	}
	var c *stripe.Customer
	err := repeated(ctx, &p.Params, func() (err error) {
		c, err = b.stripe.Customers.New(p)
		return answered("create customer", err, c.ID, c.APIResource)
	})
	var s *StripeError
	if errors.As(err, &s) && s.code == stripe.ErrorCodeEmailInvalid && u.Email != "" {
		u.Email = "" // Supabase is less strict about addresses; Checkout asks for one
		return b.createCustomer(ctx, u, was)
	}
	return c.ID, err
}
