package fakestripe

import (
	"fmt"
	"net/http"
	"time"
)

// payment is a PaymentIntent and, once it has succeeded, its Charge.
// https://docs.stripe.com/api/payment_intents
// https://docs.stripe.com/api/charges
type payment struct {
	intent, charge       string // charge "": none yet
	status               string // processing, succeeded or requires_payment_method
	amount, refunded     int64
	discount             int64 // taken off before
	card                 card
	disputed             bool
	customer, email      string
	invoice, description string
	metadata             map[string]string
	created              time.Time
}

// invoice is an invoice of a subscription.
// https://docs.stripe.com/api/invoices
type invoice struct {
	id, number, reason     string
	subscription, customer string
	price, about           string // about: what for, beside the price
	quantity               int64
	amount                 int64 // to pay
	discount, credit       int64 // taken off before, for a promotion code and from the Customer's balance
	paid                   bool
	payment                *payment // nil if none was needed or made
	start, end, created    time.Time
}

// dispute is a dispute over a whole Charge.
// https://docs.stripe.com/api/disputes
type dispute struct {
	id, status string
	payment    *payment
	created    time.Time
}

// pay begins a payment; settle ends it.
func (s *Account) pay(p *payment) {
	p.intent, p.status, p.created = newID("pi_", 24), "processing", s.o.Now()
	s.payments.put(p.intent, p)
	s.emit("payment_intent.created", s.intentJSON(p))
}

func (s *Account) settle(p *payment, succeeded bool) {
	if !succeeded {
		p.status = "requires_payment_method"
		s.emit("payment_intent.payment_failed", s.intentJSON(p))
		return
	}
	p.status, p.charge = "succeeded", newID("ch_", 24)
	s.charges.put(p.charge, p)
	s.emit("charge.succeeded", s.chargeJSON(p))
	s.emit("payment_intent.succeeded", s.intentJSON(p))
}

// bill makes the invoice of a subscription's current period. A trial costs
// nothing.
func (s *Account) bill(u *subscription, reason string, paid bool) {
	n := &invoice{reason: reason}
	if u.Status != "trialing" {
		full, off := s.amounts(u.promotion, LineItem{Price: u.Price, Quantity: u.Quantity})
		n.amount, n.discount = full-off, off
	}
	s.invoice(u, n, paid)
}

// invoice makes an invoice of a subscription that has its reason and amounts,
// less the Customer's credit.
func (s *Account) invoice(u *subscription, n *invoice, paid bool) {
	c := s.customers.byID[u.Customer]
	n.id, n.number, n.created = newID("in_", 24), fmt.Sprintf("SANDBOX-%04d", len(s.invoices.ids)+1), s.o.Now()
	n.subscription, n.customer, n.price, n.quantity, n.paid = u.ID, u.Customer, u.Price, u.Quantity, paid
	n.start, n.end = u.CurrentPeriodStart, u.CurrentPeriodEnd
	n.credit = min(n.amount, c.credit)
	if n.credit > 0 {
		n.amount, c.credit = n.amount-n.credit, c.credit-n.credit
		s.emit("customer.updated", c.json())
	}
	s.invoices.put(n.id, n)
	u.invoice = n.id
	if n.amount > 0 {
		n.payment = &payment{
			amount: n.amount, customer: u.Customer, email: c.Email, card: c.card,
			invoice: n.id, description: s.named(u.Price, u.Quantity),
		}
		s.pay(n.payment)
		s.settle(n.payment, paid)
	}
	if paid {
		s.emit("invoice.paid", s.invoiceJSON(n))
	} else {
		s.emit("invoice.payment_failed", s.invoiceJSON(n))
	}
}

// Refund pays an amount, in cents, of a PaymentIntent back. It panics if it has
// not succeeded or does not hold as much any more.
func (s *Account) Refund(paymentIntent string, amount int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.mustCharge(paymentIntent)
	if amount <= 0 || p.refunded+amount > p.amount {
		panic(fmt.Sprintf("fakestripe: no refund of %d, %d of %d are refunded already", amount, p.refunded, p.amount))
	}
	p.refunded += amount
	s.emit("charge.refunded", s.chargeJSON(p))
}

// FailRefund has the bank send a refund back, as when the buyer's account was
// closed. It panics if as much was not refunded.
func (s *Account) FailRefund(paymentIntent string, amount int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.mustCharge(paymentIntent)
	if amount <= 0 || amount > p.refunded {
		panic(fmt.Sprintf("fakestripe: no refund of %d to fail, %d are refunded", amount, p.refunded))
	}
	p.refunded -= amount
	s.emit("refund.failed", object{"id": newID("re_", 14), "object": "refund", "amount": amount, "currency": "usd",
		"charge": p.charge, "payment_intent": p.intent, "status": "failed", "metadata": object{}})
}

// Dispute has the buyer dispute a PaymentIntent and returns the dispute's ID. It
// panics if the payment has not succeeded.
func (s *Account) Dispute(paymentIntent string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &dispute{id: newID("dp_", 24), status: "needs_response", payment: s.mustCharge(paymentIntent), created: s.o.Now()}
	d.payment.disputed = true
	s.disputes.put(d.id, d)
	s.emit("charge.dispute.created", d.json())
	s.emit("charge.dispute.funds_withdrawn", d.json())
	return d.id
}

