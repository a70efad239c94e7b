package main

import (
	_ "embed"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"
)

// checkoutSession is what Stripe answers, in the form and size of
// https://docs.stripe.com/api/checkout/sessions/object
//
//go:embed checkout_session.json
var checkoutSession string

// upstreams imitate Stripe and Supabase, and take as little of the processors as
// they can.
type upstreams struct {
	stripe, supabase *httptest.Server
	reads            atomic.Int32 // of customers
}

// behaviour is how they answer.
type behaviour struct {
	latency time.Duration // of Stripe
	faults  bool          // one request in ten meets an error, an ended connection or a slow answer
}

func (b *bench) upstreams(how behaviour) *upstreams {
	u := &upstreams{}
	u.stripe = serve(how, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(how.latency)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Request-Id", "req_8K2mPq4xVn7Lra")
		_, _ = io.WriteString(w, checkoutSession)
	})
	u.supabase = serve(how, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/rest/v1/customers" {
			b.supabase.ServeHTTP(w, r)
			return
		}
		u.reads.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `[{"stripe_customer_id":"cus_NffrFeUfNV2Hib"}]`)
	})
	return u
}

func (u *upstreams) close() {
	u.stripe.Close()
	u.supabase.Close()
}

func serve(how behaviour, answer http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(answer)
	if how.faults {
		s.Config.Handler = faulty(answer)
		// The service may keep idle connections for longer than a soak lasts; only
		// leaked ones are left once this end has closed those, and the ones that
		// net/http has opened in reserve.
		s.Config.IdleTimeout = 2 * time.Second
		s.Config.ReadHeaderTimeout = 2 * time.Second
	}
	s.Start()
	return s
}

func faulty(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch n := rand.IntN(50); n {
		case 0, 1, 2:
			http.Error(w, `{"error":{"type":"api_error","message":"Something went wrong"}}`, []int{500, 502, 429}[n])
			return
		case 3:
			panic(http.ErrAbortHandler) // the connection ends without an answer
		case 4:
			time.Sleep(300 * time.Millisecond)
		}
		next(w, r)
	}
}
