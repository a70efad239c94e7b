// Package fakestripe imitates the parts of Stripe's API, and its hosted pages,
// that this service and its site use: statuses, error envelopes and their codes,
// headers, idempotency keys, Events and their delivery. Its limits:
//
//   - It has the operations that the service calls and little else; what the
//     dashboard or time does are methods of [Account].
//   - Parameters are checked by Stripe's own published schema, and the rules for
//     parameters that exclude or need each other only as far as this service can
//     meet them. All prices are in US dollars a month or once; there are no taxes,
//     and one promotion code. Proration is the portal's, to the second. Lists go
//     forward only. The pages take Stripe's best-known test cards and nothing
//     else; a card that was refused leaves no Event.
//   - Time brings nothing about but the end of Checkout Sessions: subscriptions
//     renew, fail and end when they are told to. Events have no
//     previous_attributes, every endpoint gets all of them, and a delivery is
//     given up after some minutes.
//
// It refuses Stripe's live keys.
package fakestripe

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox"
)

// stripeVersion is the API version whose shapes the objects have.
const stripeVersion = "2023-10-16"

// keyLife is how long Stripe remembers an idempotency key.
const keyLife = 24 * time.Hour

// Options describe an account in test mode; the zero value is a complete
// one.
type Options struct {
	// SecretKey is the only key accepted; "": any that starts with sk_test_ or
	// rk_test_. Live keys are refused in any case.
	SecretKey string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// PublicURL is where the hosted pages are; "": the host that the request
	// for the page's address came to.
	PublicURL string
	// Webhooks are the endpoints that Events are delivered to.
	Webhooks []WebhookEndpoint
	// RetryDelay is the pause before the second attempt of a delivery; 0: one
	// second.
	RetryDelay time.Duration
	// Executing, if not nil, is called for every request that is about to be
	// executed, when its idempotency key, if any, is already taken. A test that
	// blocks here has a request in flight.
	Executing func(r *http.Request)
}

// Account is one account in test mode. It is safe for concurrent use; every
// request is atomic. One with Webhooks is to be closed.
type Account struct {
	sandbox.Recorder
	o          Options
	mux        *http.ServeMux
	schema     *stripeSchema
	transport  *http.Transport // of the deliveries
	deliveries sync.WaitGroup
	open       context.Context // ends with Close
	shut       context.CancelFunc

	mu            sync.Mutex // guards all below
	base          string     // where the hosted pages are
	failing       func(*http.Request) bool
	keys          map[string]*keptAnswer
	products      shelf[product]
	prices        shelf[price]
	customers     shelf[customer]
	subscriptions shelf[subscription]
	checkouts     shelf[checkoutSession]
	portals       shelf[PortalSession]
	portalConfigs shelf[portalConfiguration]
	payments      shelf[payment] // by PaymentIntent
	charges       shelf[payment] // by Charge
	invoices      shelf[invoice]
	disputes      shelf[dispute]
	events        shelf[Event]
}

// keptAnswer is what an idempotency key stands for.
type keptAnswer struct {
	path, form string
	inFlight   bool
	at         time.Time
	requestID  string
	answer     reply // not before inFlight has ended
}

