// Package billing is the thin layer over Stripe: Checkout Sessions, Billing
// Portal Sessions, the Customers they belong to, and the Events that tell what
// became of them. It is the only package that knows stripe-go, and so the only
// one that knows which API version is spoken.
package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"reflect"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"

	"8space.app/stripe-sidecar/internal/upstream"
)

// Config is what a site decides about its billing.
type Config struct {
	SecretKey upstream.Secret // sk_… or rk_…
	LiveMode  bool            // whether that key moves real money
	APIBase   string          // another base URL than Stripe's, "" for Stripe's
	Network   *upstream.Network

	WebhookSecrets []upstream.Secret // whsec_…; several while one is replaced

	PromotionCodes  bool
	AutomaticTax    bool
	TaxIDCollection bool
	TrialDays       int64            // subscriptions only; 0 for no trial
	OneSubscription bool             // a subscriber cannot buy a second one: ErrSubscribed
	Prices          []string         // IDs and lookup keys of what may be bought; empty for any
	Now             func() time.Time // nil: time.Now

	// What else is sent with every Checkout Session, or with those of one mode.
	Params, PaymentParams, SubscriptionParams url.Values

	PortalConfiguration string // bpc_…, "" for the account's default
	UserDeleted         string // KeepCustomer, CancelSubscriptions or DeleteCustomer
}

// Store is the site's database. An error of any method means that it could not
// be read or written, never that there is nothing. It is an interface because
// this package must not know where and with which key that is kept.
type Store interface {
	// CustomerID returns the recorded Customer of a user, "" for none; found tells
	// whether there is a record at all.
	CustomerID(ctx context.Context, userID string) (customerID string, found bool, err error)
	// Insert records the Customer of a user without a record; the first one
	// stands. It returns the one that stands.
	Insert(ctx context.Context, userID, customerID string) (stands string, err error)
	// Replace records customerID where the record still says was. It returns the
	// Customer that stands.
	Replace(ctx context.Context, userID, was, customerID string) (stands string, err error)
	// UserID returns the user with this Customer, "" for none.
	UserID(ctx context.Context, customerID string) (string, error)
	// Forget clears a Customer from its user's record.
	Forget(ctx context.Context, customerID string) error

	// UsersLeft returns how many Customers of deleted users have not been settled, and
	// the IDs of at most as many as asked for; Settled settles one.
	UsersLeft(ctx context.Context, most int) (customerIDs []string, total int, err error)
	Settled(ctx context.Context, customerID string) error

	// Ticket returns a number higher than all before it.
	Ticket(ctx context.Context) (int64, error)
	// WriteSubscription and WritePurchase write a row unless the one that is
	// there has a higher ticket; row marshals to a JSON object of its columns.
	WriteSubscription(ctx context.Context, ticket int64, row any) error
	WritePurchase(ctx context.Context, ticket int64, row any) error
	// Bought returns the rows of a user, the newest first and at most 100 of each
	// table; never nil without an error.
	Bought(ctx context.Context, userID string) (subscriptions, purchases []Row, err error)
}

// Billing sells, and records what was bought. It is safe for concurrent use.
type Billing struct {
	config    Config
	stripe    *client.API
	store     Store
	catalogue catalogue
}

// New returns a Billing; nothing is asked of Stripe before the first call.
func New(c Config, store Store) *Billing {
	if c.Now == nil {
		c.Now = time.Now
	}
	backend := &stripe.BackendConfig{
		HTTPClient: c.Network.Client(),
		// stripe-go's own log lines hold e-mail addresses and parts of keys.
		LeveledLogger:   &stripe.LeveledLogger{Level: stripe.LevelNull},
		EnableTelemetry: stripe.Bool(false),
	}
	if c.APIBase != "" {
		backend.URL = stripe.String(c.APIBase)
	}
	return &Billing{
		config: c,
		stripe: client.New(c.SecretKey.Reveal(), stripe.NewBackendsWithConfig(backend)),
		store:  store,
	}
}

// calling returns the parameters of a call to Stripe, which it names for the metrics.
func calling(ctx context.Context, call string) stripe.Params {
	return stripe.Params{Context: upstream.Call(ctx, upstream.Stripe, call)}
}

// listing returns the parameters of a list likewise, in pages of as many as Stripe sends.
func listing(ctx context.Context, call string) stripe.ListParams {
	return stripe.ListParams{Context: calling(ctx, call).Context, Limit: stripe.Int64(100)}
}

// repeated makes a call that has an idempotency key, and makes it again for as
// long as another one with that key is in flight, which can be longer than
// stripe-go retries. An answer 500 is saved under its key and replayed for a
// day, so a replayed one is followed by a call with a key made from it: the same
// key wherever and whenever that is done.
// https://docs.stripe.com/api/idempotent_requests
func repeated(ctx context.Context, p *stripe.Params, call func() error) error {
	for {
		err := call()
		var s *StripeError
		switch {
		case !errors.As(err, &s), ctx.Err() != nil:
			return err
		case s.replayed != "" && p.IdempotencyKey != nil:
			p.IdempotencyKey = stripe.String(idempotencyKey("again", *p.IdempotencyKey, s.replayed))
		case s.code == stripe.ErrorCodeIdempotencyKeyInUse:
			select {
			case <-ctx.Done():
				return err
			case <-time.After(200 * time.Millisecond):
			}
		default:
			return err
		}
	}
}

// idempotencyKey makes a key for Stripe from what it must depend on. Each part
// is quoted, so that no two lists of parts give the same key.
// https://docs.stripe.com/api/idempotent_requests
func idempotencyKey(kind string, parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return "stripe-sidecar-" + kind + "-" + hex.EncodeToString(sum[:])
}

// each returns what a list at Stripe holds, page after page, and at last the error
// that ended it early. An answer without a list is such an error: an empty list is there.
func each[T any](doing string, list interface {
	Next() bool
	Current() any
	Err() error
	List() stripe.ListContainer
}) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for list.Next() {
			if !yield(list.Current().(*T), nil) {
				return
			}
		}
		err := list.Err()
		// Every list of stripe-go's is a struct of its own with this field.
		if page := reflect.Indirect(reflect.ValueOf(list.List())); err == nil && page.FieldByName("Data").IsNil() {
			yield(nil, incomplete(doing, page.FieldByName("APIResource").Interface().(stripe.APIResource)))
		} else if err != nil {
			yield(nil, stripeError(doing, err))
		}
	}
}

// all returns what a list at Stripe holds.
func all[T any](list iter.Seq2[*T, error]) ([]*T, error) {
	var found []*T
	for one, err := range list {
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, nil
}

// Page is where a buyer is sent: a page at Stripe, for a purchase or for what
// was bought.
type Page struct {
	URL             string
	StripeRequestID string // req_…, for the log; "" when unknown
}

// page returns the Page of a session that Stripe has created.
func page(doing, url string, r stripe.APIResource) (Page, error) {
	return Page{URL: url, StripeRequestID: requestID(r)}, answered(doing, nil, url, r)
}

func requestID(r stripe.APIResource) string {
	if r.LastResponse == nil {
		return ""
	}
	return r.LastResponse.RequestID
}
