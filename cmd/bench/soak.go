package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// soak sends requests of every kind through faults of every kind, a quarter at a
// time, and compares what the service still holds when it has come to rest.
// settle is how long that takes: longer than a caller who has gone is worked for
// (stripe-go sleeps between its attempts, whoever waits) and than the upstreams
// keep idle connections.
func (b *bench) soak(ctx context.Context, out io.Writer, requests int, settle time.Duration) error {
	server, err := b.launch(ctx, sidecar, behaviour{faults: true}, 0)
	defer server.close()
	if err != nil {
		return err
	}
	const quarters = 4
	var held [quarters + 1]rest
	fmt.Fprintln(out, "| requests | answers | memory | open files | goroutines |\n| --- | --- | --- | --- | --- |")
	for quarter := range held {
		answers := ""
		if quarter > 0 {
			if answers, err = b.mixed(ctx, server, requests/quarters); err != nil {
				return err
			}
		}
		time.Sleep(settle)
		if held[quarter], err = server.rest(); err != nil {
			return err
		}
		fmt.Fprintf(out, "| %d | %s | %.1f MB | %.0f | %.0f |\n", quarter*requests/quarters, answers,
			held[quarter].memory, held[quarter].files, held[quarter].goroutines)
	}
	first, quarter, last := held[0], held[1], held[quarters]
	if last.memory > 1.25*quarter.memory+4 || last.files > first.files+4 || last.goroutines > first.goroutines+2 {
		return errors.New("at the end the service holds more memory than after the first quarter, or more files or goroutines than at the start")
	}
	return nil
}

// rest is what a process that does nothing holds.
type rest struct{ memory, files, goroutines float64 } // memory in MB

func (s *process) rest() (r rest, err error) {
	r.memory, _ = s.memory()
	files, err := s.FileDescriptorsLen()
	if err != nil {
		return r, err
	}
	r.files = float64(files)
	defer http.DefaultClient.CloseIdleConnections() // or the next time would count this one
	resp, err := http.Get("http://" + s.Addr + "/metrics")
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	_, number, _ := strings.Cut(string(text), "\ngo_goroutines ")
	_, scanned := fmt.Sscan(number, &r.goroutines)
	return r, cmp.Or(err, scanned)
}

// mixed sends n requests, of which some are given up, and returns how the others
// were answered. A status that is not in the contract is an error.
func (b *bench) mixed(ctx context.Context, server *process, n int) (string, error) {
	fmt.Fprintf(b.progress, "%d requests with faults\n", n)
	var sent, gone, ok, refused, failed atomic.Int64
	group, stop := errgroup.WithContext(ctx)
	for range 128 {
		group.Go(func() error {
			var callers []*caller
			defer func() { closeAll(callers) }()
			for sent.Add(1) <= int64(n) && stop.Err() == nil {
				if len(callers) == 0 {
					var err error
					if callers, err = connect(ctx, server.Addr, 1); err != nil {
						return err
					}
				}
				request := b.someRequest()
				if rand.IntN(50) == 0 {
					_, _ = callers[0].Write(request)
					time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
					closeAll(callers)
					callers = nil
					gone.Add(1)
					continue
				}
				resp, err := callers[0].call(request)
				if err != nil {
					return server.failed(err)
				}
				counter := map[int]*atomic.Int64{200: &ok, 400: &refused, 401: &refused, 500: &failed, 503: &failed}[resp.StatusCode]
				if counter == nil {
					return errors.New("an answer was " + resp.Status)
				}
				counter.Add(1)
			}
			return nil
		})
	}
	err := cmp.Or(group.Wait(), context.Cause(ctx))
	return fmt.Sprintf("%d OK, %d refused, %d failed, %d callers gone", ok.Load(), refused.Load(), failed.Load(), gone.Load()), err
}

// someRequest returns one of every kind that there is, in a likely proportion.
func (b *bench) someRequest() []byte {
	const portalPath, portalBody = "/api/stripe/create-portal", `{"returnUrl":"https://example.com/account"}`
	n := rand.Int()
	switch kind := rand.IntN(20); {
	case kind < 8:
		return guestCheckout(n)
	case kind < 14:
		return b.signedInCheckout(n)
	case kind < 16:
		return post(n, portalPath, b.cookies[n%len(b.cookies)], portalBody)
	case kind < 17:
		return post(n, checkoutPath, cookie(b.supabase.SignInFor(b.user, -time.Minute)), checkoutBody) // refreshed
	case kind < 18:
		return post(n, checkoutPath, fmt.Sprintf("Idempotency-Key: %d\r\n", n), checkoutBody)
	case kind < 19:
		return post(n, checkoutPath, "Authorization: Bearer no.token.atall\r\n", checkoutBody)
	default:
		return post(n, portalPath, "", `{"returnUrl":`)
	}
}
