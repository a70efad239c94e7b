// Package auth answers one question: which Supabase user is this request? It
// reads the cookies that the site's pages use, verifies access tokens locally,
// refreshes sessions and asks Supabase Auth where nothing else can tell.
package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/httprate"

	"8space.app/stripe-sidecar/internal/upstream"
)

var (
	// ErrUnavailable says that the user could not be found out, which is not
	// the same as being signed out: try again later.
	ErrUnavailable = errors.New("sign-in could not be checked")
	// ErrSignedOut says that Supabase Auth no longer accepts the session:
	// signed out, revoked, banned or deleted; or that there is none.
	ErrSignedOut = errors.New("signed out")
	// ErrInsufficient says that the session stands and may not see billing: it is
	// another application's, or lacks the second factor.
	ErrInsufficient = errors.New("the session is not enough for billing")
	// ErrCookiesTooLarge says that there are more cookies than are read, so that
	// a session among them would be overlooked.
	ErrCookiesTooLarge = errors.New("more than 64 KiB of cookies")
)

const (
	// Sessions with less than this left are refreshed, as auth-js does
	// (EXPIRY_MARGIN_MS).
	refreshMargin = 90 * time.Second
	// A token that is still good need not wait for a refresh that hangs, nor any
	// token for a key set that does, since Supabase Auth can be asked.
	patience = 3 * time.Second
	// Supabase's own limit of refreshes is shared by all users of the site.
	refreshesPerMinute = 30 // of one client
)

// Config says where the project is and how its users are recognised.
type Config struct {
	URL        string          // of the project, without a trailing slash
	AnonKey    upstream.Secret // the anon key or a publishable key
	JWTSecret  upstream.Secret // legacy HS256 secret, if there is one
	CookieName string          // sb-<first label of the project's host>-auth-token unless the site chose another
	Network    *upstream.Network
	Logger     *slog.Logger // nil: none
	Cookie     http.Cookie  // the attributes of session cookies: see ParseCookieOptions
	RequireMFA bool         // Confirm wants the second factor of users who have one
	// Secure tells whether the site was reached over https; nil: it was not.
	Secure func(*http.Request) bool
	// Client tells who sends a request, the zero Prefix if that is not known; nil:
	// it never is.
	Client  func(*http.Request) netip.Prefix
	Timeout time.Duration    // bound of calls that outlive a request (refresh, key set); 0: 15 s
	Now     func() time.Time // nil: time.Now
}

// Authenticator finds the users of requests. It is safe for concurrent use.
type Authenticator struct {
	config    Config
	service   *gotrueService
	keys      keySet
	refreshes refreshes
	limiter   *httprate.RateLimiter // of refreshes
	warned    atomic.Int64          // Unix time of the last warning of the JWT secret
}

// New returns an Authenticator. It asks nobody and runs nothing in the
// background; the key set is fetched when the first token needs it.
func New(c Config) (*Authenticator, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("auth: URL is not an absolute http or https URL")
	}
	if err := (&http.Cookie{Name: c.CookieName}).Valid(); err != nil {
		return nil, errors.New("auth: CookieName is not the name of a cookie")
	}
	c.Timeout = cmp.Or(c.Timeout, 15*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Secure == nil {
		c.Secure = func(*http.Request) bool { return false }
	}
	if c.Client == nil {
		c.Client = func(*http.Request) netip.Prefix { return netip.Prefix{} }
	}
	service, err := newService(c)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return &Authenticator{
		config:    c,
		service:   service,
		keys:      keySet{fetch: service.keySet, now: c.Now, timeout: c.Timeout},
		refreshes: refreshes{call: service.refresh, now: c.Now, timeout: c.Timeout},
		limiter:   httprate.NewRateLimiter(refreshesPerMinute, time.Minute, httprate.WithResponseHeaders(httprate.ResponseHeaders{})),
	}, nil
}

// User is a signed-in user.
type User struct {
	ID    string // a lower-case UUID
	Email string // may be empty
}

// Middleware makes the request's user available to [CurrentUser]. It never
// answers and asks nobody: the user is found at the first call of CurrentUser,
// so that a request refused for its body costs Supabase nothing. A refreshed
// or cleared session is put on the response's headers at that moment, so
// CurrentUser and Confirm must have returned before the handler writes.
func (a *Authenticator) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{a: a, w: w, r: r}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
	})
}

// CurrentUser returns the signed-in user; nil for a guest, who has no session
// or one that is plainly invalid; an error that wraps [ErrUnavailable] when it
// could not be found out. Only the first call in a request does any work.
func CurrentUser(ctx context.Context) (*User, error) {
	v, err := visitOf(ctx)
	if err != nil {
		return nil, err
	}
	v.resolve.Do(func() { v.user, v.err = v.find(ctx) })
	if v.user == nil {
		return nil, v.err
	}
	u := *v.user
	return &u, nil
}

// Confirm asks Supabase Auth whether the session behind [CurrentUser] still
// stands, unless finding the user took asking already. It returns nil, or an
// error that wraps [ErrSignedOut], [ErrInsufficient] or [ErrUnavailable]. It may
// run beside other work of the request but must have returned before the handler
// writes, since it clears the cookies of a session that is gone.
// https://supabase.com/docs/reference/javascript/auth-getuser
func Confirm(ctx context.Context) error {
	u, err := CurrentUser(ctx)
	if err != nil {
		return err
	}
	if u == nil {
		return ErrSignedOut
	}
	v, _ := visitOf(ctx)
	v.confirm.Do(func() {
		v.standing = ErrUnavailable // if it panics, which must not count as confirmed
		v.standing = v.check(ctx)
	})
	return v.standing
}

