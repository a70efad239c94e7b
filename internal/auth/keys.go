package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
)

const (
	keysLive  = 10 * time.Minute // as the Cache-Control of the key set says
	keysStale = 5 * time.Minute  // from then on a fetch runs beside the requests, so that a blip at expiry hurts nobody
	keysPause = 10 * time.Second // between two attempts, whatever their reason and outcome
)

var (
	// errNoKey says that no local key fits the token, so that Supabase Auth has
	// to decide.
	errNoKey = errors.New("no key for this token")
	// errNoKeySet says that there is no key set to look into.
	errNoKeySet = fmt.Errorf("%w: no key set", errNoKey)
)

// keySet holds the project's public keys.
// https://supabase.com/docs/guides/auth/signing-keys
type keySet struct {
	fetch   func(context.Context) ([]byte, error)
	now     func() time.Time
	timeout time.Duration // of one fetch

	mu        sync.Mutex
	keys      []publicKey
	fetched   time.Time     // start of the attempt that gave keys
	attempted time.Time     // start of the last attempt
	failure   error         // of the last attempt
	failures  int           // in a row
	flight    chan struct{} // closed at the end of the attempt under way; nil: none is
}

type publicKey struct {
	kid, alg string
	key      any
}

// known returns what find does, of the keys at hand.
func (s *keySet) known(kid, alg string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pick(kid, alg)
}

// find returns the key for a token; errNoKey; errInvalid if the token and its
// key contradict each other; or an error that wraps ErrUnavailable.
func (s *keySet) find(ctx context.Context, kid, alg string) (any, error) {
	s.mu.Lock()
	key, err := s.pick(kid, alg)
	missing := errors.Is(err, errNoKeySet) || errors.Is(err, errNoKey) && kid != ""
	if now := s.now(); missing || now.Sub(s.fetched) >= keysStale {
		s.start(ctx, now)
	}
	flight := s.flight
	s.mu.Unlock()

	if missing && flight != nil {
		wait, cancel := patient(ctx)
		defer cancel()
		select {
		case <-flight:
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%w: key set: %w", ErrUnavailable, context.Cause(ctx))
			}
			return nil, fmt.Errorf("%w: it is long in coming", errNoKeySet)
		}
		key, err = s.known(kid, alg)
	}
	return key, err
}

// pick looks into the keys at hand. s.mu is held.
func (s *keySet) pick(kid, alg string) (any, error) {
	if s.fetched.IsZero() || s.now().Sub(s.fetched) >= keysLive {
		return nil, fmt.Errorf("%w: %w", errNoKeySet, s.failure)
	}
	var fit any
	for _, k := range s.keys {
		switch fits := k.fits(alg); {
		case kid != "" && kid == k.kid && fits:
			return k.key, nil
		case kid != "" && kid == k.kid:
			return nil, errInvalid
		case kid == "" && fits && fit != nil:
			return nil, errNoKey // any of several
		case kid == "" && fits:
			fit = k.key
		}
	}
	if fit == nil {
		return nil, errNoKey
	}
	return fit, nil
}

func (k publicKey) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		return alg == "ES256" && key.Curve == elliptic.P256()
	case *rsa.PublicKey:
		return alg == "RS256"
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// start begins a fetch unless one is under way or the last began just now. The
// fetch outlives ctx, because others may wait for it. s.mu is held.
func (s *keySet) start(ctx context.Context, now time.Time) {
	pause := keysPause
	if s.fetched.IsZero() && s.failures < 5 { // 1, 2, 4, 8 s: nobody can be verified here until it is there
		pause = time.Second << max(0, s.failures-1)
	}
	if s.flight != nil || !s.attempted.IsZero() && now.Sub(s.attempted) < pause {
		return
	}
	flight := make(chan struct{})
	s.flight, s.attempted = flight, now
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	go func() {
		defer cancel()
		keys, err := guarded(func() ([]publicKey, error) {
			body, err := s.fetch(ctx)
			if err != nil {
				return nil, err
			}
			return parseKeySet(body)
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failures++
		if s.failure = err; err == nil {
			s.keys, s.fetched, s.failures = keys, now, 0
		}
		s.flight = nil
		close(flight)
	}()
}

// parseKeySet returns the keys of a JWK set that can verify; none is a fine
// answer, a set in which one key is of a kind unknown here too.
func parseKeySet(body []byte) ([]publicKey, error) {
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil || set.Keys == nil {
		return nil, errors.New("the answer is not a key set")
	}
	var keys []publicKey
	for _, raw := range *set.Keys {
		// Without Private a symmetric key is refused: published, it is no secret.
		k, err := jwkset.NewJWKFromRawJSON(raw, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if m := k.Marshal(); err == nil && m.USE != jwkset.UseEnc {
			keys = append(keys, publicKey{kid: m.KID, alg: string(m.ALG), key: k.Key()})
		}
	}
	return keys, nil
}
