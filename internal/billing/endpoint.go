package billing

import (
	"context"
	"slices"

	"github.com/stripe/stripe-go/v76"
)

// Endpoint is a webhook endpoint at Stripe.
// https://docs.stripe.com/api/webhook_endpoints
type Endpoint struct {
	ID     string // we_…
	Status string // enabled or disabled
	// Secret is whsec_…, which Stripe tells when it creates the endpoint and never
	// again; "" for one that was there.
	Secret string
	// Added and Removed are the types of Event with which it did not fit what is
	// handled here.
	Added, Removed []string
}

// EnsureEndpoint has Stripe send exactly the handled Events to a URL: to the endpoint
// that has it or, where none does, to a new one.
//
// Errors: *StripeError.
func (b *Billing) EnsureEndpoint(ctx context.Context, url string) (Endpoint, error) {
	list := b.stripe.WebhookEndpoints.List(&stripe.WebhookEndpointListParams{ListParams: listing(ctx, "list_webhook_endpoints")})
	for e, err := range each[stripe.WebhookEndpoint]("list webhook endpoints", list) {
		if err != nil {
			return Endpoint{}, err
		}
		if e.URL == url {
			return b.mendEndpoint(ctx, e)
		}
	}
	e, err := b.stripe.WebhookEndpoints.New(&stripe.WebhookEndpointParams{
		Params:        calling(ctx, "create_webhook_endpoint"),
		URL:           &url,
		EnabledEvents: stripe.StringSlice(HandledEvents()),
		Description:   stripe.String("stripe-sidecar"),
	})
	if err != nil {
		return Endpoint{}, stripeError("create webhook endpoint", err)
	}
	return Endpoint{ID: e.ID, Status: e.Status, Secret: e.Secret}, answered("create webhook endpoint "+e.ID, nil, e.Secret, e.APIResource)
}

func (b *Billing) mendEndpoint(ctx context.Context, e *stripe.WebhookEndpoint) (Endpoint, error) {
	found := Endpoint{ID: e.ID, Status: e.Status}
	found.Added, found.Removed = difference(e.EnabledEvents)
	if len(found.Added)+len(found.Removed) == 0 {
		return found, nil
	}
	_, err := b.stripe.WebhookEndpoints.Update(e.ID, &stripe.WebhookEndpointParams{
		Params:        calling(ctx, "update_webhook_endpoint"),
		EnabledEvents: stripe.StringSlice(HandledEvents()),
	})
	return found, stripeError("update webhook endpoint", err)
}

// difference returns the types of Event that an endpoint lacks, and those that it
// has and that mean nothing here; "*" stands for all.
func difference(enabled []string) (missing, needless []string) {
	handled := HandledEvents()
	if !slices.Contains(enabled, "*") {
		missing = slices.DeleteFunc(slices.Clone(handled), func(name string) bool { return slices.Contains(enabled, name) })
	}
	needless = slices.DeleteFunc(slices.Clone(enabled), func(name string) bool { return slices.Contains(handled, name) })
	return missing, needless
}
