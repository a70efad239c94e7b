package billing

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
)

// Row is a row of a table, by column.
type Row = map[string]any

// subscriptionRow is a row of the table subscriptions, Stripe's present state. Price,
// product and quantity are those of the first item: our own checkout sells one.
// https://docs.stripe.com/api/subscriptions/object
func subscriptionRow(s *stripe.Subscription, userID *string, items []*stripe.SubscriptionItem) Row {
	subscribed := []Row{}
	for _, item := range items {
		one := priceAndProduct(item.Price)
		one["quantity"] = item.Quantity
		if p := item.Price; p != nil && p.Recurring != nil && p.Recurring.UsageType == stripe.PriceRecurringUsageTypeMetered {
			one["quantity"] = nil // which a metered price has none of
		}
		subscribed = append(subscribed, one)
	}
	first := append(subscribed, nil)[0] // which has no columns where there is none
	return Row{
		"id":                   s.ID,
		"user_id":              userID,
		"stripe_customer_id":   s.Customer.ID,
		"status":               s.Status,
		"price_id":             first["price_id"],
		"product_id":           first["product_id"],
		"quantity":             first["quantity"],
		"items":                subscribed,
		"cancel_at_period_end": s.CancelAtPeriodEnd,
		"cancel_at":            timestamp(s.CancelAt),
		"canceled_at":          timestamp(s.CanceledAt),
		"current_period_start": timestamp(s.CurrentPeriodStart),
		"current_period_end":   timestamp(s.CurrentPeriodEnd),
		"trial_start":          timestamp(s.TrialStart),
		"trial_end":            timestamp(s.TrialEnd),
		"ended_at":             timestamp(s.EndedAt),
		"created":              timestamp(s.Created),
		"metadata":             s.Metadata,
		"livemode":             s.Livemode,
	}
}

// purchaseRow is a row of the table purchases: a Checkout Session in payment mode with
// the state of its payment. Price and product are those of the first line item, amounts
// in the currency's smallest unit, and the e-mail address is what the buyer entered.
// https://docs.stripe.com/api/checkout/sessions/object
func purchaseRow(s *stripe.CheckoutSession, userID *string, items []*stripe.LineItem, disputed bool) Row {
	bought := []Row{}
	for _, item := range items {
		line := priceAndProduct(item.Price)
		line["quantity"], line["amount_total"] = item.Quantity, item.AmountTotal
		bought = append(bought, line)
	}
	first := append(bought, nil)[0]
	row := Row{
		"id":                 s.ID,
		"user_id":            userID,
		"stripe_customer_id": nil,
		"email":              nil,
		"payment_intent_id":  nil,
		"status":             s.Status,
		"payment_status":     s.PaymentStatus,
		"price_id":           first["price_id"],
		"product_id":         first["product_id"],
		"line_items":         bought,
		"amount_total":       s.AmountTotal,
		"amount_refunded":    0,
		"disputed":           disputed,
		"currency":           s.Currency,
		"created":            timestamp(s.Created),
		"metadata":           s.Metadata,
		"livemode":           s.Livemode,
	}
	if s.Customer != nil {
		row["stripe_customer_id"] = s.Customer.ID
	}
	if d := s.CustomerDetails; d != nil && d.Email != "" {
		row["email"] = d.Email
	}
	if s.PaymentIntent != nil {
		row["payment_intent_id"] = s.PaymentIntent.ID
		if charge := s.PaymentIntent.LatestCharge; charge != nil {
			row["amount_refunded"] = charge.AmountRefunded
		}
	}
	return row
}

// priceAndProduct are the IDs of a price and of its product, nil for unknown.
func priceAndProduct(p *stripe.Price) Row {
	row := Row{"price_id": nil, "product_id": nil}
	if p != nil {
		row["price_id"] = p.ID
		if p.Product != nil {
			row["product_id"] = p.Product.ID
		}
	}
	return row
}

