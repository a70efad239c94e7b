package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/uuid"
	"github.com/supabase-community/gotrue-go"
	"github.com/supabase-community/supabase-go"
)

// maxAnswer bounds what is read of any answer, in bytes.
const maxAnswer = 1 << 20

var (
	// errRefused says that Supabase Auth will never accept the refresh token.
	errRefused = errors.New("refresh token refused")
	// errSessionNotFound says that the session of an access token was ended.
	errSessionNotFound = errors.New("session_not_found")
)

// upstream is the project's Auth service (GoTrue). gotrue-go knows no contexts
// and tells errors by text only, so each call gets an exchange as transport,
// which carries the context in and the answer out.
type upstream struct {
	url       string
	apiKey    string
	transport http.RoundTripper
	client    gotrue.Client
}

func newUpstream(url, apiKey string, transport http.RoundTripper) (*upstream, error) {
	client, err := supabase.NewClient(url, apiKey, nil)
	if err != nil {
		return nil, err
	}
	return &upstream{url: url, apiKey: apiKey, transport: transport, client: client.Auth}, nil
}

// exchange is one request and its answer.
type exchange struct {
	ctx    context.Context
	next   http.RoundTripper
	status int // 0: no answer, or not a whole one
	body   []byte
}

func (u *upstream) exchange(ctx context.Context) *exchange {
	return &exchange{ctx: ctx, next: u.transport}
}

// client returns the HTTP client for the exchange. A redirect is an answer like
// any other that does not help: following it would carry tokens elsewhere.
func (e *exchange) client() http.Client {
	return http.Client{Transport: e, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

func (e *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := e.next.RoundTrip(r.WithContext(e.ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, errors.New("answer is too long")
	}
	e.status, e.body = resp.StatusCode, body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// unavailable is the error of an exchange that decided nothing. err is used if
// there was no answer; else it may hold the body, and with it tokens.
func (e *exchange) unavailable(err error) error {
	if e.status != 0 {
		err = fmt.Errorf("status %d", e.status)
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
func (e *exchange) code() string {
	var b struct {
		Code        any    `json:"code"`
		ErrorCode   string `json:"error_code"`
		Message     string `json:"msg"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(e.body, &b) != nil {
		return ""
	}
	code, _ := b.Code.(string)
	switch {
	case b.ErrorCode != "":
		return b.ErrorCode
	case code != "":
		return code
	case b.Error != "" && b.Description != "":
		return b.Error
	case b.Code != nil && b.Message != "":
		return "unknown"
	}
	return ""
}

// user returns the user of an access token, or an error that wraps
// ErrSignedOut (and errSessionNotFound) or ErrUnavailable.
func (u *upstream) user(ctx context.Context, accessToken string) (*User, error) {
	e := u.exchange(ctx)
	_, err := u.client.WithToken(accessToken).WithClient(e.client()).GetUser()
	switch code := e.code(); {
	case e.status == http.StatusOK:
		// Not gotrue-go's reading, which fails on a field that we do not need.
		var body struct{ ID, Email string }
		if json.Unmarshal(e.body, &body) != nil {
			return nil, e.unavailable(nil)
		}
		id, err := uuid.Parse(body.ID)
		if err != nil {
			return nil, e.unavailable(nil)
		}
		return &User{ID: id.String(), Email: body.Email}, nil
	case (e.status == http.StatusUnauthorized || e.status == http.StatusForbidden) && code != "":
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
func (u *upstream) refresh(ctx context.Context, refreshToken string) ([]byte, error) {
	e := u.exchange(ctx)
	_, err := u.client.WithClient(e.client()).RefreshToken(refreshToken)
	switch e.status {
	case http.StatusOK:
		return e.body, nil
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		// 409 is "too many concurrent token refresh requests".
	default:
		if e.status/100 == 4 && e.code() != "" {
			return nil, fmt.Errorf("%w: %.64q", errRefused, e.code())
		}
	}
	return nil, e.unavailable(err)
}

// keySet fetches the project's JWK set.
func (u *upstream) keySet(ctx context.Context) ([]byte, error) {
	e := u.exchange(ctx)
	r, err := http.NewRequest(http.MethodGet, u.url+supabase.AUTH_URL+"/.well-known/jwks.json", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("apikey", u.apiKey)
	client := e.client()
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if e.status != http.StatusOK {
		return nil, fmt.Errorf("status %d", e.status)
	}
	return e.body, nil
}
