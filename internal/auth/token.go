package auth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// errInvalid says that the signature is not what the header says it is.
var errInvalid = errors.New("invalid token")

// token is an access token whose claims hold but whose signature and expiry
// are not checked yet. https://supabase.com/docs/guides/auth/jwt-fields
type token struct {
	raw       string
	alg, kid  string
	signed    string // the part of raw that the signature is for
	signature []byte
	userID    string
	email     string
	expires   time.Time
	clientID  string // of the application that the user let in by OAuth, "" for the site's own
	assurance string // aal1 or aal2
}

// parser decodes segments only: its own parsing of the rest takes an exp that
// is a string or overflows, and twice as many allocations.
var parser = jwt.NewParser()

// parseToken checks all that needs neither a key nor a clock. It returns nil
// for a token that is plainly invalid.
func parseToken(raw string) *token {
	head, rest, _ := strings.Cut(raw, ".")
	body, signature, ok := strings.Cut(rest, ".")
	// base64 skips line breaks, which no header could carry on to Supabase.
	if !ok || strings.Contains(signature, ".") || strings.ContainsAny(raw, "\r\n") || len(raw) > maxCookies {
		return nil
	}
	var header struct {
		Algorithm string          `json:"alg"`
		KeyID     string          `json:"kid"`
		Critical  json.RawMessage `json:"crit"` // extensions, all unknown here
	}
	var claims struct {
		Subject  string   `json:"sub"`
		Audience audience `json:"aud"`
		Expires  float64  `json:"exp"`
		Email    string   `json:"email"`
		ClientID string   `json:"client_id"`
		AAL      string   `json:"aal"`
	}
	sum, err := parser.DecodeSegment(signature)
	if err != nil || !decodeSegment(head, &header) || !decodeSegment(body, &claims) || header.Critical != nil {
		return nil
	}
	if uuid.Validate(claims.Subject) != nil || len(claims.Subject) != 36 || !claims.Audience ||
		claims.Expires <= 0 || claims.Expires >= 1<<40 {
		return nil
	}
	return &token{
		raw: raw, alg: header.Algorithm, kid: header.KeyID, signed: raw[:len(head)+1+len(body)], signature: sum,
		userID: strings.ToLower(claims.Subject), email: claims.Email, expires: time.Unix(int64(claims.Expires), 0),
		clientID: claims.ClientID, assurance: claims.AAL,
	}
}

func decodeSegment(segment string, into any) bool {
	b, err := parser.DecodeSegment(segment)
	return err == nil && json.Unmarshal(b, into) == nil
}

// audience tells whether aud, a string or a list of them, has authenticated.
type audience bool

func (a *audience) UnmarshalJSON(b []byte) error {
	if *a = string(b) == `"authenticated"`; *a || b[0] != '[' {
		return nil
	}
	var list []string
	err := json.Unmarshal(b, &list)
	*a = audience(slices.Contains(list, "authenticated"))
	return err
}

// checkSignature returns nil, errInvalid, errNoKey if no local key can tell,
// or an error that wraps ErrUnavailable. The algorithms are listed here and
// each has its own type of key, so that none passes for another.
func (a *Authenticator) checkSignature(ctx context.Context, t *token) error {
	switch t.alg {
	case "HS256":
		secret := a.config.JWTSecret.Reveal()
		switch {
		case secret == "": // a project with newer keys still accepts its legacy secret
		case t.signedWith([]byte(secret)):
			return nil
		default:
			a.warnOfSecret()
		}
		return errNoKey
	case "ES256", "RS256", "EdDSA":
		key, err := a.keys.find(ctx, t.kid, t.alg)
		if err == nil && !t.signedWith(key) {
			err = errInvalid
		}
		return err
	}
	return errInvalid
}

func (t *token) signedWith(key any) bool {
	return jwt.GetSigningMethod(t.alg).Verify(t.signed, t.signature, key) == nil
}

// forged tells whether a key at hand disproves the signature.
func (a *Authenticator) forged(t *token) bool {
	if t.kid == "" || t.alg == "HS256" {
		return false
	}
	key, err := a.keys.known(t.kid, t.alg)
	return errors.Is(err, errInvalid) || err == nil && !t.signedWith(key)
}

// warnOfSecret says, once an hour, that SUPABASE_JWT_SECRET may be an old one.
// Anybody can send a token that does not fit.
func (a *Authenticator) warnOfSecret() {
	now, last := a.config.Now().Unix(), a.warned.Load()
	if now-last >= 3600 && a.warned.CompareAndSwap(last, now) {
		a.config.Logger.Warn("an HS256 token does not fit SUPABASE_JWT_SECRET, so Supabase Auth was asked: if users can sign in but each request asks, take the secret anew from the project's settings")
	}
}

// bearer returns the token of the Authorization header and whether it has the
// scheme Bearer; other schemes are somebody else's.
func bearer(h http.Header) (string, bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(h.Get("Authorization")), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}
