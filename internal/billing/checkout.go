package billing

import (
	"bytes"
	"context"
	"iter"
	"net/http"
	"net/url"
	"slices"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/form"
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
	PriceID    string // price_…, or a lookup key
	Quantity   int64  // of the Price, 1 or more
	Mode       string // ModePayment or ModeSubscription
	SuccessURL string // sent byte for byte; Stripe fills in {CHECKOUT_SESSION_ID}
	CancelURL  string
	User       User
	// IdempotencyKey makes a repetition give the same Checkout Session; "" for
	// none. It must already be bound to the caller.
	IdempotencyKey string

	noTrial bool   // the user has had a subscription
	mark    string // see markKey
}

// SubscribedError says that a subscription was asked for by a user who has a
// live one already and may have only one; the billing portal is the place to
// change it.
type SubscribedError struct{ CustomerID string }

func (*SubscribedError) Error() string { return "already subscribed" }

// maxReplacements bounds how many deleted Customers of one user are followed.
// Stripe answers a known idempotency key for a day with the Customer that it
// gave then, so each one deleted within the day is met again.
const maxReplacements = 20

// CreateCheckoutSession starts a purchase of one Price. A signed-in user buys
// as their one Stripe Customer, which is created at the first purchase; a guest
// buys without one.
//
// Errors: *SubscribedError, ErrCustomersUnavailable, ErrOtherMode, *StripeError.
//
// https://docs.stripe.com/api/checkout/sessions/create
func (b *Billing) CreateCheckoutSession(ctx context.Context, r CheckoutRequest) (Page, error) {
	var err error
	if r.PriceID, err = b.priceID(ctx, r.PriceID); err != nil {
		return Page{}, err
	}
	if r.User.ID == "" {
		return checkoutPage(b.checkout(ctx, r, ""))
	}
	customerID, err := b.ensureCustomer(ctx, r.User)
	if err != nil {
		return Page{}, err
	}
	p, err := b.checkoutAs(ctx, r, customerID)
	for n := 0; n < maxReplacements && customerGone(err); n++ {
		if customerID, err = b.replaceCustomer(ctx, r.User, customerID); err != nil {
			return Page{}, err
		}
		p, err = b.checkoutAs(ctx, r, customerID)
	}
	return p, err
}

// checkoutAs starts the purchase of a Customer.
func (b *Billing) checkoutAs(ctx context.Context, r CheckoutRequest, customerID string) (Page, error) {
	if r.Mode == ModeSubscription && (b.config.OneSubscription || b.config.TrialDays > 0) {
		had, err := b.subscriptions(ctx, customerID)
		if err != nil {
			return Page{}, err
		}
		r.noTrial = slices.ContainsFunc(had, begun)
		if b.config.OneSubscription {
			return b.onlyCheckout(ctx, r, customerID, had)
		}
	}
	return checkoutPage(b.checkout(ctx, r, customerID))
}

