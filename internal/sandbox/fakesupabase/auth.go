package fakesupabase

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// reuseInterval is how long a refresh token that was used may be used again.
// https://supabase.com/docs/guides/auth/sessions
const reuseInterval = 10 * time.Second

// User is a user of the project. ID is a UUID.
type User struct{ ID, Email string }

// Session is what a sign-in gives. JSON is the body of GoTrue's token endpoint.
type Session struct {
	AccessToken, RefreshToken string
	ExpiresAt                 time.Time // whole seconds, as in the token
	JSON                      []byte
}

type user struct {
	User
	identityID          string
	salt                string
	password            [32]byte
	metadata            map[string]any
	created, lastSignIn time.Time
	banned              bool
}

type session struct {
	id, userID string
	signedIn   time.Time
	tokens     []*refreshToken // oldest first
}

type refreshToken struct {
	token, parent string
	session       *session
	revoked       bool
	updated       time.Time
}

type signingKey struct {
	kid, alg string
	private  crypto.Signer
}

func newSigningKey(alg string) signingKey {
	k := signingKey{kid: uuid.NewString(), alg: alg}
	var err error
	switch alg {
	case "ES256":
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "EdDSA":
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = errors.New("fakesupabase: no signing key of kind " + alg)
	}
	if err != nil {
		panic(err)
	}
	return k
}

// jwk is the public half as RFC 7517 and 8037 write it.
func (k signingKey) jwk() map[string]any {
	encode := base64.RawURLEncoding.EncodeToString
	m := map[string]any{"kid": k.kid, "alg": k.alg, "use": "sig", "key_ops": []string{"verify"}}
	switch pub := k.private.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		m["kty"], m["crv"], m["x"], m["y"] = "EC", "P-256", encode(point[1:33]), encode(point[33:])
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", encode(pub.N.Bytes()), encode(big.NewInt(int64(pub.E)).Bytes())
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", encode(pub)
	}
	return m
}

// UseKey signs from now on with a fresh key of this kind, ES256, RS256 or
// EdDSA, published beside the others. A project made with a JWTSecret goes on
// to accept what that secret has signed.
func (s *Project) UseKey(alg string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, newSigningKey(alg))
}

// RotateKey signs from now on with a fresh key of the present kind; the others
// leave the key set, so what they signed is worth nothing. It panics on a
// project that signs with HS256.
func (s *Project) RotateKey() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) == 0 {
		panic("fakesupabase: a project with a JWTSecret has no key to rotate")
	}
	s.keys = []signingKey{newSigningKey(s.keys[len(s.keys)-1].alg)}
}

// KeySet returns the JSON Web Key Set as it is published.
func (s *Project) KeySet() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := map[string][]any{"keys": {}}
	for _, k := range s.keys {
		set["keys"] = append(set["keys"], k.jwk())
	}
	body, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return body
}

// Sign returns an access token with exactly these claims, signed with the
// present key.
func (s *Project) Sign(claims map[string]any) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sign(claims)
}

func (s *Project) sign(claims map[string]any) string {
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(claims))
	var key any = []byte(s.secret)
	if len(s.keys) > 0 {
		k := s.keys[len(s.keys)-1]
		token = jwt.NewWithClaims(jwt.GetSigningMethod(k.alg), jwt.MapClaims(claims))
		token.Header["kid"] = k.kid
		key = k.private
	}
	signed, err := token.SignedString(key)
	if err != nil {
		panic(err)
	}
	return signed
}

// verify checks signature and exp, as GoTrue and PostgREST do; neither looks
// at aud or iss.
func (s *Project) verify(token string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(jwt.WithTimeFunc(s.now)).ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		for _, k := range s.keys {
			if t.Header["kid"] == k.kid && t.Method.Alg() == k.alg {
				return k.private.Public(), nil
			}
		}
		if t.Method.Alg() == "HS256" && s.secret != "" {
			return []byte(s.secret), nil
		}
		return nil, fmt.Errorf("unrecognized JWT kid %v for algorithm %v", t.Header["kid"], t.Method.Alg())
	})
	return claims, err
}

