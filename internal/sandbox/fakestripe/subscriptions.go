package fakestripe

import (
	"cmp"
	"maps"
	"math"
	"net/http"
	"time"
)

// Subscription is a subscription as the account has it.
// https://docs.stripe.com/api/subscriptions
type Subscription struct {
	ID, Customer, Status                 string
	Price                                string
	Quantity                             int64
	Metadata                             map[string]string
	CancelAtPeriodEnd                    bool
	CurrentPeriodStart, CurrentPeriodEnd time.Time
	TrialEnd, CanceledAt, EndedAt        time.Time // zero: none
}

type subscription struct {
	Subscription
	itemID    string
	invoice   string // the latest, "" while there is none
	promotion string // the code that makes it cheaper, "" for none
	created   time.Time
}

// AddSubscription gives a Customer a subscription in this status, its current
// period being the month from now on, and returns its ID. The first invoice of
// an active one is paid, that of a past_due one is not. It panics if there is no
// such Customer or no such recurring Price.
func (s *Account) AddSubscription(customer, price, status string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, p := s.customers.byID[customer], s.prices.byID[price]
	if c == nil || c.Deleted || p == nil || p.interval == "" {
		panic("fakestripe: no subscription of " + customer + " to " + price)
	}
	c.card = cmp.Or(c.card, firstCard)
	return s.subscribe(Subscription{Customer: customer, Price: price, Quantity: 1, Status: status}, "").ID
}

// subscribe begins a subscription of s.Status; a trialing one without TrialEnd
// is so for its first period.
func (s *Account) subscribe(of Subscription, promotion string) *subscription {
	now := s.o.Now()
	of.ID, of.CurrentPeriodStart, of.CurrentPeriodEnd = newID("sub_", 24), now, now.AddDate(0, 1, 0)
	switch {
	case !of.TrialEnd.IsZero():
		of.CurrentPeriodEnd = of.TrialEnd
	case of.Status == "trialing":
		of.TrialEnd = of.CurrentPeriodEnd
	case of.Status == "canceled":
		of.CanceledAt, of.EndedAt = now, now
	}
	u := &subscription{Subscription: of, itemID: newID("si_", 14), promotion: promotion, created: now}
	s.subscriptions.put(u.ID, u)
	s.emit("customer.subscription.created", s.subscriptionJSON(u))
	switch u.Status {
	case "active", "trialing":
		s.bill(u, "subscription_create", true)
	case "past_due":
		s.bill(u, "subscription_create", false)
	}
	return u
}

// Subscriptions returns all subscriptions, canceled ones too, oldest first.
func (s *Account) Subscriptions() []Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Subscription
	for u := range s.subscriptions.all {
		out := u.Subscription
		out.Metadata = maps.Clone(out.Metadata)
		all = append(all, out)
	}
	return all
}

// The methods below make a subscription live, as its user, the dashboard or
// time would. They panic if there is none with this ID that has not ended.

// ChangePrice moves a subscription to another recurring Price, without
// proration; it panics if there is no such Price.
func (s *Account) ChangePrice(subscriptionID, price string) {
	s.change(subscriptionID, func(u *subscription) {
		if p := s.prices.byID[price]; p == nil || p.interval == "" {
			panic("fakestripe: no recurring price " + price)
		}
		u.Price = price
		s.updated(u)
	})
}

// CancelAtPeriodEnd has a subscription end with its current period.
func (s *Account) CancelAtPeriodEnd(subscriptionID string) {
	s.change(subscriptionID, func(u *subscription) { s.setCancel(u, true) })
}

// Resume takes CancelAtPeriodEnd back.
func (s *Account) Resume(subscriptionID string) {
	s.change(subscriptionID, func(u *subscription) { s.setCancel(u, false) })
}

// Renew begins the next period of a subscription, which is paid: any other
// status becomes active.
func (s *Account) Renew(subscriptionID string) {
	s.change(subscriptionID, func(u *subscription) { s.renew(u, true) })
}

// FailPayment begins the next period of a subscription, which is not paid: its
// status becomes past_due.
func (s *Account) FailPayment(subscriptionID string) {
	s.change(subscriptionID, func(u *subscription) { s.renew(u, false) })
}

// CancelSubscription ends a subscription at once.
func (s *Account) CancelSubscription(subscriptionID string) { s.change(subscriptionID, s.cancel) }

func (s *Account) change(id string, how func(*subscription)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.subscriptions.byID[id]
	if u == nil || !u.EndedAt.IsZero() {
		panic("fakestripe: no subscription " + id + " that goes on")
	}
	how(u)
}

func (s *Account) updated(u *subscription) {
	s.emit("customer.subscription.updated", s.subscriptionJSON(u))
}

// perMonth is what a month costs at a price.
func (s *Account) perMonth(u *subscription, price string) int64 {
	full, off := s.amounts(u.promotion, LineItem{Price: price, Quantity: u.Quantity})
	return full - off
}