// ConfirmedEmail returns the address that Supabase Auth says the user has confirmed,
// "" for none; before [Confirm] has succeeded there is none.
func ConfirmedEmail(ctx context.Context) string {
	v, err := visitOf(ctx)
	if err != nil || v.vouched == nil || v.standing != nil {
		return ""
	}
	return v.vouched.confirmed
}

// check is Confirm, once.
func (v *visit) check(ctx context.Context) error {
	if v.token.clientID != "" {
		return fmt.Errorf("%w: it is another application's", ErrInsufficient)
	}
	if v.vouched == nil {
		if _, err := v.ask(ctx, v.token); err != nil {
			return err
		}
	}
	if v.a.config.RequireMFA && v.vouched.factor && v.token.assurance != "aal2" {
		return fmt.Errorf("%w: without the second factor", ErrInsufficient)
	}
	return nil
}

// Forget takes the session of a user who no longer exists away from the browser.
// Like CurrentUser it must have returned before the handler writes.
func Forget(ctx context.Context) {
	if v, err := visitOf(ctx); err == nil && v.cookies != nil {
		v.cookies.clear(v.w.Header())
	}
}

// visit is what is known of one request.
type visit struct {
	a *Authenticator
	w http.ResponseWriter // only its headers are written
	r *http.Request

	resolve sync.Once // guards the fields up to vouched
	user    *User
	err     error
	cookies *jar   // nil with a Bearer token
	token   *token // behind user
	vouched *known // what Supabase Auth said of the user; nil: it was not asked

	confirm  sync.Once
	standing error
}

type visitKey struct{}

func visitOf(ctx context.Context) (*visit, error) {
	v, ok := ctx.Value(visitKey{}).(*visit)
	if !ok {
		return nil, fmt.Errorf("%w: the request did not pass Middleware", ErrUnavailable)
	}
	return v, nil
}

// find decides who the user is.
func (v *visit) find(ctx context.Context) (*User, error) {
	if raw, ok := bearer(v.r.Header); ok {
		return v.accept(ctx, parseToken(raw))
	}
	var err error
	if v.cookies, err = readCookies(v.r.Header, v.a.config.CookieName); err != nil {
		return nil, err
	}
	v.cookies.attributes = v.a.config.Cookie
	v.cookies.attributes.Secure = v.cookies.attributes.Secure || v.a.config.Secure(v.r)
	s, ok := v.cookies.session()
	if !ok {
		return nil, nil
	}
	t := parseToken(s.access)
	if t == nil {
		return nil, nil
	}
	// auth-js goes by the session's expires_at, which GoTrue copies from exp.
	// Of the two exp is the one that is signed, that every form of cookie has,
	// and that decides whether a token still works.
	left := t.expires.Sub(v.a.config.Now())
	if left >= refreshMargin || s.refresh == "" || len(s.refresh) > maxRefresh {
		return v.accept(ctx, t)
	}
	// The key of a token that expired long ago may be gone, and nobody can refresh
	// but with a refresh token that he holds; yet each try counts against the limit
	// that all users of the site share.
	if v.a.forged(t) {
		return nil, nil
	}
	wait := ctx
	if left > 0 {
		var cancel context.CancelFunc
		wait, cancel = patient(ctx)
		defer cancel()
	}
	client := v.a.config.Client(v.r)
	renewed, err := v.a.refreshes.do(wait, s.refresh, func() bool {
		return !client.IsValid() || !v.a.limiter.OnLimit(v.w, v.r, client.String())
	})
	switch {
	case err == nil:
		v.cookies.write(v.w.Header(), renewed.encode(s.bare))
		return v.accept(ctx, parseToken(renewed.access))
	case v.a.config.Now().Before(t.expires):
		return v.accept(ctx, t) // whatever went wrong, the token in hand is good
	case errors.Is(err, errRefused):
		v.cookies.clear(v.w.Header())
		return nil, nil
	default:
		return nil, err
	}
}

// accept returns the user of an access token, nil if it is plainly invalid.
func (v *visit) accept(ctx context.Context, t *token) (*User, error) {
	if t == nil || !v.a.config.Now().Before(t.expires) {
		return nil, nil
	}
	v.token = t
	err := v.a.checkSignature(ctx, t)
	switch {
	case err == nil:
		return &User{ID: t.userID, Email: t.email}, nil
	case errors.Is(err, errNoKey):
		u, asked := v.ask(ctx, t)
		if asked != nil && !errors.Is(asked, ErrSignedOut) {
			return nil, fmt.Errorf("%w, after %w", asked, err)
		}
		return u, nil
	case errors.Is(err, ErrUnavailable):
		return nil, err
	}
	return nil, nil
}

// patient returns ctx with the time that a request gives to something it can do
// without: what comes after needs time too.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	wait := patience
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	return context.WithTimeout(ctx, wait)
}

// guarded makes an error of a panic, which in a goroutine would end the process.
func guarded[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v\n%s", ErrUnavailable, p, debug.Stack())
		}
	}()
	return f()
}

// ask has Supabase Auth decide on a token.
func (v *visit) ask(ctx context.Context, t *token) (*User, error) {
	u, err := v.a.service.user(ctx, t.raw)
	// As auth-js: only this code says that the session is gone. The others
	// (bad_jwt, user_banned, …) may pass, and the cookies with them.
	if errors.Is(err, errSessionNotFound) && v.cookies != nil {
		v.cookies.clear(v.w.Header())
	}
	if err != nil {
		return nil, err
	}
	if u.ID != t.userID {
		return nil, fmt.Errorf("%w: the token is another user's", ErrSignedOut)
	}
	v.vouched = u
	return &u.User, nil
}
