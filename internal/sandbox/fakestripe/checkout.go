package fakestripe

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox"
)

// CheckoutSession is a Checkout Session as the account has it.
// https://docs.stripe.com/api/checkout/sessions
type CheckoutSession struct {
	ID, URL, Mode         string
	Status                string // open, complete or expired
	PaymentStatus         string // unpaid, paid or no_payment_required
	Customer              string // "": a guest's
	ClientReferenceID     string
	SuccessURL, CancelURL string
	Metadata              map[string]string
	LineItems             []LineItem
	Params                url.Values // as it was created
}

// LineItem is what a Checkout Session sells.
type LineItem struct {
	ID, Price string
	Quantity  int64
}

type checkoutSession struct {
	CheckoutSession
	customerEmail, customerCreation      string
	buyer                                buyer
	promotion                            string // the code that was applied
	subscription, paymentIntent, invoice string
	created, expires                     time.Time
	request                              params
}

// buyer is who has paid, as given on the page.
type buyer struct {
	email, name, country string
	card                 card
}

// promotions are the codes that Checkout takes, and what each takes off for good,
// in percent.
// https://docs.stripe.com/payments/checkout/discounts
var promotions = map[string]int64{"SAVE20": 20}

// PortalSession is a Billing Portal Session.
// https://docs.stripe.com/api/customer_portal/sessions
type PortalSession struct {
	ID, URL, Customer, ReturnURL, Configuration string
	Flow, Subscription                          string     // the step it opens at, and of what; "": the first page
	Params                                      url.Values // as it was created
}

type portalConfiguration struct {
	id      string
	created time.Time
}

// CheckoutSessions returns all Checkout Sessions, oldest first.
func (s *Account) CheckoutSessions() []CheckoutSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []CheckoutSession
	for c := range s.checkouts.all {
		s.expire(c)
		out := c.CheckoutSession
		out.Metadata, out.LineItems, out.Params = maps.Clone(out.Metadata), slices.Clone(out.LineItems), sandbox.CloneValues(out.Params)
		all = append(all, out)
	}
	return all
}

// PortalSessions returns all Billing Portal Sessions, oldest first.
func (s *Account) PortalSessions() []PortalSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []PortalSession
	for p := range s.portals.all {
		out := *p
		out.Params = sandbox.CloneValues(out.Params)
		all = append(all, out)
	}
	return all
}

func (s *Account) createCheckoutSession(q *request) (any, *stripeError) {
	if err := s.checkCheckout(q); err != nil {
		return nil, err
	}
	c := &checkoutSession{
		CheckoutSession: CheckoutSession{
			ID: newID("cs_test_a1", 56), Mode: q.text("mode"), Status: "open", PaymentStatus: "unpaid",
			Customer: q.text("customer"), ClientReferenceID: q.text("client_reference_id"),
			SuccessURL: q.text("success_url"), CancelURL: q.text("cancel_url"),
			Metadata: q.mergeMetadata(nil), Params: sandbox.CloneValues(q.PostForm),
		},
		customerEmail: q.text("customer_email"), customerCreation: q.text("customer_creation"),
		created: q.now, expires: q.now.Add(24 * time.Hour), request: q.params,
	}
	if at, ok := q.at("expires_at").(int); ok {
		c.expires = time.Unix(int64(at), 0)
	}
	if c.Mode == "payment" && c.Customer == "" && c.customerCreation == "" {
		c.customerCreation = "if_required"
	} else if c.Mode == "subscription" && c.Customer == "" {
		c.customerCreation = "always"
	}
	items, err := s.parseLineItems(q)
	if err != nil {
		return nil, err
	}
	c.LineItems = items
	c.URL = s.base + "/c/pay/" + c.ID
	s.checkouts.put(c.ID, c)
	return s.checkoutJSON(c), nil
}

