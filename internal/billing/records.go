package billing

import (
	"context"
	"reflect"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
)

// subscriptionRow is a row of the table subscriptions, Stripe's present state.
// https://docs.stripe.com/api/subscriptions/object
type subscriptionRow struct {
	ID                 string            `json:"id"`
	UserID             *string           `json:"user_id"`
	StripeCustomerID   string            `json:"stripe_customer_id"`
	Status             string            `json:"status"`
	PriceID            *string           `json:"price_id"`   // of the first item,
	ProductID          *string           `json:"product_id"` // as are these two:
	Quantity           *int64            `json:"quantity"`   // our own checkout sells one
	Items              []subscribed      `json:"items"`
	CancelAtPeriodEnd  bool              `json:"cancel_at_period_end"`
	CancelAt           *time.Time        `json:"cancel_at"`
	CanceledAt         *time.Time        `json:"canceled_at"`
	CurrentPeriodStart *time.Time        `json:"current_period_start"`
	CurrentPeriodEnd   *time.Time        `json:"current_period_end"`
	TrialStart         *time.Time        `json:"trial_start"`
	TrialEnd           *time.Time        `json:"trial_end"`
	EndedAt            *time.Time        `json:"ended_at"`
	Created            *time.Time        `json:"created"`
	Metadata           map[string]string `json:"metadata"`
	Livemode           bool              `json:"livemode"`
}

// subscribed is an item of a subscription.
type subscribed struct {
	PriceID   *string `json:"price_id"`
	ProductID *string `json:"product_id"`
	Quantity  *int64  `json:"quantity"` // nil for a metered price, which has none
}

// purchaseRow is a row of the table purchases: a Checkout Session in payment
// mode with the state of its payment.
// https://docs.stripe.com/api/checkout/sessions/object
type purchaseRow struct {
	ID               string            `json:"id"`
	UserID           *string           `json:"user_id"`
	StripeCustomerID *string           `json:"stripe_customer_id"`
	Email            *string           `json:"email"` // what the buyer entered
	PaymentIntentID  *string           `json:"payment_intent_id"`
	Status           string            `json:"status"`
	PaymentStatus    string            `json:"payment_status"`
	PriceID          *string           `json:"price_id"`   // of the first line item,
	ProductID        *string           `json:"product_id"` // as is this
	LineItems        []lineItem        `json:"line_items"`
	AmountTotal      int64             `json:"amount_total"`    // smallest unit of the currency
	AmountRefunded   int64             `json:"amount_refunded"` // likewise
	Disputed         bool              `json:"disputed"`
	Currency         string            `json:"currency"`
	Created          *time.Time        `json:"created"`
	Metadata         map[string]string `json:"metadata"`
	Livemode         bool              `json:"livemode"`
}

type lineItem struct {
	PriceID     *string `json:"price_id"`
	ProductID   *string `json:"product_id"`
	Quantity    int64   `json:"quantity"`
	AmountTotal int64   `json:"amount_total"` // smallest unit of the currency
}

// Columns returns the columns of the two tables that this program writes.
func Columns() (subscriptions, purchases []string) {
	names := func(row reflect.Type) (columns []string) {
		for _, field := range reflect.VisibleFields(row) {
			columns = append(columns, field.Tag.Get("json"))
		}
		return append(columns, "ticket")
	}
	return names(reflect.TypeFor[subscriptionRow]()), names(reflect.TypeFor[purchaseRow]())
}

// syncSubscription fetches a subscription and writes its present state. The
// ticket is drawn first, so that of several that fetch at once the last one to
// draw stands, and that one has seen every change whose Event came before.
func (b *Billing) syncSubscription(ctx context.Context, id string) error {
	ticket, err := b.ticket(ctx)
	if err != nil {
		return err
	}
	s, err := b.stripe.Subscriptions.Get(id, &stripe.SubscriptionParams{Params: stripe.Params{Context: calling(ctx, "fetch_subscription")}})
	if err != nil {
		return stripeError("fetch subscription", err)
	}
	return b.writeSubscription(ctx, ticket, s, "")
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
	row := subscriptionRow{
		ID:                 s.ID,
		UserID:             userID,
		StripeCustomerID:   s.Customer.ID,
		Status:             string(s.Status),
		CancelAtPeriodEnd:  s.CancelAtPeriodEnd,
		CancelAt:           timestamp(s.CancelAt),
		CanceledAt:         timestamp(s.CanceledAt),
		CurrentPeriodStart: timestamp(s.CurrentPeriodStart),
		CurrentPeriodEnd:   timestamp(s.CurrentPeriodEnd),
		TrialStart:         timestamp(s.TrialStart),
		TrialEnd:           timestamp(s.TrialEnd),
		EndedAt:            timestamp(s.EndedAt),
		Created:            timestamp(s.Created),
		Metadata:           s.Metadata,
		Livemode:           s.Livemode,
		Items:              []subscribed{},
	}
	items, err := b.subscriptionItems(ctx, s)
	if err != nil {
		return err
	}
	for _, item := range items {
		one := subscribed{Quantity: &item.Quantity}
		one.PriceID, one.ProductID = priceAndProduct(item.Price)
		if p := item.Price; p != nil && p.Recurring != nil && p.Recurring.UsageType == stripe.PriceRecurringUsageTypeMetered {
			one.Quantity = nil
		}
		row.Items = append(row.Items, one)
	}
	if len(row.Items) > 0 {
		row.PriceID, row.ProductID, row.Quantity = row.Items[0].PriceID, row.Items[0].ProductID, row.Items[0].Quantity
	}
	if err := b.store.WriteSubscription(ctx, ticket, row); err != nil {
		return unavailable(err)
	}
	return nil
}

