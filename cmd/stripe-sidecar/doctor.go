package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
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
// prints a line for each check, and a last one of how many failed. It creates nothing,
// but for Checkout Sessions in test mode that try CHECKOUT_PARAMS and are expired at
// once. With mistakes in the configuration nothing else can be checked.
func doctor(ctx context.Context, in invocation) error {
	var findings []finding
	c, err := loadConfig()
	if m := (mistakes)(nil); errors.As(err, &m) {
		for _, line := range m.lines() {
			name, problem, _ := strings.Cut(line, " ")
			findings = append(findings, finding{Check: name, Problem: problem, Remedy: "see the table of variables in stripe-sidecar -h"})
		}
	} else {
		findings = examine(ctx, c)
	}
	failed := 0
	for _, f := range findings {
		if !f.OK {
			failed++
		}
	}
	if in.json {
		encoder := json.NewEncoder(in.stdout)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(findings)
	} else {
		err = printFindings(in.stdout, findings, failed)
	}
	if err == nil && failed > 0 {
		err = errReported
	}
	return err
}

// printFindings prints a line for each finding, and a last one of how many failed.
func printFindings(out io.Writer, findings []finding, failed int) error {
	good, bad, end := colours(out)
	var lines strings.Builder
	for _, f := range findings {
		switch {
		case !f.OK:
			fmt.Fprintf(&lines, "%sFAIL%s  %s: %s -> %s\n", bad, end, f.Check, f.Problem, f.Remedy)
		case f.Detail != "":
			fmt.Fprintf(&lines, "%sok%s    %s: %s\n", good, end, f.Check, f.Detail)
		default:
			fmt.Fprintf(&lines, "%sok%s    %s\n", good, end, f.Check)
		}
	}
	if failed == 0 {
		fmt.Fprintf(&lines, "%sall of %d checks are ok%s\n", good, len(findings), end)
	} else {
		fmt.Fprintf(&lines, "%s%d of %d checks failed%s\n", bad, failed, len(findings), end)
	}
	_, err := io.WriteString(out, lines.String())
	return err
}

// colours are the control sequences for green, red and neither on a terminal; ""
// elsewhere and for those who want none. https://no-color.org
func colours(out io.Writer) (good, bad, end string) {
	if !isTerminal(out) || os.Getenv("NO_COLOR") != "" {
		return "", "", ""
	}
	return "\x1b[32m", "\x1b[31m", "\x1b[0m"
}

// remedyFor is what to do about err where a check's usual remedy would not help.
func remedyFor(err error, usual string) string {
	var network net.Error
	var refused *customers.Refusal
	switch {
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return "it could not be reached: check its URL, and the network of this machine"
	case errors.As(err, &refused) && refused.Status == http.StatusUnauthorized: // 403 would be a role that may not
		return "take SUPABASE_SERVICE_ROLE_KEY anew from the project's settings, API keys, of the project in SUPABASE_URL"
	case errors.As(err, &refused) && refused.Status >= 500:
		return "look at the project's state and logs in the Supabase dashboard"
	}
	return usual
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
			f.Problem, f.Remedy = strings.ReplaceAll(err.Error(), "\n", "; "), remedyFor(err, remedy)
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
		ahead, err = bill.CheckKey(ctx)
		return c.mode() + " mode", err
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
			check("Stripe read permissions", "give the restricted key read access to Subscriptions, Invoices, PaymentIntents, Charges and Disputes", without(bill.CheckMayRead))
			var endpoint string
			if check("webhook endpoint", "run `stripe-sidecar webhook https://<your site>"+api.WebhookPath+"`, which makes or mends it (`stripe listen` needs none); "+
				"a restricted key needs access to Webhook Endpoints for these two alone", func(ctx context.Context) (_ string, err error) {
				endpoint, err = bill.CheckWebhook(ctx, api.WebhookPath)
				return endpoint, err
			}) {
				check("webhook delivery", "mend what answers at that URL, or move the endpoint with `stripe-sidecar webhook`", func(ctx context.Context) (string, error) {
					if u, err := url.Parse(endpoint); err != nil || c.SiteOrigins.Any() || !c.SiteOrigins.AllowsOrigin(u.Scheme+"://"+u.Host) {
						return "not tried: SITE_ORIGINS does not name that site", nil
					}
					return "an Event of no meaning was taken", bill.TryWebhook(ctx, endpoint)
				})
			}
		}
		if len(c.AllowedPrices) > 0 {
			check("prices", "correct ALLOWED_PRICES from https://dashboard.stripe.com/prices; a restricted key needs read access to Prices", without(bill.CheckPrices))
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

	const again = "run what `stripe-sidecar schema` prints in the SQL editor"
	sitesOwn := c.schemaConfig().SitesOwn()
	usual := again + " with this configuration, or correct the variables of its tables"
	var problems []customers.Problem
	good := check("schema", usual, func(ctx context.Context) (detail string, err error) {
		detail, problems, err = store.CheckSchema(ctx, !c.live())
		var refused *customers.Refusal
		if errors.As(err, &refused) && refused.Code == "PGRST202" && sitesOwn && !webhook {
			return "not run: without STRIPE_WEBHOOK_SECRET and with a table of the site's own nothing needs it", nil
		}
		return detail, err
	})
	if len(problems) > 0 {
		findings, good = findings[:len(findings)-1], false
	}
	for _, p := range problems {
		findings = append(findings, finding{Check: "schema", Problem: p.Table + ": " + p.Problem, Remedy: cmp.Or(p.Remedy, usual)})
	}
	if !good { // the checks below could only repeat it
		return findings
	}
	closed := check("customers table", "correct CUSTOMERS_TABLE and its columns", without(store.CheckTable))
	if anon && closed {
		check("customers table closed", again+": it revokes the rights and turns on row level security", without(func(ctx context.Context) error {
			return store.CheckClosed(ctx, c.SupabaseAnonKey.Secret, sitesOwn)
		}))
	}
	if webhook {
		check("subscriptions and purchases", again, without(func(ctx context.Context) error {
			subscriptions, purchases := billing.Columns()
			return store.CheckColumns(ctx, subscriptions, purchases)
		}))
		check("recording", again, without(store.CheckWrites))
		check("deleted users", again, func(ctx context.Context) (string, error) {
			_, left, err := store.UsersLeft(ctx, 0)
			if left == 0 {
				return "", err
			}
			return fmt.Sprintf("%d of their Customers are left at Stripe, with USER_DELETED=%s", left, c.UserDeleted), err
		})
	}
	return findings
}
