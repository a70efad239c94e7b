package billing

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/stripe/stripe-go/v76"
	"golang.org/x/sync/errgroup"
)

// What becomes of what a deleted user has bought.
const (
	KeepCustomer        = "keep"   // nothing: the subscriptions go on
	CancelSubscriptions = "cancel" // at once, without a refund
	DeleteCustomer      = "delete" // their subscriptions end with it
)

const (
	settledAtOnce = 8    // Customers worked on at the same time
	settledInARow = 1000 // and named by the database in one answer
)

// SettleDeletedUsers does what Config.UserDeleted says with the Customers of deleted
// users, at most settledInARow, and returns how many are left. What has been done
// already, by another replica or by hand, does no harm to do again. One Customer that
// fails keeps no other from being done.
//
// Errors: ErrCustomersUnavailable, ErrOtherMode, *StripeError: the first of them.
func (b *Billing) SettleDeletedUsers(ctx context.Context) (left int, err error) {
	most := settledInARow
	if b.config.UserDeleted == KeepCustomer {
		most = 0
	}
	customerIDs, left, err := b.store.UsersLeft(ctx, most)
	if err != nil {
		return 0, unavailable(err)
	}
	var group errgroup.Group
	group.SetLimit(settledAtOnce)
	var settled atomic.Int64
	for _, id := range customerIDs {
		group.Go(func() error {
			if err := b.settle(ctx, id); err != nil {
				return fmt.Errorf("customer %s of a deleted user: %w", id, err)
			}
			settled.Add(1)
			return nil
		})
	}
	err = group.Wait()
	return left - int(settled.Load()), err
}

func (b *Billing) settle(ctx context.Context, customerID string) error {
	end := b.cancelSubscriptions
	if b.config.UserDeleted == DeleteCustomer {
		end = b.deleteCustomer
	}
	if err := end(ctx, customerID); err != nil && !gone(err) {
		return err
	}
	return unavailable(b.store.Settled(ctx, customerID))
}

// https://docs.stripe.com/api/customers/delete
func (b *Billing) deleteCustomer(ctx context.Context, customerID string) error {
	c, err := b.stripe.Customers.Del(customerID, &stripe.CustomerParams{Params: calling(ctx, "delete_customer")})
	if err == nil && !c.Deleted {
		return incomplete("delete customer", c.APIResource)
	}
	return stripeError("delete customer", err)
}

// cancelSubscriptions ends a Customer's subscriptions, and first what could become one.
// https://docs.stripe.com/api/subscriptions/cancel
func (b *Billing) cancelSubscriptions(ctx context.Context, customerID string) error {
	open, err := b.openCheckouts(ctx, customerID)
	if err != nil {
		return err
	}
	if err := b.expire(ctx, open...); err != nil {
		return err
	}
	for s, err := range b.eachSubscription(ctx, customerID) {
		if err != nil {
			return err
		}
		if s.Status == stripe.SubscriptionStatusCanceled || s.Status == stripe.SubscriptionStatusIncompleteExpired {
			continue
		}
		_, err := b.stripe.Subscriptions.Cancel(s.ID, &stripe.SubscriptionCancelParams{Params: calling(ctx, "cancel_subscription")})
		if err := stripeError("cancel subscription", err); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}
