package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"8space.app/stripe-sidecar/api"
)

// schemaVariables are what the SQL depends on.
var schemaVariables = []string{"CUSTOMERS_TABLE", "CUSTOMERS_USER_COLUMN", "CUSTOMERS_CUSTOMER_COLUMN",
	"SUBSCRIPTIONS_TABLE", "PURCHASES_TABLE", "STRIPE_SECRET_KEY"}

// schema prints the SQL for this configuration. Nothing else of it has to be
// right or there at all; without a key, the mode is left as it is.
func schema(_ context.Context, in invocation) error {
	c, err := loadConfig()
	if err := about(err, false, schemaVariables...); err != nil {
		return err
	}
	settings := c.schemaConfig()
	if c.StripeSecretKey.Reveal() != "" {
		test := !c.live()
		settings.TestModeCounts = &test
	}
	_, err = io.WriteString(in.stdout, api.SchemaFor(settings))
	return err
}

func (c config) schemaConfig() api.SchemaConfig {
	return api.SchemaConfig{
		CustomersTable:          string(c.CustomersTable),
		CustomersUserColumn:     string(c.CustomersUserColumn),
		CustomersCustomerColumn: string(c.CustomersCustomerColumn),
		SubscriptionsTable:      string(c.SubscriptionsTable),
		PurchasesTable:          string(c.PurchasesTable),
	}
}

// about returns what of loadConfig's error is about these variables, nil for nothing;
// that one is not set is a mistake only where it is needed.
func about(err error, needed bool, names ...string) error {
	all, relevant := mistakes{}, mistakes{}
	if err != nil && !errors.As(err, &all) {
		return err
	}
	for _, name := range names {
		for _, text := range all[name] {
			if needed || !strings.HasPrefix(text, "is not set") {
				relevant.add(name, text)
			}
		}
	}
	if len(relevant) > 0 {
		return relevant
	}
	return nil
}
