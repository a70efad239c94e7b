package billing

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/stripe/stripe-go/v76"
	"golang.org/x/sync/singleflight"
)

const (
	pricesFresh   = 5 * time.Minute
	pricesGood    = 24 * time.Hour   // when Stripe is down
	pricesPause   = 10 * time.Second // after an attempt that failed
	pricesPatient = 2 * time.Second  // for a fetch where older prices are at hand
	pricesTimeout = 15 * time.Second // of a fetch, which no request ends

	keyRemembered   = time.Minute
	keysRemembered  = 1000
	maxLookupKey    = 200 // characters, Stripe's own limit
	keysInOneLookup = 10  // likewise
)

// Price is a Price that is for sale, for pricing pages.
type Price struct {
	ID                 string  `json:"id"`
	LookupKey          *string `json:"lookup_key"` // nil: none, as below
	ProductName        string  `json:"product_name"`
	ProductDescription *string `json:"product_description"`
	UnitAmount         *int64  `json:"unit_amount"` // smallest unit of the currency; nil: it is tiered, say
	Currency           string  `json:"currency"`    // three lower-case letters
	Interval           *string `json:"interval"`    // day, week, month or year; nil: one payment
	IntervalCount      *int64  `json:"interval_count"`
	TrialDays          int64   `json:"trial_days"`
}

// catalogue is what Stripe told last of the prices for sale, and of lookup keys.
type catalogue struct {
	flights   singleflight.Group // of which one is under way at a time
	attempted time.Time          // start of the last one, which alone looks here

	mu      sync.Mutex
	prices  []Price
	fetched time.Time // start of the attempt that gave prices; zero: none did
	failure error     // of the last attempt
	keys    map[string]resolved
}

// resolved is what a lookup key stood for.
type resolved struct {
	priceID string
	at      time.Time
}

// Prices returns the active ones among the configured Prices, in their order.
// Stripe is asked once in five minutes, however many ask, and when it does not
// answer, prices of up to a day ago will do.
//
// Errors: *StripeError.
//
// https://docs.stripe.com/api/prices/list
func (b *Billing) Prices(ctx context.Context) ([]Price, error) {
	c := &b.catalogue
	if prices, _ := b.told(pricesFresh); prices != nil {
		return prices, nil
	}
	flight := c.flights.DoChan("", func() (any, error) {
		b.fetchPrices(context.WithoutCancel(ctx))
		return nil, nil
	})
	wait := ctx
	if prices, _ := b.told(pricesGood); prices != nil {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, pricesPatient)
		defer cancel()
	}
	select {
	case <-flight:
	case <-wait.Done():
	}
	prices, failure := b.told(pricesGood)
	switch {
	case prices != nil:
		return prices, nil
	case failure != nil:
		return nil, failure
	}
	return nil, stripeError("fetch prices", context.Cause(ctx))
}

// told returns the prices that Stripe told within that time, nil for none, and the error
// of the last attempt.
func (b *Billing) told(within time.Duration) ([]Price, error) {
	c := &b.catalogue
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.config.Now().Sub(c.fetched) < within {
		return c.prices, nil
	}
	return nil, c.failure
}