// subscriptionItems returns all items of a subscription, with which Stripe sends
// the first ten.
func (b *Billing) subscriptionItems(ctx context.Context, s *stripe.Subscription) ([]*stripe.SubscriptionItem, error) {
	if s.Items == nil {
		return nil, nil
	}
	items := s.Items.Data
	if !s.Items.HasMore || len(items) == 0 {
		return items, nil
	}
	p := &stripe.SubscriptionItemListParams{Subscription: &s.ID}
	p.Context, p.Limit, p.StartingAfter = calling(ctx, "list_subscription_items"), stripe.Int64(100), &items[len(items)-1].ID
	list := b.stripe.SubscriptionItems.List(p)
	for list.Next() {
		items = append(items, list.SubscriptionItem())
	}
	return items, stripeError("list subscription items", list.Err())
}

// lineItems returns all line items of a Checkout Session, likewise.
func (b *Billing) lineItems(ctx context.Context, s *stripe.CheckoutSession) ([]*stripe.LineItem, error) {
	if s.LineItems == nil {
		return nil, nil
	}
	items := s.LineItems.Data
	if !s.LineItems.HasMore || len(items) == 0 {
		return items, nil
	}
	p := &stripe.CheckoutSessionListLineItemsParams{Session: &s.ID}
	p.Context, p.Limit, p.StartingAfter = calling(ctx, "list_line_items"), stripe.Int64(100), &items[len(items)-1].ID
	list := b.stripe.CheckoutSessions.ListLineItems(p)
	for list.Next() {
		items = append(items, list.LineItem())
	}
	return items, stripeError("list line items", list.Err())
}

// priceAndProduct returns the IDs of a price and of its product, nil for unknown.
func priceAndProduct(p *stripe.Price) (priceID, productID *string) {
	if p == nil {
		return nil, nil
	}
	if p.Product != nil {
		productID = &p.Product.ID
	}
	return &p.ID, productID
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
	subscriptions := &stripe.SubscriptionListParams{Customer: &customerID, Status: stripe.String("all")}
	subscriptions.Context = calling(ctx, "list_subscriptions")
	subscriptions.Limit = stripe.Int64(100)
	found := b.stripe.Subscriptions.List(subscriptions)
	for found.Next() {
		if err := b.writeSubscription(ctx, ticket, found.Subscription(), userID); err != nil {
			return err
		}
	}
	if err := stripeError("list subscriptions", found.Err()); err != nil {
		if customerGone(err) {
			return nil
		}
		return err
	}
	if page := found.SubscriptionList(); page.Data == nil {
		return incomplete("list subscriptions", page.APIResource)
	}
	sessions := &stripe.CheckoutSessionListParams{Customer: &customerID}
	sessions.Context = calling(ctx, "list_checkout_sessions")
	sessions.Limit = stripe.Int64(100)
	sessions.Expand = []*string{stripe.String("data.line_items"), stripe.String("data.payment_intent.latest_charge")}
	list := b.stripe.CheckoutSessions.List(sessions)
	for list.Next() {
		s := list.CheckoutSession()
		if s.Mode != stripe.CheckoutSessionModePayment || s.Status != stripe.CheckoutSessionStatusComplete {
			continue
		}
		if err := b.writePurchase(ctx, ticket, s, userID); err != nil {
			return err
		}
	}
	if err := list.Err(); err != nil {
		return stripeError("list checkout sessions", err)
	}
	if page := list.CheckoutSessionList(); page.Data == nil {
		return incomplete("list checkout sessions", page.APIResource)
	}
	return nil
}

