package main

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// checkoutParams are form-encoded parameters of Stripe's call that creates a
// Checkout Session. https://docs.stripe.com/api/checkout/sessions/create
type checkoutParams url.Values

// parameterName is a name as Stripe's: locale, custom_fields[0][key].
var parameterName = regexp.MustCompile(`^[a-z_]+(?:\[[A-Za-z0-9_]*\])*$`)

// managed are the parameters, with all that is nested in them, that the service
// sets itself, and why they cannot be set.
var managed = map[string]string{
	"client_reference_id":   "is the user's ID",
	"mode":                  "comes with each request",
	"line_items":            "comes with each request",
	"success_url":           "comes with each request",
	"cancel_url":            "comes with each request",
	"return_url":            "is for pages of another kind",
	"ui_mode":               "is for pages of another kind",
	"allow_promotion_codes": "is CHECKOUT_PROMOTION_CODES",

	"automatic_tax[enabled]":               "is CHECKOUT_AUTOMATIC_TAX",
	"tax_id_collection[enabled]":           "is CHECKOUT_TAX_ID_COLLECTION",
	"subscription_data[trial_period_days]": "is CHECKOUT_TRIAL_DAYS",
	"subscription_data[trial_end]":         "would contradict CHECKOUT_TRIAL_DAYS",
	"subscription_data[trial_from_plan]":   "would contradict CHECKOUT_TRIAL_DAYS",
	"payment_intent_data[metadata]":        "tells whose the purchase is",
	"subscription_data[metadata]":          "tells whose the subscription is",
}

func (p *checkoutParams) Decode(value string) error {
	values, err := url.ParseQuery(strings.TrimSpace(value))
	if err != nil {
		return errors.New("is not form-encoded: write name=value&name=value, with %26 for a & in a value")
	}
	var mistakes []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := checkParameter(name, len(values[name])); err != nil {
			mistakes = append(mistakes, err)
		}
	}
	*p = checkoutParams(values)
	return errors.Join(mistakes...)
}

func checkParameter(name string, times int) error {
	if !parameterName.MatchString(name) {
		// Not quoted: it can be a secret in the wrong place.
		return errors.New("has something that is not the name of a parameter: write locale=auto&consent_collection[terms_of_service]=required, say")
	}
	if strings.HasPrefix(name, "customer") {
		return fmt.Errorf("may not hold %s: which Customer it is, the service decides", name)
	}
	for prefix := name; prefix != ""; prefix = prefix[:max(strings.LastIndex(prefix, "["), 0)] {
		if reason, ok := managed[prefix]; ok {
			return fmt.Errorf("may not hold %s, which %s", name, reason)
		}
	}
	if slices.Contains(strings.FieldsFunc(name, func(r rune) bool { return r == '[' || r == ']' }), "metadata") {
		return fmt.Errorf("may not hold %s: metadata is how the service knows its own", name)
	}
	switch {
	case name == "payment_intent_data", name == "subscription_data":
		return fmt.Errorf("may not hold %s itself, only what is in it", name)
	case times > 1 && !strings.HasSuffix(name, "[]"):
		return fmt.Errorf("holds %s more than once", name)
	}
	return nil
}

// checkParams finds what is wrong between the variables.
func (c config) checkParams(m mistakes) {
	both, payment, subscription := c.CheckoutParams, c.CheckoutPaymentParams, c.CheckoutSubscriptionParams
	for _, of := range []struct {
		variable string
		params   checkoutParams
		wrong    map[string]string // what only another mode has, and where it belongs
	}{
		{"CHECKOUT_PARAMS", both, map[string]string{"payment_intent_data": "CHECKOUT_PAYMENT_PARAMS", "subscription_data": "CHECKOUT_SUBSCRIPTION_PARAMS"}},
		{"CHECKOUT_PAYMENT_PARAMS", payment, map[string]string{"subscription_data": "CHECKOUT_SUBSCRIPTION_PARAMS"}},
		{"CHECKOUT_SUBSCRIPTION_PARAMS", subscription, map[string]string{"payment_intent_data": "CHECKOUT_PAYMENT_PARAMS"}},
	} {
		for _, name := range slices.Sorted(maps.Keys(of.params)) {
			root, _, _ := strings.Cut(name, "[")
			if right := of.wrong[root]; right != "" {
				m.add(of.variable, fmt.Sprintf("holds %s, which is for one mode only: move it to %s", name, right))
			}
			if root == "discounts" && c.CheckoutPromotionCodes {
				m.add(of.variable, "holds "+name+", which Stripe does not take together with promotion codes: set CHECKOUT_PROMOTION_CODES=false")
			}
			if _, twice := both[name]; twice && of.variable != "CHECKOUT_PARAMS" {
				m.add(of.variable, "holds "+name+", as CHECKOUT_PARAMS does")
			}
		}
	}
}
