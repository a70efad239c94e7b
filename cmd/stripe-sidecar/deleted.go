package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"8space.app/stripe-sidecar/internal/billing"
)

// settleEvery is half of the minute within which a deleted user stops paying. It is
// a variable for the tests alone.
var settleEvery = 30 * time.Second

// settleDeletedUsers does what is to be done about users who were deleted, again and
// again until ctx ends, and publishes how many Customers are left.
func settleDeletedUsers(ctx context.Context, bill *billing.Billing, registry *prometheus.Registry, logger *slog.Logger) {
	left := prometheus.NewGauge(prometheus.GaugeOpts{Name: "stripe_sidecar_customers_left",
		Help: "Customers at Stripe of users who were deleted, whose subscriptions go on."})
	warn := rate.Sometimes{Interval: time.Hour}
	ticker := time.NewTicker(settleEvery)
	defer ticker.Stop()
	for known := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		working, cancel := context.WithTimeout(ctx, time.Minute)
		n, err := bill.SettleDeletedUsers(working)
		cancel()
		if err != nil && ctx.Err() == nil {
			warn.Do(func() {
				logger.Warn("what deleted users bought could not be settled; said at most once an hour", "err", err)
			})
		}
		if n > 0 || err == nil {
			left.Set(float64(n))
			if !known { // before it is known it is not 0
				registry.MustRegister(left)
				known = true
			}
		}
	}
}