// Columns returns the columns of the two tables that this program writes.
func Columns() (subscriptions, purchases []string) {
	subscription := subscriptionRow(&stripe.Subscription{Customer: &stripe.Customer{}}, nil, nil)
	purchase := purchaseRow(&stripe.CheckoutSession{}, nil, nil, false)
	return append(slices.Sorted(maps.Keys(subscription)), "ticket"), append(slices.Sorted(maps.Keys(purchase)), "ticket")
}

// Bought is what the site's tables say that a user has bought, newest first.
type Bought struct {
	Subscriptions []Row `json:"subscriptions"`
	Purchases     []Row `json:"purchases"`
}

// Bought returns a user's rows, at most 100 of each table, without the column
// ticket, which does not concern a page.
//
// Errors: ErrCustomersUnavailable.
func (b *Billing) Bought(ctx context.Context, userID string) (Bought, error) {
	subscriptions, purchases, err := b.store.Bought(ctx, userID)
	for _, row := range slices.Concat(subscriptions, purchases) {
		delete(row, "ticket")
	}
	return Bought{subscriptions, purchases}, unavailable(err)
}

// SyncCustomer writes the present state of all subscriptions of a Customer and
// of everything paid with a Checkout Session, as of the user whose Customer it is. It
// does nothing for a Customer that Stripe does not have.
//
// Errors: ErrCustomersUnavailable, *StripeError.
func (b *Billing) SyncCustomer(ctx context.Context, customerID, userID string) error {
	ticket, err := b.ticket(ctx)
	if err != nil {
		return err
	}
	for s, err := range b.eachSubscription(ctx, customerID) {
		if customerGone(err) {
			return nil
		}
		if err == nil {
			err = b.writeSubscription(ctx, ticket, s, userID)
		}
		if err != nil {
			return err
		}
	}
	list := b.stripe.CheckoutSessions.List(&stripe.CheckoutSessionListParams{
		ListParams: listing(ctx, "list_checkout_sessions"),
		Customer:   &customerID,
		Expand:     []*string{stripe.String("data.line_items"), stripe.String("data.payment_intent.latest_charge")},
	})
	for s, err := range each[stripe.CheckoutSession](listingCheckouts, list) {
		if err == nil && s.Mode == stripe.CheckoutSessionModePayment && s.Status == stripe.CheckoutSessionStatusComplete {
			err = b.writePurchase(ctx, ticket, s, userID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// syncSubscription fetches a subscription and writes its present state. The
// ticket is drawn first, so that of several that fetch at once the last one to
// draw stands, and that one has seen every change whose Event came before.
func (b *Billing) syncSubscription(ctx context.Context, id string) error {
	ticket, err := b.ticket(ctx)
	if err != nil {
		return err
	}
	s, err := b.stripe.Subscriptions.Get(id, &stripe.SubscriptionParams{Params: calling(ctx, "fetch_subscription")})
	if err != nil {
		return stripeError("fetch subscription", err)
	}
	return b.writeSubscription(ctx, ticket, s, "")
}

// syncCheckoutSession fetches a Checkout Session and writes what was bought
// with it: a purchase, or a subscription.
func (b *Billing) syncCheckoutSession(ctx context.Context, id string) error {
	ticket, err := b.ticket(ctx)
	if err != nil {
		return err
	}
	s, err := b.stripe.CheckoutSessions.Get(id, &stripe.CheckoutSessionParams{
		Params: calling(ctx, "fetch_checkout_session"),
		Expand: []*string{stripe.String("line_items"), stripe.String("payment_intent.latest_charge")},
	})
	err = answered("fetch checkout session", err, s.ID, s.APIResource)
	switch {
	case err != nil:
		return err
	case s.Mode == stripe.CheckoutSessionModePayment:
		return b.writePurchase(ctx, ticket, s, "")
	case s.Subscription != nil:
		return b.syncSubscription(ctx, s.Subscription.ID)
	}
	return nil // a subscription that never began, or mode setup: nothing was bought
}

// writeSubscription writes a subscription; owner is as for userOf.
func (b *Billing) writeSubscription(ctx context.Context, ticket int64, s *stripe.Subscription, owner string) error {
	if s.ID == "" || s.Customer == nil {
		return incomplete("fetch subscription", s.APIResource)
	}
	userID, err := b.userOf(ctx, s.Metadata, s.Customer, owner)
	if err != nil {
		return err
	}
	var items []*stripe.SubscriptionItem
	if s.Items != nil {
		items = s.Items.Data
		if s.Items.HasMore { // Stripe sends the first ten
			p := &stripe.SubscriptionItemListParams{ListParams: listing(ctx, "list_subscription_items"), Subscription: &s.ID}
			if items, err = all(each[stripe.SubscriptionItem]("list subscription items", b.stripe.SubscriptionItems.List(p))); err != nil {
				return err
			}
		}
	}
	return unavailable(b.store.WriteSubscription(ctx, ticket, subscriptionRow(s, userID, items)))
}

// writePurchase writes a Checkout Session in payment mode, fetched with its
// line items and the latest charge of its payment intent; owner is as for userOf.
func (b *Billing) writePurchase(ctx context.Context, ticket int64, s *stripe.CheckoutSession, owner string) error {
	userID, err := b.userOf(ctx, s.Metadata, s.Customer, owner)
	if err != nil {
		return err
	}
	disputed := false
	if p := s.PaymentIntent; p != nil && p.LatestCharge != nil && p.LatestCharge.Disputed {
		if disputed, err = b.disputeStands(ctx, p.ID); err != nil {
			return err
		}
	}
	var items []*stripe.LineItem
	if s.LineItems != nil {
		items = s.LineItems.Data
		if s.LineItems.HasMore {
			p := &stripe.CheckoutSessionListLineItemsParams{ListParams: listing(ctx, "list_line_items"), Session: &s.ID}
			if items, err = all(each[stripe.LineItem]("list line items", b.stripe.CheckoutSessions.ListLineItems(p))); err != nil {
				return err
			}
		}
	}
	return unavailable(b.store.WritePurchase(ctx, ticket, purchaseRow(s, userID, items, disputed)))
}

// disputeStands tells whether one of the disputes of a payment is open or lost.
// The Charge cannot tell: its disputed stays true after the dispute was won.
// https://docs.stripe.com/api/disputes/object#dispute_object-status
func (b *Billing) disputeStands(ctx context.Context, paymentIntent string) (bool, error) {
	const doing = "list disputes"
	list := b.stripe.Disputes.List(&stripe.DisputeListParams{ListParams: listing(ctx, "list_disputes"), PaymentIntent: &paymentIntent})
	disputes, err := all(each[stripe.Dispute](doing, list))
	if err == nil && len(disputes) == 0 { // and yet the Charge has one
		err = incomplete(doing, list.DisputeList().APIResource)
	}
	return slices.ContainsFunc(disputes, func(d *stripe.Dispute) bool {
		return d.Status != stripe.DisputeStatusWon && d.Status != stripe.DisputeStatusWarningClosed
	}), err
}

func (b *Billing) ticket(ctx context.Context) (int64, error) {
	ticket, err := b.store.Ticket(ctx)
	return ticket, unavailable(err)
}

// userOf returns the user that something was bought by, nil when unknown: the one in
// the metadata that our own checkout wrote, else the one whose Customer it is: owner, or
// whom the database names where that is "". A client_reference_id binds nothing, since
// on a Payment Link the buyer can set it.
func (b *Billing) userOf(ctx context.Context, metadata map[string]string, customer *stripe.Customer, owner string) (*string, error) {
	if id, err := uuid.Parse(metadata[userIDKey]); err == nil {
		owner = id.String()
	} else if owner == "" && customer != nil {
		if owner, err = b.store.UserID(ctx, customer.ID); err != nil {
			return nil, unavailable(err)
		}
	}
	if owner == "" {
		return nil, nil
	}
	return &owner, nil
}

// timestamp is Stripe's Unix time in seconds as a time, nil for none.
func timestamp(seconds int64) *time.Time {
	if seconds == 0 {
		return nil
	}
	t := time.Unix(seconds, 0).UTC()
	return &t
}
