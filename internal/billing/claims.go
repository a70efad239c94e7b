package billing

import (
	"context"
	"errors"

	"github.com/stripe/stripe-go/v76"
)

// maxClaims bounds the Customers with one address that are looked at, the newest.
const maxClaims = 100

// ClaimGuestPurchases makes a user's what was bought as a guest with their address,
// which must be one that they have proved to be theirs: every Customer at Stripe with
// just this address that is nobody's becomes the user's, with what it has bought. It
// returns the user's own Customer afterwards, which is customerID or, where that is
// "", the newest of those claimed; "" for none.
//
// Errors: ErrCustomersUnavailable, *StripeError.
//
// https://docs.stripe.com/api/customers/list
func (b *Billing) ClaimGuestPurchases(ctx context.Context, u User, customerID string) (own string, err error) {
	p := &stripe.CustomerListParams{Email: &u.Email}
	p.Context, p.Limit, p.Single = calling(ctx, "list_customers"), stripe.Int64(maxClaims), true
	list := b.stripe.Customers.List(p)
	var claimed []string
	for list.Next() {
		c := list.Customer()
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
	if err := list.Err(); err != nil {
		return "", stripeError("list customers", err)
	}
	if page := list.CustomerList(); page.Data == nil {
		return "", incomplete("list customers", page.APIResource)
	}
	if customerID == "" && len(claimed) > 0 {
		stands, err := b.store.Insert(ctx, u.ID, claimed[0])
		if err == nil && stands == "" {
			stands, err = b.store.Replace(ctx, u.ID, "", claimed[0])
		}
		if customerID, err = standing(stands, err); err != nil {
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
		Params:   stripe.Params{Context: calling(ctx, "claim_customer"), IdempotencyKey: stripe.String(idempotencyKey("claim", c.ID))},
		Metadata: map[string]string{userIDKey: userID},
	}
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
