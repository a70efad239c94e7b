package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"8space.app/stripe-sidecar/internal/billing"
)

// webhook is POST /api/stripe/webhook, which Stripe calls. It answers 200 only
// after what the Event means is stored, or when there is nothing to store; to
// anything but that Stripe sends the Event again, for up to three days.
func (s *service) webhook(_ http.ResponseWriter, r *http.Request, payload []byte, unread error) (any, error) {
	if unread != nil {
		return nil, unread
	}
	event, err := s.Billing.ReadEvent(payload, r.Header.Get("Stripe-Signature"), time.Now())
	if err != nil {
		return nil, err
	}
	entry := entryOf(r.Context())
	entry.event = event
	err = s.Billing.HandleEvent(r.Context(), event)
	eventType, outcome := event.Type, "stored"
	switch {
	case errors.Is(err, billing.ErrNotOurs):
		eventType, outcome = "other", "ignored" // the type is the sender's word
	case errors.Is(err, billing.ErrOtherMode), errors.Is(err, billing.ErrNoObject):
		entry.err, outcome = err, "ignored"
	case err != nil:
		outcome = "failed"
	}
	s.metrics.events.WithLabelValues(eventType, outcome).Inc()
	if outcome == "failed" {
		return nil, fmt.Errorf("%w: %w", errEventNotStored, err)
	}
	return map[string]string{"status": outcome}, nil
}
