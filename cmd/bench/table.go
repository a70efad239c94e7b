package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"
)

// report is the table under way.
type report struct {
	lines  []string
	missed []error
}

// row adds what was measured and what is wanted of it.
func (r *report) row(what, bare, ours, ratio string, holds bool, wanted string) {
	if !holds {
		r.missed = append(r.missed, fmt.Errorf("%s: %s, ratio %s; want %s", what, ours, cmp.Or(ratio, "none"), wanted))
		wanted += ", **missed**"
	}
	r.lines = append(r.lines, "| "+strings.Join([]string{what, bare, ours, ratio, wanted}, " | ")+" |")
}

// table makes every measurement and prints it.
func (b *bench) table(ctx context.Context, out io.Writer) error {
	var r report
	err := b.ratios(ctx, &r)
	if err == nil {
		err = b.overload(ctx, &r)
	}
	fmt.Fprintf(out, "%s, %d processors, %s/%s\n\n| | bare handler | stripe-sidecar | ratio | wanted |\n| --- | --- | --- | --- | --- |\n%s\n",
		runtime.Version(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, strings.Join(r.lines, "\n"))
	return errors.Join(append(r.missed, err)...)
}

// trial is one kind of load.
type trial struct {
	name     string
	signedIn bool
	atOnce   int
	latency  time.Duration // of Stripe
}

var trials = []trial{
	{"guest, 1 at once", false, 1, 0},
	{"signed in, 1 at once", true, 1, 0},
	{"guest, 64 at once", false, 64, 0},
	{"signed in, 64 at once", true, 64, 0},
	{"guest, 1000 at once, 100 ms at Stripe", false, 1000, 100 * time.Millisecond},
}

// outcome is what one run of it gave.
type outcome [measures]float64

const (
	first     = iota // answer, ms after the start
	idle             // memory after it, MB
	perSecond        // answers
	cpu              // ms a request
	half             // of the answers took at most so many ms
	p99              // ms
	peak             // memory, MB
	measures
)

// try runs a trial against a fresh process, so that its peak is this trial's.
func (b *bench) try(ctx context.Context, p program, t trial) (o outcome, err error) {
	server, err := b.launch(ctx, p, behaviour{latency: t.latency}, min(t.atOnce, b.connections))
	defer server.close()
	if err != nil {
		return o, err
	}
	request := guestCheckout
	if t.signedIn {
		request = b.signedInCheckout
	}
	if _, err = send(ctx, server.callers[:1], 1, request); err != nil {
		return o, server.failed(err)
	}
	o[first] = milliseconds(server.begun)
	o[idle], _ = server.memory()
	n := b.requests
	if t.atOnce == 1 {
		n /= 4
	}
	if _, err = send(ctx, server.callers, max(len(server.callers), n/4), request); err != nil { // warms up
		return o, server.failed(err)
	}
	used, begun := server.cpu(), time.Now()
	took, err := send(ctx, server.callers, n, request)
	if err == nil && t.signedIn != (server.up.reads.Load() > 0) {
		err = errors.New("the sessions were not taken for what they are")
	}
	if err != nil {
		return o, server.failed(err)
	}
	o[perSecond], o[cpu] = float64(n)*1e3/milliseconds(begun), (server.cpu()-used)/float64(n)
	o[half], o[p99] = quantile(took, 0.5), quantile(took, 0.99)
	_, o[peak] = server.memory()
	return o, nil
}

// compare runs a trial with either program by turns and returns the outcomes.
func (b *bench) compare(ctx context.Context, t trial) (all [programs][]outcome, err error) {
	fmt.Fprintln(b.progress, t.name)
	for range b.rounds {
		for p := range programs {
			o, err := b.try(ctx, p, t)
			if err != nil {
				return all, err
			}
			all[p] = append(all[p], o)
		}
	}
	return all, nil
}

// typical returns the median of one measure.
func typical(all []outcome, measure int) float64 {
	var values []float64
	for _, o := range all {
		values = append(values, o[measure])
	}
	return quantile(values, 0.5)
}

// ratio returns the median of the rounds' ratios, ours to the bare handler's: a
// machine that slows down for a while slows both of a round.
func ratio(all [programs][]outcome, measure int) float64 {
	var ratios []float64
	for i, bare := range all[bareHandler] {
		ratios = append(ratios, all[sidecar][i][measure]/bare[measure])
	}
	return quantile(ratios, 0.5)
}

// atMost adds a row for one measure; wanted bounds its ratio.
func (r *report) atMost(wanted float64, what, format string, all [programs][]outcome, measure int) {
	n := ratio(all, measure)
	r.compared(what, format, all, measure, n <= wanted, fmt.Sprintf("≤ %.1f", wanted))
}

func (r *report) compared(what, format string, all [programs][]outcome, measure int, holds bool, wanted string) {
	r.row(what, fmt.Sprintf(format, typical(all[bareHandler], measure)), fmt.Sprintf(format, typical(all[sidecar], measure)),
		fmt.Sprintf("%.2f", ratio(all, measure)), holds, wanted)
}

// ratios compares the two one at a time, under load, and with a thousand requests
// that wait for Stripe at once.
func (b *bench) ratios(ctx context.Context, r *report) error {
	up := b.upstreams(behaviour{})
	defer up.close()
	callers, err := connect(ctx, up.stripe.Listener.Addr().String(), 1)
	defer closeAll(callers)
	if err != nil {
		return err
	}
	direct, err := send(ctx, callers, b.requests, func(n int) []byte { return post(n, stripePath, "", checkoutBody) })
	if err != nil {
		return err
	}
	for _, t := range trials {
		all, err := b.compare(ctx, t)
		if err != nil {
			return err
		}
		calls, atLeast := 1.0, 0.55
		if t.signedIn { // Supabase's imitation takes as long as Stripe's
			calls, atLeast = 2, 0.60
		}
		switch {
		case t.atOnce == 1:
			if t.signedIn {
				r.compared("start to first signed-in answer", "%.0f ms", all, first, typical(all[sidecar], first) < 50, "< 50 ms")
				r.compared("memory after it", "%.1f MB", all, idle, typical(all[sidecar], idle) < 20, "< 20 MB")
			}
			for p := range programs {
				for i := range all[p] {
					all[p][i][half] -= calls * quantile(direct, 0.5)
				}
			}
			r.atMost(2, t.name+": median beyond that of the direct calls", "+%.2f ms", all, half)
		case t.latency > 0:
			r.atMost(2, t.name+": p99", "%.0f ms", all, p99)
			r.atMost(1.6, t.name+": peak memory", "%.0f MB", all, peak)
		default:
			cell := func(p program) string {
				return fmt.Sprintf("%.0f/s · %.2f ms CPU · p99 %.0f ms · %.0f MB", typical(all[p], perSecond), typical(all[p], cpu),
					typical(all[p], p99), typical(all[p], peak))
			}
			n := ratio(all, perSecond)
			r.row(t.name, cell(bareHandler), cell(sidecar), fmt.Sprintf("%.2f", n), n >= atLeast, fmt.Sprintf("≥ %.2f", atLeast))
		}
	}
	return nil
}

// overload opens more connections than the service works on requests at once,
// and then sends on all of them.
func (b *bench) overload(ctx context.Context, r *report) error {
	server, err := b.launch(ctx, sidecar, behaviour{latency: b.hold}, b.connections)
	defer server.close()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	served, failed, refused := 0, 0, []float64{0} // s; that of none
	begun := time.Now()
	for i, c := range server.callers {
		wg.Go(func() {
			resp, err := c.call(guestCheckout(i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && resp.StatusCode == 200:
				served++
			case err == nil && resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "":
				refused = append(refused, time.Since(begun).Seconds())
			default:
				failed++
			}
		})
	}
	wg.Wait()
	_, peak := server.memory()
	r.row("10000 checkouts at once, 2 s at Stripe", "",
		fmt.Sprintf("%d served, %d refused after %.2f s (median), %d failed · %.0f MB", served, len(refused)-1, quantile(refused, 0.5), failed, peak),
		"", failed == 0 && served >= 2000 && quantile(refused, 0.5) < 2, "2000 served, the others refused early")
	return nil
}