// checkout creates a Checkout Session, for a guest when customerID is "". Of what
// Stripe answers it returns ID and URL.
func (b *Billing) checkout(ctx context.Context, r CheckoutRequest, customerID string) (*stripe.CheckoutSession, error) {
	p := &stripe.CheckoutSessionParams{
		Params:     calling(ctx, "create_checkout_session"),
		Mode:       &r.Mode,
		SuccessURL: &r.SuccessURL,
		CancelURL:  &r.CancelURL,
		LineItems:  []*stripe.CheckoutSessionLineItemParams{{Price: &r.PriceID, Quantity: &r.Quantity}},
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
		if r.mark != "" {
			p.Metadata = map[string]string{userIDKey: r.User.ID, markKey: r.mark}
		}
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
	trial := b.config.TrialDays > 0 && !r.noTrial
	switch {
	case r.Mode == ModeSubscription && (metadata != nil || trial):
		p.SubscriptionData = &stripe.CheckoutSessionSubscriptionDataParams{Metadata: metadata}
		if trial {
			p.SubscriptionData.TrialPeriodDays = &b.config.TrialDays
		}
	case r.Mode == ModePayment && metadata != nil:
		p.PaymentIntentData = &stripe.CheckoutSessionPaymentIntentDataParams{Metadata: metadata}
	case r.Mode == ModePayment:
		// In subscription mode Stripe always creates one for a guest.
		p.CustomerCreation = stripe.String(string(stripe.CheckoutSessionCustomerCreationAlways))
	}
	for _, params := range []url.Values{b.config.Params, b.modeParams(r.Mode)} {
		for name, values := range params {
			for _, value := range values {
				p.AddExtra(name, value)
			}
		}
	}
	if r.IdempotencyKey != "" {
		// The Customer is part of it: after a replacement the parameters differ,
		// and Stripe refuses a known key with other parameters.
		parts := []string{r.IdempotencyKey, customerID}
		if r.noTrial && b.config.TrialDays > 0 { // as is the trial, which is given once
			parts = append(parts, "no trial")
		}
		p.IdempotencyKey = stripe.String(idempotencyKey("checkout", parts...))
	}

	var s struct {
		stripe.APIResource
		ID, URL string
	}
	create := func() error {
		return stripeError(creatingCheckout, b.post("/v1/checkout/sessions", p, &s))
	}
	err := repeated(ctx, &p.Params, create)
	if quantityRefused(err) {
		// A metered price is sold without one. Only Stripe knows which are, and to
		// ask first would cost every other buyer a call.
		p.LineItems[0].Quantity = nil
		if p.IdempotencyKey != nil {
			p.IdempotencyKey = stripe.String(idempotencyKey("metered", *p.IdempotencyKey))
		}
		if repeated(ctx, &p.Params, create) == nil {
			err = nil
		}
	}
	return &stripe.CheckoutSession{APIResource: s.APIResource, ID: s.ID, URL: s.URL}, err
}

// post sends a form and decodes of the answer what into has a field for, by what
// stripe-go has below its clients. Their New decodes all of the object, after encoding/json
// has gone through the answer three times: a third of what a guest's checkout costs.
func (b *Billing) post(path string, p stripe.ParamsContainer, into stripe.LastResponseSetter) error {
	c := b.stripe.CheckoutSessions
	backend := c.B.(*stripe.BackendImplementation)
	r, err := backend.NewRequest(http.MethodPost, path, c.Key, "application/x-www-form-urlencoded", p.GetParams())
	if err != nil {
		return err
	}
	var values form.Values
	form.AppendTo(&values, p)
	return backend.Do(r, bytes.NewBufferString(values.Encode()), into)
}

func (b *Billing) modeParams(mode string) url.Values {
	if mode == ModePayment {
		return b.config.PaymentParams
	}
	return b.config.SubscriptionParams
}

const creatingCheckout = "create checkout session"

func checkoutPage(s *stripe.CheckoutSession, err error) (Page, error) {
	if err != nil {
		return Page{}, err
	}
	return page(creatingCheckout, s.URL, s.APIResource)
}

// subscriptions returns all subscriptions that a Customer ever had. Stripe is
// asked, not the site's tables, which lag.
// https://docs.stripe.com/api/subscriptions/list
func (b *Billing) subscriptions(ctx context.Context, customerID string) ([]*stripe.Subscription, error) {
	return all(b.eachSubscription(ctx, customerID))
}

func (b *Billing) eachSubscription(ctx context.Context, customerID string) iter.Seq2[*stripe.Subscription, error] {
	return each[stripe.Subscription]("list subscriptions", b.stripe.Subscriptions.List(&stripe.SubscriptionListParams{
		ListParams: listing(ctx, "list_subscriptions"),
		Customer:   &customerID,
		Status:     stripe.String("all"),
	}))
}

// live tells whether a subscription is active, trialing or past due.
func live(s *stripe.Subscription) bool {
	switch s.Status {
	case stripe.SubscriptionStatusActive, stripe.SubscriptionStatusTrialing, stripe.SubscriptionStatusPastDue:
		return true
	}
	return false
}

// begun tells whether a subscription ever ran: one whose first payment failed
// did not.
func begun(s *stripe.Subscription) bool {
	return s.Status != stripe.SubscriptionStatusIncomplete && s.Status != stripe.SubscriptionStatusIncompleteExpired
}