// checkCheckout holds the rules that the schema cannot express.
// https://docs.stripe.com/api/checkout/sessions/create
func (s *Account) checkCheckout(q *request) *stripeError {
	mode := q.text("mode")
	for _, name := range []string{"mode", "success_url"} {
		if !q.has(name) {
			return missing(name)
		}
	}
	if mode == "setup" {
		return notImitated("mode")
	}
	if q.has("ui_mode") && q.text("ui_mode") != "hosted" {
		return notImitated("ui_mode")
	}
	for _, name := range []string{"success_url", "cancel_url"} {
		if err := checkURL(q, name); err != nil {
			return err
		}
	}
	if q.has("customer") {
		for _, other := range []string{"customer_creation", "customer_email"} {
			if q.has(other) {
				return &stripeError{Message: "You may only specify one of these parameters: customer, " + other + ".", Param: "customer"}
			}
		}
		if err := s.customerOf(q); err != nil {
			return err
		}
		if q.on("automatic_tax", "enabled") && q.text("customer_update", "address") != "auto" && q.text("customer_update", "shipping") != "auto" {
			return &stripeError{Code: "customer_tax_location_invalid", Message: "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to the Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto' to save the address entered in Checkout to the Customer."}
		}
		if q.on("tax_id_collection", "enabled") && q.text("customer_update", "name") != "auto" {
			return &stripeError{Message: "Tax ID collection requires updating business name on the customer. To enable tax ID collection for an existing customer, please set `customer_update[name]` to `auto`."}
		}
	} else if q.has("customer_update") {
		return &stripeError{Message: "`customer_update` can only be used with `customer`.", Param: "customer_update"}
	}
	if q.has("customer_creation") && mode != "payment" {
		return &stripeError{Message: "`customer_creation` can only be used in `payment` mode.", Param: "customer_creation"}
	}
	if q.has("allow_promotion_codes") && q.has("discounts") {
		return &stripeError{Message: "You may only specify one of these parameters: allow_promotion_codes, discounts.", Param: "allow_promotion_codes"}
	}
	if only := map[string]string{"payment": "subscription_data", "subscription": "payment_intent_data"}[mode]; q.has(only) {
		return &stripeError{Message: fmt.Sprintf("You can not pass `%s` in `%s` mode.", only, mode), Param: only}
	}
	if days, ok := q.at("subscription_data", "trial_period_days").(int); ok && days < 1 {
		return &stripeError{Message: "The minimum number of trial period days is 1.", Param: "subscription_data[trial_period_days]"}
	}
	if at, ok := q.at("expires_at").(int); ok {
		if life := time.Unix(int64(at), 0).Sub(q.now); life < 30*time.Minute || life > 24*time.Hour+time.Minute {
			return &stripeError{Message: "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.", Param: "expires_at"}
		}
	}
	return nil
}

func checkURL(q *request, name string) *stripeError {
	text := q.text(name)
	if text == "" {
		return nil
	}
	if len([]rune(text)) > 5000 {
		return &stripeError{Code: "url_invalid", Message: "Invalid URL: URL must be 5000 characters or less.", Param: name}
	}
	// The template's braces are no part of a URL.
	u, err := url.Parse(strings.NewReplacer("{", "", "}", "").Replace(text))
	if err != nil || u.Scheme != "" && u.Host == "" {
		return &stripeError{Code: "url_invalid", Message: "Not a valid URL", Param: name}
	}
	if u.Scheme == "" {
		return &stripeError{Code: "url_invalid", Message: "Invalid URL: An explicit scheme (such as https) must be provided.", Param: name}
	}
	return nil
}

func (s *Account) parseLineItems(q *request) ([]LineItem, *stripeError) {
	given, _ := q.at("line_items").([]any)
	if len(given) == 0 {
		return nil, missing("line_items")
	}
	if q.text("mode") == "subscription" && len(given) > 1 {
		return nil, notImitated("line_items[1]")
	}
	var items []LineItem
	recurring := 0
	for i, g := range given {
		item, _ := g.(map[string]any)
		name := fmt.Sprintf("line_items[%d]", i)
		id, ok := item["price"].(string)
		if item["price_data"] != nil {
			return nil, notImitated(name + "[price_data]")
		}
		if !ok {
			return nil, missing(name + "[price]")
		}
		p := s.prices.byID[id]
		if p == nil {
			return nil, noSuch(http.StatusBadRequest, "price", id, name+"[price]")
		}
		if p.interval != "" {
			recurring++
		}
		quantity, ok := item["quantity"].(int)
		if ok && p.metered {
			return nil, &stripeError{Message: fmt.Sprintf("Quantity should not be specified where usage_type is `metered`. Remove `quantity` from `%s`", name), Param: name + "[quantity]"}
		}
		if !ok && !p.metered {
			return nil, &stripeError{Message: fmt.Sprintf("Quantity is required. Add `quantity` to `%s`", name), Param: name}
		}
		items = append(items, LineItem{ID: newID("li_", 24), Price: id, Quantity: int64(quantity)})
	}
	if q.text("mode") == "payment" && recurring > 0 {
		return nil, &stripeError{Message: "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or use only one-time prices.", Param: "mode"}
	}
	if q.text("mode") == "subscription" && recurring == 0 {
		return nil, &stripeError{Message: "You must provide at least one recurring price in `subscription` mode when using prices.", Param: "mode"}
	}
	return items, nil
}

