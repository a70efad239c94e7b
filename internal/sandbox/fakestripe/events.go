package fakestripe

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	deliveryTimeout  = 20 * time.Second
	deliveryAttempts = 8
	// redirectPatience is how long Checkout waits for the endpoints' answers to
	// checkout.session.completed before it sends the buyer back.
	// https://docs.stripe.com/checkout/fulfillment#redirect-hosted-checkout
	redirectPatience = 10 * time.Second
)

// WebhookEndpoint receives every Event.
// https://docs.stripe.com/webhooks
type WebhookEndpoint struct {
	URL, Secret string
	Events      []string // the types of Event that it asks for; nil: all. It is sent all the same.
	Disabled    bool
}

// Event is an Event as the account has it.
// https://docs.stripe.com/api/events
type Event struct {
	ID, Type string
	Created  time.Time
	Payload  []byte // what an endpoint receives, JSON
}

// Events returns all Events, oldest first.
func (s *Account) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Event
	for e := range s.events.all {
		out := *e
		out.Payload = slices.Clone(e.Payload)
		all = append(all, out)
	}
	return all
}

// Sign returns the value of the header Stripe-Signature under which an endpoint
// with this secret accepts the payload.
// https://docs.stripe.com/webhooks#verify-manually
func Sign(secret string, payload []byte, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", at.Unix(), payload)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

// emit records an Event about an object in its present state and delivers it.
// The channel tells of each endpoint's first answer, and holds them all. s.mu
// is held.
func (s *Account) emit(kind string, about object) (answered chan struct{}) {
	e := &Event{ID: newID("evt_", 24), Type: kind, Created: s.o.Now()}
	var err error
	e.Payload, err = json.Marshal(object{
		"id": e.ID, "object": "event", "api_version": stripeVersion, "created": e.Created.Unix(), "type": kind,
		"livemode": false, "pending_webhooks": len(s.o.Webhooks),
		"request": object{"id": nil, "idempotency_key": nil}, "data": object{"object": about},
	})
	if err != nil {
		panic(err) // the sandbox's own values
	}
	s.events.put(e.ID, e)
	if s.open.Err() != nil {
		return nil
	}
	answered = make(chan struct{}, len(s.o.Webhooks))
	for _, endpoint := range s.o.Webhooks {
		s.deliveries.Go(func() { s.deliver(endpoint, e, answered) })
	}
	return answered
}

// deliver sends an Event until the endpoint has taken it, with pauses that
// double. Stripe itself goes on for three days.
func (s *Account) deliver(to WebhookEndpoint, e *Event, answered chan<- struct{}) {
	pause := s.o.RetryDelay
	for attempt := range deliveryAttempts {
		accepted := s.post(to, e)
		if attempt == 0 {
			answered <- struct{}{}
		}
		if accepted {
			return
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-s.open.Done():
			return
		}
	}
}

// post reports whether the endpoint has answered 2xx. The signature carries the
// real time, whatever the account's clock says: the endpoint looks at its own.
func (s *Account) post(to WebhookEndpoint, e *Event) bool {
	ctx, cancel := context.WithTimeout(s.open, deliveryTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader(e.Payload))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Stripe-Signature", Sign(to.Secret, e.Payload, time.Now()))
	// RoundTrip, because Stripe follows no redirect.
	resp, err := s.transport.RoundTrip(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // keeps the connection
	return resp.StatusCode/100 == 2
}

// Close ends the deliveries; Events are recorded all the same from then on.
func (s *Account) Close() {
	s.mu.Lock()
	s.shut()
	s.mu.Unlock()
	s.deliveries.Wait()
	s.transport.CloseIdleConnections()
}

// await waits for the answers of all endpoints to an Event, but not for long.
func await(ctx context.Context, answered chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, redirectPatience)
	defer cancel()
	for range cap(answered) {
		select {
		case <-answered:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Account) webhookJSON(i int) object {
	e := s.o.Webhooks[i]
	status, events := "enabled", e.Events
	if e.Disabled {
		status = "disabled"
	}
	if events == nil {
		events = []string{"*"}
	}
	return object{
		"id": fmt.Sprintf("we_sandbox_%d", i+1), "object": "webhook_endpoint", "livemode": false, "status": status,
		"url": e.URL, "enabled_events": events, "api_version": nil, "metadata": object{},
	}
}

// Webhooks returns the endpoints.
func (s *Account) Webhooks() []WebhookEndpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.o.Webhooks)
}

func (s *Account) createWebhook(q *request) (any, *stripeError) {
	e := WebhookEndpoint{URL: q.text("url"), Secret: newID("whsec_", 32), Events: q.texts("enabled_events")}
	if e.URL == "" || e.Events == nil {
		return nil, missing("url")
	}
	s.o.Webhooks = append(slices.Clip(s.o.Webhooks), e)
	created := s.webhookJSON(len(s.o.Webhooks) - 1)
	created["secret"] = e.Secret // this once
	return created, nil
}

func (s *Account) updateWebhook(q *request) (any, *stripeError) {
	id := q.PathValue("webhook_endpoint")
	for i := range s.o.Webhooks {
		if s.webhookJSON(i)["id"] == id {
			if events := q.texts("enabled_events"); events != nil {
				s.o.Webhooks[i].Events = events
			}
			return s.webhookJSON(i), nil
		}
	}
	return nil, noSuch(http.StatusNotFound, "webhook endpoint", id, "webhook_endpoint")
}

// texts is a parameter that is a list.
func (q *request) texts(name string) (all []string) {
	list, _ := q.params[name].([]any)
	for _, v := range list {
		all = append(all, fmt.Sprint(v))
	}
	return all
}

func (s *Account) listWebhooks(q *request) (any, *stripeError) {
	var all []object
	for i := range s.o.Webhooks {
		all = append(all, s.webhookJSON(i))
	}
	return page(q, all)
}
