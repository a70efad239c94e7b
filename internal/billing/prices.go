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

	"github.com/stripe/stripe-go/v76"
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

// catalogue are the prices for sale as Stripe told them last.
type catalogue struct {
	mu        sync.Mutex
	prices    []Price
	fetched   time.Time // start of the attempt that gave prices; zero: none did
	attempted time.Time // start of the last one
	failure   error     // of the last one
	flight    chan struct{}
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
	c.mu.Lock()
	now := b.now()
	if !c.fetched.IsZero() && now.Sub(c.fetched) < pricesFresh {
		defer c.mu.Unlock()
		return c.prices, nil
	}
	if c.flight == nil && now.Sub(c.attempted) >= pricesPause {
		c.attempted, c.flight = now, make(chan struct{})
		go b.fetchPrices(context.WithoutCancel(ctx), now)
	}
	flight, patience := c.flight, context.Background()
	if c.good(now) {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(patience, pricesPatient)
		defer cancel()
	}
	c.mu.Unlock()
	if flight != nil {
		select {
		case <-flight:
		case <-patience.Done():
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.good(b.now()):
		return c.prices, nil
	case c.failure != nil:
		return nil, c.failure
	}
	return nil, stripeError("fetch prices", context.Cause(ctx))
}

func (c *catalogue) good(now time.Time) bool {
	return !c.fetched.IsZero() && now.Sub(c.fetched) < pricesGood
}

// fetchPrices makes one attempt, beside the requests that wait for it.
func (b *Billing) fetchPrices(ctx context.Context, started time.Time) {
	ctx, cancel := context.WithTimeout(ctx, pricesTimeout)
	defer cancel()
	var prices []Price
	err := errors.New("unknown")
	defer func() {
		if p := recover(); p != nil { // in a goroutine it would end the process
			err = &StripeError{cause: fmt.Sprintf("fetch prices: panic: %v\n%s", p, debug.Stack())}
		}
		c := &b.catalogue
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.failure = err; err == nil {
			c.prices, c.fetched = prices, started
		}
		close(c.flight)
		c.flight = nil
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
		p := &stripe.PriceParams{Params: stripe.Params{Context: calling(ctx, "fetch_price")}, Expand: []*string{stripe.String("product")}}
		price, err := b.stripe.Prices.Get(name, p)
		err = stripeError("fetch price", err)
		var s *StripeError
		switch {
		case errors.As(err, &s) && s.missing != "":
		case err != nil:
			return nil, err
		case price.ID == "":
			return nil, incomplete("fetch price", price.APIResource)
		case price.Active:
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
	p := &stripe.PriceListParams{LookupKeys: keys, Active: stripe.Bool(true)}
	p.Context = calling(ctx, "list_prices")
	p.Limit = stripe.Int64(100)
	for _, path := range expand {
		p.AddExpand(path)
	}
	var prices []*stripe.Price
	list := b.stripe.Prices.List(p)
	for list.Next() {
		prices = append(prices, list.Price())
	}
	if err := list.Err(); err != nil {
		return nil, stripeError("list prices", err)
	}
	if page := list.PriceList(); page.Data == nil {
		return nil, incomplete("list prices", page.APIResource)
	}
	return prices, nil
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

// resolved is what a lookup key stood for.
type resolved struct {
	priceID string
	at      time.Time
}

// priceID returns the ID of the Price with a name, which is one or a lookup key.
// Of a lookup key that there is not, it says what Stripe says of an ID.
func (b *Billing) priceID(ctx context.Context, name string) (string, error) {
	if isPriceID(name) {
		return name, nil
	}
	b.keysMu.Lock()
	known := b.keys[name]
	b.keysMu.Unlock()
	if known.priceID != "" && b.now().Sub(known.at) < keyRemembered {
		return known.priceID, nil
	}
	at := b.now()
	var prices []*stripe.Price
	if len([]rune(name)) <= maxLookupKey {
		var err error
		if prices, err = b.lookUp(ctx, []*string{&name}); err != nil {
			return "", err
		}
	}
	for _, price := range prices {
		if price.LookupKey != name || price.ID == "" {
			continue
		}
		b.keysMu.Lock()
		defer b.keysMu.Unlock()
		if b.keys == nil || len(b.keys) >= keysRemembered {
			b.keys = map[string]resolved{}
		}
		b.keys[name] = resolved{price.ID, at}
		return price.ID, nil
	}
	e := &StripeError{Public: fmt.Sprintf("No such price: '%s'", name), cause: "no active price has the lookup key"}
	if sensitive.MatchString(e.Public) {
		e.Public = ""
	}
	return "", e
}

func (b *Billing) now() time.Time {
	if b.config.Now != nil {
		return b.config.Now()
	}
	return time.Now()
}
