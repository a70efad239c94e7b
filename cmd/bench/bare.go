package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// bare is what the service is compared with: the least that can give the same
// answer, without SDKs, checks, logs or deadlines.
type bare struct {
	stripe, supabase string // URLs
	key              *ecdsa.PublicKey
	signedIn         bool
	client           *http.Client
}

// serveBare listens until standard input ends.
func serveBare(b *bare) error {
	b.client = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4096}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+checkoutPath, b)
	server := &http.Server{Handler: mux}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if err := announce(ready{Addr: listener.Addr().String()}); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (b *bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	url, err := b.checkout(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"url": url})
}

func (b *bare) checkout(r *http.Request) (string, error) {
	var body struct{ PriceID, Mode, SuccessURL, CancelURL string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return "", err
	}
	userID, customerID := "", ""
	if b.signedIn {
		var err error
		if userID, err = b.user(r); err != nil {
			return "", err
		}
		if customerID, err = b.customer(r.Context(), userID); err != nil {
			return "", err
		}
	}
	form := stripeForm(body.PriceID, body.Mode, body.SuccessURL, body.CancelURL, userID, customerID)
	var session struct{ URL string }
	err := b.call(r.Context(), "POST", b.stripe+stripePath, form, &session)
	return session.URL, err
}

// user verifies the access token in the session's cookie.
func (b *bare) user(r *http.Request) (string, error) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return "", err
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(cookie.Value, "base64-"))
	if err != nil {
		return "", err
	}
	var session struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &session); err != nil {
		return "", err
	}
	var claims jwt.RegisteredClaims
	_, err = jwt.ParseWithClaims(session.AccessToken, &claims, func(*jwt.Token) (any, error) { return b.key, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience("authenticated"), jwt.WithExpirationRequired())
	return claims.Subject, err
}

func (b *bare) customer(ctx context.Context, userID string) (string, error) {
	var rows []struct {
		ID string `json:"stripe_customer_id"`
	}
	err := b.call(ctx, "GET", b.supabase+"/rest/v1/customers?select=stripe_customer_id&id=eq."+userID, "", &rows)
	if err != nil || len(rows) != 1 {
		return "", fmt.Errorf("%d rows: %w", len(rows), err)
	}
	return rows[0].ID, nil
}

func (b *bare) call(ctx context.Context, method, url, form string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(form)))
	if err != nil {
		return err
	}
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header.Set("Authorization", "Bearer "+stripeKey)
	resp, err := b.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	return json.Unmarshal(body, answer)
}

// stripeForm is the call that the service makes.
func stripeForm(priceID, mode, successURL, cancelURL, userID, customerID string) string {
	form := url.Values{
		"mode": {mode}, "success_url": {successURL}, "cancel_url": {cancelURL}, "allow_promotion_codes": {"true"},
		"line_items[0][price]": {priceID}, "line_items[0][quantity]": {"1"},
	}
	if customerID != "" {
		form.Set("customer", customerID)
		form.Set("client_reference_id", userID)
		form.Set("metadata[supabase_user_id]", userID)
		form.Set("subscription_data[metadata][supabase_user_id]", userID)
	}
	return form.Encode()
}
