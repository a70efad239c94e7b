package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
)

// createCheckout is POST /api/stripe/create-checkout: it sends a buyer, signed
// in or not, to a Stripe Checkout Session.
func (s *service) createCheckout(_ http.ResponseWriter, r *http.Request, raw []byte, unread error) (any, error) {
	if unread != nil {
		return nil, unread
	}
	request, err := s.checkoutRequest(r.Context(), raw)
	if err != nil {
		return nil, err
	}
	// Only now is anybody asked: a bad request costs Supabase and Stripe nothing.
	user, err := auth.CurrentUser(r.Context())
	if err != nil {
		return nil, err
	}
	page, err := s.buy(r, request, user)
	if errors.Is(err, billing.ErrUserUnknown) { // deleted, or is the database behind?
		if gone := auth.Confirm(r.Context()); gone != nil {
			err = gone
		}
		if errors.Is(err, auth.ErrSignedOut) {
			auth.Forget(r.Context())
		}
	}
	if errors.Is(err, auth.ErrSignedOut) {
		page, err = s.buy(r, request, nil) // a session that Supabase refuses is a guest here
	}
	return sent(r, page, err)
}

// buy starts the purchase of a user, nil for a guest. A subscriber who may not
// subscribe twice is sent to the billing portal instead.
func (s *service) buy(r *http.Request, request billing.CheckoutRequest, user *auth.User) (billing.Page, error) {
	if user == nil && slices.Contains(s.SignInModes, request.Mode) {
		return billing.Page{}, errNotSignedIn
	}
	ctx, key := r.Context(), r.Header.Get("Idempotency-Key")
	entryOf(ctx).userID = ""
	switch addr := entryOf(ctx).addr; {
	case user != nil:
		entryOf(ctx).userID = user.ID
		request.User = billing.User{ID: user.ID, Email: user.Email}
		request.IdempotencyKey = "user " + user.ID + " " + key
	case addr.IsValid():
		request.IdempotencyKey = "guest " + addr.String() + " " + key
	default: // everybody behind a proxy that does not tell would be one guest
		key = ""
	}
	if key == "" {
		request.IdempotencyKey = ""
	}
	page, err := s.Billing.CreateCheckoutSession(ctx, request)
	var subscribed *billing.SubscribedError
	if errors.As(err, &subscribed) {
		if err := auth.Confirm(ctx); err != nil {
			return page, err
		}
		return s.Billing.CreatePortalSession(ctx, billing.PortalRequest{CustomerID: subscribed.CustomerID, ReturnURL: request.CancelURL})
	}
	return page, err
}

// checkoutRequest reads and checks the body in the contract's order.
func (s *service) checkoutRequest(ctx context.Context, raw []byte) (c billing.CheckoutRequest, err error) {
	b, err := parseBody(raw)
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
	c.Quantity = 1
	if err := b.whole("quantity", &c.Quantity, 999999); err != nil {
		return c, err
	}
	if err := s.Sites.checkURLs(field{"successUrl", c.SuccessURL}, field{"cancelUrl", c.CancelURL}); err != nil {
		return c, err
	}
	forSale, err := s.Billing.ForSale(ctx, c.PriceID)
	if err == nil && !forSale {
		err = errPriceNotForSale
	}
	return c, err
}

// prices is GET /api/stripe/prices, for pricing pages: what is for sale.
func (s *service) prices(w http.ResponseWriter, r *http.Request, _ []byte, _ error) (any, error) {
	prices, err := s.Billing.Prices(r.Context())
	if err == nil {
		w.Header().Set("Cache-Control", "public, max-age=60")
	}
	return map[string][]billing.Price{"prices": prices}, err
}
