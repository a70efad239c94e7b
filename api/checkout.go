package api

import (
	"cmp"
	"errors"
	"net/http"
	"slices"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// createCheckout is POST /api/stripe/create-checkout: it sends a buyer, signed
// in or not, to a Stripe Checkout Session.
func (s *service) createCheckout(w http.ResponseWriter, r *http.Request) error {
	request, err := s.checkoutRequest(w, r)
	if err != nil {
		return err
	}
	// Only now is anybody asked: a bad request costs Supabase and Stripe nothing.
	user, err := auth.CurrentUser(r.Context())
	if err != nil {
		return err
	}
	session, err := s.buy(r, request, user)
	if errors.Is(err, auth.ErrSignedOut) {
		session, err = s.buy(r, request, nil) // a session that Supabase refuses is a guest here
	}
	if err != nil {
		return err
	}
	respondURL(w, r, session)
	return nil
}

// buy starts the purchase of a user, nil for a guest.
func (s *service) buy(r *http.Request, request billing.CheckoutRequest, user *auth.User) (billing.Session, error) {
	if user != nil {
		entryOf(r.Context()).userID = user.ID
		request.User = billing.User{ID: user.ID, Email: user.Email}
		request.ConfirmUser = auth.Confirm
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		request.IdempotencyKey = s.caller(r, user) + " " + key
	}
	return s.Billing.CreateCheckoutSession(r.Context(), request)
}

// caller tells whose Idempotency-Key it is.
func (s *service) caller(r *http.Request, user *auth.User) string {
	if user != nil {
		return "user " + user.ID
	}
	addr, _ := s.clientAddr(r)
	return "guest " + addr.String()
}

// checkoutRequest reads and checks the body in the contract's order.
func (s *service) checkoutRequest(w http.ResponseWriter, r *http.Request) (c billing.CheckoutRequest, err error) {
	b, err := readBody(w, r)
	if err != nil {
		return c, err
	}
	// Each is read; the first that is wrong counts.
	if err := cmp.Or(
		b.text("priceId", &c.PriceID, errPriceMissing),
		b.text("successUrl", &c.SuccessURL, errURLsMissing),
		b.text("cancelUrl", &c.CancelURL, errURLsMissing),
		b.text("mode", &c.Mode, errMode),
	); err != nil {
		return c, err
	}
	if c.Mode != billing.ModePayment && c.Mode != billing.ModeSubscription {
		return c, errMode
	}
	if err := s.Sites.checkURLs(field{"successUrl", c.SuccessURL}, field{"cancelUrl", c.CancelURL}); err != nil {
		return c, err
	}
	if len(s.Prices) > 0 && !slices.Contains(s.Prices, c.PriceID) {
		return c, errPriceNotForSale
	}
	return c, nil
}
