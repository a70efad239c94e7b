package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/supabase-community/supabase-go"
)

// CheckAuth reports whether Supabase Auth answers and accepts the anon key.
func (a *Authenticator) CheckAuth(ctx context.Context) error {
	e := a.service.exchange(ctx, "settings")
	if _, err := a.service.client.WithClient(*e.Client()).GetSettings(); e.Status != http.StatusOK {
		return e.unavailable(err)
	}
	return nil
}

// CheckKeySet reports how access tokens can be verified without asking
// Supabase; local is false when there is no way.
func (a *Authenticator) CheckKeySet(ctx context.Context) (detail string, local bool, err error) {
	body, err := a.service.keySet(ctx)
	if err != nil {
		return "", false, fmt.Errorf("%s/.well-known/jwks.json: %w", supabase.AUTH_URL, err)
	}
	keys, err := parseKeySet(body)
	if err != nil {
		return "", false, err
	}
	var published struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(body, &published); err == nil && len(keys) == 0 && len(published.Keys) > 0 {
		return "", false, fmt.Errorf("none of the %d keys that are published can be used", len(published.Keys))
	}
	if len(keys) > 0 {
		return fmt.Sprintf("%d published", len(keys)), true, nil
	}
	return "none published", a.config.JWTSecret.Reveal() != "", nil
}
