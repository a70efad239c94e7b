// Package billing is the thin layer over Stripe: Checkout Sessions, Billing
// Portal Sessions, the Customers they belong to, and the Events that tell what
// became of them. It is the only package that
// knows stripe-go, and so the only one that knows which API version is spoken.
package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
			Transport:     transport{c.Transport},
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

// maxAnswer bounds what is read of an answer, in bytes. A list of a hundred
// subscriptions is under 1 MiB.
const maxAnswer = 8 << 20

// transport is between stripe-go and the network. It sends every body with its
// length: stripe-go tells none, so that net/http would send it in chunks, three
// packets for a form of 300 bytes. And it reads every answer whole: one that
// breaks off is a failed call, which stripe-go makes again.
type transport struct{ next http.RoundTripper }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return nil, err
		}
		r = r.WithContext(r.Context()) // a copy: the caller's is not ours to change
		r.Body, r.ContentLength = http.NoBody, int64(len(body))
		if len(body) > 0 {
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if created, ok := r.Context().Value(createdKey{}).(*[]byte); ok && resp.StatusCode < http.StatusBadRequest {
		*created, answer = answer, []byte("{}")
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	return resp, nil
}

// createdKey is for a *[]byte in the context of a call, which takes the JSON of
// the object that Stripe has created.
type createdKey struct{}

// Session is a page at Stripe that the buyer is redirected to.
type Session struct {
	URL             string
	StripeRequestID string // req_…, for the log; "" when unknown
}

// open creates a session at a path of Stripe's API and returns where it is.
// stripe-go does not get to decode the answer: it goes through it four times,
// which took a seventh of the CPU time of a request, and only one field is needed.
func (b *Billing) open(doing, path string, p stripe.ParamsContainer) (Session, error) {
	var created []byte
	params := p.GetParams()
	params.Context = context.WithValue(params.Context, createdKey{}, &created)
	var answer struct{ stripe.APIResource }
	if err := b.backend.Call(http.MethodPost, path, b.config.SecretKey, p, &answer); err != nil {
		return Session{}, stripeError(doing, err)
	}
	var s struct {
		URL string `json:"url"`
	}
	if json.Unmarshal(created, &s) != nil {
		return Session{}, stripeError(doing, fmt.Errorf("answer %d is not JSON: %q",
			answer.LastResponse.StatusCode, created[:min(len(created), 300)]))
	}
	if s.URL == "" {
		return Session{}, incomplete(doing, answer.APIResource)
	}
	return Session{URL: s.URL, StripeRequestID: requestID(answer.APIResource)}, nil
}

func requestID(r stripe.APIResource) string {
	if r.LastResponse == nil {
		return ""
	}
	return r.LastResponse.RequestID
}
