package billing

import (
	"context"

	"github.com/stripe/stripe-go/v76"
)

// CreatePortalSession opens the billing portal for a Customer. The URL is a
// credential: whoever has it manages that Customer's billing.
//
// Errors: ErrNoCustomer when Stripe no longer has the Customer, ErrOtherMode,
// *StripeError.
//
// https://docs.stripe.com/api/customer_portal/sessions/create
func (b *Billing) CreatePortalSession(ctx context.Context, customerID, returnURL string) (Page, error) {
	const doing = "create billing portal session"
	p := &stripe.BillingPortalSessionParams{
		Params:    stripe.Params{Context: calling(ctx, "create_portal_session")},
		Customer:  &customerID,
		ReturnURL: &returnURL,
	}
	if b.config.PortalConfiguration != "" {
		p.Configuration = &b.config.PortalConfiguration
	}
	s, err := b.stripe.BillingPortalSessions.New(p)
	err = stripeError(doing, err)
	switch {
	case customerGone(err):
		return Page{}, ErrNoCustomer
	case err != nil:
		return Page{}, err
	}
	return page(doing, s.URL, s.APIResource)
}