// SignUp adds a user. It panics if GoTrue would refuse: there is one with this
// e-mail address, or the password is shorter than six characters.
func (s *Project) SignUp(email, password string) User {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, err := s.signUp(email, password, nil)
	if err != nil {
		panic("fakesupabase: " + email + ": " + err.msg)
	}
	return u.User
}

func (s *Project) signUp(email, password string, metadata map[string]any) (*user, *authError) {
	email = strings.ToLower(strings.TrimSpace(email))
	if name, host, ok := strings.Cut(email, "@"); !ok || name == "" || host == "" || strings.ContainsAny(email, " \t\n") {
		return nil, &authError{status: 400, code: "validation_failed", msg: "Unable to validate email address: invalid format"}
	}
	if s.userByEmail(email) != nil {
		return nil, &authError{status: 422, code: "user_already_exists", msg: "User already registered"}
	}
	if len(password) < 6 {
		return nil, &authError{status: 422, code: "weak_password", msg: "Password should be at least 6 characters.", weak: []string{"length"}}
	}
	u := &user{User: User{ID: uuid.NewString(), Email: email}, identityID: uuid.NewString(), salt: rand.Text(), metadata: metadata}
	u.password = u.hash(password)
	u.created = s.now()
	u.lastSignIn = u.created
	s.users[u.ID] = u
	return u, nil
}

// hash is quick on purpose: these are no one's real passwords.
func (u *user) hash(password string) [32]byte { return sha256.Sum256([]byte(u.salt + password)) }

func (s *Project) userByEmail(email string) *user {
	for _, u := range s.users {
		if u.Email == email {
			return u
		}
	}
	return nil
}

// SignIn starts a session. It panics if there is no such user.
func (s *Project) SignIn(userID string) Session { return s.SignInFor(userID, s.ttl) }

// SignInFor starts a session whose first access token lives for ttl; a
// negative ttl makes one that has expired. It panics if there is no such user.
func (s *Project) SignInFor(userID string, ttl time.Duration) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startSession(s.mustUser(userID), ttl)
}

// Claims returns the claims that SignIn would sign, with a session of their
// own. They are the caller's to alter. It panics if there is no such user.
func (s *Project) Claims(userID string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.mustUser(userID)
	return s.claims(u, s.newSession(u), s.now().Add(s.ttl))
}

func (s *Project) mustUser(id string) *user {
	if u := s.users[id]; u != nil {
		return u
	}
	panic("fakesupabase: no user " + id)
}

// SignOut ends all sessions of the user: their access tokens then give
// session_not_found, their refresh tokens refresh_token_not_found.
func (s *Project) SignOut(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endSessions(func(e *session) bool { return e.userID == userID })
}

// Ban has the user's tokens refused with user_banned. Sessions stay.
func (s *Project) Ban(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustUser(userID).banned = true
}

// DeleteUser removes the user and the sessions, and does to the default tables what
// the triggers and foreign keys of schema.sql do; rows of others stay.
func (s *Project) DeleteUser(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, userID)
	if s.tables["stripe_deleted_users"] != nil {
		s.rememberUser(userID)
	}
	s.endSessions(func(e *session) bool { return e.userID == userID })
}

func (s *Project) endSessions(which func(*session) bool) {
	maps.DeleteFunc(s.refreshTokens, func(_ string, t *refreshToken) bool { return which(t.session) })
	maps.DeleteFunc(s.sessions, func(_ string, e *session) bool { return which(e) })
}

func (s *Project) newSession(u *user) *session {
	e := &session{id: uuid.NewString(), userID: u.ID, signedIn: s.now()}
	s.sessions[e.id] = e
	u.lastSignIn = e.signedIn
	return e
}

