package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
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

func checkUserID(argument string) error {
	if argument != "" && uuid.Validate(argument) != nil {
		return fmt.Errorf("%q is not the ID of a user", argument)
	}
	return nil
}

// syncAll writes the tables subscriptions and purchases anew for every Customer
// in the customers table, for the day when webhooks were down. It goes by the
// users' IDs and begins after the one given; what it has not done when it
// fails or ctx ends, it says how to go on with. Then it does what is to be done about
// users who were deleted.
func syncAll(ctx context.Context, c config, in invocation) error {
	after, out := in.argument, in.stderr
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
	done := newProgress(out, total)
	for {
		reading, cancel := context.WithTimeout(ctx, c.UpstreamTimeout)
		page, err := store.Page(reading, after, syncPage)
		cancel()
		if err == nil {
			err = syncCustomers(ctx, bill, page, done)
		}
		if err != nil {
			done.show("\n")
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
	done.show("\n")
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

func syncCustomers(ctx context.Context, bill *billing.Billing, page []customers.Record, done *progress) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncWorkers)
	for _, record := range page {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, syncTimeout)
			defer cancel()
			if err := bill.SyncCustomer(ctx, record.CustomerID, record.UserID); err != nil {
				return fmt.Errorf("customer %s of user %s: %w", record.CustomerID, record.UserID, err)
			}
			done.one()
			return nil
		})
	}
	return group.Wait()
}

// progress prints how far it is: on a terminal once a second in one line, elsewhere a
// line every ten seconds. It may be used by several at once.
type progress struct {
	out        io.Writer
	total      int64
	done       atomic.Int64
	begun      time.Time
	often      rate.Sometimes
	start, end string // of a line
}

func newProgress(out io.Writer, total int64) *progress {
	p := &progress{out: out, total: total, begun: time.Now(), often: rate.Sometimes{Interval: 10 * time.Second}, end: "\n"}
	if isTerminal(out) {
		p.often.Interval, p.start, p.end = time.Second, "\r\x1b[K", ""
	}
	return p
}

// one counts a customer.
func (p *progress) one() {
	p.done.Add(1)
	p.often.Do(func() { p.show(p.end) })
}

func (p *progress) show(end string) {
	n, elapsed := p.done.Load(), time.Since(p.begun)
	line := fmt.Sprintf("%s%d of %d customers, %.1f/s", p.start, n, p.total, float64(n)/elapsed.Seconds())
	if n > 0 && n < p.total {
		left := time.Duration(float64(elapsed) / float64(n) * float64(p.total-n))
		line += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	fmt.Fprint(p.out, line, end)
}