// New returns an account with three prices, price_basic_monthly,
// price_pro_monthly (lookup key pro_monthly) and the one-time price_lifetime
// (lifetime), and a default
// configuration of the billing portal. The first call in a process reads
// Stripe's schema, some 8 MB.
func New(o Options) *Account {
	s := &Account{
		o: o, mux: http.NewServeMux(), schema: loadSchema(), transport: &http.Transport{},
		base: strings.TrimSuffix(o.PublicURL, "/"), keys: map[string]*keptAnswer{},
	}
	s.open, s.shut = context.WithCancel(context.Background())
	s.o.RetryDelay = cmp.Or(o.RetryDelay, time.Second)
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	s.addPrice("price_basic_monthly", "Basic", 900, "month")
	s.addPrice("price_pro_monthly", "Pro", 2900, "month")
	s.addPrice("price_lifetime", "Lifetime", 19900, "")
	for id, of := range map[string]struct{ lookupKey, description string }{
		"price_basic_monthly": {"", "One notebook, kept in sync."},
		"price_pro_monthly":   {"pro_monthly", "As many as you like, with sketches."},
		"price_lifetime":      {"lifetime", ""},
	} {
		p := s.prices.byID[id]
		p.lookupKey, s.products.byID[p.product].description = of.lookupKey, of.description
	}
	s.addPortalConfiguration()

	// The patterns are the paths of Stripe's schema.
	s.handle("DELETE", "/v1/customers/{customer}", s.deleteCustomer)
	s.handle("POST", "/v1/customers", s.createCustomer)
	s.handle("GET", "/v1/customers", listOf(&s.customers, (*customer).json))
	s.handle("POST", "/v1/customers/{customer}", s.updateCustomer)
	s.handle("GET", "/v1/customers/{customer}", s.retrieveCustomer)
	s.handle("POST", "/v1/checkout/sessions", s.createCheckoutSession)
	s.handle("GET", "/v1/checkout/sessions", s.listCheckoutSessions)
	s.handle("GET", "/v1/checkout/sessions/{session}", retrieveOf(&s.checkouts, "checkout.session", "session", s.checkoutJSON))
	s.handle("POST", "/v1/checkout/sessions/{session}/expire", s.expireCheckoutSession)
	s.handle("POST", "/v1/billing_portal/sessions", s.createPortalSession)
	s.handle("GET", "/v1/billing_portal/configurations", s.listPortalConfigurations)
	s.handle("GET", "/v1/billing_portal/configurations/{configuration}", retrieveOf(&s.portalConfigs, "configuration", "configuration", (*portalConfiguration).json))
	s.handle("GET", "/v1/subscriptions", s.listSubscriptions)
	s.handle("GET", "/v1/subscriptions/{subscription_exposed_id}", retrieveOf(&s.subscriptions, "subscription", "subscription_exposed_id", s.subscriptionJSON))
	s.handle("DELETE", "/v1/subscriptions/{subscription_exposed_id}", s.cancelSubscription)
	s.handle("GET", "/v1/prices", s.listPrices)
	s.handle("GET", "/v1/prices/{price}", retrieveOf(&s.prices, "price", "price", (*price).json))
	s.handle("GET", "/v1/balance", s.retrieveBalance)
	s.handle("GET", "/v1/payment_intents", listOf(&s.payments, s.intentJSON))
	s.handle("GET", "/v1/payment_intents/{intent}", retrieveOf(&s.payments, "payment_intent", "intent", s.intentJSON))
	s.handle("GET", "/v1/charges", listOf(&s.charges, s.chargeJSON))
	s.handle("GET", "/v1/charges/{charge}", retrieveOf(&s.charges, "charge", "charge", s.chargeJSON))
	s.handle("GET", "/v1/disputes", listOf(&s.disputes, (*dispute).json))
	s.handle("GET", "/v1/disputes/{dispute}", retrieveOf(&s.disputes, "dispute", "dispute", (*dispute).json))
	s.handle("GET", "/v1/invoices", listOf(&s.invoices, s.invoiceJSON))
	s.handle("GET", "/v1/invoices/{invoice}", retrieveOf(&s.invoices, "invoice", "invoice", s.invoiceJSON))
	s.handle("GET", "/v1/webhook_endpoints", s.listWebhooks)
	s.handle("POST", "/v1/webhook_endpoints", s.createWebhook)
	s.handle("POST", "/v1/webhook_endpoints/{webhook_endpoint}", s.updateWebhook)
	s.handlePages()
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		(&stripeError{status: http.StatusNotFound, Message: fmt.Sprintf(
			"Unrecognized request URL (%s: %s). Please see https://stripe.com/docs or we can help at https://support.stripe.com/.", r.Method, r.URL.Path)}).write(w)
	})
	return s
}

// request is one whose parameters have passed the schema.
type request struct {
	*http.Request
	params
	now time.Time
}

// stripeError is the error object of https://docs.stripe.com/api/errors.
type stripeError struct {
	status  int    // 0: 400
	Type    string // "": invalid_request_error
	Code    string
	Message string
	Param   string
}

// reply is a finished answer.
type reply struct {
	status int
	body   []byte
}

func (a reply) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	w.Write(a.body)
}

func newReply(status int, v any) reply {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // the sandbox's own values
	}
	return reply{status, body}
}

func (e *stripeError) reply(requestID string) reply {
	body := map[string]string{
		"type":            cmp.Or(e.Type, "invalid_request_error"),
		"message":         e.Message,
		"request_log_url": "https://dashboard.stripe.com/test/logs/" + requestID,
	}
	if e.Code != "" {
		body["code"] = e.Code
		body["doc_url"] = "https://stripe.com/docs/error-codes/" + strings.ReplaceAll(e.Code, "_", "-")
	}
	if e.Param != "" {
		body["param"] = e.Param
	}
	return newReply(cmp.Or(e.status, http.StatusBadRequest), map[string]any{"error": body})
}

func (e *stripeError) write(w http.ResponseWriter) { e.reply(w.Header().Get("Request-Id")).write(w) }

func noSuch(status int, kind, id, param string) *stripeError {
	return &stripeError{status: status, Code: "resource_missing", Message: fmt.Sprintf("No such %s: '%s'", kind, id), Param: param}
}

func missing(param string) *stripeError {
	return &stripeError{Code: "parameter_missing", Message: "Missing required param: " + param + ".", Param: param}
}