func (s *Project) newRefreshToken(e *session, parent string) *refreshToken {
	t := &refreshToken{token: randomText(12), parent: parent, session: e, updated: s.now()}
	e.tokens = append(e.tokens, t)
	s.refreshTokens[t.token] = t
	return t
}

func (s *Project) startSession(u *user, ttl time.Duration) Session {
	e := s.newSession(u)
	return s.issue(u, e, s.newRefreshToken(e, ""), ttl)
}

func (s *Project) issue(u *user, e *session, t *refreshToken, ttl time.Duration) Session {
	expires := s.now().Add(ttl).Truncate(time.Second)
	out := Session{AccessToken: s.sign(s.claims(u, e, expires)), RefreshToken: t.token, ExpiresAt: expires}
	body, err := json.Marshal(struct {
		AccessToken  string   `json:"access_token"`
		TokenType    string   `json:"token_type"`
		ExpiresIn    int      `json:"expires_in"`
		ExpiresAt    int64    `json:"expires_at"`
		RefreshToken string   `json:"refresh_token"`
		User         userJSON `json:"user"`
	}{out.AccessToken, "bearer", int(ttl.Seconds()), expires.Unix(), t.token, u.json()})
	if err != nil {
		panic(err)
	}
	out.JSON = body
	return out
}

// claims are those of https://supabase.com/docs/guides/auth/jwt-fields.
func (s *Project) claims(u *user, e *session, expires time.Time) map[string]any {
	issued := s.now()
	if !expires.After(issued) {
		issued = expires.Add(-s.ttl)
	}
	return map[string]any{
		"iss": s.issuer, "sub": u.ID, "aud": "authenticated",
		"exp": expires.Unix(), "iat": issued.Unix(),
		"email": u.Email, "phone": "",
		"app_metadata":  appMetadata(),
		"user_metadata": u.userMetadata(),
		"role":          "authenticated",
		"aal":           "aal1",
		"amr":           []map[string]any{{"method": "password", "timestamp": e.signedIn.Unix()}},
		"session_id":    e.id,
		"is_anonymous":  false,
	}
}

func appMetadata() map[string]any {
	return map[string]any{"provider": "email", "providers": []string{"email"}}
}

func (u *user) userMetadata() map[string]any {
	m := map[string]any{"email": u.Email, "email_verified": true, "phone_verified": false, "sub": u.ID}
	maps.Copy(m, u.metadata)
	return m
}

type userJSON struct {
	ID               string         `json:"id"`
	Aud              string         `json:"aud"`
	Role             string         `json:"role"`
	Email            string         `json:"email"`
	EmailConfirmedAt time.Time      `json:"email_confirmed_at"`
	Phone            string         `json:"phone"`
	ConfirmedAt      time.Time      `json:"confirmed_at"`
	LastSignInAt     time.Time      `json:"last_sign_in_at"`
	AppMetadata      map[string]any `json:"app_metadata"`
	UserMetadata     map[string]any `json:"user_metadata"`
	Identities       []identityJSON `json:"identities"`
	CreatedAt        time.Time      `json:"created_at"`
	UpdatedAt        time.Time      `json:"updated_at"`
	IsAnonymous      bool           `json:"is_anonymous"`
}

type identityJSON struct {
	IdentityID   string         `json:"identity_id"`
	ID           string         `json:"id"`
	UserID       string         `json:"user_id"`
	IdentityData map[string]any `json:"identity_data"`
	Provider     string         `json:"provider"`
	LastSignInAt time.Time      `json:"last_sign_in_at"`
	CreatedAt    time.Time      `json:"created_at"`
	UpdatedAt    time.Time      `json:"updated_at"`
	Email        string         `json:"email"`
}

