package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	soakRequests = 200000
	soakQuarters = 4
	soakAtOnce   = 128
)

// rest is what a process that does nothing holds.
type rest struct {
	memory  float64 // MB
	files   int
	threads int
}

// soak sends requests of every kind through faults of every kind, a quarter at a
// time, and compares what the service still holds when it has come to rest.
func (b *bench) soak(ctx context.Context, out io.Writer) error {
	up, err := b.upstreams(ctx, behaviour{faults: true})
	if err != nil {
		return err
	}
	defer up.close()
	server, err := b.launch(ctx, sidecar, false, up.ready)
	if err != nil {
		return err
	}
	defer server.close()

	fmt.Fprintln(out, "| requests | answers | memory | open files | threads |\n| --- | --- | --- | --- | --- |")
	atStart, err := resting(ctx, server)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "| 0 | | %.1f MB | %d | %d |\n", atStart.memory, atStart.files, atStart.threads)
	var first, last rest
	for quarter := range soakQuarters {
		seen, err := b.mixed(ctx, server, soakRequests/soakQuarters)
		if err != nil {
			return err
		}
		if last, err = resting(ctx, server); err != nil {
			return err
		}
		if quarter == 0 {
			first = last
		}
		fmt.Fprintf(out, "| %d | %s | %.1f MB | %d | %d |\n", (quarter+1)*soakRequests/soakQuarters, seen, last.memory, last.files, last.threads)
	}

	// SIGQUIT makes the Go runtime print the stacks of all goroutines; the
	// service needs no door for that.
	stacks, err := goroutines(server)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d goroutines at the end, besides the runtime's own.\n", len(stacks))
	var leaks []error
	if last.files > atStart.files+4 {
		leaks = append(leaks, fmt.Errorf("%d files and connections are open; want the %d of the start, or hardly more", last.files, atStart.files))
	}
	if last.memory > 1.25*first.memory+4 {
		leaks = append(leaks, fmt.Errorf("%.1f MB after the last quarter; want the %.1f MB after the first, or hardly more", last.memory, first.memory))
	}
	// main, the listener, and the two that wait for signals.
	if len(stacks) > 4 {
		leaks = append(leaks, fmt.Errorf("%d goroutines; want 4:\n%s", len(stacks), strings.Join(stacks, "\n\n")))
	}
	return errors.Join(leaks...)
}

// mixed sends n requests and returns how they were answered.
func (b *bench) mixed(ctx context.Context, server *process, n int64) (string, error) {
	fmt.Fprintf(b.progress, "%d requests with faults\n", n)
	var sent, aborted, ok, refused, failed, unexpected atomic.Int64
	var wg sync.WaitGroup
	for range soakAtOnce {
		wg.Go(func() {
			var c *caller
			defer func() {
				if c != nil {
					_ = c.Close()
				}
			}()
			for i := sent.Add(1); i <= n && ctx.Err() == nil; i = sent.Add(1) {
				if c == nil {
					one, err := dial(ctx, server.ready.Addr, 1)
					if err != nil {
						unexpected.Add(1)
						return
					}
					c = one[0]
				}
				request := b.someRequest(rand.Int64())
				if rand.IntN(50) == 0 { // a caller who goes away
					_, _ = c.Write(request)
					time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
					_ = c.Close()
					c = nil
					aborted.Add(1)
					continue
				}
				switch status, err := c.call(request); {
				case err != nil:
					unexpected.Add(1)
					_ = c.Close()
					c = nil
				case status == 200:
					ok.Add(1)
				case status == 400 || status == 401:
					refused.Add(1)
				case status == 500 || status == 503:
					failed.Add(1)
				default:
					unexpected.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if unexpected.Load() > 0 {
		return "", fmt.Errorf("%d answers were missing or have a status that is not in the contract: %s", unexpected.Load(), firstLines(server.logText()))
	}
	return fmt.Sprintf("%d OK, %d refused, %d failed, %d callers gone", ok.Load(), refused.Load(), failed.Load(), aborted.Load()), context.Cause(ctx)
}

// someRequest returns one of every kind that there is, in a likely proportion.
func (b *bench) someRequest(n int64) []byte {
	cookie := b.users.cookie(n)
	switch kind := rand.IntN(20); {
	case kind < 8:
		return guestCheckout(n)
	case kind < 14:
		return post(n, checkoutPath, cookie, checkoutBody)
	case kind < 16:
		return post(n, portalPath, cookie, portalBody)
	case kind < 17: // a session that Supabase is asked to refresh, and will not
		return post(n, checkoutPath, b.users.ending[rand.IntN(endingUsers)], checkoutBody)
	case kind < 18:
		return post(n, checkoutPath, "Idempotency-Key: "+cookie[len(cookie)-22:len(cookie)-2]+"\r\n", checkoutBody)
	case kind < 19:
		return post(n, checkoutPath, "Authorization: Bearer no.token.atall\r\n", checkoutBody)
	default:
		return post(n, portalPath, "", `{"returnUrl":`)
	}
}

// resting waits until the service has nothing left to do and returns what it
// holds then.
func resting(ctx context.Context, server *process) (rest, error) {
	// Longer than a caller who has gone is worked for (stripe-go sleeps between
	// its attempts, whoever waits) and than the upstreams keep idle connections.
	select {
	case <-time.After(7 * time.Second):
		return rest{memory: server.resident(), files: server.files(), threads: int(server.status("Threads"))}, nil
	case <-ctx.Done():
		return rest{}, context.Cause(ctx)
	}
}

// goroutines ends the process and returns the stacks of its goroutines.
func goroutines(server *process) ([]string, error) {
	end, err := server.logs.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if err := server.Signal(syscall.SIGQUIT); err != nil {
		return nil, err
	}
	server.Wait()
	dump, err := io.ReadAll(io.NewSectionReader(server.logs, end, 16<<20))
	if err != nil {
		return nil, err
	}
	var stacks []string
	for part := range strings.SplitSeq(string(dump), "\n\n") {
		// Those of the runtime are as many as it likes; goroutine 0 is the scheduler's.
		if strings.HasPrefix(part, "goroutine ") && !strings.HasPrefix(part, "goroutine 0 ") && !strings.Contains(part, "\ncreated by runtime.") {
			stacks = append(stacks, part)
		}
	}
	if len(stacks) == 0 {
		return nil, fmt.Errorf("no goroutines in what the service printed: %s", firstLines(string(dump)))
	}
	return stacks, nil
}
