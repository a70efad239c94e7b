package api_test

import (
	"testing"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/pgtest"
)

// database is one of a Supabase project, for this package's own checks.
type database struct {
	*pgtest.Database
	tb testing.TB
}

// postgres returns a new database without the service's tables.
func postgres(tb testing.TB) *database {
	tb.Helper()
	return &database{pgtest.New(tb), tb}
}

// install runs the service's schema.
func (db *database) install() *database {
	db.tb.Helper()
	db.Script(string(api.Schema))
	return db
}
