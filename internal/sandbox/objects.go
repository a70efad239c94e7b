package sandbox

import (
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Customer is a Customer as the account has it.
// https://docs.stripe.com/api/customers
type Customer struct {
	ID, Email, Name string
	Metadata        map[string]string
	Deleted         bool
}

type customer struct {
	Customer
	phone, description string
	created            time.Time
}

type product struct {
	id, name string
	created  time.Time
}

type price struct {
	id, product string
	unitAmount  int64  // cents
	interval    string // "": one-time
	created     time.Time
}

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
	itemID  string
	created time.Time
}

// Customers returns all Customers, deleted ones too, oldest first.
func (s *Stripe) Customers() []Customer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Customer
	for c := range s.customers.all {
		out := c.Customer
		out.Metadata = maps.Clone(out.Metadata)
		all = append(all, out)
	}
	return all
}

// DeleteCustomer deletes a Customer as the dashboard does, subscriptions
// included. It panics if there is none with this ID.
func (s *Stripe) DeleteCustomer(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.customers.byID[id]
	if c == nil {
		panic("sandbox: no customer " + id)
	}
	s.remove(c)
}

func (s *Stripe) remove(c *customer) {
	c.Deleted = true
	for u := range s.subscriptions.all {
		if u.Customer == c.ID {
			u.cancel(s.o.Now())
		}
	}
}

