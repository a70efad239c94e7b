package api

import (
	"net/http"

	"8space.app/stripe-sidecar/internal/billing"
)

// prices is GET /api/stripe/prices, for pricing pages: what is for sale.
func (s *service) prices(w http.ResponseWriter, r *http.Request, _ []byte, _ error) error {
	prices, err := s.Billing.Prices(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "public, max-age=60")
	respond(w, http.StatusOK, map[string][]billing.Price{"prices": prices})
	return nil
}
