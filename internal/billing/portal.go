package billing

import (
	"context"

	"github.com/stripe/stripe-go/v76"
)

// CreatePortalSession opens the billing portal for a Customer. The URL is a
// credential: whoever has it manages that Customer's billing.
//
// Errors: ErrNoCustomer when Stripe no longer has the Customer, *StripeError.
//
// https://docs.stripe.com/api/customer_portal/sessions/create
func (b *Billing) CreatePortalSession(ctx context.Context, customerID, returnURL string) (Session, error) {
	s, err := b.portal(ctx, customerID, returnURL)
	if customerGone(err) {
		return Session{}, ErrNoCustomer
	}
	return s, err
}

func (b *Billing) portal(ctx context.Context, customerID, returnURL string) (Session, error) {
	p := &stripe.BillingPortalSessionParams{
		Params:    stripe.Params{Context: ctx},
		Customer:  &customerID,
		ReturnURL: &returnURL,
	}
	if b.config.PortalConfiguration != "" {
		p.Configuration = &b.config.PortalConfiguration
	}
	return b.open("create billing portal session", "/v1/billing_portal/sessions", p)
}
