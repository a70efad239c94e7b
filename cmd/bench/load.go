package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// load sends requests over keep-alive connections, the next one of each when
// the last was answered. It writes them as they are: a whole HTTP client would
// take more of the processors than what is measured.
type load struct {
	addr    string
	request func(n int64) []byte // the nth, from 1
	atOnce  int
}

// answers are those to requests of the time that was measured.
type answers struct {
	elapsed time.Duration
	times   []time.Duration // of the 200s, in order
	refused int             // 503 with Retry-After
	failed  int             // anything else, unmeasured ones too
}

func (a *answers) perSecond() float64 { return float64(len(a.times)) / a.elapsed.Seconds() }

// quantile returns a time that the share q of the answers stayed under, in ms.
func (a *answers) quantile(q float64) float64 {
	if len(a.times) == 0 {
		return 0
	}
	return a.times[int(q*float64(len(a.times)-1))].Seconds() * 1e3
}

const (
	warmUp   = 300 * time.Millisecond
	maxPhase = 15 * time.Second // on a machine that is too busy to measure anything
)

// run sends unmeasured until every connection has had an answer, and then
// measured for a while and until as many have come; measuring is called at the
// beginning and at the end of that.
func (l load) run(ctx context.Context, measured time.Duration, measuring func()) (*answers, error) {
	callers, err := dial(ctx, l.addr, l.atOnce)
	defer closeAll(callers)
	if err != nil {
		return nil, err
	}
	var sent, done, phase atomic.Int64 // phase: 0 warm-up, 1 measured, 2 over
	var mu sync.Mutex
	var all answers
	var wg sync.WaitGroup
	for _, c := range callers {
		wg.Go(func() {
			var own answers
			for phase.Load() < 2 {
				start := time.Now()
				status, err := c.call(l.request(sent.Add(1)))
				took := time.Since(start)
				done.Add(1)
				inTime := phase.Load() == 1
				switch {
				case err == nil && status == http.StatusOK && inTime:
					own.times = append(own.times, took)
				case err == nil && status == http.StatusServiceUnavailable && c.retryAfter > 0 && inTime:
					own.refused++
				case err != nil || status != http.StatusOK && status != http.StatusServiceUnavailable:
					own.failed++
				}
				if err != nil {
					break // the connection is of no more use
				}
				for pause := c.retryAfter; pause > 0 && phase.Load() < 2; pause -= 50 * time.Millisecond {
					time.Sleep(50 * time.Millisecond)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.times = append(all.times, own.times...)
			all.refused += own.refused
			all.failed += own.failed
		})
	}
	pass := func(least time.Duration) {
		begin, from := time.Now(), done.Load()
		time.Sleep(least)
		for done.Load()-from < int64(l.atOnce) && time.Since(begin) < maxPhase && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
	}
	pass(warmUp)
	measuring()
	start := time.Now()
	phase.Store(1)
	pass(measured)
	phase.Store(2)
	all.elapsed = time.Since(start)
	measuring()
	wg.Wait()
	slices.Sort(all.times)
	return &all, context.Cause(ctx)
}

// caller is one connection.
type caller struct {
	net.Conn
	in         *bufio.Reader
	retryAfter time.Duration // of the last answer, 0 without one
}

// callTimeout is longer than the service may take for any answer.
const callTimeout = 40 * time.Second

// call sends a request and reads the whole answer.
func (c *caller) call(request []byte) (status int, err error) {
	_ = c.SetDeadline(time.Now().Add(callTimeout))
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	c.retryAfter = time.Duration(seconds) * time.Second
	if resp.Close {
		return resp.StatusCode, errors.New("the service closes the connection")
	}
	return resp.StatusCode, nil
}

func dial(ctx context.Context, addr string, n int) ([]*caller, error) {
	var callers []*caller
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
