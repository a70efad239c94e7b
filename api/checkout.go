package api

import (
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
	addr, _ := s.clientAddr(r)
	caller := "guest " + addr.String()
	if user != nil {
		entryOf(r.Context()).userID = user.ID
		request.User = billing.User{ID: user.ID, Email: user.Email}
		caller = "user " + user.ID
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		request.IdempotencyKey = caller + " " + key
	}
	session, err := s.Billing.CreateCheckoutSession(r.Context(), request)
	if err != nil {
		return err
	}
	respondURL(w, r, session)
	return nil
}

// checkoutRequest reads and checks the body in the contract's order.
func (s *service) checkoutRequest(w http.ResponseWriter, r *http.Request) (billing.CheckoutRequest, error) {
	var c billing.CheckoutRequest
	err := decodeBody(w, r, field{"priceId", &c.PriceID}, field{"successUrl", &c.SuccessURL},
		field{"cancelUrl", &c.CancelURL}, field{"mode", &c.Mode})
	switch {
	case err != nil:
	case c.PriceID == "":
		err = errPriceMissing
	case c.SuccessURL == "" || c.CancelURL == "":
		err = errURLsMissing
	case c.Mode != billing.ModePayment && c.Mode != billing.ModeSubscription:
		err = errMode
	}
	if err == nil {
		err = s.Sites.checkURL("successUrl", c.SuccessURL)
	}
	if err == nil {
		err = s.Sites.checkURL("cancelUrl", c.CancelURL)
	}
	if err == nil && len(s.Prices) > 0 && !slices.Contains(s.Prices, c.PriceID) {
		err = errPriceNotForSale
	}
	return c, err
}
