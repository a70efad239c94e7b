package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"8space.app/stripe-sidecar/internal/billing"
)

// fail answers with an error and leaves its cause for the request's log line.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	a := answerTo(err)
	if a != err {
		entry := entryOf(r.Context())
		entry.err = err
		var s *billing.StripeError
		if errors.As(err, &s) {
			entry.stripeRequestID = s.RequestID
		}
	}
	if a.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.retryAfter))
	}
	respond(w, a.status, map[string]string{"error": a.text})
}

// respond writes v as JSON. It is encoded before the first byte is written, so
// that nobody gets half an answer.
func respond(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // URLs stay readable under curl
	if err := encoder.Encode(v); err != nil {
		panic(err) // strings, and rows that were JSON, always encode
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Cache-Control") == "" { // a renewed session brings its own, stricter one
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the caller may be gone; there is nobody to tell
}

// sent is the answer that sends the caller to a page at Stripe.
func sent(r *http.Request, page billing.Page, err error) (any, error) {
	if err == nil {
		entryOf(r.Context()).stripeRequestID = page.StripeRequestID
	}
	return map[string]string{"url": page.URL}, err
}