// expire ends a session whose time is over.
func (s *Account) expire(c *checkoutSession) {
	if c.Status == "open" && s.o.Now().After(c.expires) {
		s.expireNow(c)
	}
}

func (s *Account) expireNow(c *checkoutSession) {
	c.Status = "expired"
	s.emit("checkout.session.expired", s.checkoutJSON(c))
}

// trialDays are those of the subscription that is sold, 0 if there is no trial.
func (c *checkoutSession) trialDays() int {
	days, _ := c.request.at("subscription_data", "trial_period_days").(int)
	return days
}

// quantities are those that the buyer may choose from.
type quantities struct{ Least, Most int64 }

// adjustable returns the quantities of an item, nil if it has the one only.
func (c *checkoutSession) adjustable(i int) *quantities {
	given, _ := c.request.at("line_items").([]any)
	item, _ := given[i].(map[string]any)
	of, _ := item["adjustable_quantity"].(map[string]any)
	if of["enabled"] != true {
		return nil
	}
	least, _ := of["minimum"].(int)
	most, _ := of["maximum"].(int)
	return &quantities{int64(cmp.Or(least, 1)), int64(cmp.Or(most, 99))}
}

// amounts are what items cost and what a promotion code takes off that.
func (s *Account) amounts(promotion string, items ...LineItem) (full, off int64) {
	for _, item := range items {
		amount := item.Quantity * s.prices.byID[item.Price].unitAmount
		full, off = full+amount, off+amount*promotions[promotion]/100
	}
	return full, off
}

// due is what is to pay now for items, and taken off: a trial costs nothing.
func (s *Account) due(c *checkoutSession, items ...LineItem) (full, off int64) {
	if c.trialDays() > 0 {
		return 0, 0
	}
	return s.amounts(c.promotion, items...)
}

// email is the buyer's address as far as it is known.
func (s *Account) email(c *checkoutSession) string {
	if c.buyer.email != "" {
		return c.buyer.email
	}
	if known := s.customers.byID[c.Customer]; known != nil {
		return known.Email
	}
	return c.customerEmail
}

func (s *Account) checkoutJSON(c *checkoutSession) object {
	s.expire(c)
	pageURL := c.URL
	if c.Status != "open" {
		pageURL = ""
	}
	email := s.email(c)
	var details any
	if email != "" {
		details = object{"email": email, "name": orNull(c.buyer.name), "phone": nil, "address": object{"country": orNull(c.buyer.country)}, "tax_exempt": "none", "tax_ids": nil}
	}
	full, off := s.due(c, c.LineItems...)
	return object{
		"id": c.ID, "object": "checkout.session", "livemode": false, "created": c.created.Unix(), "expires_at": c.expires.Unix(),
		"mode": c.Mode, "status": c.Status, "payment_status": c.PaymentStatus, "url": orNull(pageURL), "ui_mode": "hosted",
		"success_url": c.SuccessURL, "cancel_url": orNull(c.CancelURL),
		"customer": orNull(c.Customer), "customer_email": orNull(c.customerEmail), "customer_creation": orNull(c.customerCreation),
		"customer_details": details, "client_reference_id": orNull(c.ClientReferenceID), "metadata": c.Metadata,
		"amount_subtotal": full, "amount_total": full - off, "currency": "usd",
		"total_details": object{"amount_discount": off, "amount_shipping": 0, "amount_tax": 0},
		"subscription":  orNull(c.subscription), "payment_intent": orNull(c.paymentIntent), "invoice": orNull(c.invoice), "setup_intent": nil, "payment_link": nil,
		"allow_promotion_codes": c.request.at("allow_promotion_codes"),
		"automatic_tax":         object{"enabled": c.request.on("automatic_tax", "enabled"), "status": nil},
		"tax_id_collection":     object{"enabled": c.request.on("tax_id_collection", "enabled")},
		"payment_method_types":  []string{"card"}, "locale": c.request.at("locale"), "submit_type": c.request.at("submit_type"),
	}
}

