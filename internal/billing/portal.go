package billing

import (
	"context"
	"errors"
	"slices"

	"github.com/stripe/stripe-go/v76"
)

// The steps at which the portal can open.
// https://docs.stripe.com/customer-management/portal-deep-links
const (
	FlowPaymentMethod = string(stripe.BillingPortalSessionFlowTypePaymentMethodUpdate)
	FlowCancel        = string(stripe.BillingPortalSessionFlowTypeSubscriptionCancel)
	FlowUpdate        = string(stripe.BillingPortalSessionFlowTypeSubscriptionUpdate)
)

// The reasons why the portal cannot open at a subscription.
var (
	ErrNotSubscribed = errors.New("no live subscription")
	ErrNotTheirs     = errors.New("not a live subscription of this customer")
	ErrSeveral       = errors.New("several live subscriptions, and none was named")
)

// PortalRequest is one visit to the billing portal.
type PortalRequest struct {
	CustomerID, ReturnURL string
	Flow                  string // FlowPaymentMethod, FlowCancel or FlowUpdate; "" for the portal's first page
	Subscription          string // sub_…, for the last two flows; "" for the only live one
}

// CreatePortalSession opens the billing portal for a Customer. The URL is a
// credential: whoever has it manages that Customer's billing.
//
// Errors: ErrNoCustomer when Stripe no longer has the Customer, ErrNotSubscribed,
// ErrNotTheirs, ErrSeveral, ErrOtherMode, *StripeError.
//
// https://docs.stripe.com/api/customer_portal/sessions/create
func (b *Billing) CreatePortalSession(ctx context.Context, r PortalRequest) (Page, error) {
	const doing = "create billing portal session"
	p := &stripe.BillingPortalSessionParams{
		Params:    calling(ctx, "create_portal_session"),
		Customer:  &r.CustomerID,
		ReturnURL: &r.ReturnURL,
	}
	if b.config.PortalConfiguration != "" {
		p.Configuration = &b.config.PortalConfiguration
	}
	var s *stripe.BillingPortalSession
	err := b.addFlow(ctx, p, r)
	if err == nil {
		s, err = b.stripe.BillingPortalSessions.New(p)
		err = stripeError(doing, err)
	}
	switch {
	case customerGone(err):
		return Page{}, ErrNoCustomer
	case err != nil:
		return Page{}, err
	}
	return page(doing, s.URL, s.APIResource)
}

// addFlow has the portal open at a step, and return once that is done.
func (b *Billing) addFlow(ctx context.Context, p *stripe.BillingPortalSessionParams, r PortalRequest) error {
	if r.Flow == "" {
		return nil
	}
	p.FlowData = &stripe.BillingPortalSessionFlowDataParams{
		Type: &r.Flow,
		AfterCompletion: &stripe.BillingPortalSessionFlowDataAfterCompletionParams{
			Type:     stripe.String("redirect"),
			Redirect: &stripe.BillingPortalSessionFlowDataAfterCompletionRedirectParams{ReturnURL: &r.ReturnURL},
		},
	}
	if r.Flow == FlowPaymentMethod {
		return nil
	}
	theirs, err := b.subscriptions(ctx, r.CustomerID)
	if err != nil {
		return err
	}
	// Which one is not left to Stripe, which would open the portal at one that has ended.
	theirs = slices.DeleteFunc(theirs, func(s *stripe.Subscription) bool {
		return !live(s) || r.Subscription != "" && r.Subscription != s.ID
	})
	switch {
	case len(theirs) == 0 && r.Subscription != "":
		return ErrNotTheirs
	case len(theirs) == 0:
		return ErrNotSubscribed
	case len(theirs) > 1:
		return ErrSeveral
	}
	if r.Flow == FlowCancel {
		p.FlowData.SubscriptionCancel = &stripe.BillingPortalSessionFlowDataSubscriptionCancelParams{Subscription: &theirs[0].ID}
	} else {
		p.FlowData.SubscriptionUpdate = &stripe.BillingPortalSessionFlowDataSubscriptionUpdateParams{Subscription: &theirs[0].ID}
	}
	return nil
}
