package billing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
)

// CheckKey reports whether Stripe accepts the key, and how far the clock of
// this machine is ahead of Stripe's.
func (b *Billing) CheckKey(ctx context.Context) (ahead time.Duration, err error) {
	p := &stripe.BalanceParams{}
	p.Context = ctx
	balance, err := b.stripe.Balance.Get(p)
	var refused *stripe.Error
	var answer *stripe.APIResponse
	switch {
	case err == nil:
		answer = balance.LastResponse
	case errors.As(err, &refused) && refused.HTTPStatusCode == http.StatusForbidden:
		answer = refused.LastResponse // a restricted key need not be allowed to see the balance
	default:
		return 0, stripeError("fetch balance", err)
	}
	date, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return 0, errors.New("the answer has no date; is this Stripe?")
	}
	return time.Since(date), nil
}

// CheckMayCreate reports whether the key may create Customers, Checkout
// Sessions and billing portal sessions. It creates none: Stripe looks at a
// key's permissions first, and then refuses a parameter that it does not know.
func (b *Billing) CheckMayCreate(ctx context.Context) error {
	params := stripe.Params{Context: ctx}
	params.AddExtra("stripe_sidecar_doctor", "true")
	_, customer := b.stripe.Customers.New(&stripe.CustomerParams{Params: params})
	_, checkout := b.stripe.CheckoutSessions.New(&stripe.CheckoutSessionParams{Params: params})
	_, portal := b.stripe.BillingPortalSessions.New(&stripe.BillingPortalSessionParams{Params: params})
	var problems []error
	for doing, err := range map[string]error{"create customer": customer, "create checkout session": checkout, "create billing portal session": portal} {
		var s *stripe.Error
		switch {
		case err == nil:
			problems = append(problems, errors.New(doing+": a parameter that does not exist was taken; is this Stripe?"))
		case !errors.As(err, &s) || s.HTTPStatusCode != http.StatusBadRequest:
			problems = append(problems, stripeError(doing, err))
		}
	}
	return errors.Join(problems...)
}

// CheckMayRead reports whether the key may read what the webhook fetches.
func (b *Billing) CheckMayRead(ctx context.Context) error {
	params := stripe.ListParams{Context: ctx, Limit: stripe.Int64(1), Single: true}
	subscriptions := b.stripe.Subscriptions.List(&stripe.SubscriptionListParams{ListParams: params})
	invoices := b.stripe.Invoices.List(&stripe.InvoiceListParams{ListParams: params})
	payments := b.stripe.PaymentIntents.List(&stripe.PaymentIntentListParams{ListParams: params})
	charges := b.stripe.Charges.List(&stripe.ChargeListParams{ListParams: params})
	disputes := b.stripe.Disputes.List(&stripe.DisputeListParams{ListParams: params})
	return errors.Join(
		stripeError("list subscriptions", subscriptions.Err()), stripeError("list invoices", invoices.Err()),
		stripeError("list payment intents", payments.Err()), stripeError("list charges", charges.Err()),
		stripeError("list disputes", disputes.Err()))
}

// CheckPortal reports whether the billing portal has been set up.
func (b *Billing) CheckPortal(ctx context.Context) error {
	if id := b.config.PortalConfiguration; id != "" {
		p := &stripe.BillingPortalConfigurationParams{Params: stripe.Params{Context: ctx}}
		_, err := b.stripe.BillingPortalConfigurations.Get(id, p)
		return stripeError("fetch portal configuration", err)
	}
	p := &stripe.BillingPortalConfigurationListParams{IsDefault: stripe.Bool(true), Active: stripe.Bool(true)}
	p.Context = ctx
	list := b.stripe.BillingPortalConfigurations.List(p)
	if !list.Next() {
		if err := list.Err(); err != nil {
			return stripeError("list portal configurations", err)
		}
		return errors.New("its settings were never saved")
	}
	return nil
}

// CheckWebhook reports whether an endpoint at Stripe sends what is handled to
// a URL that ends in path. Endpoints of `stripe listen` are not in Stripe's list.
func (b *Billing) CheckWebhook(ctx context.Context, path string) (detail string, err error) {
	p := &stripe.WebhookEndpointListParams{}
	p.Context = ctx
	p.Limit = stripe.Int64(100)
	list := b.stripe.WebhookEndpoints.List(p)
	err = errors.New("no endpoint of the account ends in " + path)
	for list.Next() {
		e := list.WebhookEndpoint()
		if !strings.HasSuffix(e.URL, path) {
			continue
		}
		var missing []string
		for _, name := range HandledEvents() {
			if !slices.Contains(e.EnabledEvents, name) && !slices.Contains(e.EnabledEvents, "*") {
				missing = append(missing, name)
			}
		}
		switch {
		case e.Status != "enabled":
			err = fmt.Errorf("%s is %s", e.URL, e.Status)
		case len(missing) > 0:
			err = fmt.Errorf("%s does not get %s", e.URL, strings.Join(missing, ", "))
		default:
			return e.URL, nil
		}
	}
	if list.Err() != nil {
		err = stripeError("list webhook endpoints", list.Err())
	}
	return "", err
}