func (s *Account) lineItems(c *checkoutSession) object {
	data := []object{}
	for _, item := range c.LineItems {
		p := s.prices.byID[item.Price]
		full, off := s.due(c, item)
		data = append(data, object{
			"id": item.ID, "object": "item", "description": s.products.byID[p.product].name, "quantity": item.Quantity,
			"price": p.json(), "currency": "usd", "amount_subtotal": full, "amount_total": full - off, "amount_discount": off, "amount_tax": 0,
		})
	}
	return object{"object": "list", "has_more": false, "url": "/v1/checkout/sessions/" + c.ID + "/line_items", "data": data}
}

func (s *Account) checkoutOf(q *request) (*checkoutSession, *stripeError) {
	id := q.PathValue("session")
	c := s.checkouts.byID[id]
	if c == nil {
		return nil, noSuch(http.StatusNotFound, "checkout.session", id, "session")
	}
	return c, nil
}

func (s *Account) expireCheckoutSession(q *request) (any, *stripeError) {
	c, err := s.checkoutOf(q)
	if err != nil {
		return nil, err
	}
	if s.expire(c); c.Status != "open" {
		return nil, &stripeError{Message: "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of `" + c.Status + "`."}
	}
	s.expireNow(c)
	return s.checkoutJSON(c), nil
}

func (s *Account) listCheckoutSessions(q *request) (any, *stripeError) {
	var all []object
	for c := range s.checkouts.all {
		s.expire(c)
		switch {
		case q.has("customer") && c.Customer != q.text("customer"):
		case q.has("status") && c.Status != q.text("status"):
		case q.has("subscription") && c.subscription != q.text("subscription"):
		case q.has("payment_intent") && c.paymentIntent != q.text("payment_intent"):
		default:
			all = append(all, s.checkoutJSON(c))
		}
	}
	return page(q, all)
}

func (s *Account) createPortalSession(q *request) (any, *stripeError) {
	if !q.has("customer") {
		return nil, missing("customer")
	}
	if err := s.customerOf(q); err != nil {
		return nil, err
	}
	if err := checkURL(q, "return_url"); err != nil {
		return nil, err
	}
	id := cmp.Or(q.text("configuration"), s.portalConfigs.ids[0])
	if s.portalConfigs.byID[id] == nil {
		return nil, noSuch(http.StatusBadRequest, "configuration", id, "configuration")
	}
	if err := s.checkFlow(q); err != nil {
		return nil, err
	}
	p := &PortalSession{ID: newID("bps_test_", 24), Customer: q.text("customer"), ReturnURL: q.text("return_url"), Configuration: id, Params: sandbox.CloneValues(q.PostForm)}
	p.URL = s.base + "/p/session/" + p.ID
	p.Flow = q.text("flow_data", "type")
	p.Subscription = q.text("flow_data", p.Flow, "subscription")
	s.portals.put(p.ID, p)
	return object{
		"id": p.ID, "object": "billing_portal.session", "livemode": false, "created": q.now.Unix(), "customer": p.Customer,
		"configuration": id, "return_url": orNull(p.ReturnURL), "url": p.URL, "locale": nil, "flow": q.at("flow_data"), "on_behalf_of": nil,
	}, nil
}

// checkFlow holds the rules of portal deep links.
// https://docs.stripe.com/customer-management/portal-deep-links
func (s *Account) checkFlow(q *request) *stripeError {
	flow := q.text("flow_data", "type")
	switch flow {
	case "", "payment_method_update":
		return nil
	case "subscription_cancel", "subscription_update":
	default:
		return notImitated("flow_data[type]")
	}
	param := "flow_data[" + flow + "][subscription]"
	id := q.text("flow_data", flow, "subscription")
	u := s.subscriptions.byID[id]
	switch {
	case id == "":
		return missing(param)
	case u == nil || u.Customer != q.text("customer"):
		return noSuch(http.StatusBadRequest, "subscription", id, param)
	case !u.EndedAt.IsZero():
		return &stripeError{Message: "This subscription cannot be changed because it has ended.", Param: param}
	case flow == "subscription_cancel" && u.CancelAtPeriodEnd:
		return &stripeError{Message: "This subscription cannot be canceled because it is already set to be canceled at the end of the period.", Param: param}
	}
	return nil
}

func (s *Account) addPortalConfiguration() {
	c := &portalConfiguration{id: newID("bpc_", 24), created: s.o.Now()}
	s.portalConfigs.put(c.id, c)
}

