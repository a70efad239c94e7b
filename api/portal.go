package api

import (
	"net/http"

	"8space.app/stripe-sidecar/internal/auth"
)

// createPortal is POST /api/stripe/create-portal: it sends a signed-in user to
// the Stripe billing portal of their own Customer.
func (s *service) createPortal(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	user, err := auth.CurrentUser(ctx)
	switch {
	case err != nil:
		return err
	case user == nil:
		return errNotSignedIn
	}
	entryOf(ctx).userID = user.ID

	var returnURL string
	b, err := readBody(w, r)
	if err != nil {
		return err
	}
	if err := b.text("returnUrl", &returnURL, errReturnMissing); err != nil {
		return err
	}
	if err := s.Sites.checkURLs(field{"returnUrl", returnURL}); err != nil {
		return err
	}

	// A token outlives the sign-out or the ban of its user by up to an hour, too
	// long for a page on which payment methods can be changed. Supabase is asked
	// while the Customer is looked up, so that it costs no time.
	confirmed := make(chan error, 1)
	go func() { confirmed <- auth.Confirm(ctx) }()
	customerID, err := s.Billing.CustomerID(ctx, user.ID)
	if err := <-confirmed; err != nil {
		return err
	}
	if err != nil {
		return err
	}
	session, err := s.Billing.CreatePortalSession(ctx, customerID, returnURL)
	if err != nil {
		return err
	}
	respondURL(w, r, session)
	return nil
}
