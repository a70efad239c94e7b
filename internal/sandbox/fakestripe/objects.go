package fakestripe

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
	card               card
	credit             int64 // taken off the next invoices, cents
	created            time.Time
}

type product struct {
	id, name, description string
	created               time.Time
}

type price struct {
	id, product string
	lookupKey   string // "": none
	inactive    bool
	unitAmount  int64  // cents
	interval    string // "": one-time
	metered     bool   // billed by usage: has no quantity
	created     time.Time
}

// Customers returns all Customers, deleted ones too, oldest first.
func (s *Account) Customers() []Customer {
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
func (s *Account) DeleteCustomer(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.customers.byID[id]
	if c == nil {
		panic("fakestripe: no customer " + id)
	}
	s.remove(c)
}

func (s *Account) deleteCustomer(q *request) (any, *stripeError) {
	c := s.customers.byID[q.PathValue("customer")]
	if c == nil || c.Deleted {
		return nil, noSuch(http.StatusNotFound, "customer", q.PathValue("customer"), "id")
	}
	s.remove(c)
	return c.json(), nil
}

func (s *Account) remove(c *customer) {
	for u := range s.subscriptions.all {
		if u.Customer == c.ID && u.EndedAt.IsZero() {
			s.cancel(u)
		}
	}
	s.emit("customer.deleted", c.json())
	c.Deleted = true
}

func (s *Account) addPrice(id, name string, unitAmount int64, interval string) {
	now := s.o.Now()
	p := &product{id: newID("prod_", 14), name: name, created: now}
	s.products.put(p.id, p)
	s.prices.put(id, &price{id: id, product: p.id, unitAmount: unitAmount, interval: interval, created: now})
}

// MeterPrice has a recurring Price billed by usage. It panics if there is none
// with this ID.
func (s *Account) MeterPrice(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.prices.byID[id]
	if p == nil || p.interval == "" {
		panic("fakestripe: no recurring price " + id)
	}
	p.metered = true
}

func (c *customer) json() object {
	if c.Deleted {
		return deletedJSON("customer", c.ID)
	}
	return object{
		"id": c.ID, "object": "customer", "livemode": false, "created": c.created.Unix(),
		"email": orNull(c.Email), "name": orNull(c.Name), "phone": orNull(c.phone), "description": orNull(c.description),
		"metadata": metadataJSON(c.Metadata), "address": nil, "balance": -c.credit, "currency": nil, "default_source": nil, "delinquent": false,
		"discount": nil, "invoice_prefix": c.ID[len(c.ID)-8:], "preferred_locales": []string{}, "shipping": nil, "tax_exempt": "none",
		"invoice_settings": object{"custom_fields": nil, "default_payment_method": orNull(c.card.id), "footer": nil, "rendering_options": nil},
	}
}

func (p *price) json() object {
	o := object{
		"id": p.id, "object": "price", "livemode": false, "created": p.created.Unix(), "active": !p.inactive,
		"product": p.product, "currency": "usd", "unit_amount": p.unitAmount, "unit_amount_decimal": strconv.FormatInt(p.unitAmount, 10),
		"billing_scheme": "per_unit", "type": "one_time", "recurring": nil,
		"lookup_key": orNull(p.lookupKey), "nickname": nil, "metadata": object{}, "tax_behavior": "unspecified", "tiers_mode": nil,
	}
	if p.interval != "" {
		o["type"] = "recurring"
		usage := "licensed"
		if p.metered {
			usage = "metered"
		}
		o["recurring"] = object{"interval": p.interval, "interval_count": 1, "usage_type": usage, "aggregate_usage": nil, "trial_period_days": nil}
	}
	return o
}

func (c *customer) paymentMethodJSON() object {
	return object{
		"id": c.card.id, "object": "payment_method", "livemode": false, "customer": c.ID, "type": "card", "card": c.card.json(),
		"billing_details": object{"email": orNull(c.Email), "name": orNull(c.Name), "phone": nil, "address": nil}, "metadata": object{},
	}
}

func discountJSON(promotion string) any {
	if promotion == "" {
		return nil
	}
	return object{
		"object": "discount", "promotion_code": "promo_sandbox_" + promotion,
		"coupon": object{"id": promotion, "object": "coupon", "percent_off": promotions[promotion], "amount_off": nil, "duration": "forever", "valid": true},
	}
}

func metadataJSON(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (s *Account) createCustomer(q *request) (any, *stripeError) {
	c := &customer{}
	c.set(q)
	s.addCustomer(c)
	return c.json(), nil
}

func (s *Account) addCustomer(c *customer) {
	c.ID, c.created = newID("cus_", 14), s.o.Now()
	s.customers.put(c.ID, c)
	s.emit("customer.created", c.json())
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

func (s *Account) retrieveCustomer(q *request) (any, *stripeError) {
	c := s.customers.byID[q.PathValue("customer")]
	if c == nil {
		return nil, noSuch(http.StatusNotFound, "customer", q.PathValue("customer"), "id")
	}
	return c.json(), nil
}

func (s *Account) updateCustomer(q *request) (any, *stripeError) {
	c := s.customers.byID[q.PathValue("customer")]
	if c == nil || c.Deleted {
		return nil, noSuch(http.StatusNotFound, "customer", q.PathValue("customer"), "id")
	}
	c.set(q)
	return c.json(), nil
}

// customerOf finds the Customer that a parameter of a creation names.
func (s *Account) customerOf(q *request) *stripeError {
	id := q.text("customer")
	if c := s.customers.byID[id]; c == nil || c.Deleted {
		return noSuch(http.StatusBadRequest, "customer", id, "customer")
	}
	return nil
}

// notImitated refuses what would otherwise pass without effect.
func notImitated(param string) *stripeError {
	return &stripeError{Message: "The sandbox does not imitate this parameter: " + param, Param: param}
}

func (s *Account) retrieveBalance(*request) (any, *stripeError) {
	none := []object{{"amount": 0, "currency": "usd", "source_types": object{"card": 0}}}
	return object{"object": "balance", "livemode": false, "available": none, "pending": none}, nil
}