func (u *user) json() userJSON {
	created, signedIn := u.created.UTC().Truncate(time.Microsecond), u.lastSignIn.UTC().Truncate(time.Microsecond)
	return userJSON{
		ID: u.ID, Aud: "authenticated", Role: "authenticated", Email: u.Email,
		EmailConfirmedAt: created, ConfirmedAt: created, LastSignInAt: signedIn,
		AppMetadata: appMetadata(), UserMetadata: u.userMetadata(),
		Identities: []identityJSON{{
			IdentityID: u.identityID, ID: u.ID, UserID: u.ID,
			IdentityData: map[string]any{"email": u.Email, "email_verified": false, "phone_verified": false, "sub": u.ID},
			Provider:     "email", LastSignInAt: created, CreatedAt: created, UpdatedAt: created, Email: u.Email,
		}},
		CreatedAt: created, UpdatedAt: signedIn,
	}
}

// authError is an error of GoTrue.
// https://supabase.com/docs/guides/auth/debugging/error-codes
type authError struct {
	status    int
	code, msg string
	weak      []string // reasons of weak_password
}

func (e *authError) write(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Sb-Error-Code", e.code)
	var body map[string]any
	if r.Header.Get("X-Supabase-Api-Version") >= "2024-01-01" {
		w.Header().Set("X-Supabase-Api-Version", "2024-01-01")
		body = map[string]any{"code": e.code, "message": e.msg}
	} else {
		body = map[string]any{"code": e.status, "error_code": e.code, "msg": e.msg}
	}
	if e.weak != nil {
		body["weak_password"] = map[string]any{"reasons": e.weak}
	}
	sandbox.WriteJSON(w, e.status, body)
}

// authenticate finds the user and the session of the request's access token.
// The session is nil if the token names none.
func (s *Project) authenticate(r *http.Request) (*user, *session, *authError) {
	token := sandbox.Bearer(r)
	if token == "" {
		return nil, nil, &authError{status: 401, code: "no_authorization", msg: "This endpoint requires a valid Bearer token"}
	}
	if token == apiKey(r) {
		// The gateway turns a new-style key into a JWT that has a role only.
		return nil, nil, &authError{status: 403, code: "bad_jwt", msg: "invalid claim: missing sub claim"}
	}
	claims, err := s.verify(token)
	if err != nil {
		return nil, nil, &authError{status: 403, code: "bad_jwt", msg: "invalid JWT: unable to parse or verify signature, " + err.Error()}
	}
	sub, _ := claims["sub"].(string)
	if sub == "" {
		return nil, nil, &authError{status: 403, code: "bad_jwt", msg: "invalid claim: missing sub claim"}
	}
	if uuid.Validate(sub) != nil {
		return nil, nil, &authError{status: 400, code: "bad_jwt", msg: "invalid claim: sub claim must be a UUID"}
	}
	u := s.users[strings.ToLower(sub)]
	if u == nil {
		return nil, nil, &authError{status: 403, code: "user_not_found", msg: "User from sub claim in JWT does not exist"}
	}
	id, _ := claims["session_id"].(string)
	e := s.sessions[id]
	if id != "" && e == nil {
		return nil, nil, &authError{status: 403, code: "session_not_found", msg: "Session from session_id claim in JWT does not exist"}
	}
	if u.banned {
		return nil, nil, &authError{status: 403, code: "user_banned", msg: "User is banned"}
	}
	return u, e, nil
}

func (s *Project) getKeySet(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=600")
	w.Header().Set("Content-Type", "application/json")
	w.Write(s.KeySet())
}

func (s *Project) getSettings(w http.ResponseWriter, r *http.Request) {
	sandbox.WriteJSON(w, http.StatusOK, map[string]any{
		"external":       map[string]bool{"email": true, "phone": false, "anonymous_users": false},
		"disable_signup": false, "mailer_autoconfirm": true, "phone_autoconfirm": false, "sms_provider": "", "saml_enabled": false,
	})
}

func (s *Project) getUser(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, _, err := s.authenticate(r)
	if err != nil {
		err.write(w, r)
		return
	}
	sandbox.WriteJSON(w, http.StatusOK, u.json())
}

