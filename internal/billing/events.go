package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	ID, Type string
	Account  string // a connected account's, whose objects are not ours to fetch; "" for none
	Livemode bool

	object, paymentIntent string // IDs of what the Event is about, and of its payment; "" for none
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
		verified = verified || webhook.ValidatePayloadIgnoringTolerance(payload, signature, secret.Reveal()) == nil
	}
	if !verified {
		return Event{}, fmt.Errorf("%w: no secret fits", ErrSignature)
	}
	if age := now.Sub(signedAt(signature)); age > signatureTolerance || age < -signatureTolerance {
		return Event{}, fmt.Errorf("%w: signed %s ago", ErrSignature, age.Round(time.Second))
	}
	var told struct {
		Event
		Data struct{ Object json.RawMessage }
	}
	if err := json.Unmarshal(payload, &told); err != nil {
		return Event{}, fmt.Errorf("%w: signed, but not an event", ErrSignature)
	}
	var object struct {
		ID            string
		PaymentIntent string `json:"payment_intent"`
	}
	_ = json.Unmarshal(told.Data.Object, &object) // what has another shape names nothing
	told.object, told.paymentIntent = object.ID, object.PaymentIntent
	return told.Event, nil
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

// events are the types of Event that mean something here, and what each means.
// https://docs.stripe.com/api/events/types
var events = map[string]func(*Billing, context.Context, Event) error{
	"checkout.session.completed":               about((*Billing).syncCheckoutSession),
	"checkout.session.async_payment_succeeded": about((*Billing).syncCheckoutSession),
	"checkout.session.async_payment_failed":    about((*Billing).syncCheckoutSession),
	"checkout.session.expired":                 about((*Billing).syncCheckoutSession),
	"customer.subscription.created":            about((*Billing).syncSubscription),
	"customer.subscription.updated":            about((*Billing).syncSubscription),
	"customer.subscription.deleted":            about((*Billing).syncSubscription),
	"customer.subscription.paused":             about((*Billing).syncSubscription),
	"customer.subscription.resumed":            about((*Billing).syncSubscription),
	"invoice.paid":                             about((*Billing).syncInvoice),
	"invoice.payment_failed":                   about((*Billing).syncInvoice),
	"charge.refunded":                          (*Billing).syncPayment,
	"charge.refund.updated":                    (*Billing).syncPayment,
	"refund.updated":                           (*Billing).syncPayment,
	"refund.failed":                            (*Billing).syncPayment,
	"charge.dispute.created":                   (*Billing).syncPayment,
	"charge.dispute.updated":                   (*Billing).syncPayment,
	"charge.dispute.closed":                    (*Billing).syncPayment,
	"customer.deleted":                         about((*Billing).forgetCustomer),
}

// HandledEvents returns the types of Event that an endpoint at Stripe should
// send, sorted.
func HandledEvents() []string { return slices.Sorted(maps.Keys(events)) }

// about makes a handler of one that needs the ID of the Event's object only.
func about(sync func(*Billing, context.Context, string) error) func(*Billing, context.Context, Event) error {
	return func(b *Billing, ctx context.Context, e Event) error {
		if e.object == "" {
			return fmt.Errorf("event %s of type %s does not name its object", e.ID, e.Type)
		}
		return sync(b, ctx, e.object)
	}
}

// ErrNotOurs says that an Event means nothing to this service.
var ErrNotOurs = errors.New("not an event for this service")

// ErrNoObject says that Stripe does not have what an Event is about, so that
// sending it again would change nothing.
var ErrNoObject = errors.New("stripe does not have what the event is about")

// HandleEvent brings the site's tables to the present state of what the Event
// is about. An Event only says that something has changed: the object is
// fetched anew, so that Events may come late, twice, and in any order. It
// returns nil once everything is stored.
//
// Errors: ErrNotOurs, ErrOtherMode and ErrNoObject, with which nothing is left
// to do; ErrCustomersUnavailable and *StripeError, with which the Event should
// come again.
//
// https://docs.stripe.com/webhooks#event-ordering
func (b *Billing) HandleEvent(ctx context.Context, e Event) error {
	handle := events[e.Type]
	switch {
	case handle == nil, e.Account != "":
		return ErrNotOurs
	case e.Livemode != b.config.LiveMode:
		return ErrOtherMode
	}
	err := handle(b, ctx, e)
	if missing(err) != "" {
		return fmt.Errorf("%w: %w", ErrNoObject, err)
	}
	return err
}

// syncInvoice writes the subscription that an invoice is for, if any.
func (b *Billing) syncInvoice(ctx context.Context, id string) error {
	invoice, err := b.stripe.Invoices.Get(id, &stripe.InvoiceParams{Params: calling(ctx, "fetch_invoice")})
	if err := answered("fetch invoice", err, invoice.ID, invoice.APIResource); err != nil || invoice.Subscription == nil {
		return err
	}
	return b.syncSubscription(ctx, invoice.Subscription.ID)
}

// syncPayment writes the purchase that a charge, refund or dispute belongs to, if it
// was made with a Checkout Session.
func (b *Billing) syncPayment(ctx context.Context, e Event) error {
	if e.paymentIntent == "" {
		return nil // a charge of its own, which no Checkout Session made
	}
	list := b.stripe.CheckoutSessions.List(&stripe.CheckoutSessionListParams{
		ListParams: listing(ctx, "list_checkout_sessions"), PaymentIntent: &e.paymentIntent,
	})
	for s, err := range each[stripe.CheckoutSession](listingCheckouts, list) {
		if err == nil {
			err = b.syncCheckoutSession(ctx, s.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forgetCustomer clears the record of a Customer that was deleted, so that the
// user's next purchase makes a new one.
func (b *Billing) forgetCustomer(ctx context.Context, id string) error {
	customer, err := b.stripe.Customers.Get(id, &stripe.CustomerParams{Params: calling(ctx, "fetch_customer")})
	err = answered("fetch customer", err, customer.ID, customer.APIResource)
	if missing(err) == "" && (err != nil || !customer.Deleted) {
		return err
	}
	return unavailable(b.store.Forget(ctx, id))
}
