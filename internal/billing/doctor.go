package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"
)

// CheckKey reports whether Stripe accepts the key, and how far the clock of
// this machine is ahead of Stripe's.
func (b *Billing) CheckKey(ctx context.Context) (ahead time.Duration, err error) {
	balance, err := b.stripe.Balance.Get(&stripe.BalanceParams{Params: calling(ctx, "fetch_balance")})
	answer := balance.LastResponse
	var refused *stripe.Error
	if errors.As(err, &refused) && refused.HTTPStatusCode == http.StatusForbidden {
		answer, err = refused.LastResponse, nil // a restricted key need not be allowed to see the balance
	}
	if err != nil {
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
	params := calling(ctx, "try_create")
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
	params := listing(ctx, "try_read")
	params.Limit, params.Single = stripe.Int64(1), true
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
		configuration, err := b.stripe.BillingPortalConfigurations.Get(id, &stripe.BillingPortalConfigurationParams{Params: calling(ctx, "fetch_portal_configuration")})
		if err == nil && !configuration.Active {
			return fmt.Errorf("%s is not active", id)
		}
		return stripeError("fetch portal configuration", err)
	}
	list := b.stripe.BillingPortalConfigurations.List(&stripe.BillingPortalConfigurationListParams{
		ListParams: listing(ctx, "list_portal_configurations"), IsDefault: stripe.Bool(true), Active: stripe.Bool(true),
	})
	found, err := all(each[stripe.BillingPortalConfiguration]("list portal configurations", list))
	if err == nil && len(found) == 0 {
		return errors.New("its settings were never saved")
	}
	return err
}

// CheckPrices reports whether Stripe has the configured Prices, and they can be bought.
func (b *Billing) CheckPrices(ctx context.Context) error {
	var problems []error
	for _, name := range b.config.Prices {
		id, err := b.priceID(ctx, name)
		if err != nil {
			problems = append(problems, fmt.Errorf("lookup key %s: %w", name, err))
			continue
		}
		p, err := b.stripe.Prices.Get(id, &stripe.PriceParams{Params: calling(ctx, "fetch_price")})
		switch {
		case err != nil:
			problems = append(problems, stripeError("fetch price "+id, err))
		case !p.Active:
			problems = append(problems, fmt.Errorf("price %s is archived", id))
		case p.Livemode != b.config.LiveMode:
			problems = append(problems, fmt.Errorf("price %s: %w", id, ErrOtherMode))
		}
	}
	return errors.Join(problems...)
}

// CheckWebhook returns the URL, which ends in path, to which an endpoint at Stripe
// sends all that is handled. Endpoints of `stripe listen` are not in Stripe's list.
func (b *Billing) CheckWebhook(ctx context.Context, path string) (url string, err error) {
	list := b.stripe.WebhookEndpoints.List(&stripe.WebhookEndpointListParams{ListParams: listing(ctx, "list_webhook_endpoints")})
	endpoints, err := all(each[stripe.WebhookEndpoint]("list webhook endpoints", list))
	if err != nil {
		return "", err
	}
	err = errors.New("no endpoint of the account ends in " + path)
	for _, e := range endpoints {
		if !strings.HasSuffix(e.URL, path) {
			continue
		}
		unsent, _ := difference(e.EnabledEvents)
		switch {
		case e.Status != "enabled":
			err = fmt.Errorf("%s is %s", e.URL, e.Status)
		case len(unsent) > 0:
			err = fmt.Errorf("%s does not get %s", e.URL, strings.Join(unsent, ", "))
		default:
			return e.URL, nil
		}
	}
	return "", err
}

// TryWebhook sends an endpoint an Event of a type that means nothing, signed with
// the first of the secrets, and reports whether this service took it as such: then
// name, certificate, proxy, body and secret are as they must be.
func (b *Billing) TryWebhook(ctx context.Context, url string) error {
	payload, err := json.Marshal(map[string]any{"id": "evt_stripe_sidecar_doctor", "object": "event",
		"type": "stripe_sidecar.doctor", "livemode": b.config.LiveMode, "data": map[string]any{"object": map[string]any{}}})
	if err != nil {
		return err
	}
	signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: payload, Secret: b.config.WebhookSecrets[0].Reveal()})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	r.Header.Set("Stripe-Signature", signed.Header)
	resp, err := b.config.Network.Client().Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Status string }
	_ = json.NewDecoder(resp.Body).Decode(&answer) // what is not JSON has no status
	switch {
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("%s redirects to %s, where Stripe does not follow", url, resp.Header.Get("Location"))
	case resp.StatusCode == http.StatusBadRequest:
		return fmt.Errorf("%s does not take what was signed with this configuration's secret: the service there has another one, or something on the way changes the body", url)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s answers 404: the service there has no webhook secret, or does not get the path as it is", url)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %d", url, resp.StatusCode)
	case answer.Status != "ignored":
		return fmt.Errorf("%s answers, but not as this service does", url)
	}
	return nil
}

// CheckParams tries what is set of Params, PaymentParams and SubscriptionParams
// at Stripe: a Checkout Session in each mode that they are for, of any price that
// is there, expired at once. It does so in test mode only.
func (b *Billing) CheckParams(ctx context.Context) (detail string, err error) {
	if b.config.LiveMode {
		return "set, and tried with a test key only", nil
	}
	var tried []string
	for mode, kind := range map[string]stripe.PriceType{ModePayment: stripe.PriceTypeOneTime, ModeSubscription: stripe.PriceTypeRecurring} {
		if len(b.config.Params)+len(b.modeParams(mode)) == 0 {
			continue
		}
		p := &stripe.PriceListParams{ListParams: listing(ctx, "list_prices"), Active: stripe.Bool(true), Type: stripe.String(string(kind))}
		p.Limit, p.Single = stripe.Int64(1), true
		prices, err := all(each[stripe.Price]("list prices", b.stripe.Prices.List(p)))
		if err != nil {
			return "", err
		}
		if len(prices) == 0 {
			tried = append(tried, "no price to try "+mode+" mode with")
			continue
		}
		s, err := b.checkout(ctx, CheckoutRequest{PriceID: prices[0].ID, Mode: mode, Quantity: 1,
			SuccessURL: "https://example.com", CancelURL: "https://example.com"}, "")
		if err == nil {
			err = b.expire(ctx, s)
		}
		if err != nil {
			return "", fmt.Errorf("%s mode: %w", mode, err)
		}
		tried = append(tried, mode+" mode")
	}
	return strings.Join(slices.Sorted(slices.Values(tried)), ", "), nil
}
