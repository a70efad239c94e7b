package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/customers"
	"8space.app/stripe-sidecar/internal/upstream"
)

// maxSkew is how far the clock may be off: tokens are good to the second, and
// webhooks for five minutes.
const maxSkew = 30 * time.Second

// finding is the result of one check.
type finding struct {
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Detail  string `json:"detail,omitempty"`  // what was found
	Problem string `json:"problem,omitempty"` // what is wrong, when it is not ok
	Remedy  string `json:"remedy,omitempty"`  // what to do then
}

// doctor checks the configuration against the real Stripe and Supabase and
// prints a line for each check. It creates nothing, but for Checkout Sessions in
// test mode that try CHECKOUT_PARAMS and are expired at once. configuration is what
// loadConfig said; with mistakes in it nothing else can be checked.
func doctor(ctx context.Context, c config, configuration error, asJSON bool, out io.Writer) (ok bool, err error) {
	var findings []finding
	if m := (mistakes)(nil); errors.As(configuration, &m) {
		for _, line := range m.lines() {
			name, problem, _ := strings.Cut(line, " ")
			findings = append(findings, finding{Check: name, Problem: problem, Remedy: "see the table of variables in stripe-sidecar -h"})
		}
	} else {
		findings = examine(ctx, c)
	}
	ok = true
	for _, f := range findings {
		ok = ok && f.OK
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return ok, encoder.Encode(findings)
	}
	for _, f := range findings {
		line := "ok    " + f.Check
		if !f.OK {
			line = "FAIL  " + f.Check + ": " + f.Problem + " -> " + f.Remedy
		} else if f.Detail != "" {
			line += ": " + f.Detail
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return false, err
		}
	}
	return ok, nil
}

func examine(ctx context.Context, c config) []finding {
	network := upstream.New(upstream.Config{})
	store := customers.New(customersConfig(c, network))
	bill := billing.New(billingConfig(c, network), store)
	authenticator, err := auth.New(authConfig(c, network))
	if err != nil {
		return []finding{{Check: "configuration", Problem: err.Error(), Remedy: "correct it"}}
	}
	var findings []finding
	check := func(name, remedy string, run func(context.Context) (detail string, err error)) (ok bool) {
		ctx, cancel := context.WithTimeout(ctx, c.UpstreamTimeout)
		defer cancel()
		f := finding{Check: name}
		detail, err := run(ctx)
		if f.OK = err == nil; f.OK {
			f.Detail = detail
		} else {
			f.Problem, f.Remedy = strings.ReplaceAll(err.Error(), "\n", "; "), remedy
		}
		var network net.Error
		if errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) {
			f.Remedy = "it could not be reached: check its URL, and the network of this machine"
		}
		findings = append(findings, f)
		return f.OK
	}
	without := func(run func(context.Context) error) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) { return "", run(ctx) }
	}

	webhook := len(c.StripeWebhookSecret) > 0
	check("configuration", "", func(context.Context) (string, error) {
		return strings.Join(c.warnings(), "; "), nil
	})
	// A check that could only repeat what an earlier one has found is left out.
	var ahead time.Duration
	if check("Stripe key", "take STRIPE_SECRET_KEY anew from https://dashboard.stripe.com/apikeys", func(ctx context.Context) (mode string, err error) {
		mode = "test mode"
		if c.live() {
			mode = "live mode"
		}
		ahead, err = bill.CheckKey(ctx)
		return mode, err
	}) {
		check("clock", "synchronise this machine's clock (NTP)", func(context.Context) (string, error) {
			if ahead.Abs() > maxSkew {
				return "", fmt.Errorf("%s ahead of Stripe's", ahead.Round(time.Second))
			}
			return "", nil
		})
		check("Stripe permissions", "give the restricted key write access to Customers, Checkout Sessions and Customer portal", without(bill.CheckMayCreate))
		check("billing portal", "save its settings at https://dashboard.stripe.com/settings/billing/portal, or correct PORTAL_CONFIGURATION", without(bill.CheckPortal))
		if len(c.CheckoutParams)+len(c.CheckoutPaymentParams)+len(c.CheckoutSubscriptionParams) > 0 {
			check("checkout parameters", "correct CHECKOUT_PARAMS, CHECKOUT_PAYMENT_PARAMS or CHECKOUT_SUBSCRIPTION_PARAMS: https://docs.stripe.com/api/checkout/sessions/create", bill.CheckParams)
		}
		if webhook {
			check("Stripe read permissions", "give the restricted key read access to Subscriptions, Invoices, PaymentIntents and Charges", without(bill.CheckMayRead))
			check("webhook endpoint", "add it, with the events that the README lists, at https://dashboard.stripe.com/webhooks (`stripe listen` needs none); "+
				"a restricted key needs read access to Webhook Endpoints for this check alone", func(ctx context.Context) (string, error) {
				return bill.CheckWebhook(ctx, api.WebhookPath)
			})
		}
	}
	anon := check("Supabase Auth", "correct SUPABASE_URL and SUPABASE_ANON_KEY from the project's settings", without(authenticator.CheckAuth))
	check("signing keys", "correct SUPABASE_URL", func(ctx context.Context) (string, error) {
		detail, local, err := authenticator.CheckKeySet(ctx)
		if err == nil && !local {
			detail += "; every signed-in request asks Supabase Auth, unless SUPABASE_JWT_SECRET is set or the project moves to signing keys"
		}
		return detail, err
	})
	table := check("customers table", "run what `stripe-sidecar schema` prints in the SQL editor, or correct CUSTOMERS_TABLE and its columns, or SUPABASE_SERVICE_ROLE_KEY", without(store.CheckTable))
	if anon && table {
		check("customers table closed", "run what `stripe-sidecar schema` prints: it revokes the rights and turns on row level security", func(ctx context.Context) (string, error) {
			return store.CheckClosed(ctx, c.SupabaseAnonKey.Secret)
		})
	}
	if webhook {
		check("subscriptions and purchases", "run what `stripe-sidecar schema` prints in the SQL editor, or correct SUPABASE_SERVICE_ROLE_KEY", without(store.CheckPurchases))
	}
	return findings
}