// AddPrice adds a Price of 10.00 US dollars, a month if it is recurring, with
// a Product of its own.
func (s *Stripe) AddPrice(id string, recurring bool) {
	interval := ""
	if recurring {
		interval = "month"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addPrice(id, "Product of "+id, 1000, interval)
}

func (s *Stripe) addPrice(id, name string, unitAmount int64, interval string) {
	now := s.o.Now()
	p := &product{id: newID("prod_", 14), name: name, created: now}
	s.products.put(p.id, p)
	s.prices.put(id, &price{id: id, product: p.id, unitAmount: unitAmount, interval: interval, created: now})
}

// AddSubscription gives a Customer a subscription in this status, its current
// period being the month from now on, and returns its ID. It panics if there
// is no such Customer or no such recurring Price.
func (s *Stripe) AddSubscription(customer, price, status string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, p := s.customers.byID[customer], s.prices.byID[price]
	if c == nil || c.Deleted || p == nil || p.interval == "" {
		panic("sandbox: no subscription of " + customer + " to " + price)
	}
	now := s.o.Now()
	u := &subscription{
		Subscription: Subscription{
			ID: newID("sub_", 24), Customer: customer, Status: status, Price: price, Quantity: 1,
			CurrentPeriodStart: now, CurrentPeriodEnd: now.AddDate(0, 1, 0),
		},
		itemID: newID("si_", 14), created: now,
	}
	if status == "trialing" {
		u.TrialEnd = u.CurrentPeriodEnd
	}
	if status == "canceled" {
		u.cancel(now)
	}
	s.subscriptions.put(u.ID, u)
	return u.ID
}

// Subscriptions returns all subscriptions, canceled ones too, oldest first.
func (s *Stripe) Subscriptions() []Subscription {
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

func (u *subscription) cancel(now time.Time) {
	if u.EndedAt.IsZero() {
		u.Status, u.CanceledAt, u.EndedAt = "canceled", now, now
	}
}

func (c *customer) json() object {
	if c.Deleted {
		return deletedJSON("customer", c.ID)
	}
	return object{
		"id": c.ID, "object": "customer", "livemode": false, "created": c.created.Unix(),
		"email": orNull(c.Email), "name": orNull(c.Name), "phone": orNull(c.phone), "description": orNull(c.description),
		"metadata": c.Metadata, "address": nil, "balance": 0, "currency": nil, "default_source": nil, "delinquent": false,
		"discount": nil, "invoice_prefix": c.ID[len(c.ID)-8:], "preferred_locales": []string{}, "shipping": nil, "tax_exempt": "none",
		"invoice_settings": object{"custom_fields": nil, "default_payment_method": nil, "footer": nil, "rendering_options": nil},
	}
}

func (p *product) json() object {
	return object{
		"id": p.id, "object": "product", "livemode": false, "created": p.created.Unix(), "updated": p.created.Unix(),
		"active": true, "name": p.name, "description": nil, "images": []string{}, "metadata": object{}, "type": "service",
	}
}

func (p *price) json() object {
	o := object{
		"id": p.id, "object": "price", "livemode": false, "created": p.created.Unix(), "active": true,
		"product": p.product, "currency": "usd", "unit_amount": p.unitAmount, "unit_amount_decimal": strconv.FormatInt(p.unitAmount, 10),
		"billing_scheme": "per_unit", "type": "one_time", "recurring": nil,
		"lookup_key": nil, "nickname": nil, "metadata": object{}, "tax_behavior": "unspecified", "tiers_mode": nil,
	}
	if p.interval != "" {
		o["type"] = "recurring"
		o["recurring"] = object{"interval": p.interval, "interval_count": 1, "usage_type": "licensed", "aggregate_usage": nil, "trial_period_days": nil}
	}
	return o
}

func (s *Stripe) subscriptionJSON(u *subscription) object {
	cancelAt, trialStart := time.Time{}, time.Time{}
	if u.CancelAtPeriodEnd {
		cancelAt = u.CurrentPeriodEnd
	}
	if !u.TrialEnd.IsZero() {
		trialStart = u.created
	}
	return object{
		"id": u.ID, "object": "subscription", "livemode": false, "created": u.created.Unix(), "start_date": u.created.Unix(),
		"customer": u.Customer, "status": u.Status, "metadata": metadataJSON(u.Metadata), "currency": "usd",
		"current_period_start": u.CurrentPeriodStart.Unix(), "current_period_end": u.CurrentPeriodEnd.Unix(),
		"billing_cycle_anchor": u.CurrentPeriodStart.Unix(), "collection_method": "charge_automatically",
		"cancel_at_period_end": u.CancelAtPeriodEnd, "cancel_at": unixOrNull(cancelAt),
		"canceled_at": unixOrNull(u.CanceledAt), "ended_at": unixOrNull(u.EndedAt),
		"trial_start": unixOrNull(trialStart), "trial_end": unixOrNull(u.TrialEnd),
		"latest_invoice": nil, "default_payment_method": nil, "schedule": nil, "pause_collection": nil,
		"automatic_tax": object{"enabled": false},
		"items": object{
			"object": "list", "has_more": false, "total_count": 1, "url": "/v1/subscription_items?subscription=" + u.ID,
			"data": []object{{
				"id": u.itemID, "object": "subscription_item", "created": u.created.Unix(), "subscription": u.ID,
				"metadata": object{}, "quantity": u.Quantity, "price": s.prices.byID[u.Price].json(),
			}},
		},
	}
}

func metadataJSON(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (s *Stripe) createCustomer(q *request) (any, *stripeError) {
	c := &customer{Customer: Customer{ID: newID("cus_", 14)}, created: q.now}
	c.set(q)
	s.customers.put(c.ID, c)
	return c.json(), nil
}

func (s *Stripe) updateCustomer(q *request) (any, *stripeError) {
	c := s.customers.byID[q.PathValue("customer")]
	if c == nil || c.Deleted {
		return nil, noSuch(http.StatusNotFound, "customer", q.PathValue("customer"), "id")
	}
	c.set(q)
	return c.json(), nil
}

func (c *customer) set(q *request) {
	for name, field := range map[string]*string{
		"email": &c.Email, "name": &c.Name, "phone": &c.phone, "description": &c.description,
	} {
		if v, ok := q.params[name].(string); ok {
			*field = v
		}
	}
	c.Metadata = q.mergeMetadata(c.Metadata)
}

func (s *Stripe) retrieveCustomer(q *request) (any, *stripeError) {
	c := s.customers.byID[q.PathValue("customer")]
	if c == nil {
		return nil, noSuch(http.StatusNotFound, "customer", q.PathValue("customer"), "id")
	}
	return c.json(), nil
}

func (s *Stripe) deleteCustomer(q *request) (any, *stripeError) {
	c := s.customers.byID[q.PathValue("customer")]
	if c == nil || c.Deleted {
		return nil, noSuch(http.StatusNotFound, "customer", q.PathValue("customer"), "id")
	}
	s.remove(c)
	return c.json(), nil
}

func (s *Stripe) listCustomers(q *request) (any, *stripeError) {
	var all []object
	for c := range s.customers.all {
		if !c.Deleted && (!q.has("email") || c.Email == q.text("email")) {
			all = append(all, c.json())
		}
	}
	return page(q, all)
}

// customerOf finds the Customer that a parameter of a creation names.
func (s *Stripe) customerOf(q *request) *stripeError {
	id := q.text("customer")
	if c := s.customers.byID[id]; c == nil || c.Deleted {
		return noSuch(http.StatusBadRequest, "customer", id, "customer")
	}
	return nil
}

func (s *Stripe) listSubscriptions(q *request) (any, *stripeError) {
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

func (s *Stripe) subscriptionOf(q *request) (*subscription, *stripeError) {
	id := q.PathValue("subscription_exposed_id")
	u := s.subscriptions.byID[id]
	if u == nil {
		return nil, noSuch(http.StatusNotFound, "subscription", id, "id")
	}
	return u, nil
}

func (s *Stripe) retrieveSubscription(q *request) (any, *stripeError) {
	u, err := s.subscriptionOf(q)
	if err != nil {
		return nil, err
	}
	return s.subscriptionJSON(u), nil
}

// updateSubscription knows cancel_at_period_end, metadata and the price and
// quantity of the only item.
func (s *Stripe) updateSubscription(q *request) (any, *stripeError) {
	u, err := s.subscriptionOf(q)
	if err != nil {
		return nil, err
	}
	if u.Status == "canceled" {
		return nil, &stripeError{Message: "A canceled subscription can only update its cancellation_details and metadata."}
	}
	next := u.Subscription
	for name := range q.params {
		switch name {
		case "cancel_at_period_end", "metadata", "items", "expand", "proration_behavior":
		default:
			return nil, notImitated(name)
		}
	}
	if items, _ := q.at("items").([]any); len(items) > 0 {
		item, _ := items[0].(map[string]any)
		if len(items) > 1 || item["id"] != u.itemID {
			return nil, notImitated("items")
		}
		if id, ok := item["price"].(string); ok {
			if p := s.prices.byID[id]; p == nil || p.interval == "" {
				return nil, noSuch(http.StatusBadRequest, "price", id, "items[0][price]")
			}
			next.Price = id
		}
		if n, ok := item["quantity"].(int); ok {
			next.Quantity = int64(n)
		}
	}
	if on, ok := q.at("cancel_at_period_end").(bool); ok {
		next.CancelAtPeriodEnd, next.CanceledAt = on, time.Time{}
		if on {
			next.CanceledAt = q.now
		}
	}
	next.Metadata = q.mergeMetadata(maps.Clone(u.Metadata))
	u.Subscription = next
	return s.subscriptionJSON(u), nil
}

// notImitated refuses what would otherwise pass without effect.
func notImitated(param string) *stripeError {
	return &stripeError{Message: "The sandbox does not imitate this parameter: " + param, Param: param}
}

func (s *Stripe) cancelSubscription(q *request) (any, *stripeError) {
	u, err := s.subscriptionOf(q)
	if err != nil {
		return nil, err
	}
	if u.Status == "canceled" {
		return nil, noSuch(http.StatusNotFound, "subscription", u.ID, "id")
	}
	u.cancel(q.now)
	return s.subscriptionJSON(u), nil
}

func (s *Stripe) listPrices(q *request) (any, *stripeError) {
	var all []object
	for p := range s.prices.all {
		if !q.has("product") || p.product == q.text("product") {
			all = append(all, p.json())
		}
	}
	return page(q, all)
}

func (s *Stripe) retrievePrice(q *request) (any, *stripeError) {
	p := s.prices.byID[q.PathValue("price")]
	if p == nil {
		return nil, noSuch(http.StatusNotFound, "price", q.PathValue("price"), "price")
	}
	return p.json(), nil
}

func (s *Stripe) listProducts(q *request) (any, *stripeError) {
	var all []object
	for p := range s.products.all {
		all = append(all, p.json())
	}
	return page(q, all)
}

func (s *Stripe) retrieveProduct(q *request) (any, *stripeError) {
	p := s.products.byID[q.PathValue("id")]
	if p == nil {
		return nil, noSuch(http.StatusNotFound, "product", q.PathValue("id"), "id")
	}
	return p.json(), nil
}

func (s *Stripe) retrieveBalance(*request) (any, *stripeError) {
	none := []object{{"amount": 0, "currency": "usd", "source_types": object{"card": 0}}}
	return object{"object": "balance", "livemode": false, "available": none, "pending": none}, nil
}

func (s *Stripe) retrieveAccount(*request) (any, *stripeError) {
	return object{
		"id": "acct_sandbox", "object": "account", "country": "US", "default_currency": "usd", "type": "standard",
		"charges_enabled": true, "payouts_enabled": false, "details_submitted": true, "email": "sandbox@example.com", "metadata": object{},
	}, nil
}
