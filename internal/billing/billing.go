// Package billing is the thin layer over Stripe: Checkout Sessions, Billing
// Portal Sessions, the Customers they belong to, and the Events that tell what
// became of them. It is the only package that
// knows stripe-go, and so the only one that knows which API version is spoken.
package billing

import (
	"context"
	"io"
	"net/http"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
)

// Config is what a site decides about its billing.
type Config struct {
	SecretKey string            // sk_… or rk_…
	APIBase   string            // another base URL than Stripe's, "" for Stripe's
	Transport http.RoundTripper // to Stripe

	WebhookSecrets []string // whsec_…; several while one is replaced

	PromotionCodes      bool
	AutomaticTax        bool
	TaxIDCollection     bool
	TrialDays           int64  // subscriptions only; 0 for no trial
	OneSubscription     bool   // a subscriber gets the billing portal instead of a second subscription
	PortalConfiguration string // bpc_…, "" for the account's default
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

	// Ticket returns a number higher than all before it.
	Ticket(ctx context.Context) (int64, error)
	// WriteSubscription and WritePurchase write a row unless the one that is
	// there has a higher ticket; row marshals to a JSON object of its columns.
	WriteSubscription(ctx context.Context, ticket int64, row any) error
	WritePurchase(ctx context.Context, ticket int64, row any) error
}

// Billing sells, and records what was bought. It is safe for concurrent use.
type Billing struct {
	config  Config
	stripe  *client.API
	backend stripe.Backend // for calls of which little is read
	store   Store
}

// New returns a Billing; nothing is asked of Stripe before the first call.
func New(c Config, store Store) *Billing {
	backend := &stripe.BackendConfig{
		// No redirect is followed: Stripe's API answers none, and the key must
		// not travel to wherever one points.
		HTTPClient: &http.Client{
			Transport:     boundedAnswers{c.Transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		// stripe-go's own log lines hold e-mail addresses and parts of keys.
		LeveledLogger:   &stripe.LeveledLogger{Level: stripe.LevelNull},
		EnableTelemetry: stripe.Bool(false),
	}
	if c.APIBase != "" {
		backend.URL = stripe.String(c.APIBase)
	}
	backends := stripe.NewBackendsWithConfig(backend)
	return &Billing{
		config:  c,
		stripe:  client.New(c.SecretKey, backends),
		backend: backends.API,
		store:   store,
	}
}

// maxAnswer bounds what is read of an answer, in bytes: stripe-go reads all that
// comes. A list of a hundred subscriptions is under 1 MiB.
const maxAnswer = 8 << 20

type boundedAnswers struct{ next http.RoundTripper }

func (b boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// Session is a page at Stripe that the buyer is redirected to.
type Session struct {
	URL             string
	StripeRequestID string // req_…, for the log; "" when unknown
}

// open creates a session at a path of Stripe's API and returns where it is.
// Nothing else of the answer is read: to decode all of a Checkout Session took a
// fifth of the CPU time of a request.
func (b *Billing) open(doing, path string, p stripe.ParamsContainer) (Session, error) {
	var s struct {
		stripe.APIResource
		URL string `json:"url"`
	}
	if err := b.backend.Call(http.MethodPost, path, b.config.SecretKey, p, &s); err != nil {
		return Session{}, stripeError(doing, err)
	}
	if s.URL == "" {
		return Session{}, incomplete(doing, s.APIResource)
	}
	return Session{URL: s.URL, StripeRequestID: requestID(s.APIResource)}, nil
}

func requestID(r stripe.APIResource) string {
	if r.LastResponse == nil {
		return ""
	}
	return r.LastResponse.RequestID
}
