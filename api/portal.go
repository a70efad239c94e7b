package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// createPortal is POST /api/stripe/create-portal: it sends a signed-in user to
// the Stripe billing portal of their own Customer.
func (s *service) createPortal(_ http.ResponseWriter, r *http.Request, raw []byte, unread error) (any, error) {
	ctx := r.Context()
	user, err := signedIn(ctx)
	if err != nil {
		return nil, err
	}
	// A token outlives the sign-out or the ban of its user by up to an hour, too
	// long for a page on which payment methods can be changed. Supabase is asked
	// while the Customer is looked up, so that it costs no time.
	var request billing.PortalRequest
	if err := together(
		func() error { return auth.Confirm(ctx) },
		func() (err error) {
			if request, err = s.portalRequest(raw, unread); err == nil {
				request.CustomerID, err = s.Billing.CustomerID(ctx, user.ID)
			}
			return err
		},
	); err != nil {
		return nil, err
	}
	page, err := s.Billing.CreatePortalSession(ctx, request)
	return sent(r, page, err)
}

// signedIn returns the user of a request to an endpoint that is not for guests.
func signedIn(ctx context.Context) (*auth.User, error) {
	user, err := auth.CurrentUser(ctx)
	switch {
	case err != nil:
		return nil, err
	case user == nil:
		return nil, errNotSignedIn
	}
	entryOf(ctx).userID = user.ID
	return user, nil
}

// portalRequest reads and checks the body.
func (s *service) portalRequest(raw []byte, unread error) (p billing.PortalRequest, err error) {
	if unread != nil {
		return p, unread
	}
	b, err := parseBody(raw)
	if err != nil {
		return p, err
	}
	if err := cmp.Or(
		b.text("returnUrl", &p.ReturnURL, errReturnMissing),
		b.text("flow", &p.Flow, nil),
		b.text("subscription", &p.Subscription, nil),
	); err != nil {
		return p, err
	}
	if !slices.Contains([]string{"", billing.FlowPaymentMethod, billing.FlowCancel, billing.FlowUpdate}, p.Flow) {
		return p, errFlow
	}
	return p, s.Sites.checkURLs(field{"returnUrl", p.ReturnURL})
}