// syncCheckoutSession fetches a Checkout Session and writes what was bought
// with it: a purchase, or a subscription.
func (b *Billing) syncCheckoutSession(ctx context.Context, id string) error {
	ticket, err := b.ticket(ctx)
	if err != nil {
		return err
	}
	p := &stripe.CheckoutSessionParams{Params: stripe.Params{Context: calling(ctx, "fetch_checkout_session")}}
	p.Expand = []*string{stripe.String("line_items"), stripe.String("payment_intent.latest_charge")}
	s, err := b.stripe.CheckoutSessions.Get(id, p)
	switch {
	case err != nil:
		return stripeError("fetch checkout session", err)
	case s.ID == "":
		return incomplete("fetch checkout session", s.APIResource)
	case s.Mode == stripe.CheckoutSessionModePayment:
		return b.writePurchase(ctx, ticket, s, "")
	case s.Subscription != nil:
		return b.syncSubscription(ctx, s.Subscription.ID)
	}
	return nil // a subscription that never began, or mode setup: nothing was bought
}

// writePurchase writes a Checkout Session in payment mode, fetched with its
// line items and the latest charge of its payment intent; owner is as for userOf.
func (b *Billing) writePurchase(ctx context.Context, ticket int64, s *stripe.CheckoutSession, owner string) error {
	userID, err := b.userOf(ctx, s.Metadata, s.Customer, owner)
	if err != nil {
		return err
	}
	row := purchaseRow{
		ID:            s.ID,
		UserID:        userID,
		Status:        string(s.Status),
		PaymentStatus: string(s.PaymentStatus),
		LineItems:     []lineItem{},
		AmountTotal:   s.AmountTotal,
		Currency:      string(s.Currency),
		Created:       timestamp(s.Created),
		Metadata:      s.Metadata,
		Livemode:      s.Livemode,
	}
	if s.Customer != nil {
		row.StripeCustomerID = &s.Customer.ID
	}
	if d := s.CustomerDetails; d != nil && d.Email != "" {
		row.Email = &d.Email
	}
	if s.PaymentIntent != nil {
		row.PaymentIntentID = &s.PaymentIntent.ID
		if charge := s.PaymentIntent.LatestCharge; charge != nil {
			row.AmountRefunded = charge.AmountRefunded
			if charge.Disputed {
				if row.Disputed, err = b.disputeStands(ctx, s.PaymentIntent.ID); err != nil {
					return err
				}
			}
		}
	}
	items, err := b.lineItems(ctx, s)
	if err != nil {
		return err
	}
	for _, item := range items {
		line := lineItem{Quantity: item.Quantity, AmountTotal: item.AmountTotal}
		line.PriceID, line.ProductID = priceAndProduct(item.Price)
		row.LineItems = append(row.LineItems, line)
	}
	if len(row.LineItems) > 0 {
		row.PriceID, row.ProductID = row.LineItems[0].PriceID, row.LineItems[0].ProductID
	}
	if err := b.store.WritePurchase(ctx, ticket, row); err != nil {
		return unavailable(err)
	}
	return nil
}

// disputeStands tells whether one of the disputes of a payment is open or lost.
// The Charge cannot tell: its disputed stays true after the dispute was won.
// https://docs.stripe.com/api/disputes/object#dispute_object-status
func (b *Billing) disputeStands(ctx context.Context, paymentIntent string) (bool, error) {
	const doing = "list disputes"
	p := &stripe.DisputeListParams{PaymentIntent: &paymentIntent}
	p.Context, p.Limit = calling(ctx, "list_disputes"), stripe.Int64(100)
	list := b.stripe.Disputes.List(p)
	found := false
	for list.Next() {
		found = true
		switch list.Dispute().Status {
		case stripe.DisputeStatusWon, stripe.DisputeStatusWarningClosed:
		default:
			return true, nil
		}
	}
	if err := list.Err(); err != nil {
		return false, stripeError(doing, err)
	}
	if !found { // and yet the Charge has one
		return false, incomplete(doing, list.DisputeList().APIResource)
	}
	return false, nil
}

func (b *Billing) ticket(ctx context.Context) (int64, error) {
	ticket, err := b.store.Ticket(ctx)
	if err != nil {
		return 0, unavailable(err)
	}
	return ticket, nil
}

// userOf returns the user that something was bought by, nil when unknown: the
// one in the metadata that our own checkout wrote, else the one whose Customer
// it is: owner, or whom the database names where that is "". A client_reference_id binds nothing, since on a Payment Link the buyer
// can set it.
func (b *Billing) userOf(ctx context.Context, metadata map[string]string, customer *stripe.Customer, owner string) (*string, error) {
	if id, err := uuid.Parse(metadata[userIDKey]); err == nil {
		userID := id.String()
		return &userID, nil
	}
	if owner != "" {
		return &owner, nil
	}
	if customer == nil {
		return nil, nil
	}
	userID, err := b.store.UserID(ctx, customer.ID)
	switch {
	case err != nil:
		return nil, unavailable(err)
	case userID == "":
		return nil, nil
	}
	return &userID, nil
}

// timestamp is Stripe's Unix time in seconds as a time, nil for none.
func timestamp(seconds int64) *time.Time {
	if seconds == 0 {
		return nil
	}
	t := time.Unix(seconds, 0).UTC()
	return &t
}
