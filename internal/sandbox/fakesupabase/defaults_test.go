package fakesupabase

import (
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// TestRowsSeen: who sees the rows that the functions of schema.sql write. That
// they write as those do is shown beside the schema.
func TestRowsSeen(t *testing.T) {
	s := New(Options{})
	ann, eve := s.SignUp("ann@example.com", "correct horse"), s.SignUp("eve@example.com", "correct horse")
	service := []string{"apikey", ServiceRoleKey}
	for function, row := range map[string]string{
		"subscription": `"id":"sub_1","stripe_customer_id":"cus_1","status":"active","cancel_at_period_end":false`,
		"purchase":     `"id":"cs_1","line_items":[]`,
	} {
		body := `{"ticket":1,"` + function + `":{"user_id":"` + ann.ID + `","created":"2026-01-02T03:04:05Z",` + row + `}}`
		if got := sandboxtest.Send(t, s, "POST", "/rest/v1/rpc/stripe_write_"+function, body, service...); got.Status != 204 {
			t.Fatalf("write of a %s = %d %s; want 204", function, got.Status, got.Body)
		}
	}
	for _, tt := range []struct {
		method, path, user string
		status             int
		body               string
	}{
		{"GET", "subscriptions?select=id", ann.ID, 200, `[{"id":"sub_1"}]`},
		{"GET", "subscriptions?select=id", eve.ID, 200, `[]`},
		{"GET", "purchases?select=id", eve.ID, 200, `[]`},
		{"GET", "purchases", "", 401, "42501"},
		{"GET", "customers", ann.ID, 403, "42501"},
		{"POST", "purchases", ann.ID, 403, "42501"},
		{"GET", "stripe_deleted_users", ann.ID, 403, "42501"},
		{"POST", "rpc/has_paid", ann.ID, 200, "true"},
		{"POST", "rpc/has_paid", eve.ID, 200, "false"},
		{"POST", "rpc/has_paid", "", 200, "false"},
		{"POST", "rpc/stripe_schema", ann.ID, 403, "42501"},
		{"POST", "rpc/stripe_ticket", ann.ID, 403, "42501"},
		{"POST", "rpc/stripe_write_purchase", "", 401, "42501"},
	} {
		headers := []string{"apikey", AnonKey}
		if tt.user != "" {
			headers = append(headers, "Authorization", "Bearer "+s.SignIn(tt.user).AccessToken)
		}
		if got := sandboxtest.Send(t, s, tt.method, "/rest/v1/"+tt.path, "{}", headers...); got.Status != tt.status || !strings.Contains(got.Body, tt.body) {
			t.Errorf("%s %s = %d %s; want %d %s", tt.method, tt.path, got.Status, got.Body, tt.status, tt.body)
		}
	}
}
