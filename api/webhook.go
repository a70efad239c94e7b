package api

import (
	"fmt"
	"net/http"
	"time"
)

const maxEvent = 1 << 20 // bytes

// webhook is POST /api/stripe/webhook, which Stripe calls. It answers 200 only
// after what the Event means is stored; to anything but that Stripe sends the
// Event again, for up to three days.
func (s *service) webhook(w http.ResponseWriter, r *http.Request) error {
	payload, err := readAll(w, r, maxEvent, errEventTooLarge)
	if err != nil {
		return err
	}
	event, err := s.Billing.ReadEvent(payload, r.Header.Get("Stripe-Signature"), time.Now())
	if err != nil {
		return err
	}
	entryOf(r.Context()).event = event
	handled, err := s.Billing.HandleEvent(r.Context(), event)
	count := func(eventType, outcome string) { s.Metrics.events.WithLabelValues(eventType, outcome).Inc() }
	switch {
	case err != nil:
		count(event.Type, "failed")
		return fmt.Errorf("%w: %w", errEventNotStored, err)
	case !handled:
		count("other", "ignored")
		respond(w, http.StatusOK, map[string]string{"status": "ignored"})
	default:
		count(event.Type, "stored")
		respond(w, http.StatusOK, map[string]string{"status": "stored"})
	}
	return nil
}