func (s *Project) postLogout(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, e, err := s.authenticate(r)
	if err != nil {
		err.write(w, r)
		return
	}
	scope := r.URL.Query().Get("scope")
	s.endSessions(func(x *session) bool {
		switch scope {
		case "local":
			return x == e
		case "others":
			return x.userID == u.ID && x != e
		}
		return x.userID == u.ID
	})
	w.WriteHeader(http.StatusNoContent)
}

func (s *Project) postSignup(w http.ResponseWriter, r *http.Request) {
	var p struct {
		Email, Password string
		Data            map[string]any
	}
	if err := decodeAuth(r, &p); err != nil {
		err.write(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Email == "" {
		(&authError{status: 422, code: "anonymous_provider_disabled", msg: "Anonymous sign-ins are disabled"}).write(w, r)
		return
	}
	u, err := s.signUp(p.Email, p.Password, p.Data)
	if err != nil {
		err.write(w, r)
		return
	}
	writeSession(w, s.startSession(u, s.ttl))
}

func (s *Project) postToken(w http.ResponseWriter, r *http.Request) {
	var p struct {
		Email, Password string
		RefreshToken    string `json:"refresh_token"`
	}
	err := decodeAuth(r, &p)
	s.mu.Lock()
	defer s.mu.Unlock()
	var out Session
	switch grant := r.URL.Query().Get("grant_type"); {
	case err != nil:
	case grant == "password":
		u := s.userByEmail(strings.ToLower(strings.TrimSpace(p.Email)))
		if u == nil || !u.checks(p.Password) {
			err = &authError{status: 400, code: "invalid_credentials", msg: "Invalid login credentials"}
		} else if u.banned {
			err = &authError{status: 400, code: "user_banned", msg: "User is banned"}
		} else {
			out = s.startSession(u, s.ttl)
		}
	case grant == "refresh_token":
		out, err = s.refresh(p.RefreshToken)
	default:
		err = &authError{status: 400, code: "invalid_credentials", msg: "unsupported_grant_type"}
	}
	if err != nil {
		err.write(w, r)
		return
	}
	writeSession(w, out)
}

func (u *user) checks(password string) bool {
	hash := u.hash(password)
	return subtle.ConstantTimeCompare(hash[:], u.password[:]) == 1
}

// refresh swaps a refresh token. A used one is good again for reuseInterval,
// and for as long as its child was not used: then that child comes back, since
// the client seems never to have received it. Any other reuse revokes all
// refresh tokens of the session.
func (s *Project) refresh(token string) (Session, *authError) {
	t := s.refreshTokens[token]
	if t == nil {
		return Session{}, &authError{status: 400, code: "refresh_token_not_found", msg: "Invalid Refresh Token: Refresh Token Not Found"}
	}
	e := t.session
	u := s.users[e.userID]
	if u.banned {
		return Session{}, &authError{status: 400, code: "user_banned", msg: "Invalid Refresh Token: User Banned"}
	}
	if t.revoked {
		for _, active := range slices.Backward(e.tokens) {
			if !active.revoked {
				if active.parent == t.token {
					return s.issue(u, e, active, s.ttl), nil
				}
				break
			}
		}
		if s.now().After(t.updated.Add(reuseInterval)) {
			for _, other := range e.tokens {
				other.revoked = true
			}
			return Session{}, &authError{status: 400, code: "refresh_token_already_used", msg: "Invalid Refresh Token: Already Used"}
		}
	}
	t.revoked, t.updated = true, s.now()
	return s.issue(u, e, s.newRefreshToken(e, t.token), s.ttl), nil
}

func writeSession(w http.ResponseWriter, e Session) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(e.JSON)
}

func decodeAuth(r *http.Request, into any) *authError {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return &authError{status: 400, code: "bad_json", msg: "Could not parse request body as JSON: " + err.Error()}
	}
	return nil
}

// randomText returns n random characters a-z and 2-7.
func randomText(n int) string {
	text := ""
	for len(text) < n {
		text += rand.Text()
	}
	return strings.ToLower(text[:n])
}