// fetchPrices makes one attempt, beside the requests that wait for it, unless the last
// one has only just failed.
func (b *Billing) fetchPrices(ctx context.Context) {
	c, started := &b.catalogue, b.config.Now()
	if started.Sub(c.attempted) < pricesPause {
		return
	}
	c.attempted = started
	ctx, cancel := context.WithTimeout(ctx, pricesTimeout)
	defer cancel()
	var prices []Price
	err := errors.New("unknown")
	defer func() {
		if p := recover(); p != nil { // in a goroutine it would end the process
			err = &StripeError{cause: fmt.Sprintf("fetch prices: panic: %v\n%s", p, debug.Stack())}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.failure = err; err == nil {
			c.prices, c.fetched = prices, started
		}
	}()
	prices, err = b.pricesForSale(ctx)
}

func (b *Billing) pricesForSale(ctx context.Context) ([]Price, error) {
	found := map[string]*stripe.Price{} // by ID, and by lookup key
	var keys []*string
	for _, name := range b.config.Prices {
		if !isPriceID(name) {
			keys = append(keys, &name)
			continue
		}
		price, err := b.stripe.Prices.Get(name, &stripe.PriceParams{Params: calling(ctx, "fetch_price"), Expand: []*string{stripe.String("product")}})
		err = answered("fetch price", err, price.ID, price.APIResource)
		if err != nil && missing(err) == "" {
			return nil, err
		}
		if err == nil && price.Active {
			found[name] = price
		}
	}
	for some := range slices.Chunk(keys, keysInOneLookup) {
		list, err := b.lookUp(ctx, some, "data.product")
		if err != nil {
			return nil, err
		}
		for _, price := range list {
			found[price.LookupKey] = price
		}
	}
	prices, seen := []Price{}, map[string]bool{}
	for _, name := range b.config.Prices {
		if price := found[name]; price != nil && !seen[price.ID] {
			seen[price.ID] = true
			prices = append(prices, b.forSale(price))
		}
	}
	return prices, nil
}

func (b *Billing) forSale(p *stripe.Price) Price {
	out := Price{ID: p.ID, Currency: string(p.Currency)}
	if p.LookupKey != "" {
		out.LookupKey = &p.LookupKey
	}
	if p.Product != nil {
		out.ProductName = p.Product.Name
		if p.Product.Description != "" {
			out.ProductDescription = &p.Product.Description
		}
	}
	// A price of 0.5 cents has a unit_amount of null, which stripe-go reads as 0.
	if p.BillingScheme == stripe.PriceBillingSchemePerUnit && p.CustomUnitAmount == nil && float64(p.UnitAmount) == p.UnitAmountDecimal {
		out.UnitAmount = &p.UnitAmount
	}
	if p.Recurring != nil {
		interval := string(p.Recurring.Interval)
		out.Interval, out.IntervalCount, out.TrialDays = &interval, &p.Recurring.IntervalCount, b.config.TrialDays
	}
	return out
}

func isPriceID(name string) bool { return strings.HasPrefix(name, "price_") }

// lookUp returns the active prices that have these lookup keys.
func (b *Billing) lookUp(ctx context.Context, keys []*string, expand ...string) ([]*stripe.Price, error) {
	p := &stripe.PriceListParams{ListParams: listing(ctx, "list_prices"), LookupKeys: keys, Active: stripe.Bool(true)}
	for _, path := range expand {
		p.AddExpand(path)
	}
	return all(each[stripe.Price]("list prices", b.stripe.Prices.List(p)))
}

// ForSale tells whether a Price, named by its ID or lookup key, may be bought.
// Where the configuration names a Price one way and the request the other,
// Prices tells that they are the same.
//
// Errors: *StripeError.
func (b *Billing) ForSale(ctx context.Context, name string) (bool, error) {
	list := b.config.Prices
	switch {
	case len(list) == 0, slices.Contains(list, name):
		return true, nil
	case isPriceID(name) && !slices.ContainsFunc(list, func(n string) bool { return !isPriceID(n) }):
		return false, nil
	}
	prices, err := b.Prices(ctx)
	return slices.ContainsFunc(prices, func(p Price) bool {
		return p.ID == name || p.LookupKey != nil && *p.LookupKey == name
	}), err
}

// priceID returns the ID of the Price with a name, which is one or a lookup key.
// Of a lookup key that there is not, it says what Stripe says of an ID.
func (b *Billing) priceID(ctx context.Context, name string) (string, error) {
	if isPriceID(name) {
		return name, nil
	}
	c, at := &b.catalogue, b.config.Now()
	c.mu.Lock()
	known := c.keys[name]
	c.mu.Unlock()
	if known.priceID != "" && at.Sub(known.at) < keyRemembered {
		return known.priceID, nil
	}
	var prices []*stripe.Price
	if utf8.RuneCountInString(name) <= maxLookupKey {
		var err error
		if prices, err = b.lookUp(ctx, []*string{&name}); err != nil {
			return "", err
		}
	}
	for _, price := range prices {
		if price.LookupKey != name || price.ID == "" {
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.keys == nil || len(c.keys) >= keysRemembered {
			c.keys = map[string]resolved{}
		}
		c.keys[name] = resolved{price.ID, at}
		return price.ID, nil
	}
	e := &StripeError{Public: fmt.Sprintf("No such price: '%s'", name), cause: "no active price has the lookup key"}
	if sensitive.MatchString(e.Public) {
		e.Public = ""
	}
	return "", e
}
