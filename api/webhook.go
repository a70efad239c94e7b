package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const maxEvent = 1 << 20 // bytes

// webhook is POST /api/stripe/webhook, which Stripe calls. It answers 200 only
// after what the Event means is stored; to anything but that Stripe sends the
// Event again, for up to three days.
func (s *service) webhook(w http.ResponseWriter, r *http.Request) error {
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return errEventTooLarge
	case err != nil:
		return errBodyUnread
	}
	event, err := s.Billing.ReadEvent(payload, r.Header.Get("Stripe-Signature"), time.Now())
	if err != nil {
		return err
	}
	entryOf(r.Context()).event = event
	if err := s.Billing.HandleEvent(r.Context(), event); err != nil {
		return fmt.Errorf("%w: %w", errEventNotStored, err)
	}
	respond(w, http.StatusOK, map[string]string{"status": "stored"})
	return nil
}
