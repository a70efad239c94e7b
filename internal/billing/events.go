package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"
)

// ErrSignature says that a webhook request was not signed by Stripe with one
// of the configured secrets, or not within signatureTolerance of now.
var ErrSignature = errors.New("invalid webhook signature")

// signatureTolerance is how old a signature may be, and how far ahead.
const signatureTolerance = 5 * time.Minute

// Event is a verified Stripe Event. Only its ids are read, which have the same
// place in every API version that an endpoint can have been created with.
// https://docs.stripe.com/api/events/object
type Event struct {
	ID      string
	Type    string
	account string // a connected account's, whose objects are not ours to fetch
	object  struct {
		ID            string
		PaymentIntent json.RawMessage `json:"payment_intent"`
	}
}

// ReadEvent verifies the signature of a webhook request and reads its Event.
//
// Errors: ErrSignature.
//
// https://docs.stripe.com/webhooks#verify-manually
func (b *Billing) ReadEvent(payload []byte, signature string, now time.Time) (Event, error) {
	verified := false
	for _, secret := range b.config.WebhookSecrets {
		// The tolerance is checked below: stripe-go lets the future pass.
		verified = verified || webhook.ValidatePayloadIgnoringTolerance(payload, signature, secret) == nil
	}
	if !verified {
		return Event{}, fmt.Errorf("%w: no secret fits", ErrSignature)
	}
	if age := now.Sub(signedAt(signature)); age > signatureTolerance || age < -signatureTolerance {
		return Event{}, fmt.Errorf("%w: signed %s ago", ErrSignature, age.Round(time.Second))
	}
	var e struct {
		ID, Type, Account string
		Data              struct{ Object json.RawMessage }
	}
	event := Event{}
	if err := json.Unmarshal(payload, &e); err != nil {
		return Event{}, fmt.Errorf("%w: signed, but not an event", ErrSignature)
	}
	event.ID, event.Type, event.account = e.ID, e.Type, e.Account
	_ = json.Unmarshal(e.Data.Object, &event.object) // an object of another shape has no id, which is found out below
	return event, nil
}

// signedAt returns the time in a signature that has been verified: as
// stripe-go, the last t= of "t=1495999758,v1=…".
func signedAt(signature string) time.Time {
	var at int64
	for part := range strings.SplitSeq(signature, ",") {
		if seconds, ok := strings.CutPrefix(part, "t="); ok {
			at, _ = strconv.ParseInt(seconds, 10, 64)
		}
	}
	return time.Unix(at, 0)
}

// HandleEvent brings the site's tables to the present state of what the Event
// is about. An Event only says that something has changed: the object is
// fetched anew, so that Events may come late, twice, and in any order. It
// returns without an error once everything is stored; ours is false for an
// Event that means nothing to this service.
//
// Errors: ErrCustomersUnavailable, *StripeError; the Event should come again.
//
// https://docs.stripe.com/webhooks#event-ordering
func (b *Billing) HandleEvent(ctx context.Context, e Event) (ours bool, err error) {
	var sync func(ctx context.Context, id string) error
	switch {
	case e.account != "":
		return false, nil
	case e.Type == "charge.refunded", strings.HasPrefix(e.Type, "charge.dispute."):
		return true, b.syncPayment(ctx, e)
	case e.Type == "checkout.session.completed", e.Type == "checkout.session.expired",
		e.Type == "checkout.session.async_payment_succeeded", e.Type == "checkout.session.async_payment_failed":
		sync = b.syncCheckoutSession
	case strings.HasPrefix(e.Type, "customer.subscription."):
		sync = b.syncSubscription
	case e.Type == "invoice.paid", e.Type == "invoice.payment_failed":
		sync = b.syncInvoice
	case e.Type == "customer.deleted":
		sync = b.forgetCustomer
	default:
		return false, nil
	}
	if e.object.ID == "" {
		return true, fmt.Errorf("event %s of type %s names no object", e.ID, e.Type)
	}
	return true, sync(ctx, e.object.ID)
}

// syncInvoice writes the subscription that an invoice is for, if any.
func (b *Billing) syncInvoice(ctx context.Context, id string) error {
	invoice, err := b.stripe.Invoices.Get(id, &stripe.InvoiceParams{Params: stripe.Params{Context: ctx}})
	if err != nil {
		return stripeError("fetch invoice", err)
	}
	if invoice.ID == "" {
		return incomplete("fetch invoice", invoice.APIResource)
	}
	if invoice.Subscription == nil {
		return nil
	}
	return b.syncSubscription(ctx, invoice.Subscription.ID)
}

// syncPayment writes the purchase that a charge or a dispute belongs to, if it
// was made with a Checkout Session.
func (b *Billing) syncPayment(ctx context.Context, e Event) error {
	var paymentIntent string
	if json.Unmarshal(e.object.PaymentIntent, &paymentIntent) != nil || paymentIntent == "" {
		return nil // a charge of its own, which no Checkout Session makes
	}
	p := &stripe.CheckoutSessionListParams{PaymentIntent: &paymentIntent}
	p.Context = ctx
	list := b.stripe.CheckoutSessions.List(p)
	for list.Next() {
		if err := b.syncCheckoutSession(ctx, list.CheckoutSession().ID); err != nil {
			return err
		}
	}
	if err := list.Err(); err != nil {
		return stripeError("list checkout sessions", err)
	}
	if page := list.CheckoutSessionList(); page.Data == nil {
		return incomplete("list checkout sessions", page.APIResource)
	}
	return nil
}

// forgetCustomer clears the record of a Customer that was deleted, so that the
// user's next purchase makes a new one.
func (b *Billing) forgetCustomer(ctx context.Context, id string) error {
	customer, err := b.stripe.Customers.Get(id, &stripe.CustomerParams{Params: stripe.Params{Context: ctx}})
	err = stripeError("fetch customer", err)
	var s *StripeError
	switch {
	case errors.As(err, &s) && s.missing != "":
	case err != nil:
		return err
	case customer.ID == "":
		return incomplete("fetch customer", customer.APIResource)
	case !customer.Deleted:
		return nil
	}
	if err := b.store.Forget(ctx, id); err != nil {
		return unavailable(err)
	}
	return nil
}
