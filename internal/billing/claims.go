package billing

import (
	"context"
	"errors"

	"github.com/stripe/stripe-go/v76"
)

// ClaimGuestPurchases gives a user what was bought as a guest with their address,
// which must be one that they have proved to be theirs: every Customer at Stripe with
// just this address that is nobody's becomes the user's, with what it has bought. It
// returns the user's own Customer afterwards, which is customerID or, where that is
// "", the newest of those claimed; "" for none.
//
// Errors: ErrCustomersUnavailable, *StripeError.
//
// https://docs.stripe.com/api/customers/list
func (b *Billing) ClaimGuestPurchases(ctx context.Context, u User, customerID string) (own string, err error) {
	p := &stripe.CustomerListParams{ListParams: listing(ctx, "list_customers"), Email: &u.Email}
	p.Single = true // the newest hundred
	var claimed []string
	for c, err := range each[stripe.Customer]("list customers", b.stripe.Customers.List(p)) {
		if err != nil {
			return "", err
		}
		if c.Email != u.Email || c.ID == customerID {
			continue
		}
		theirs, err := b.claim(ctx, c, u.ID)
		if err != nil {
			return "", err
		}
		if theirs {
			claimed = append(claimed, c.ID)
		}
	}
	if customerID == "" && len(claimed) > 0 {
		if customerID, err = b.record(ctx, u.ID, claimed[0]); err != nil {
			return "", err
		}
	}
	for _, id := range claimed {
		if id == customerID {
			continue // which is written with the user's own
		}
		if err := b.SyncCustomer(ctx, id, u.ID); err != nil {
			return "", err
		}
	}
	return customerID, nil
}

// claim marks a Customer as a user's and tells whether it is theirs, now or since an
// earlier claim that may have broken off.
func (b *Billing) claim(ctx context.Context, c *stripe.Customer, userID string) (bool, error) {
	marked := c.Metadata[userIDKey]
	if marked != "" && marked != userID {
		return false, nil
	}
	switch owner, err := b.store.UserID(ctx, c.ID); {
	case err != nil:
		return false, unavailable(err)
	case owner != "": // the row counts, whatever the mark says
		return owner == userID, nil
	case marked != "":
		return true, nil
	}
	// The key is the Customer's and not the user's: of two who claim it at once Stripe
	// refuses the second, for another parameter under the same key.
	p := &stripe.CustomerParams{
		Params:   calling(ctx, "claim_customer"),
		Metadata: map[string]string{userIDKey: userID},
	}
	p.IdempotencyKey = stripe.String(idempotencyKey("claim", c.ID))
	err := repeated(ctx, &p.Params, func() error {
		_, err := b.stripe.Customers.Update(c.ID, p)
		return stripeError("claim customer", err)
	})
	var s *StripeError
	if errors.As(err, &s) && s.IdempotencyMismatch || gone(err) {
		return false, nil
	}
	return err == nil, err
}
