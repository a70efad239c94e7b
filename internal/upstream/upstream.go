// Package upstream is the one way out: every call to Stripe and Supabase goes
// through a Network, which bounds, names and counts it.
package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// The services that calls are made to.
const (
	Stripe   = "stripe"
	Auth     = "auth"     // Supabase Auth
	Database = "database" // the site's tables, behind PostgREST
)

// maxAnswer bounds what is read of an answer, in bytes. A list of a hundred
// subscriptions is under 1 MiB.
const maxAnswer = 8 << 20

// Config is what a Network is made of; the zero Config will do.
type Config struct {
	Transport  http.RoundTripper     // nil: connections of its own
	Registry   prometheus.Registerer // where calls are counted; nil: nowhere
	StripeRate *rate.Limiter         // of calls to Stripe; nil: as fast as they come
	// Around sees each call, named as by [CallOf], to the end of its answer; nil: nobody does.
	Around func(http.RoundTripper) http.RoundTripper
}

// Network carries calls. It is safe for concurrent use.
type Network struct {
	Config
	whole http.RoundTripper // an exchange to the end of its answer
	calls *prometheus.CounterVec
	times *prometheus.HistogramVec
}

// New returns a Network; nothing is dialled before the first call.
func New(c Config) *Network {
	if c.Transport == nil {
		c.Transport = newPool()
	}
	n := &Network{
		Config: c,
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stripe_sidecar_upstream_calls_total",
			Help: "Calls to Stripe and Supabase by what they were for and their outcome: a class of status, replayed, timeout, canceled or error."},
			[]string{"service", "call", "outcome"}),
		times: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "stripe_sidecar_upstream_call_duration_seconds",
			Help:    "Time to the end of the answer.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}}, []string{"service", "call"}),
	}
	n.whole = RoundTrip(n.send)
	if c.Around != nil {
		n.whole = c.Around(n.whole)
	}
	if c.Registry != nil {
		c.Registry.MustRegister(n.calls, n.times)
	}
	return n
}

// Client returns an HTTP client for an SDK. It follows no redirect: neither
// Stripe's API nor Supabase's answers one, and keys must not travel to wherever
// one points.
func (n *Network) Client() *http.Client { return client(n) }

func client(t http.RoundTripper) *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// RoundTrip sends a body with its length: stripe-go tells none, so that net/http
// would send it in chunks, three packets for a form of 300 bytes. It reads the
// answer whole, so that one that breaks off is a failed call, which SDKs make
// again, and no call is still under way when its answer is looked at.
func (n *Network) RoundTrip(r *http.Request) (*http.Response, error) {
	r, err := withLength(r)
	if err != nil {
		return nil, err
	}
	if t, ok := r.Context().Value(traceKey{}).(string); ok {
		r.Header = r.Header.Clone()
		r.Header.Set("Traceparent", t)
	}
	service, call := CallOf(r.Context())
	if service == Stripe && n.StripeRate != nil {
		if err := n.StripeRate.Wait(r.Context()); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	resp, err := n.whole.RoundTrip(r)
	n.times.WithLabelValues(service, call).Observe(time.Since(start).Seconds())
	n.calls.WithLabelValues(service, call, outcome(resp, err)).Inc()
	return resp, err
}

// RoundTrip is an [http.RoundTripper] that is a function.
type RoundTrip func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f RoundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (n *Network) send(r *http.Request) (*http.Response, error) {
	resp, err := n.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(answer) > maxAnswer:
		return nil, errors.New("the answer is too long")
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	return resp, nil
}

// withLength returns a copy of the request, since the caller's is not ours to change.
func withLength(r *http.Request) (*http.Request, error) {
	body := r.Body
	r = r.WithContext(r.Context())
	if body == nil {
		return r, nil
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = int64(len(content))
	r.GetBody = func() (io.ReadCloser, error) {
		if len(content) == 0 {
			return http.NoBody, nil
		}
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	r.Body, _ = r.GetBody()
	return r, nil
}

func outcome(resp *http.Response, err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case err != nil:
		return "error"
	case resp.Header.Get("Idempotent-Replayed") == "true": // nothing new was created
		return "replayed"
	}
	return strconv.Itoa(resp.StatusCode/100) + "xx"
}

type (
	callKey  struct{}
	traceKey struct{}
)

// Call names what is done with ctx: a service and a call, for metrics and
// traces. Both come from the code, never from a caller.
func Call(ctx context.Context, service, call string) context.Context {
	return context.WithValue(ctx, callKey{}, [2]string{service, call})
}

// CallOf returns what [Call] said; "other" for none.
func CallOf(ctx context.Context) (service, call string) {
	if names, ok := ctx.Value(callKey{}).([2]string); ok {
		return names[0], names[1]
	}
	return "other", "other"
}

// WithTraceparent has the calls made with ctx carry a W3C trace context.
// https://www.w3.org/TR/trace-context/#traceparent-header
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	return context.WithValue(ctx, traceKey{}, traceparent)
}

// Exchange is one call by an SDK that takes no context and tells failures by
// text only: it carries the context in and the answer out.
type Exchange struct {
	Header http.Header // set on the request, in place of the SDK's own
	Status int         // of the answer; 0: there was none, or not a whole one
	Body   []byte      // of the answer

	network *Network
	ctx     context.Context
}

// Exchange returns an Exchange for one call, named as by [Call].
func (n *Network) Exchange(ctx context.Context, service, call string) *Exchange {
	return &Exchange{network: n, ctx: Call(ctx, service, call)}
}

// Client returns the HTTP client of the exchange.
func (e *Exchange) Client() *http.Client { return client(e) }

// RoundTrip makes an error of every answer that is not a success, because SDKs
// stumble over those that something else than the service has given.
func (e *Exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.WithContext(e.ctx)
	for name, values := range e.Header {
		r.Header[name] = values
	}
	resp, err := e.network.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	e.Status = resp.StatusCode
	if e.Body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	if e.Status/100 != 2 {
		return nil, errors.New("status " + strconv.Itoa(e.Status))
	}
	resp.Body = io.NopCloser(bytes.NewReader(e.Body))
	return resp, nil
}

// pool holds the connections. net/http dials once for every request that finds
// no free connection, and keeps two. For HTTP/1.1 all are kept, so that a burst
// does not end in a TLS handshake for every call. Over HTTP/2, where one
// connection carries them all, 1,000 requests at once opened 1,734; so HTTPS
// begins with few, and only a host that turns out to speak HTTP/1.1 gets one for
// each request. No time-out is set for an answer: every call carries its
// request's deadline.
type pool struct {
	many, few *http.Transport
	http1     sync.Map // hosts that answered over HTTPS in HTTP/1.1
}

// newPool returns the connections that a Network has unless it is given others.
func newPool() *pool {
	many := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 2000, // as many requests as are worked on at once, without GOMEMLIMIT
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 5 * time.Second,
		// A connection that died without a word would time out every call that is
		// sent over it, for as long as the system takes to notice.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second},
	}
	few := many.Clone()
	few.MaxConnsPerHost = 4
	return &pool{many: many, few: few}
}

func (p *pool) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, known := p.http1.Load(r.URL.Host); known || r.URL.Scheme != "https" {
		return p.many.RoundTrip(r)
	}
	resp, err := p.few.RoundTrip(r)
	if err == nil && resp.ProtoMajor == 1 {
		p.http1.Store(r.URL.Host, true)
	}
	return resp, err
}