// ServeHTTP answers as api.stripe.com does to a test key.
func (s *Account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Set before the interceptor, whose answers then carry them too.
	w.Header().Set("Request-Id", newID("req_", 14))
	w.Header().Set("Stripe-Version", cmp.Or(r.Header.Get("Stripe-Version"), stripeVersion))
	c, ok := s.Receive(w, r)
	if !ok {
		return
	}
	r.PostForm = c.Form
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		if err := s.checkKey(r); err != nil {
			err.write(w)
			return
		}
	}
	s.mux.ServeHTTP(w, r)
}

// checkKey follows https://docs.stripe.com/api/authentication.
func (s *Account) checkKey(r *http.Request) *stripeError {
	key := sandbox.Bearer(r)
	if key == "" {
		return &stripeError{status: http.StatusUnauthorized, Message: "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/."}
	}
	test := strings.HasPrefix(key, "sk_test_") || strings.HasPrefix(key, "rk_test_")
	if test && (s.o.SecretKey == "" || s.o.SecretKey == key) {
		return nil
	}
	// Stripe shows the beginning and the last four characters.
	shown := key[:min(8, len(key))]
	if len(key) > 12 {
		shown += strings.Repeat("*", len(key)-12) + key[len(key)-4:]
	}
	return &stripeError{status: http.StatusUnauthorized, Message: "Invalid API Key provided: " + shown}
}

// operationFunc executes a request; s.mu is held.
type operationFunc func(*request) (any, *stripeError)

// handle registers an operation of Stripe's schema.
func (s *Account) handle(method, path string, f operationFunc) {
	s.mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
		var answer reply
		if key := r.Header.Get("Idempotency-Key"); key != "" && method == http.MethodPost {
			answer = s.executeOnce(key, w.Header(), r, path, f)
		} else {
			answer, _ = s.execute(w.Header(), r, path, f)
		}
		answer.write(w)
	})
}

