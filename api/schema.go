package api

import (
	"cmp"
	_ "embed"
	"regexp"
	"strings"
)

// Schema is the SQL that sets up the tables in the site's database; it is safe
// to run again. It is for the names that are the default: see [SchemaFor].
//
//go:embed schema.sql
var Schema []byte

// SchemaConfig is what a site may have otherwise than Schema does; "" and nil
// are for what Schema has. The names are of tables in the schema public and of
// columns, letters, digits and _ only.
type SchemaConfig struct {
	CustomersTable, CustomersUserColumn, CustomersCustomerColumn string
	SubscriptionsTable, PurchasesTable                           string

	TestModeCounts *bool // whether has_paid counts what Stripe's test mode sold; nil: as it was
}

// ownersPart is what a table of the site's own is spared.
var ownersPart = regexp.MustCompile(`(?m)^ *-- customers: begin\n(?s:.*?)^ *-- customers: end\n`)

const testModeCounts = "-- update public.stripe_settings set test_mode_counts = true;"

// SchemaFor returns Schema for a configuration. Where that names a table of
// Customers, or columns of it, it is the site's own table: the SQL checks it, and
// ends with an error that says what to do about it, and never changes it.
func SchemaFor(c SchemaConfig) string {
	table, user, customer := cmp.Or(c.CustomersTable, "customers"), cmp.Or(c.CustomersUserColumn, "id"), cmp.Or(c.CustomersCustomerColumn, "stripe_customer_id")
	schema := string(Schema)
	replace := []string{
		"public.customers", "public." + quoted(table),
		"customers.id", "customers." + quoted(user),
		"customers.stripe_customer_id", "customers." + quoted(customer),
		"user_column constant text := 'id'", "user_column constant text := '" + user + "'",
		"customer_column constant text := 'stripe_customer_id'", "customer_column constant text := '" + customer + "'",
		"public.subscriptions", "public." + quoted(cmp.Or(c.SubscriptionsTable, "subscriptions")),
		"public.purchases", "public." + quoted(cmp.Or(c.PurchasesTable, "purchases")),
	}
	if c.SitesOwn() {
		schema = ownersPart.ReplaceAllString(schema, "")
		replace = append(replace, "sites_own constant boolean := false", "sites_own constant boolean := true")
	}
	if c.TestModeCounts != nil {
		statement := strings.TrimPrefix(testModeCounts, "-- ")
		if !*c.TestModeCounts {
			statement = strings.Replace(statement, "= true", "= false", 1)
		}
		replace = append(replace, testModeCounts, statement)
	}
	return strings.NewReplacer(replace...).Replace(schema)
}

// SitesOwn tells whether the table of Customers is the site's own.
func (c SchemaConfig) SitesOwn() bool {
	return cmp.Or(c.CustomersTable, "customers") != "customers" || cmp.Or(c.CustomersUserColumn, "id") != "id" ||
		cmp.Or(c.CustomersCustomerColumn, "stripe_customer_id") != "stripe_customer_id"
}

// quoted is a name behind a dot, where PostgreSQL takes any word as it is but
// folds it to lower case.
func quoted(name string) string {
	if name == strings.ToLower(name) {
		return name
	}
	return `"` + name + `"`
}
