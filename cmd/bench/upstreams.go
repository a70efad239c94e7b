package main

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// behaviour is how the upstreams answer.
type behaviour struct {
	latency time.Duration // of Stripe
	tls     bool          // HTTPS with HTTP/2
	hang    bool          // Supabase takes requests and never answers
	faults  bool          // errors, resets and slow answers of both
}

// counts are what the upstreams have seen.
type counts struct {
	StripeConnections   int64 // ever opened
	SupabaseConnections int64
	Sessions            int64 // asked of Stripe
	CustomerReads       int64
	HTTP2               int64 // of Sessions
}

// checkoutSession is what Stripe answers, in the form and size of
// https://docs.stripe.com/api/checkout/sessions/object
const checkoutSession = `{
  "id": "cs_test_a11YYufWQzNY63zpQ6QSNRQhkUpVph4WRmzW0zWJO2znZKdVujZ0N0S22u",
  "object": "checkout.session",
  "after_expiration": null,
  "allow_promotion_codes": true,
  "amount_subtotal": 2198,
  "amount_total": 2198,
  "automatic_tax": {
    "enabled": false,
    "liability": null,
    "status": null
  },
  "billing_address_collection": null,
  "cancel_url": "https://example.com/cancel",
  "client_reference_id": null,
  "consent": null,
  "consent_collection": null,
  "created": 1679600215,
  "currency": "usd",
  "currency_conversion": null,
  "custom_fields": [],
  "custom_text": {
    "after_submit": null,
    "shipping_address": null,
    "submit": null,
    "terms_of_service_acceptance": null
  },
  "customer": null,
  "customer_creation": "if_required",
  "customer_details": null,
  "customer_email": null,
  "expires_at": 1679686615,
  "invoice": null,
  "invoice_creation": {
    "enabled": false,
    "invoice_data": {
      "account_tax_ids": null,
      "custom_fields": null,
      "description": null,
      "footer": null,
      "issuer": null,
      "metadata": {},
      "rendering_options": null
    }
  },
  "livemode": false,
  "locale": null,
  "metadata": {},
  "mode": "subscription",
  "payment_intent": null,
  "payment_link": null,
  "payment_method_collection": "always",
  "payment_method_configuration_details": null,
  "payment_method_options": {
    "card": {
      "request_three_d_secure": "automatic"
    }
  },
  "payment_method_types": [
    "card"
  ],
  "payment_status": "unpaid",
  "phone_number_collection": {
    "enabled": false
  },
  "recovered_from": null,
  "saved_payment_method_options": null,
  "setup_intent": null,
  "shipping_address_collection": null,
  "shipping_cost": null,
  "shipping_details": null,
  "shipping_options": [],
  "status": "open",
  "submit_type": null,
  "subscription": null,
  "success_url": "https://example.com/success?session_id={CHECKOUT_SESSION_ID}",
  "total_details": {
    "amount_discount": 0,
    "amount_shipping": 0,
    "amount_tax": 0
  },
  "ui_mode": "hosted",
  "url": "https://checkout.stripe.com/c/pay/cs_test_a11YYufWQzNY63zpQ6QSNRQhkUpVph4WRmzW0zWJO2znZKdVujZ0N0S22u#fidkdWxOYHwnPyd1blpxYHZxWjA0SDdPUW5JbmFMck1wMmx9N2BLZjFEfGRUNWhqTmJ"
}`

// serveUpstreams imitates Stripe and Supabase until standard input ends, and
// prints its counts then.
func serveUpstreams(b behaviour, key *ecdsa.PublicKey) error {
	var c counts
	stripe := upstream(b, &c.StripeConnections, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		atomic.AddInt64(&c.Sessions, 1)
		if r.ProtoMajor == 2 {
			atomic.AddInt64(&c.HTTP2, 1)
		}
		time.Sleep(b.latency)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Request-Id", "req_8K2mPq4xVn7Lra")
		if b.faults && fault(w, `{"error":{"type":"api_error","message":"Something went wrong at Stripe"}}`) {
			return
		}
		_, _ = io.WriteString(w, checkoutSession)
	})
	defer stripe.Close()
	keys := keySet(key)
	supabase := upstream(b, &c.SupabaseConnections, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if b.hang {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/auth/v1/.well-known/jwks.json" {
			_, _ = w.Write(keys)
			return
		}
		if b.faults && fault(w, `{"code":"unexpected_failure","message":"Something went wrong at Supabase"}`) {
			return
		}
		switch r.URL.Path {
		case "/rest/v1/customers":
			atomic.AddInt64(&c.CustomerReads, 1)
			user := strings.TrimPrefix(r.URL.Query().Get("id"), "eq.")
			_, _ = io.WriteString(w, `[{"stripe_customer_id":"cus_`+user[:8]+`"}]`)
		case "/auth/v1/user":
			// The middle part of the token tells whose it is.
			_, claims, _ := strings.Cut(r.Header.Get("Authorization"), ".")
			claims, _, _ = strings.Cut(claims, ".")
			user, _ := base64.RawURLEncoding.DecodeString(claims)
			_, _ = w.Write(bytes.Replace(user, []byte(`"sub"`), []byte(`"id"`), 1))
		default: // a refresh
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":"refresh_token_not_found","message":"Invalid Refresh Token"}`)
		}
	})
	defer supabase.Close()

	r := ready{Stripe: stripe.URL, Supabase: supabase.URL}
	if b.tls {
		r.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stripe.Certificate().Raw}))
	}
	if err := announce(r); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return json.NewEncoder(os.Stdout).Encode(c)
}

func upstream(b behaviour, connections *int64, answer http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(answer)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			atomic.AddInt64(connections, 1)
		}
	}
	if b.faults {
		// The service may keep idle connections for longer than a soak lasts;
		// only leaked ones are left once this end has closed those, and the ones
		// that net/http has opened in reserve.
		s.Config.IdleTimeout = 2 * time.Second
		s.Config.ReadHeaderTimeout = 2 * time.Second
	}
	if b.tls {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	return s
}

// fault makes one request in ten go wrong and reports whether it has answered.
func fault(w http.ResponseWriter, body string) bool {
	switch rand.IntN(50) {
	case 0, 1:
		w.WriteHeader(http.StatusInternalServerError)
	case 2:
		w.WriteHeader(http.StatusTooManyRequests)
	case 3:
		panic(http.ErrAbortHandler) // the connection ends without an answer
	case 4:
		time.Sleep(300 * time.Millisecond)
		return false
	default:
		return false
	}
	_, _ = io.WriteString(w, body)
	return true
}

// keySet is the public key as Supabase publishes it.
func keySet(key *ecdsa.PublicKey) []byte {
	point, err := key.Bytes() // 4, then x and y, 32 bytes each
	if err != nil {
		panic(err) // it is on the curve: it was just parsed
	}
	encode := base64.RawURLEncoding.EncodeToString
	keys, _ := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": keyID, "x": encode(point[1:33]), "y": encode(point[33:]),
	}}})
	return keys
}