// CloseDispute decides a dispute: won, lost or, for an inquiry, warning_closed. It
// panics if there is none with this ID.
func (s *Account) CloseDispute(id, status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.disputes.byID[id]
	if d == nil {
		panic("fakestripe: no dispute " + id)
	}
	d.status = status
	if status == "won" {
		s.emit("charge.dispute.funds_reinstated", d.json())
	}
	s.emit("charge.dispute.closed", d.json())
}

func (s *Account) mustCharge(paymentIntent string) *payment {
	p := s.payments.byID[paymentIntent]
	if p == nil || p.charge == "" {
		panic("fakestripe: no payment " + paymentIntent + " that has succeeded")
	}
	return p
}

func (s *Account) intentJSON(p *payment) object {
	received := int64(0)
	if p.charge != "" {
		received = p.amount
	}
	return object{
		"id": p.intent, "object": "payment_intent", "livemode": false, "created": p.created.Unix(), "status": p.status,
		"amount": p.amount, "amount_received": received, "amount_capturable": 0, "currency": "usd", "capture_method": "automatic",
		"customer": orNull(p.customer), "invoice": orNull(p.invoice), "latest_charge": orNull(p.charge),
		"description": nil, "metadata": metadataJSON(p.metadata), "receipt_email": nil, "payment_method_types": []string{"card"},
		"last_payment_error": nil, "next_action": nil, "canceled_at": nil, "cancellation_reason": nil,
	}
}

func (s *Account) chargeJSON(p *payment) object {
	return object{
		"id": p.charge, "object": "charge", "livemode": false, "created": p.created.Unix(), "status": "succeeded",
		"amount": p.amount, "amount_captured": p.amount, "amount_refunded": p.refunded, "currency": "usd",
		"paid": true, "captured": true, "refunded": p.refunded == p.amount, "disputed": p.disputed,
		"customer": orNull(p.customer), "invoice": orNull(p.invoice), "payment_intent": p.intent,
		"description": orNull(p.description), "metadata": metadataJSON(p.metadata), "receipt_email": nil,
		"receipt_url":            s.base + "/receipts/" + p.charge,
		"billing_details":        object{"email": orNull(p.email), "name": nil, "phone": nil, "address": nil},
		"payment_method_details": object{"type": "card", "card": p.card.json()},
		"failure_code":           nil, "failure_message": nil,
	}
}

func (s *Account) invoiceJSON(n *invoice) object {
	status, received := "open", int64(0)
	if n.paid {
		status, received = "paid", n.amount
	}
	var intent, charge string
	if n.payment != nil {
		intent, charge = n.payment.intent, n.payment.charge
	}
	return object{
		"id": n.id, "object": "invoice", "livemode": false, "created": n.created.Unix(), "number": n.number,
		"status": status, "paid": n.paid, "attempted": true, "attempt_count": 1, "auto_advance": !n.paid,
		"amount_due": n.amount, "amount_paid": received, "amount_remaining": n.amount - received,
		"subtotal": n.amount + n.credit + n.discount, "total": n.amount + n.credit, "currency": "usd", "collection_method": "charge_automatically",
		"customer": n.customer, "subscription": n.subscription, "payment_intent": orNull(intent), "charge": orNull(charge),
		"billing_reason": n.reason, "period_start": n.start.Unix(), "period_end": n.end.Unix(), "metadata": object{},
		"total_discount_amounts": []object{{"amount": n.discount}}, "hosted_invoice_url": s.base + "/receipts/" + n.id, "invoice_pdf": nil,
		"lines": object{
			"object": "list", "has_more": false, "total_count": 1, "url": "/v1/invoices/" + n.id + "/lines",
			"data": []object{{
				"id": "il_" + n.id[3:], "object": "line_item", "type": "subscription", "amount": n.amount + n.credit + n.discount, "currency": "usd", "quantity": n.quantity,
				"subscription": n.subscription, "price": s.prices.byID[n.price].json(),
				"period": object{"start": n.start.Unix(), "end": n.end.Unix()}, "metadata": object{},
			}},
		},
	}
}

func (d *dispute) json() object {
	return object{
		"id": d.id, "object": "dispute", "livemode": false, "created": d.created.Unix(), "status": d.status, "reason": "fraudulent",
		"amount": d.payment.amount, "currency": "usd", "charge": d.payment.charge, "payment_intent": d.payment.intent,
		"is_charge_refundable": false, "metadata": object{}, "evidence_details": object{"due_by": nil, "has_evidence": false, "past_due": false, "submission_count": 0},
	}
}

// listOf lists the objects of one kind, by those of the filters email, customer,
// subscription, payment_intent, charge and status that the kind has.
func listOf[T any](of *shelf[T], json func(*T) object) operationFunc {
	return func(q *request) (any, *stripeError) {
		var all []object
	next:
		for v := range of.all {
			o := json(v)
			for _, name := range []string{"email", "customer", "subscription", "payment_intent", "charge", "status"} {
				if q.has(name) && o[name] != q.text(name) {
					continue next
				}
			}
			all = append(all, o)
		}
		return page(q, all)
	}
}

// retrieveOf answers with the object whose ID stands in the path.
func retrieveOf[T any](of *shelf[T], kind, wildcard string, json func(*T) object) operationFunc {
	return func(q *request) (any, *stripeError) {
		id := q.PathValue(wildcard)
		v := of.byID[id]
		if v == nil {
			return nil, noSuch(http.StatusNotFound, kind, id, wildcard)
		}
		return json(v), nil
	}
}
