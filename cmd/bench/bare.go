package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// bare is what the service is compared with: the least that can give the same
// answer, without SDKs, checks, logs or deadlines.
type bare struct {
	stripe, supabase string // URLs
	key              *ecdsa.PublicKey
	client           *http.Client
}

func serveBare(stripe, supabase string) error {
	b := &bare{stripe: stripe, supabase: supabase,
		client: &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4096}}}
	var set jwkset.JWKSMarshal
	if err := b.call(context.Background(), "GET", supabase+"/auth/v1/.well-known/jwks.json", "", &set); err != nil {
		return err
	}
	jwk, err := jwkset.NewJWKFromMarshal(set.Keys[0], jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return err
	}
	b.key = jwk.Key().(*ecdsa.PublicKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+checkoutPath, b)
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("listening", "addr", listener.Addr().String())
	return http.Serve(listener, mux)
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
	form := url.Values{ // as the service sends it
		"mode": {body.Mode}, "success_url": {body.SuccessURL}, "cancel_url": {body.CancelURL}, "allow_promotion_codes": {"true"},
		"line_items[0][price]": {body.PriceID}, "line_items[0][quantity]": {"1"},
	}
	if cookie, err := r.Cookie(cookieName); err == nil {
		userID, err := b.user(cookie.Value)
		if err != nil {
			return "", err
		}
		var rows [1]struct {
			ID string `json:"stripe_customer_id"`
		}
		if err := b.call(r.Context(), "GET", b.supabase+"/rest/v1/customers?select=stripe_customer_id&id=eq."+userID, "", &rows); err != nil {
			return "", err
		}
		form.Set("customer", rows[0].ID)
		form.Set("client_reference_id", userID)
		form.Set("metadata[supabase_user_id]", userID)
		form.Set("subscription_data[metadata][supabase_user_id]", userID)
	}
	var session struct{ URL string }
	err := b.call(r.Context(), "POST", b.stripe+stripePath, form.Encode(), &session)
	return session.URL, err
}

// user verifies the access token in the session's cookie.
func (b *bare) user(cookie string) (string, error) {
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(cookie, "base64-"))
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

func (b *bare) call(ctx context.Context, method, url, form string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(form))
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
