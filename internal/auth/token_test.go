package auth_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/auth"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/upstream"
	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// TestAttacks makes the tokens that testdata/attacks.json describes: a token
// that is honest but for the members of header and claims that are named, null
// removing one. All keys are in the hands of the attacker but the project's.
func TestAttacks(t *testing.T) {
	var attacks []struct {
		Name           string
		Header, Claims map[string]any
		Left           *int64 // seconds until exp; an hour if missing
		Sign, Edit     string
		Want           string
		Asked          int // GET /auth/v1/user, which refuses
		AskedNoSecret  int `json:"asked_without_secret"`
	}
	readJSON(t, "testdata/attacks.json", &attacks)
	var keys recordedKeys
	readJSON(t, "testdata/cookies/keys.json", &keys)
	private, err := jwkset.NewJWKFromRawJSON(keys.Private, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key := private.Key().(*ecdsa.PrivateKey)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	x, err := base64.RawURLEncoding.DecodeString(private.Marshal().X)
	if err != nil {
		t.Fatal(err)
	}
	otherEC, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	otherRSA, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, otherEd, _ := ed25519.GenerateKey(rand.Reader)
	otherJWK, err := jwkset.NewJWKFromKey(&otherEC.PublicKey, jwkset.JWKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signers := map[string]struct {
		method jwt.SigningMethod
		key    any
	}{
		"":             {jwt.SigningMethodES256, key},
		"other ES256":  {jwt.SigningMethodES256, otherEC},
		"RS256":        {jwt.SigningMethodRS256, otherRSA},
		"EdDSA":        {jwt.SigningMethodEdDSA, otherEd},
		"secret":       {jwt.SigningMethodHS256, []byte(keys.Secret)},
		"empty secret": {jwt.SigningMethodHS256, []byte{}},
		"public PEM":   {jwt.SigningMethodHS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})},
		"public DER":   {jwt.SigningMethodHS256, der},
		"public x":     {jwt.SigningMethodHS256, x},
		"nothing":      {jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType},
	}
	segment := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	alter := func(m, by map[string]any) map[string]any {
		for k, v := range by {
			if m[k] = v; v == nil {
				delete(m, k)
			}
		}
		return m
	}
	const userID = "8cd2e9d1-4a43-4a37-a96d-620447495c12"
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	edits := map[string]func(header, claims, signature string) string{
		"":               func(h, c, s string) string { return h + "." + c + "." + s },
		"cut":            func(h, c, s string) string { return h + "." + c + "." + s[:len(s)-3] },
		"no signature":   func(h, c, s string) string { return h + "." + c + "." },
		"two parts":      func(h, c, s string) string { return h + "." + c },
		"dot behind":     func(h, c, s string) string { return h + "." + c + "." + s + "." },
		"dot in front":   func(h, c, s string) string { return "." + h + "." + c + "." + s },
		"five parts":     func(h, c, s string) string { return h + "." + c + "." + s + "." + c + "." + s },
		"flip":           func(h, c, s string) string { return h + "." + strings.Replace(c, "J", "K", 1) + "." + s },
		"zero signature": func(h, c, s string) string { return h + "." + c + "." + strings.Repeat("A", len(s)) },
		"line break":     func(h, c, s string) string { return h + "." + c + "." + s[:9] + "\n" + s[9:] },
		"empty":          func(h, c, s string) string { return "" },
		"long":           func(h, c, s string) string { return h + "." + c + strings.Repeat("A", 64<<10) + "." + s },
		"swap claims": func(h, c, s string) string {
			return h + "." + segment(map[string]any{"sub": userID, "aud": "authenticated", "exp": now.Unix() + 9999}) + "." + s
		},
	}
	for _, secret := range []string{"", keys.Secret} {
		asked := 0
		a := newAuth(t, auth.Config{
			URL: "http://127.0.0.1:54321", AnonKey: upstream.NewSecret("anon"), JWTSecret: upstream.NewSecret(secret), CookieName: cookieName,
			Now: func() time.Time { return now },
			Network: through(direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case keysPath:
					_, _ = w.Write(keys.Public)
				case userPath:
					asked++
					w.WriteHeader(http.StatusForbidden)
					_, _ = w.Write([]byte(`{"code":403,"error_code":"bad_jwt","msg":"invalid JWT"}`))
				default:
					t.Errorf("asked for %s; want the key set and the user only", r.URL.Path)
				}
			})}),
		})
		for _, tc := range attacks {
			left := int64(3600)
			if tc.Left != nil {
				left = *tc.Left
			}
			header := alter(map[string]any{"alg": "ES256", "typ": "JWT", "kid": private.Marshal().KID}, tc.Header)
			if header["jwk"] == "other" {
				header["jwk"] = otherJWK.Marshal()
			}
			claims := alter(map[string]any{
				"sub": userID, "aud": "authenticated", "exp": now.Unix() + left, "email": "zoe@example.com",
				"role": "authenticated", "iss": "http://127.0.0.1:54321/auth/v1",
			}, tc.Claims)
			h, c := segment(header), segment(claims)
			signer := signers[tc.Sign]
			if signer.method == nil || edits[tc.Edit] == nil {
				t.Fatalf("%s: no signer %q or edit %q", tc.Name, tc.Sign, tc.Edit)
			}
			signature, err := signer.method.Sign(h+"."+c, signer.key)
			if err != nil {
				t.Fatal(err)
			}
			token := edits[tc.Edit](h, c, base64.RawURLEncoding.EncodeToString(signature))

			want, wantAsked := tc.Want, tc.Asked
			if want == "user" {
				want = userID
			}
			if secret == "" && tc.AskedNoSecret > 0 {
				want, wantAsked = "guest", tc.AskedNoSecret
			}
			for _, headers := range [][]string{bearer(token), {"Cookie", "sb-access-token=" + token}} {
				asked = 0
				got, want := ask(a, "/", headers...), want
				if headers[0] == "Cookie" && tc.Edit == "long" {
					want = "too large"
				}
				if got.who != want || asked != wantAsked {
					t.Errorf("%s, %s, secret %v: CurrentUser = %s (%v), asked %d times; want %s, %d",
						tc.Name, headers[0], secret != "", got.who, got.err, asked, want, wantAsked)
				}
			}
		}
	}
}

