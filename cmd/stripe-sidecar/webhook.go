package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/upstream"
)

// checkWebhookURL reports what is wrong with the address of a webhook endpoint.
func checkWebhookURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q is not a URL: https://example.com%s, say", address, api.WebhookPath)
	case u.Scheme != "https":
		return fmt.Errorf("%q is not https, and Stripe sends nothing to it: for a local service there is `stripe listen`", address)
	case u.RawQuery != "" || u.Fragment != "" || !strings.HasSuffix(u.Path, api.WebhookPath):
		return fmt.Errorf("%q does not end in %s", address, api.WebhookPath)
	}
	return nil
}

// makeWebhook has Stripe send to an address what is handled. The secret of a new
// endpoint goes to stdout, alone, as the variable that it is; what was done, to stderr.
func makeWebhook(ctx context.Context, c config, in invocation) error {
	bill := billing.New(billingConfig(c, upstream.New(upstream.Config{})), nil)
	ctx, cancel := context.WithTimeout(ctx, c.UpstreamTimeout)
	defer cancel()
	e, err := bill.EnsureEndpoint(ctx, in.argument)
	if err != nil {
		return err
	}
	if e.Secret != "" {
		fmt.Fprintf(in.stderr, "created %s in %s mode, for %d types of event; Stripe tells its secret this once:\n", e.ID, c.mode(), len(billing.HandledEvents()))
		_, err := fmt.Fprintf(in.stdout, "STRIPE_WEBHOOK_SECRET=%s\n", e.Secret)
		return err
	}
	fmt.Fprintf(in.stderr, "%s in %s mode is there already, and %s; its secret is in the dashboard: https://dashboard.stripe.com/webhooks/%s\n", e.ID, c.mode(), e.Status, e.ID)
	if len(e.Added) > 0 {
		fmt.Fprintf(in.stderr, "added to it: %s\n", strings.Join(e.Added, ", "))
	}
	if len(e.Removed) > 0 {
		fmt.Fprintf(in.stderr, "taken from it: %s\n", strings.Join(e.Removed, ", "))
	}
	if e.Status != "enabled" {
		return fmt.Errorf("%s gets nothing while it is %s: enable it in the dashboard", e.ID, e.Status)
	}
	return nil
}
