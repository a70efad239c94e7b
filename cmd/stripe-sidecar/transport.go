package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// transport holds the connections to Stripe and Supabase. net/http dials once
// for every request that finds no free connection, and keeps two. For HTTP/1.1
// all are kept, so that a burst does not end in a TLS handshake for every call.
// Over HTTP/2, where one connection carries them all, 1,000 requests at once
// opened 1,734; so HTTPS begins with few, and only a host that turns out to
// speak HTTP/1.1 gets one for each request. No time-out is set for an answer:
// every call carries its request's deadline.
type transport struct {
	many, few *http.Transport
	http1     sync.Map // hosts that answered over HTTPS in HTTP/1.1
}

func newTransport() *transport {
	many := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: maxInFlight,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 5 * time.Second,
	}
	few := many.Clone()
	few.MaxConnsPerHost = 4
	return &transport{many: many, few: few}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, known := t.http1.Load(r.URL.Host); known || r.URL.Scheme != "https" {
		return t.many.RoundTrip(r)
	}
	resp, err := t.few.RoundTrip(r)
	if err == nil && resp.ProtoMajor == 1 {
		t.http1.Store(r.URL.Host, true)
	}
	return resp, err
}
