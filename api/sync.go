package api

import (
	"errors"
	"net/http"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// sync is POST /api/stripe/sync, for the page that a buyer returns to, which may
// be there before the webhook: it records what Stripe has for the user's own
// Customer and answers with the user's rows. There is nothing in the body.
func (s *service) sync(_ http.ResponseWriter, r *http.Request, _ []byte, unread error) (any, error) {
	ctx := r.Context()
	user, err := signedIn(ctx)
	if err != nil {
		return nil, err
	}
	var customerID string
	if err := together(
		func() error { return auth.Confirm(ctx) },
		func() (err error) {
			if unread != nil {
				return unread
			}
			if customerID, err = s.Billing.CustomerID(ctx, user.ID); errors.Is(err, billing.ErrNoCustomer) {
				return nil
			}
			return err
		},
	); err != nil {
		return nil, err
	}
	if email := auth.ConfirmedEmail(ctx); s.ClaimGuestPurchases && email != "" {
		if customerID, err = s.Billing.ClaimGuestPurchases(ctx, billing.User{ID: user.ID, Email: email}, customerID); err != nil {
			return nil, err
		}
	}
	if customerID == "" {
		return billing.Bought{Subscriptions: []billing.Row{}, Purchases: []billing.Row{}}, nil
	}
	if err := s.Billing.SyncCustomer(ctx, customerID, user.ID); err != nil {
		return nil, err
	}
	return s.Billing.Bought(ctx, user.ID)
}
