package billing

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stripe/stripe-go/v76"
)

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
		p := &stripe.PriceListParams{Active: stripe.Bool(true), Type: stripe.String(string(kind))}
		p.Context, p.Limit, p.Single = ctx, stripe.Int64(1), true
		list := b.stripe.Prices.List(p)
		if !list.Next() {
			if list.Err() != nil {
				return "", stripeError("list prices", list.Err())
			}
			tried = append(tried, "no price to try "+mode+" mode with")
			continue
		}
		s, err := b.checkout(ctx, CheckoutRequest{PriceID: list.Price().ID, Mode: mode, Quantity: 1,
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
