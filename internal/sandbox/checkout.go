package sandbox

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
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
	customerEmail, customerCreation string
	subscription, paymentIntent     string
	created, expires                time.Time
	request                         params
}

// PortalSession is a Billing Portal Session.
// https://docs.stripe.com/api/customer_portal/sessions
type PortalSession struct {
	ID, URL, Customer, ReturnURL, Configuration string
	Params                                      url.Values // as it was created
}

type portalConfiguration struct {
	id       string
	standard bool
	created  time.Time
	metadata map[string]string
}

// CheckoutSessions returns all Checkout Sessions, oldest first.
func (s *Stripe) CheckoutSessions() []CheckoutSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []CheckoutSession
	for c := range s.checkouts.all {
		c.expire(s.o.Now())
		out := c.CheckoutSession
		out.Metadata, out.LineItems, out.Params = maps.Clone(out.Metadata), slices.Clone(out.LineItems), cloneValues(out.Params)
		all = append(all, out)
	}
	return all
}

// PortalSessions returns all Billing Portal Sessions, oldest first.
func (s *Stripe) PortalSessions() []PortalSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []PortalSession
	for p := range s.portals.all {
		out := *p
		out.Params = cloneValues(out.Params)
		all = append(all, out)
	}
	return all
}

// publicURL is where the hosted pages are as the client sees them.
func (s *Stripe) publicURL(q *request) string {
	return strings.TrimSuffix(cmp.Or(s.o.PublicURL, "http://"+q.Host), "/")
}

