package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// For stragglers a result is kept as long as Supabase Auth itself would
	// answer the same refresh token with the same session.
	keepRefreshed = 10 * time.Second
	// The oldest result makes room; its stragglers ask once more.
	maxRefreshed = 1000
	// A call outlives its request, so the bound on requests does not bound them.
	maxRefreshing = 200
)

// refreshes trades each refresh token once, for any number of requests.
type refreshes struct {
	call    func(ctx context.Context, refreshToken string) ([]byte, error)
	now     func() time.Time
	timeout time.Duration // of one call

	mu       sync.Mutex
	calls    map[string]*refreshCall // under way or kept, by refresh token
	finished []*refreshCall          // the kept ones, oldest first
}

type refreshCall struct {
	token   string
	done    chan struct{} // closed when the fields below are set
	session *renewed
	err     error
	at      time.Time
}

// do returns the session that the refresh token gives, errRefused, or an error
// that wraps ErrUnavailable. The call outlives ctx: others may wait for it, and
// the old token is spent. may tells whether the client may begin one.
func (f *refreshes) do(ctx context.Context, refreshToken string, may func() bool) (*renewed, error) {
	c := f.join(ctx, refreshToken, may)
	if c == nil {
		return nil, fmt.Errorf("%w: refresh: too many", ErrUnavailable)
	}
	select {
	case <-c.done:
		return c.session, c.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: refresh: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// join returns the call for the refresh token, begun if there is none; nil when
// too many are under way, or the client has begun too many.
func (f *refreshes) join(ctx context.Context, refreshToken string, may func() bool) *refreshCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	if c := f.calls[refreshToken]; c != nil {
		return c
	}
	if len(f.calls)-len(f.finished) >= maxRefreshing || !may() {
		return nil
	}
	if f.calls == nil {
		f.calls = map[string]*refreshCall{}
	}
	c := &refreshCall{token: refreshToken, done: make(chan struct{})}
	f.calls[refreshToken] = c
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
	go func() {
		defer cancel()
		session, err := guarded(func() (*renewed, error) {
			body, err := f.call(ctx, refreshToken)
			if err != nil {
				return nil, err
			}
			return parseRenewed(body, f.now())
		})
		f.mu.Lock()
		defer f.mu.Unlock()
		c.session, c.err, c.at = session, err, f.now()
		if err == nil || errors.Is(err, errRefused) {
			f.finished = append(f.finished, c)
			f.forget()
		} else {
			delete(f.calls, refreshToken) // the next request may have better luck
		}
		close(c.done)
	}()
	return c
}

// forget drops the results that are too old or too many. f.mu is held.
func (f *refreshes) forget() {
	for len(f.finished) > 0 && (len(f.finished) > maxRefreshed || f.now().Sub(f.finished[0].at) >= keepRefreshed) {
		delete(f.calls, f.finished[0].token)
		f.finished[0] = nil
		f.finished = f.finished[1:]
	}
}

// renewed is a session as the token endpoint answered it, unknown fields
// included. It is shared between requests and never altered.
type renewed struct {
	access string
	fields map[string]json.RawMessage
}

func parseRenewed(body []byte, now time.Time) (*renewed, error) {
	var r renewed
	var known struct {
		Access    string  `json:"access_token"`
		Refresh   string  `json:"refresh_token"`
		ExpiresIn float64 `json:"expires_in"`
		ExpiresAt float64 `json:"expires_at"`
	}
	if !utf8.Valid(body) || json.Unmarshal(body, &known) != nil || json.Unmarshal(body, &r.fields) != nil ||
		known.Access == "" || known.Refresh == "" {
		return nil, fmt.Errorf("%w: the token endpoint did not answer with a session", ErrUnavailable)
	}
	if known.ExpiresAt == 0 { // older GoTrue; auth-js adds it too
		r.fields["expires_at"] = fmt.Appendf(nil, "%d", now.Unix()+int64(known.ExpiresIn))
	}
	r.access = known.Access
	return &r, nil
}

// encode returns the session's JSON; bare leaves the user out.
func (r *renewed) encode(bare bool) []byte {
	fields := maps.Clone(r.fields)
	if bare {
		delete(fields, "user")
	}
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // what was parsed can be written
	}
	return b
}
