package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

const (
	checkoutPath = "/api/stripe/create-checkout"
	stripePath   = "/v1/checkout/sessions"
	cookieName   = "sb-bench-auth-token"
	stripeKey    = "sk_test_bench_not_a_real_key"
	checkoutBody = `{"priceId":"price_1MotwRLkdIwHu7ixYcPLm5uZ","mode":"subscription",` +
		`"successUrl":"https://example.com/success?session_id={CHECKOUT_SESSION_ID}","cancelUrl":"https://example.com/cancel"}`
)

// post returns the nth request as a browser behind a proxy would send it. Each
// comes from an address of its own, or most would be over the limit.
func post(n int, path, headers, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"+
		"Accept: */*\r\nOrigin: https://example.com\r\nSec-Fetch-Site: same-origin\r\nX-Forwarded-For: 20.%d.%d.%d\r\n%s"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, byte(n>>16), byte(n>>8), byte(n), headers, len(body), body)
}

func guestCheckout(n int) []byte { return post(n, checkoutPath, "", checkoutBody) }

// cookie is the header line of a session as @supabase/ssr writes it.
func cookie(s fakesupabase.Session) string {
	return "Cookie: " + cookieName + "=base64-" + base64.RawURLEncoding.EncodeToString(s.JSON) + "\r\n"
}

func (b *bench) signedInCheckout(n int) []byte {
	return post(n, checkoutPath, b.cookies[n%len(b.cookies)], checkoutBody)
}

// caller is one keep-alive connection. It writes requests as they are: a whole
// HTTP client would take more of the processors than what is measured.
type caller struct {
	net.Conn
	in *bufio.Reader
}

// call sends a request and reads the whole answer, body and all.
func (c *caller) call(request []byte) (*http.Response, error) {
	_ = c.SetDeadline(time.Now().Add(40 * time.Second)) // longer than the service may take
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}

// send sends n requests over some connections, the next one of each when the last
// was answered, and returns how long each took, in ms. Any answer but 200 is an
// error.
func send(ctx context.Context, callers []*caller, n int, request func(n int) []byte) ([]float64, error) {
	took := make([]float64, n)
	var sent atomic.Int64
	group, stop := errgroup.WithContext(ctx)
	for _, c := range callers {
		group.Go(func() error {
			for i := int(sent.Add(1)) - 1; i < n && stop.Err() == nil; i = int(sent.Add(1)) - 1 {
				begun := time.Now()
				resp, err := c.call(request(i))
				if err != nil {
					return err
				}
				if resp.StatusCode != http.StatusOK {
					return errors.New(resp.Status)
				}
				took[i] = milliseconds(begun)
			}
			return nil
		})
	}
	return took, cmp.Or(group.Wait(), context.Cause(ctx))
}

func milliseconds(since time.Time) float64 { return time.Since(since).Seconds() * 1e3 }

// quantile returns a value that the share q does not exceed.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[int(q*float64(len(values)-1))]
}

// connect opens n connections; closeAll must follow, after an error too.
func connect(ctx context.Context, addr string, n int) (callers []*caller, _ error) {
	var d net.Dialer
	for range n {
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return callers, err
		}
		callers = append(callers, &caller{Conn: conn, in: bufio.NewReader(conn)})
	}
	return callers, nil
}

func closeAll(callers []*caller) {
	for _, c := range callers {
		_ = c.Close()
	}
}