func (s *Stripe) createCheckoutSession(q *request) (any, *stripeError) {
	if err := s.checkCheckout(q); err != nil {
		return nil, err
	}
	c := &checkoutSession{
		CheckoutSession: CheckoutSession{
			ID: newID("cs_test_a1", 56), Mode: q.text("mode"), Status: "open", PaymentStatus: "unpaid",
			Customer: q.text("customer"), ClientReferenceID: q.text("client_reference_id"),
			SuccessURL: q.text("success_url"), CancelURL: q.text("cancel_url"),
			Metadata: q.mergeMetadata(nil), Params: cloneValues(q.PostForm),
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
	c.URL = s.publicURL(q) + "/c/pay/" + c.ID
	s.checkouts.put(c.ID, c)
	return s.checkoutJSON(c, q.now), nil
}

// checkCheckout holds the rules that the schema cannot express.
// https://docs.stripe.com/api/checkout/sessions/create
func (s *Stripe) checkCheckout(q *request) *stripeError {
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

func (s *Stripe) parseLineItems(q *request) ([]LineItem, *stripeError) {
	given, _ := q.at("line_items").([]any)
	if len(given) == 0 {
		return nil, missing("line_items")
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
		if !ok {
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
func (c *checkoutSession) expire(now time.Time) {
	if c.Status == "open" && now.After(c.expires) {
		c.Status = "expired"
	}
}

func (s *Stripe) amount(c *checkoutSession) (total int64) {
	for _, item := range c.LineItems {
		total += item.Quantity * s.prices.byID[item.Price].unitAmount
	}
	return total
}

func (s *Stripe) checkoutJSON(c *checkoutSession, now time.Time) object {
	c.expire(now)
	pageURL := c.URL
	if c.Status != "open" {
		pageURL = ""
	}
	email := c.customerEmail
	if known := s.customers.byID[c.Customer]; known != nil {
		email = known.Email
	}
	var details any
	if email != "" {
		details = object{"email": email, "name": nil, "phone": nil, "address": nil, "tax_exempt": "none", "tax_ids": nil}
	}
	amount := s.amount(c)
	return object{
		"id": c.ID, "object": "checkout.session", "livemode": false, "created": c.created.Unix(), "expires_at": c.expires.Unix(),
		"mode": c.Mode, "status": c.Status, "payment_status": c.PaymentStatus, "url": orNull(pageURL), "ui_mode": "hosted",
		"success_url": c.SuccessURL, "cancel_url": orNull(c.CancelURL),
		"customer": orNull(c.Customer), "customer_email": orNull(c.customerEmail), "customer_creation": orNull(c.customerCreation),
		"customer_details": details, "client_reference_id": orNull(c.ClientReferenceID), "metadata": c.Metadata,
		"amount_subtotal": amount, "amount_total": amount, "currency": "usd",
		"total_details": object{"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
		"subscription":  orNull(c.subscription), "payment_intent": orNull(c.paymentIntent), "invoice": nil, "setup_intent": nil, "payment_link": nil,
		"allow_promotion_codes": c.request.at("allow_promotion_codes"),
		"automatic_tax":         object{"enabled": c.request.on("automatic_tax", "enabled"), "status": nil},
		"tax_id_collection":     object{"enabled": c.request.on("tax_id_collection", "enabled")},
		"payment_method_types":  []string{"card"}, "locale": nil, "submit_type": nil,
	}
}

func (s *Stripe) lineItems(c *checkoutSession) object {
	data := []object{}
	for _, item := range c.LineItems {
		p := s.prices.byID[item.Price]
		amount := item.Quantity * p.unitAmount
		data = append(data, object{
			"id": item.ID, "object": "item", "description": s.products.byID[p.product].name, "quantity": item.Quantity,
			"price": p.json(), "currency": "usd", "amount_subtotal": amount, "amount_total": amount, "amount_discount": 0, "amount_tax": 0,
		})
	}
	return object{"object": "list", "has_more": false, "url": "/v1/checkout/sessions/" + c.ID + "/line_items", "data": data}
}

func (s *Stripe) checkoutOf(q *request) (*checkoutSession, *stripeError) {
	id := q.PathValue("session")
	c := s.checkouts.byID[id]
	if c == nil {
		return nil, noSuch(http.StatusNotFound, "checkout.session", id, "session")
	}
	return c, nil
}

func (s *Stripe) retrieveCheckoutSession(q *request) (any, *stripeError) {
	c, err := s.checkoutOf(q)
	if err != nil {
		return nil, err
	}
	return s.checkoutJSON(c, q.now), nil
}

func (s *Stripe) listLineItems(q *request) (any, *stripeError) {
	c, err := s.checkoutOf(q)
	if err != nil {
		return nil, err
	}
	return s.lineItems(c), nil
}

func (s *Stripe) expireCheckoutSession(q *request) (any, *stripeError) {
	c, err := s.checkoutOf(q)
	if err != nil {
		return nil, err
	}
	if c.expire(q.now); c.Status != "open" {
		return nil, &stripeError{Message: "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of `" + c.Status + "`."}
	}
	c.Status = "expired"
	return s.checkoutJSON(c, q.now), nil
}

func (s *Stripe) listCheckoutSessions(q *request) (any, *stripeError) {
	var all []object
	for c := range s.checkouts.all {
		c.expire(q.now)
		switch {
		case q.has("customer") && c.Customer != q.text("customer"):
		case q.has("status") && c.Status != q.text("status"):
		case q.has("subscription") && c.subscription != q.text("subscription"):
		case q.has("payment_intent") && c.paymentIntent != q.text("payment_intent"):
		default:
			all = append(all, s.checkoutJSON(c, q.now))
		}
	}
	return page(q, all)
}

func (s *Stripe) createPortalSession(q *request) (any, *stripeError) {
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
	p := &PortalSession{ID: newID("bps_test_", 24), Customer: q.text("customer"), ReturnURL: q.text("return_url"), Configuration: id, Params: cloneValues(q.PostForm)}
	p.URL = s.publicURL(q) + "/p/session/" + p.ID
	s.portals.put(p.ID, p)
	return object{
		"id": p.ID, "object": "billing_portal.session", "livemode": false, "created": q.now.Unix(), "customer": p.Customer,
		"configuration": id, "return_url": orNull(p.ReturnURL), "url": p.URL, "locale": nil, "flow": nil, "on_behalf_of": nil,
	}, nil
}

func (s *Stripe) addPortalConfiguration(standard bool, metadata map[string]string) *portalConfiguration {
	c := &portalConfiguration{id: newID("bpc_", 24), standard: standard, created: s.o.Now(), metadata: metadata}
	s.portalConfigs.put(c.id, c)
	return c
}

func (c *portalConfiguration) json() object {
	return object{
		"id": c.id, "object": "billing_portal.configuration", "livemode": false, "active": true, "is_default": c.standard,
		"created": c.created.Unix(), "updated": c.created.Unix(), "metadata": metadataJSON(c.metadata), "default_return_url": nil,
		"business_profile": object{"headline": nil, "privacy_policy_url": nil, "terms_of_service_url": nil},
		"login_page":       object{"enabled": false, "url": nil},
		"features": object{
			"customer_update":       object{"enabled": false, "allowed_updates": []string{}},
			"invoice_history":       object{"enabled": true},
			"payment_method_update": object{"enabled": true},
			"subscription_cancel":   object{"enabled": true, "mode": "at_period_end", "proration_behavior": "none"},
			"subscription_update":   object{"enabled": false, "default_allowed_updates": []string{}, "proration_behavior": "none"},
		},
	}
}

// createPortalConfiguration keeps the metadata only: every portal of the
// sandbox has the same features.
func (s *Stripe) createPortalConfiguration(q *request) (any, *stripeError) {
	return s.addPortalConfiguration(false, q.mergeMetadata(nil)).json(), nil
}

func (s *Stripe) retrievePortalConfiguration(q *request) (any, *stripeError) {
	id := q.PathValue("configuration")
	c := s.portalConfigs.byID[id]
	if c == nil {
		return nil, noSuch(http.StatusNotFound, "configuration", id, "configuration")
	}
	return c.json(), nil
}

func (s *Stripe) listPortalConfigurations(q *request) (any, *stripeError) {
	var all []object
	for c := range s.portalConfigs.all {
		if on, ok := q.at("is_default").(bool); ok && on != c.standard {
			continue
		}
		if on, ok := q.at("active").(bool); ok && !on {
			continue
		}
		all = append(all, c.json())
	}
	return page(q, all)
}