func TestKinds(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256", "EdDSA"} {
		p := newProject(t, fakesupabase.Options{}, "")
		p.UseKey(alg)
		session := p.SignIn(p.user.ID)
		if got := ask(p.auth, "/", bearer(session.AccessToken)...); got.who != p.user.ID || got.email != p.user.Email {
			t.Errorf("%s: CurrentUser = %s, %s (%v); want %s, %s", alg, got.who, got.email, got.err, p.user.ID, p.user.Email)
		}
		if got, want := p.calls(), [3]int{0, 0, 1}; got != want {
			t.Errorf("%s: calls for user, token, keys = %v; want %v", alg, got, want)
		}
	}
}

func TestLegacySecret(t *testing.T) {
	const secret = "super-secret-jwt-token-with-at-least-32-characters-long"
	for _, tc := range []struct {
		name, secret string
		want         [3]int // calls for user, token, keys
	}{
		{"known here", secret, [3]int{}},
		{"not known here", "", [3]int{1, 0, 0}},
		{"an old one here", "an-old-secret-of-more-than-thirty-two-characters", [3]int{1, 0, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t, fakesupabase.Options{JWTSecret: secret}, tc.secret)
			session := p.SignIn(p.user.ID)
			if got := ask(p.auth, "/", "Cookie", ssr(session.JSON)); got.who != p.user.ID || got.email != p.user.Email {
				t.Errorf("CurrentUser = %s, %s (%v); want %s", got.who, got.email, got.err, p.user.ID)
			}
			if got := p.calls(); got != tc.want {
				t.Errorf("calls for user, token, keys = %v; want %v", got, tc.want)
			}
		})
	}
}
