package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/supabase-community/gotrue-go"
	"github.com/supabase-community/supabase-go"

	"8space.app/stripe-sidecar/internal/upstream"
)

var (
	// errRefused says that Supabase Auth will never accept the refresh token.
	errRefused = errors.New("refresh token refused")
	// errSessionNotFound says that the session of an access token was ended.
	errSessionNotFound = errors.New("session_not_found")
)

// gotrueService is the project's Auth service (GoTrue).
type gotrueService struct {
	url     string
	apiKey  upstream.Secret
	network *upstream.Network
	client  gotrue.Client
}

func newService(c Config) (*gotrueService, error) {
	client, err := supabase.NewClient(c.URL, c.AnonKey.Reveal(), nil)
	if err != nil {
		return nil, err
	}
	return &gotrueService{c.URL, c.AnonKey, c.Network, client.Auth}, nil
}

// exchange is one request and its answer.
type exchange struct{ *upstream.Exchange }

func (u *gotrueService) exchange(ctx context.Context, call string) exchange {
	return exchange{u.network.Exchange(ctx, upstream.Auth, call)}
}

// unavailable is the error of an exchange that decided nothing. err is used if
// there was no answer; else it may hold the body, and with it tokens.
func (e exchange) unavailable(err error) error {
	if e.Status != 0 {
		err = fmt.Errorf("status %d", e.Status)
		if code := e.code(); code != "" {
			err = fmt.Errorf("%w, %.64q", err, code)
		}
	}
	return fmt.Errorf("%w: Supabase Auth: %w", ErrUnavailable, err)
}

// code returns the error code of a GoTrue answer, "" if the body is not one of
// GoTrue's: a gateway or proxy that refuses says nothing about the user. Its
// shapes, newest first: {code,message}, {code,error_code,msg}, the same
// without error_code, and OAuth's {error,error_description}.
// https://supabase.com/docs/guides/auth/debugging/error-codes
func (e exchange) code() string {
	var b struct {
		Code        any    `json:"code"`
		ErrorCode   string `json:"error_code"`
		Message     string `json:"msg"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(e.Body, &b) != nil {
		return ""
	}
	code, _ := b.Code.(string)
	if b.Description == "" {
		b.Error = ""
	}
	if code = cmp.Or(b.ErrorCode, code, b.Error); code == "" && b.Code != nil && b.Message != "" {
		return "unknown"
	}
	return code
}

// known is what Supabase Auth says of a user.
type known struct {
	User
	factor    bool   // there is a verified second factor
	confirmed string // the address that the user has proved to be theirs, "" for none
}

// user returns the user of an access token, or an error that wraps
// ErrSignedOut (and errSessionNotFound) or ErrUnavailable.
func (u *gotrueService) user(ctx context.Context, accessToken string) (*known, error) {
	e := u.exchange(ctx, "user")
	_, err := u.client.WithToken(accessToken).WithClient(*e.Client()).GetUser()
	switch code := e.code(); {
	case e.Status == http.StatusOK:
		// Not gotrue-go's reading, which fails on a field that we do not need.
		var body struct {
			ID, Email   string
			ConfirmedAt *string `json:"email_confirmed_at"`
			IsAnonymous bool    `json:"is_anonymous"`
			Factors     []struct{ Status string }
		}
		if json.Unmarshal(e.Body, &body) != nil {
			return nil, e.unavailable(nil)
		}
		id, err := uuid.Parse(body.ID)
		if err != nil {
			return nil, e.unavailable(nil)
		}
		factor := slices.ContainsFunc(body.Factors, func(f struct{ Status string }) bool { return f.Status == "verified" })
		u := &known{User: User{ID: id.String(), Email: body.Email}, factor: factor}
		if body.ConfirmedAt != nil && *body.ConfirmedAt != "" && !body.IsAnonymous {
			u.confirmed = body.Email
		}
		return u, nil
	case (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) && code != "":
		if code == errSessionNotFound.Error() {
			return nil, fmt.Errorf("%w: %w", ErrSignedOut, errSessionNotFound)
		}
		return nil, fmt.Errorf("%w: %.64q", ErrSignedOut, code)
	default:
		return nil, e.unavailable(err)
	}
}

// refresh trades a refresh token for a session. It returns errRefused, or an
// error that wraps ErrUnavailable if trying later may help.
// https://supabase.com/docs/guides/auth/sessions
func (u *gotrueService) refresh(ctx context.Context, refreshToken string) ([]byte, error) {
	e := u.exchange(ctx, "refresh")
	_, err := u.client.WithClient(*e.Client()).RefreshToken(refreshToken)
	switch e.Status {
	case http.StatusOK:
		return e.Body, nil
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		// 409 is "too many concurrent token refresh requests".
	default:
		if e.Status/100 == 4 && e.code() != "" {
			return nil, fmt.Errorf("%w: %.64q", errRefused, e.code())
		}
	}
	return nil, e.unavailable(err)
}

// keySet fetches the project's JWK set.
func (u *gotrueService) keySet(ctx context.Context) ([]byte, error) {
	e := u.exchange(ctx, "key_set")
	r, err := http.NewRequest(http.MethodGet, u.url+supabase.AUTH_URL+"/.well-known/jwks.json", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("apikey", u.apiKey.Reveal())
	resp, err := e.Client().Do(r)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return e.Body, nil
}
