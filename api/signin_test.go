package api_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestRequireSignIn: which purchases want a signed-in user, whoever says to be one.
func TestRequireSignIn(t *testing.T) {
	t.Parallel()
	const subscription, payment = "subscription", "payment"
	tests := []struct {
		name  string
		modes []string
		pro   int // the status of a guest's subscription,
		once  int // and of a guest's payment
	}{
		{"none", nil, 200, 200},
		{"subscription", []string{subscription}, 401, 200},
		{"all", []string{payment, subscription}, 401, 401},
	}
	for _, test := range tests {
		w := start(t, func(s *settings) { s.api.SignInModes = test.modes })
		u, session := w.signUp("ada@example.com")
		// One whose session ended after its token was made: found out when the
		// database refuses the row of a user whom Supabase Auth does not know.
		gone, old := w.signUp("eve@example.com")
		w.supabase.DeleteUser(gone.ID)
		w.supabase.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			refused := r.Method == "POST" && strings.Contains(string(body), gone.ID)
			if refused {
				rw.WriteHeader(http.StatusConflict)
				_, _ = io.WriteString(rw, `{"code":"23503","message":"violates foreign key constraint"}`)
			}
			return refused
		})
		for body, want := range map[string]int{buyPro: test.pro, buyOnce: test.once} {
			for who, headers := range map[string][]string{"guest": nil, "garbage": bearer("x"), "deleted": old} {
				got := w.checkout(body, headers...)
				if got.status != want || want == 401 && got.body != `{"error":"Not signed in"}`+"\n" {
					t.Errorf("%s, %s: create-checkout %s = %d %s; want %d", test.name, who, body, got.status, got.body, want)
				}
			}
			got := w.checkout(body, session...)
			if sold := w.stripe.CheckoutSessions(); got.status != 200 || sold[len(sold)-1].ClientReferenceID != u.ID {
				t.Errorf("%s, signed in: create-checkout %s = %d %s; want 200, for the user", test.name, body, got.status, got.body)
			}
		}
		if got := w.checkout(`{}`); got.status != 400 {
			t.Errorf("%s: create-checkout without fields = %d; want 400, before anybody is asked", test.name, got.status)
		}
	}
}
