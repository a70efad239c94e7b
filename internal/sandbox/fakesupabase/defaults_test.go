package fakesupabase

import (
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// TestTickets: the functions of schema.sql, as the service calls them.
func TestTickets(t *testing.T) {
	s := New(Options{})
	ann, eve := s.SignUp("ann@example.com", "correct horse"), s.SignUp("eve@example.com", "correct horse")
	service := []string{"apikey", ServiceRoleKey}
	if a, b := sandboxtest.Send(t, s, "POST", "/rest/v1/rpc/stripe_ticket", "{}", service...), sandboxtest.Send(t, s, "POST", "/rest/v1/rpc/stripe_ticket", "{}", service...); a.Body != "1" || b.Body != "2" {
		t.Errorf("tickets = %s, %s; want 1, 2", a.Body, b.Body)
	}
	write := func(ticket, user, status string) {
		t.Helper()
		got := sandboxtest.Send(t, s, "POST", "/rest/v1/rpc/stripe_write_subscription", `{"ticket":`+ticket+`,"subscription":{"id":"sub_1","user_id":`+user+
			`,"stripe_customer_id":"cus_1","status":"`+status+`","cancel_at_period_end":false,"created":"2026-01-02T03:04:05Z","unknown":1}}`, service...)
		if got.Status != 204 {
			t.Errorf("write = %d %s; want 204", got.Status, got.Body)
		}
	}
	id := `"` + ann.ID + `"`
	for _, tt := range []struct {
		ticket, user, status string
		wantStatus           string
		wantUser             any
	}{
		{"5", `"` + annID + `"`, "active", "active", nil}, // not in auth.users
		{"4", id, "canceled", "active", ann.ID},           // late, but it knows the user
		{"5", "null", "canceled", "active", ann.ID},
		{"6", "null", "past_due", "past_due", ann.ID},
	} {
		write(tt.ticket, tt.user, tt.status)
		if row := s.Rows("subscriptions")[0]; row["status"] != tt.wantStatus || row["user_id"] != tt.wantUser {
			t.Errorf("after ticket %s = %v; want %s of %v", tt.ticket, row, tt.wantStatus, tt.wantUser)
		}
	}
	sandboxtest.Send(t, s, "POST", "/rest/v1/rpc/stripe_write_purchase", `{"ticket":1,"purchase":{"id":"cs_1","line_items":[],"created":"2026-01-02T03:04:05Z","amount_refunded":null}}`, service...)
	if rows := s.Rows("purchases"); len(rows) != 1 || rows[0]["amount_refunded"] != int64(0) || rows[0]["disputed"] != false {
		t.Errorf("purchases = %v; want one with its defaults", rows)
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
