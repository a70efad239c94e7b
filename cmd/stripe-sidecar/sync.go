package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/upstream"
)

const (
	// Calls a second to Stripe, of the 100 it takes from an account in live mode
	// and the 25 in test mode; the rest is for buyers.
	// https://docs.stripe.com/rate-limits
	syncRateLive, syncRateTest = 50, 15

	syncPage    = 200 // customers held in memory
	syncWorkers = 16  // customers worked on at once
	// syncTimeout is for one customer; it has one call for each hundred
	// subscriptions or purchases, and waits its turn for each.
	syncTimeout = 2 * time.Minute
)

// syncAll writes the tables subscriptions and purchases anew for every Customer
// in the customers table, for the day when webhooks were down. It goes by the
// users' IDs and begins after the one given; what it has not done when it
// fails or ctx ends, it says how to go on with. Then it does what is to be done about
// users who were deleted.
func syncAll(ctx context.Context, c config, after string, out io.Writer) error {
	perSecond := syncRateTest
	if c.live() {
		perSecond = syncRateLive
	}
	network := upstream.New(upstream.Config{StripeRate: rate.NewLimiter(rate.Limit(perSecond), 1)})
	store := customers.New(customersConfig(c, network))
	bill := billing.New(billingConfig(c, network), store)

	counting, cancel := context.WithTimeout(ctx, c.UpstreamTimeout)
	defer cancel()
	total, err := store.Count(counting, after)
	if err != nil {
		return err
	}
	var done atomic.Int64
	stopProgress := showProgress(out, &done, total)
	defer stopProgress()
	for {
		reading, cancel := context.WithTimeout(ctx, c.UpstreamTimeout)
		page, err := store.Page(reading, after, syncPage)
		cancel()
		if err == nil {
			err = syncCustomers(ctx, bill, page, &done)
		}
		if err != nil {
			stopProgress()
			if after != "" {
				fmt.Fprintf(out, "stopped; go on with: stripe-sidecar sync %s\n", after)
			}
			return err
		}
		if len(page) == 0 { // a short page may be PostgREST's own limit
			break
		}
		after = page[len(page)-1].UserID
	}
	stopProgress()
	for {
		settling, cancel := context.WithTimeout(ctx, syncTimeout)
		left, err := bill.SettleDeletedUsers(settling)
		cancel()
		switch {
		case err != nil:
			return err
		case left == 0:
			return nil
		case c.UserDeleted == billing.KeepCustomer:
			fmt.Fprintf(out, "%d customers of deleted users are left at Stripe: USER_DELETED says what becomes of them\n", left)
			return nil
		}
	}
}

func syncCustomers(ctx context.Context, bill *billing.Billing, page []customers.Record, done *atomic.Int64) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncWorkers)
	for _, record := range page {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, syncTimeout)
			defer cancel()
			if err := bill.SyncCustomer(ctx, record.CustomerID, record.UserID); err != nil {
				return fmt.Errorf("customer %s of user %s: %w", record.CustomerID, record.UserID, err)
			}
			done.Add(1)
			return nil
		})
	}
	return group.Wait()
}

// showProgress prints how far it is: on a terminal once a second in one line,
// elsewhere a line every ten seconds. The function it returns prints the last
// line and ends it; it may be called twice.
func showProgress(out io.Writer, done *atomic.Int64, total int64) (stop func()) {
	begun := time.Now()
	every, start, end := 10*time.Second, "", "\n"
	if isTerminal(out) {
		every, start, end = time.Second, "\r\x1b[K", ""
	}
	show := func(end string) {
		n := done.Load()
		elapsed := time.Since(begun)
		line := fmt.Sprintf("%s%d of %d customers, %.1f/s", start, n, total, float64(n)/elapsed.Seconds())
		if n > 0 && n < total {
			left := time.Duration(float64(elapsed) / float64(n) * float64(total-n))
			line += fmt.Sprintf(", %s left", left.Round(time.Second))
		}
		fmt.Fprint(out, line, end)
	}
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				show(end)
			case <-stopping:
				show("\n")
				return
			}
		}
	}()
	first := true
	return func() {
		if first {
			first = false
			close(stopping)
			<-stopped
		}
	}
}
