package billing

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/stripe/stripe-go/v76"
)

// markKey is the metadata key of a Checkout Session that tells which
// Idempotency-Key it was made with, so that a repetition does not expire what it
// is to be answered with.
const markKey = "stripe_sidecar_request"

// onlyCheckout starts the one subscription that a Customer may have, so that of
// any number of tabs, opened at once over any number of replicas, one can be
// paid. had are the subscriptions that the Customer ever had.
//
// Of two Checkout Sessions the one created later is listed together with the
// earlier one, if that is still open, before anybody is sent to it; by then the
// earlier one is either expired, or it is the one that stays, or it has been paid
// and its subscription is there.
func (b *Billing) onlyCheckout(ctx context.Context, r CheckoutRequest, customerID string, had []*stripe.Subscription) (Page, error) {
	if slices.ContainsFunc(had, live) {
		return Page{}, &SubscribedError{customerID}
	}
	if r.IdempotencyKey != "" {
		r.mark = idempotencyKey("mark", r.IdempotencyKey)
	}
	open, err := b.openCheckouts(ctx, customerID)
	if err != nil {
		return Page{}, err
	}
	others := slices.DeleteFunc(open, func(o *stripe.CheckoutSession) bool { return r.mark != "" && o.Metadata[markKey] == r.mark })
	if err := b.expire(ctx, others...); err != nil {
		return Page{}, err
	}
	var s *stripe.CheckoutSession
	for n := 0; n == 0 || n < maxReplacements && len(open) == 0 && r.IdempotencyKey != ""; n++ {
		if n > 0 { // the key has given one that was expired since
			r.IdempotencyKey = idempotencyKey("again", r.IdempotencyKey, s.ID)
		}
		if s, err = b.checkout(ctx, r, customerID); err != nil {
			return Page{}, err
		}
		if open, err = b.openCheckouts(ctx, customerID); err != nil {
			return Page{}, err
		}
	}
	if len(open) > 0 {
		// All must agree on which one stays, or none would: the newest, since whoever
		// expires that has not made their own yet. Stripe lists it first; its time of
		// creation is in seconds, and so does not tell.
		stays := open[0]
		if err := b.expire(ctx, open[1:]...); err != nil {
			return Page{}, err
		}
		stays.APIResource = s.APIResource // for the log
		s = stays
	}
	if had, err = b.subscriptions(ctx, customerID); err != nil {
		return Page{}, err
	}
	if slices.ContainsFunc(had, live) {
		if err := b.expire(ctx, s); err != nil {
			return Page{}, err
		}
		return Page{}, &SubscribedError{customerID}
	}
	return checkoutPage(s, nil)
}

// openCheckouts returns a Customer's Checkout Sessions for subscriptions that can
// still be paid, the newest first.
// https://docs.stripe.com/api/checkout/sessions/list
func (b *Billing) openCheckouts(ctx context.Context, customerID string) ([]*stripe.CheckoutSession, error) {
	list := b.stripe.CheckoutSessions.List(&stripe.CheckoutSessionListParams{
		ListParams: listing(ctx, "list_checkout_sessions"),
		Customer:   &customerID,
		Status:     stripe.String(string(stripe.CheckoutSessionStatusOpen)),
	})
	open, err := all(each[stripe.CheckoutSession](listingCheckouts, list))
	return slices.DeleteFunc(open, func(s *stripe.CheckoutSession) bool { return s.Mode != stripe.CheckoutSessionModeSubscription }), err
}

const listingCheckouts = "list checkout sessions"

// expire ends Checkout Sessions. One that is no longer open is left alone: if it was
// paid, the subscription tells.
// https://docs.stripe.com/api/checkout/sessions/expire
func (b *Billing) expire(ctx context.Context, sessions ...*stripe.CheckoutSession) error {
	for _, s := range sessions {
		_, err := b.stripe.CheckoutSessions.Expire(s.ID, &stripe.CheckoutSessionExpireParams{Params: calling(ctx, "expire_checkout_session")})
		var refused *stripe.Error
		if err != nil && !(errors.As(err, &refused) && refused.HTTPStatusCode == http.StatusBadRequest) {
			return stripeError("expire checkout session", err)
		}
	}
	return nil
}
