// Package fakesupabase imitates the parts of a Supabase project, Auth and
// PostgREST, that this service and a site's browser use: statuses, error
// envelopes and their codes, headers, refresh token rotation, key sets, unique
// constraints, row level security. Its limits:
//
//   - Sign-in is by e-mail and password only, and every address counts as
//     confirmed.
//   - PostgREST has select, order, limit, or and the commonest filters of a
//     column; POST, without merging duplicates, and PATCH. It has neither
//     embedding nor casts nor foreign keys; a lookup reads the whole table.
package fakesupabase

import (
	"cmp"
	"net/http"
	"strings"
	"sync"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox"
	"github.com/golang-jwt/jwt/v5"
)

// The keys of a sandbox project unless [Options] has others: new-style
// keys, which are no JWTs. https://supabase.com/docs/guides/api/api-keys
const (
	AnonKey        = "sb_publishable_sandbox_not_a_real_key_0000"
	ServiceRoleKey = "sb_secret_sandbox_not_a_real_key_0000"
)

// LegacyKeys returns keys of the older kind: JWTs with a role, signed with the
// project's JWT secret.
func LegacyKeys(jwtSecret string) (anonKey, serviceRoleKey string) {
	sign := func(role string) string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"iss": "supabase", "ref": "sandbox", "role": role, "iat": 1700000000, "exp": 4000000000,
		}).SignedString([]byte(jwtSecret))
		if err != nil {
			panic(err)
		}
		return token
	}
	return sign("anon"), sign("service_role")
}

// Options describe a project; the zero value is a complete one.
type Options struct {
	// JWTSecret, if not empty, makes the project sign with HS256 and publish no
	// keys. Else it signs with a fresh ES256 key.
	JWTSecret string
	// LegacyJWTSecret is a secret that an ES256 project still verifies with.
	LegacyJWTSecret string
	// URL is the project's own address, named as issuer of its tokens.
	// "": http://127.0.0.1:54321, as in local development.
	URL string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Tables are those of the schema public; nil: [DefaultTables].
	Tables []Table
	// AnonKey and ServiceRoleKey are the API keys; "": the constants of these
	// names. [LegacyKeys] makes the older kind.
	AnonKey, ServiceRoleKey string
	// AccessTokenTTL is the life of an access token; 0: one hour.
	AccessTokenTTL time.Duration
}

// Project is one project: Auth under /auth/v1 and PostgREST under /rest/v1.
// It is safe for concurrent use; every statement is atomic.
type Project struct {
	sandbox.Recorder
	mux            *http.ServeMux
	now            func() time.Time
	issuer         string
	anonKey        string
	serviceRoleKey string
	ttl            time.Duration
	secret         string // HS256; may be empty

	mu            sync.Mutex // guards all below
	keys          []signingKey
	users         map[string]*user
	sessions      map[string]*session
	refreshTokens map[string]*refreshToken
	tables        map[string]*table
	sequences     map[string]int64
	functions     map[string]func(*Tx, map[string]any) (any, error)
}

// New returns a project without users and with empty tables. It panics
// if the tables of o contradict themselves.
func New(o Options) *Project {
	s := &Project{
		mux:            http.NewServeMux(),
		now:            o.Now,
		issuer:         strings.TrimSuffix(cmp.Or(o.URL, "http://127.0.0.1:54321"), "/") + "/auth/v1",
		anonKey:        cmp.Or(o.AnonKey, AnonKey),
		serviceRoleKey: cmp.Or(o.ServiceRoleKey, ServiceRoleKey),
		ttl:            cmp.Or(o.AccessTokenTTL, time.Hour),
		secret:         cmp.Or(o.JWTSecret, o.LegacyJWTSecret),
		users:          map[string]*user{},
		sessions:       map[string]*session{},
		refreshTokens:  map[string]*refreshToken{},
		tables:         map[string]*table{},
		sequences:      map[string]int64{},
		functions:      map[string]func(*Tx, map[string]any) (any, error){},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if o.JWTSecret == "" {
		s.keys = []signingKey{newSigningKey("ES256")}
	}
	if o.Tables == nil {
		o.Tables = DefaultTables()
	}
	for _, t := range o.Tables {
		s.tables[t.Name] = newTable(t)
	}
	if s.tables["subscriptions"] != nil && s.tables["purchases"] != nil {
		s.defaultFunctions()
	}
	if s.tables["stripe_settings"] != nil {
		s.Insert("stripe_settings", row{"version": schemaVersion, "test_mode_counts": true})
	}

	// The key set is the one address that asks for no API key.
	s.mux.HandleFunc("GET /auth/v1/.well-known/jwks.json", s.getKeySet)
	s.mux.HandleFunc("GET /auth/v1/settings", s.withKey(s.getSettings))
	s.mux.HandleFunc("POST /auth/v1/signup", s.withKey(s.postSignup))
	s.mux.HandleFunc("POST /auth/v1/token", s.withKey(s.postToken))
	s.mux.HandleFunc("GET /auth/v1/user", s.withKey(s.getUser))
	s.mux.HandleFunc("POST /auth/v1/logout", s.withKey(s.postLogout))
	s.mux.HandleFunc("/rest/v1/{table}", s.withKey(s.serveTable))
	s.mux.HandleFunc("/rest/v1/rpc/{function}", s.withKey(s.serveFunction))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		sandbox.WriteJSON(w, http.StatusNotFound, map[string]string{"message": "no Route matched with those values"})
	})
	return s
}

// ServeHTTP answers as the project's gateway does, which lets browsers of any
// origin call.
func (s *Project) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.Receive(w, r); !ok {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "Content-Range, Content-Location, Location, Preference-Applied, X-Sb-Error-Code")
	if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PATCH, PUT, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
		h.Set("Access-Control-Max-Age", "3600")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// withKey admits requests with one of the project's API keys only.
func (s *Project) withKey(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch apiKey(r) {
		case s.anonKey, s.serviceRoleKey:
			next(w, r)
		case "":
			sandbox.WriteJSON(w, http.StatusUnauthorized, map[string]string{
				"message": "No API key found in request",
				"hint":    "No `apikey` request header or url param was found.",
			})
		default:
			sandbox.WriteJSON(w, http.StatusUnauthorized, map[string]string{
				"message": "Invalid API key",
				"hint":    "Double check your Supabase `anon` or `service_role` API key.",
			})
		}
	}
}

func apiKey(r *http.Request) string {
	return cmp.Or(r.Header.Get("apikey"), r.URL.Query().Get("apikey"))
}