// execute reports, beside the answer, whether an idempotency key is to stand
// for it from now on: not if the request failed before any object was looked at.
func (s *Account) execute(h http.Header, r *http.Request, path string, f operationFunc) (answer reply, keep bool) {
	p, err := s.schema.parse(path, r)
	if err != nil {
		return err.reply(h.Get("Request-Id")), false
	}
	if s.o.Executing != nil {
		s.o.Executing(r)
	}
	s.mu.Lock()
	failing := s.failing
	s.mu.Unlock()
	if failing != nil && failing(r) {
		err := &stripeError{status: http.StatusInternalServerError, Type: "api_error", Message: "An unknown error occurred"}
		return err.reply(h.Get("Request-Id")), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.PublicURL == "" {
		s.base = "http://" + r.Host
	}
	q := &request{Request: r, params: p, now: s.o.Now()}
	result, err := f(q)
	if err == nil {
		err = s.expand(q, result)
	}
	if err != nil {
		return err.reply(h.Get("Request-Id")), err.Code == "resource_missing"
	}
	return newReply(http.StatusOK, result), true
}

// Fail has Stripe itself fail at the requests for which f returns true: they
// have no effect and are answered 500 api_error. As Stripe documents, an
// idempotency key stands for a 500 from then on, also after f was removed: it is
// replayed, with the headers Idempotent-Replayed and Original-Request. An answer
// of [sandbox.Recorder.Intercept], in contrast, never reached Stripe and leaves
// the key free. f sees only what has passed the schema, with its PostForm, and
// not what is replayed. nil removes f.
// https://docs.stripe.com/api/idempotent_requests
func (s *Account) Fail(f func(r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = f
}

// executeOnce executes the request unless its key has been used: then the
// answer of that time comes back.
// https://docs.stripe.com/api/idempotent_requests
func (s *Account) executeOnce(key string, h http.Header, r *http.Request, path string, f operationFunc) reply {
	h.Set("Idempotency-Key", key)
	form := r.PostForm.Encode() + "?" + r.URL.Query().Encode()
	s.mu.Lock()
	now := s.o.Now()
	if k := s.keys[key]; k != nil && (k.inFlight || now.Sub(k.at) <= keyLife) {
		defer s.mu.Unlock()
		if err := k.refuse(key, r.URL.Path, form); err != nil {
			return err.reply(h.Get("Request-Id"))
		}
		h.Set("Idempotent-Replayed", "true")
		h.Set("Original-Request", k.requestID)
		return k.answer
	}
	k := &keptAnswer{path: r.URL.Path, form: form, inFlight: true, at: now, requestID: h.Get("Request-Id")}
	s.keys[key] = k
	s.mu.Unlock()

	keep := false
	defer func() { // also when Executing panics, which drops the connection
		s.mu.Lock()
		defer s.mu.Unlock()
		if k.inFlight = false; !keep {
			delete(s.keys, key)
		}
	}()
	k.answer, keep = s.execute(h, r, path, f)
	return k.answer
}

// refuse tells why the request with this path and form cannot have the answer
// of k, nil if it can.
func (k *keptAnswer) refuse(key, path, form string) *stripeError {
	const retry = "Try using a key other than '%s' if you meant to execute a different request."
	switch {
	case k.path != path:
		return &stripeError{Type: "idempotency_error", Message: fmt.Sprintf("Keys for idempotent requests can only be used for the same endpoint they were first used for ('%s' vs '%s'). "+retry, path, k.path, key)}
	case k.form != form:
		return &stripeError{Type: "idempotency_error", Message: fmt.Sprintf("Keys for idempotent requests can only be used with the same parameters they were first used with. "+retry, key)}
	case k.inFlight:
		return &stripeError{status: http.StatusConflict, Code: "idempotency_key_in_use", Message: fmt.Sprintf("There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): %s. Please try again later.", key)}
	}
	return nil
}

// newID returns an ID of n random characters after the prefix.
func newID(prefix string, n int) string {
	var text string
	for len(text) < n {
		text += rand.Text()
	}
	return prefix + text[:n]
}

// shelf keeps objects in the order of their creation.
type shelf[T any] struct {
	ids  []string
	byID map[string]*T
}

func (s *shelf[T]) put(id string, v *T) {
	if s.byID == nil {
		s.byID = map[string]*T{}
	}
	if s.byID[id] == nil {
		s.ids = append(s.ids, id)
	}
	s.byID[id] = v
}

// all yields the objects, oldest first.
func (s *shelf[T]) all(yield func(*T) bool) {
	for _, id := range s.ids {
		if !yield(s.byID[id]) {
			return
		}
	}
}

// object is a Stripe object as it is sent.
type object = map[string]any

// page cuts a list as https://docs.stripe.com/api/pagination describes; all
// are in the order of creation, the page has the newest first.
func page(q *request, all []object) (any, *stripeError) {
	limit := 10
	if n, ok := q.at("limit").(int); ok {
		limit = n
	}
	if limit < 1 || limit > 100 {
		return nil, &stripeError{Code: "parameter_invalid_integer", Message: "Invalid integer: limit must be between 1 and 100", Param: "limit"}
	}
	data := make([]object, 0, limit)
	after := q.text("starting_after")
	started, more := after == "", false
	for i := len(all) - 1; i >= 0; i-- {
		switch {
		case !started:
			started = all[i]["id"] == after
		case len(data) == limit:
			more = true
		default:
			data = append(data, all[i])
		}
	}
	if !started {
		return nil, noSuch(http.StatusBadRequest, "object", after, "starting_after")
	}
	return object{"object": "list", "url": q.URL.Path, "has_more": more, "data": data}, nil
}

// expand replaces IDs by their objects where the request asks for it.
// https://docs.stripe.com/api/expanding_objects
func (s *Account) expand(q *request, result any) *stripeError {
	paths, _ := q.at("expand").([]any)
	for _, v := range paths {
		path, _ := v.(string)
		if !s.expandPath(result, strings.Split(path, ".")) {
			return &stripeError{Message: fmt.Sprintf("This property cannot be expanded (%s).", path), Param: "expand"}
		}
	}
	return nil
}

func (s *Account) expandPath(v any, path []string) bool {
	if list, ok := v.([]object); ok {
		for _, o := range list {
			if !s.expandPath(o, path) {
				return false
			}
		}
		return true
	}
	if len(path) == 0 {
		return true
	}
	o, ok := v.(object)
	if !ok {
		return v == nil // a field that is null
	}
	name := path[0]
	if id, _ := o["id"].(string); name == "line_items" && o["object"] == "checkout.session" {
		o[name] = s.lineItems(s.checkouts.byID[id])
	}
	inner, ok := o[name]
	if !ok {
		return false
	}
	if id, ok := inner.(string); ok {
		if inner = s.lookUp(id); inner == nil {
			return false
		}
		o[name] = inner
	}
	return s.expandPath(inner, path[1:])
}

// lookUp returns the object with this ID, nil if there is none.
func (s *Account) lookUp(id string) any {
	if c := s.customers.byID[id]; c != nil {
		return c.json()
	} else if u := s.subscriptions.byID[id]; u != nil {
		return s.subscriptionJSON(u)
	} else if p := s.products.byID[id]; p != nil {
		return p.json()
	} else if p := s.payments.byID[id]; p != nil {
		return s.intentJSON(p)
	} else if p := s.charges.byID[id]; p != nil {
		return s.chargeJSON(p)
	} else if n := s.invoices.byID[id]; n != nil {
		return s.invoiceJSON(n)
	}
	return nil
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func unixOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

func deletedJSON(kind, id string) object {
	return object{"id": id, "object": kind, "deleted": true}
}
