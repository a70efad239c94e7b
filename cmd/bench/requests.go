package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

const (
	checkoutPath = "/api/stripe/create-checkout"
	portalPath   = "/api/stripe/create-portal"
	stripePath   = "/v1/checkout/sessions"
	cookieName   = "sb-bench-auth-token"
	stripeKey    = "sk_test_bench_not_a_real_key"
	keyID        = "b9d7a0f4-3c35-4b7c-8b07-9d3a6c1f5e20"

	priceID    = "price_1MotwRLkdIwHu7ixYcPLm5uZ"
	successURL = "https://example.com/success?session_id={CHECKOUT_SESSION_ID}"
	cancelURL  = "https://example.com/cancel"

	checkoutBody = `{"priceId":"` + priceID + `","mode":"subscription","successUrl":"` + successURL + `","cancelUrl":"` + cancelURL + `"}`
	portalBody   = `{"returnUrl":"https://example.com/account"}`
)

// post returns the nth request as a browser behind a proxy would send it. Each
// comes from an address of its own, or most would be over the limit.
func post(n int64, path, headers, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"+
		"Accept: */*\r\nOrigin: https://example.com\r\nSec-Fetch-Site: same-origin\r\nX-Forwarded-For: 20.%d.%d.%d\r\n%s"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, byte(n>>16), byte(n>>8), byte(n), headers, len(body), body)
}

func guestCheckout(n int64) []byte { return post(n, checkoutPath, "", checkoutBody) }

// stripeCall is the call that a guest's checkout ends in, without a service in
// between.
var stripeCall = func() []byte {
	form := stripeForm(priceID, "subscription", successURL, cancelURL, "", "")
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: api.stripe.com\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", stripePath, stripeKey, len(form), form)
}()

// users are signed in, each with a session of their own.
type users struct {
	publicKey string // PKIX, DER, base64
	cookies   []string
	ending    []string // those of sessions that are about to be refreshed
}

// There are more users than requests in one measurement, so that nothing that
// was verified for one request could serve another.
const (
	signedInUsers = 20000
	endingUsers   = 1000
)

func newUsers() (*users, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	u := &users{
		publicKey: base64.StdEncoding.EncodeToString(der),
		cookies:   make([]string, signedInUsers),
		ending:    make([]string, endingUsers),
	}
	now := time.Now()
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < signedInUsers; i += workers {
				u.cookies[i] = sessionCookie(key, now, time.Hour)
			}
			for i := worker; i < endingUsers; i += workers {
				u.ending[i] = sessionCookie(key, now, 80*time.Second)
			}
		})
	}
	wg.Wait()
	return u, nil
}

func (u *users) cookie(n int64) string { return u.cookies[n%signedInUsers] }

// sessionCookie is the header of a user whom nobody has seen before, as
// @supabase/ssr writes it. https://supabase.com/docs/guides/auth/jwt-fields
func sessionCookie(key *ecdsa.PrivateKey, now time.Time, left time.Duration) string {
	id := uuid.NewString()
	email := id[:8] + "@example.com"
	expires := now.Add(left).Unix()
	apps := map[string]any{"provider": "email", "providers": []string{"email"}}
	names := map[string]any{"email": email, "email_verified": true, "full_name": "Ada Lovelace", "phone_verified": false, "sub": id}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": "https://bench.supabase.co/auth/v1", "sub": id, "aud": "authenticated", "exp": expires, "iat": now.Unix(),
		"email": email, "phone": "", "app_metadata": apps, "user_metadata": names, "role": "authenticated", "aal": "aal1",
		"amr": []map[string]any{{"method": "password", "timestamp": now.Unix()}}, "session_id": uuid.NewString(), "is_anonymous": false,
	})
	t.Header["kid"] = keyID
	access, err := t.SignedString(key)
	if err != nil {
		panic(err) // the key is of the method's own type
	}
	session, _ := json.Marshal(map[string]any{
		"access_token": access, "token_type": "bearer", "expires_in": 3600, "expires_at": expires, "refresh_token": id[:12],
		"user": map[string]any{"id": id, "aud": "authenticated", "role": "authenticated", "email": email, "phone": "",
			"app_metadata": apps, "user_metadata": names, "created_at": now, "updated_at": now, "is_anonymous": false},
	})
	return "Cookie: " + cookieName + "=base64-" + base64.RawURLEncoding.EncodeToString(session) + "\r\n"
}