func (c *portalConfiguration) json() object {
	return object{
		"id": c.id, "object": "billing_portal.configuration", "livemode": false, "active": true, "is_default": true,
		"created": c.created.Unix(), "updated": c.created.Unix(), "metadata": object{}, "default_return_url": nil,
		"business_profile": object{"headline": nil, "privacy_policy_url": nil, "terms_of_service_url": nil},
		"login_page":       object{"enabled": false, "url": nil},
		"features": object{
			"customer_update":       object{"enabled": false, "allowed_updates": []string{}},
			"invoice_history":       object{"enabled": true},
			"payment_method_update": object{"enabled": true},
			"subscription_cancel":   object{"enabled": true, "mode": "at_period_end", "proration_behavior": "none"},
			"subscription_update":   object{"enabled": true, "default_allowed_updates": []string{"price"}, "proration_behavior": "always_invoice"},
		},
	}
}

func (s *Account) listPortalConfigurations(q *request) (any, *stripeError) {
	var all []object
	for c := range s.portalConfigs.all {
		if on, ok := q.at("is_default").(bool); ok && !on {
			continue
		}
		all = append(all, c.json())
	}
	return page(q, all)
}

// PayCheckout pays an open Checkout Session as a buyer does on its page. It
// panics if there is none with this ID.
func (s *Account) PayCheckout(id string) { s.payCheckout(id, true) }

// PayCheckoutLater completes an open Checkout Session of mode payment with a
// payment method that takes days; SettleCheckout ends them. It panics if there
// is no such session.
func (s *Account) PayCheckoutLater(id string) { s.payCheckout(id, false) }

func (s *Account) payCheckout(id string, settled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checkouts.byID[id]
	if c == nil || c.Status != "open" || !settled && c.Mode != "payment" {
		panic("fakestripe: no Checkout Session " + id + " that could be paid so")
	}
	s.complete(c, buyer{email: cmp.Or(s.email(c), "buyer@example.com"), card: firstCard}, settled)
}

// SettleCheckout tells whether the payment of PayCheckoutLater has succeeded. It
// panics if none is awaited.
func (s *Account) SettleCheckout(id string, succeeded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checkouts.byID[id]
	if c == nil || c.Status != "complete" || s.payments.byID[c.paymentIntent].status != "processing" {
		panic("fakestripe: no Checkout Session " + id + " that awaits its payment")
	}
	s.settle(s.payments.byID[c.paymentIntent], succeeded)
	if succeeded {
		c.PaymentStatus = "paid"
		s.emit("checkout.session.async_payment_succeeded", s.checkoutJSON(c))
	} else {
		s.emit("checkout.session.async_payment_failed", s.checkoutJSON(c))
	}
}

// complete ends an open session with its purchase. The channel is that of
// checkout.session.completed.
func (s *Account) complete(c *checkoutSession, by buyer, settled bool) chan struct{} {
	c.Status, c.buyer = "complete", by
	if c.Customer == "" && c.customerCreation == "always" {
		created := &customer{Customer: Customer{Email: by.email, Name: by.name}}
		s.addCustomer(created)
		c.Customer = created.ID
	}
	if known := s.customers.byID[c.Customer]; known != nil {
		known.card = by.card
	}
	if c.Mode == "subscription" {
		s.completeSubscription(c)
	} else {
		full, off := s.due(c, c.LineItems...)
		var names []string
		for _, item := range c.LineItems {
			names = append(names, s.named(item.Price, item.Quantity))
		}
		p := &payment{
			amount: full - off, discount: off, customer: c.Customer, email: by.email, card: by.card,
			description: strings.Join(names, ", "),
			metadata:    params{"metadata": c.request.at("payment_intent_data", "metadata")}.mergeMetadata(nil),
		}
		s.pay(p)
		c.paymentIntent = p.intent
		if settled {
			s.settle(p, true)
			c.PaymentStatus = "paid"
		}
	}
	return s.emit("checkout.session.completed", s.checkoutJSON(c))
}

func (s *Account) completeSubscription(c *checkoutSession) {
	item := c.LineItems[0]
	of := Subscription{
		Customer: c.Customer, Status: "active", Price: item.Price, Quantity: item.Quantity,
		Metadata: params{"metadata": c.request.at("subscription_data", "metadata")}.mergeMetadata(nil),
	}
	c.PaymentStatus = "paid"
	if days := c.trialDays(); days > 0 {
		of.Status, of.TrialEnd = "trialing", s.o.Now().AddDate(0, 0, days)
		c.PaymentStatus = "no_payment_required"
	}
	u := s.subscribe(of, c.promotion)
	c.subscription, c.invoice = u.ID, u.invoice
}