// proration is what a change of price costs for the rest of the current period,
// less than 0 if it gives money back; only what was paid for is prorated.
// https://docs.stripe.com/billing/subscriptions/prorations
func (s *Account) proration(u *subscription, price string) int64 {
	if u.Status != "active" {
		return 0
	}
	more := s.perMonth(u, price) - s.perMonth(u, u.Price)
	rest, period := u.CurrentPeriodEnd.Sub(s.o.Now()), u.CurrentPeriodEnd.Sub(u.CurrentPeriodStart)
	return int64(math.Round(float64(more) * min(1, max(0, rest.Seconds()/period.Seconds()))))
}

// changePlan is the portal's: what the rest of the period costs more is paid at
// once, what it costs less is taken off the Customer's next invoice.
func (s *Account) changePlan(u *subscription, price string) {
	amount := s.proration(u, price)
	u.Price = price
	if amount > 0 {
		s.invoice(u, &invoice{reason: "subscription_update", about: ", for the rest of the period", amount: amount}, true)
	} else if amount < 0 {
		c := s.customers.byID[u.Customer]
		c.credit -= amount
		s.emit("customer.updated", c.json())
	}
	s.updated(u)
}

func (s *Account) setCancel(u *subscription, on bool) {
	u.CancelAtPeriodEnd, u.CanceledAt = on, time.Time{}
	if on {
		u.CanceledAt = s.o.Now()
	}
	s.updated(u)
}

func (s *Account) renew(u *subscription, paid bool) {
	u.CurrentPeriodStart, u.CurrentPeriodEnd = u.CurrentPeriodEnd, u.CurrentPeriodEnd.AddDate(0, 1, 0)
	u.Status = "past_due"
	if paid {
		u.Status = "active"
	}
	s.bill(u, "subscription_cycle", paid)
	s.updated(u)
}

func (s *Account) cancel(u *subscription) {
	u.Status, u.EndedAt = "canceled", s.o.Now()
	if u.CanceledAt.IsZero() {
		u.CanceledAt = u.EndedAt
	}
	s.emit("customer.subscription.deleted", s.subscriptionJSON(u))
}

func (s *Account) subscriptionJSON(u *subscription) object {
	cancelAt, trialStart := time.Time{}, time.Time{}
	if u.CancelAtPeriodEnd {
		cancelAt = u.CurrentPeriodEnd
	}
	if !u.TrialEnd.IsZero() {
		trialStart = u.created
	}
	item := object{
		"id": u.itemID, "object": "subscription_item", "created": u.created.Unix(), "subscription": u.ID,
		"metadata": object{}, "price": s.prices.byID[u.Price].json(),
	}
	if !s.prices.byID[u.Price].metered {
		item["quantity"] = u.Quantity
	}
	return object{
		"id": u.ID, "object": "subscription", "livemode": false, "created": u.created.Unix(), "start_date": u.created.Unix(),
		"customer": u.Customer, "status": u.Status, "metadata": metadataJSON(u.Metadata), "currency": "usd",
		"current_period_start": u.CurrentPeriodStart.Unix(), "current_period_end": u.CurrentPeriodEnd.Unix(),
		"billing_cycle_anchor": u.CurrentPeriodStart.Unix(), "collection_method": "charge_automatically",
		"cancel_at_period_end": u.CancelAtPeriodEnd, "cancel_at": unixOrNull(cancelAt),
		"canceled_at": unixOrNull(u.CanceledAt), "ended_at": unixOrNull(u.EndedAt),
		"trial_start": unixOrNull(trialStart), "trial_end": unixOrNull(u.TrialEnd),
		"latest_invoice": orNull(u.invoice), "default_payment_method": nil, "schedule": nil, "pause_collection": nil,
		"automatic_tax": object{"enabled": false}, "discount": discountJSON(u.promotion),
		"items": object{
			"object": "list", "has_more": false, "total_count": 1, "url": "/v1/subscription_items?subscription=" + u.ID,
			"data": []object{item},
		},
	}
}

func (s *Account) cancelSubscription(q *request) (any, *stripeError) {
	id := q.PathValue("subscription_exposed_id")
	u := s.subscriptions.byID[id]
	if u == nil || !u.EndedAt.IsZero() {
		return nil, noSuch(http.StatusNotFound, "subscription", id, "id")
	}
	s.cancel(u)
	return s.subscriptionJSON(u), nil
}

func (s *Account) listSubscriptions(q *request) (any, *stripeError) {
	if id := q.text("customer"); id != "" && s.customers.byID[id] == nil {
		return nil, noSuch(http.StatusBadRequest, "customer", id, "customer")
	}
	var all []object
	for u := range s.subscriptions.all {
		status := q.text("status")
		switch {
		case q.has("customer") && u.Customer != q.text("customer"):
		case q.has("price") && u.Price != q.text("price"):
		case status == "" && u.Status == "canceled":
		case status == "ended" && u.EndedAt.IsZero():
		case status != "" && status != "all" && status != "ended" && u.Status != status:
		default:
			all = append(all, s.subscriptionJSON(u))
		}
	}
	return page(q, all)
}
