package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/stripe/stripe-go/v76"
)

// The modes of a Checkout Session that this service offers.
const (
	ModePayment      = string(stripe.CheckoutSessionModePayment)
	ModeSubscription = string(stripe.CheckoutSessionModeSubscription)
)

// userIDKey is the metadata key that ties Stripe's objects to the Supabase
// user. Only this service writes it, so unlike client_reference_id, which a
// buyer can set on a Payment Link, it can be trusted.
const userIDKey = "supabase_user_id"

// User is the signed-in buyer; the zero User is a guest.
type User struct {
	ID    string // UUID of auth.users
	Email string // "" when the user has none
}

// CheckoutRequest is one purchase to be started.
type CheckoutRequest struct {
	PriceID    string
	Mode       string // ModePayment or ModeSubscription
	SuccessURL string // sent byte for byte; Stripe fills in {CHECKOUT_SESSION_ID}
	CancelURL  string
	User       User
	// ConfirmUser is asked before a User is sent to the billing portal, which an
	// access token alone must not open. Its error is returned as it is.
	ConfirmUser func(context.Context) error
	// IdempotencyKey makes a repetition give the same Checkout Session; "" for
	// none. It must already be bound to the caller.
	IdempotencyKey string
}

// CreateCheckoutSession starts a purchase of one Price. A signed-in user buys
// as their one Stripe Customer, which is created at the first purchase; a guest
// buys without one. With Config.OneSubscription a user who already has a live
// subscription gets a billing portal session instead.
//
// Errors: ErrCustomersUnavailable, *StripeError, and those of ConfirmUser.
//
// https://docs.stripe.com/api/checkout/sessions/create
func (b *Billing) CreateCheckoutSession(ctx context.Context, r CheckoutRequest) (Session, error) {
	if r.User.ID == "" {
		return b.checkout(ctx, r, "")
	}
	customerID, err := b.ensureCustomer(ctx, r.User)
	if err != nil {
		return Session{}, err
	}
	s, err := b.checkoutAs(ctx, r, customerID)
	// Twice, because the replacement can be one that an earlier request was given
	// and could not record, and that is gone by now.
	for range 2 {
		if !customerGone(err) {
			break
		}
		if customerID, err = b.replaceCustomer(ctx, r.User, customerID); err != nil {
			return Session{}, err
		}
		s, err = b.checkoutAs(ctx, r, customerID)
	}
	return s, err
}

// checkoutAs starts the purchase of a Customer, or opens the portal for one
// who is subscribed already and may be so only once.
func (b *Billing) checkoutAs(ctx context.Context, r CheckoutRequest, customerID string) (Session, error) {
	if b.config.OneSubscription && r.Mode == ModeSubscription {
		subscribed, err := b.subscribed(ctx, customerID)
		if err != nil {
			return Session{}, err
		}
		if subscribed {
			if err := r.ConfirmUser(ctx); err != nil {
				return Session{}, err
			}
			return b.portal(ctx, customerID, r.CancelURL)
		}
	}
	return b.checkout(ctx, r, customerID)
}

// checkout creates the Checkout Session, for a guest when customerID is "".
func (b *Billing) checkout(ctx context.Context, r CheckoutRequest, customerID string) (Session, error) {
	p := &stripe.CheckoutSessionParams{
		Params:     stripe.Params{Context: ctx},
		Mode:       &r.Mode,
		SuccessURL: &r.SuccessURL,
		CancelURL:  &r.CancelURL,
		LineItems:  []*stripe.CheckoutSessionLineItemParams{{Price: &r.PriceID, Quantity: stripe.Int64(1)}},
	}
	if b.config.PromotionCodes {
		p.AllowPromotionCodes = stripe.Bool(true)
	}
	if b.config.AutomaticTax {
		p.AutomaticTax = &stripe.CheckoutSessionAutomaticTaxParams{Enabled: stripe.Bool(true)}
	}
	if b.config.TaxIDCollection {
		p.TaxIDCollection = &stripe.CheckoutSessionTaxIDCollectionParams{Enabled: stripe.Bool(true)}
	}

	var metadata map[string]string
	if customerID != "" {
		metadata = map[string]string{userIDKey: r.User.ID}
		p.Metadata = metadata
		p.Customer = &customerID
		p.ClientReferenceID = &r.User.ID
		// With an existing Customer Stripe keeps the address and the name that
		// tax needs only where it is told that it may.
		if b.config.AutomaticTax || b.config.TaxIDCollection {
			p.CustomerUpdate = &stripe.CheckoutSessionCustomerUpdateParams{}
			if b.config.AutomaticTax {
				p.CustomerUpdate.Address = stripe.String("auto")
			}
			if b.config.TaxIDCollection {
				p.CustomerUpdate.Name = stripe.String("auto")
			}
		}
	}
	switch {
	case r.Mode == ModeSubscription && (metadata != nil || b.config.TrialDays > 0):
		p.SubscriptionData = &stripe.CheckoutSessionSubscriptionDataParams{Metadata: metadata}
		if b.config.TrialDays > 0 {
			p.SubscriptionData.TrialPeriodDays = &b.config.TrialDays
		}
	case r.Mode == ModePayment && metadata != nil:
		p.PaymentIntentData = &stripe.CheckoutSessionPaymentIntentDataParams{Metadata: metadata}
	case r.Mode == ModePayment:
		// In subscription mode Stripe always creates one for a guest.
		p.CustomerCreation = stripe.String(string(stripe.CheckoutSessionCustomerCreationAlways))
	}
	if r.IdempotencyKey != "" {
		// The Customer is part of it: after a replacement the parameters differ,
		// and Stripe refuses a known key with other parameters.
		p.IdempotencyKey = stripe.String(idempotencyKey("checkout", r.IdempotencyKey, customerID))
	}

	var s Session
	err := onceFree(ctx, func() (err error) {
		s, err = b.open("create checkout session", "/v1/checkout/sessions", p)
		return err
	})
	return s, err
}

// subscribed tells whether the Customer has a subscription that is active,
// trialing or past due. Stripe is asked, not the site's tables, which lag.
// https://docs.stripe.com/api/subscriptions/list
func (b *Billing) subscribed(ctx context.Context, customerID string) (bool, error) {
	p := &stripe.SubscriptionListParams{Customer: &customerID}
	p.Context = ctx
	p.Limit = stripe.Int64(100)
	list := b.stripe.Subscriptions.List(p)
	for list.Next() {
		switch list.Subscription().Status {
		case stripe.SubscriptionStatusActive, stripe.SubscriptionStatusTrialing, stripe.SubscriptionStatusPastDue:
			return true, nil
		}
	}
	if err := list.Err(); err != nil {
		return false, stripeError("list subscriptions", err)
	}
	if page := list.SubscriptionList(); page.Data == nil { // an empty list is there
		return false, incomplete("list subscriptions", page.APIResource)
	}
	return false, nil
}

// idempotencyKey makes a key for Stripe from what it must depend on. Each part
// is quoted, so that no two lists of parts give the same key.
// https://docs.stripe.com/api/idempotent_requests
func idempotencyKey(kind string, parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return "stripe-sidecar-" + kind + "-" + hex.EncodeToString(sum[:])
}
