package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox"
)

// TestSigtermUnderLoad: a real process with 200 requests in flight is told to
// stop; each of them is answered and the exit code is 0.
func TestSigtermUnderLoad(t *testing.T) {
	const requests = 200
	var arrived atomic.Int32
	all, release := make(chan struct{}), make(chan struct{})
	stripe, _, env := surroundings(t, sandbox.StripeOptions{})
	stripe.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if arrived.Add(1) == requests {
			close(all)
		}
		<-release
		fmt.Fprint(w, `{"id":"cs_1","object":"checkout.session","url":"https://checkout.example/1"}`)
		return true
	})
	url, process := startProcess(t, env)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: requests}}
	t.Cleanup(client.CloseIdleConnections)
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			resp, err := client.Post(url+"/api/stripe/create-checkout", "application/json", strings.NewReader(
				`{"priceId":"price_lifetime","mode":"payment","successUrl":"https://a.example","cancelUrl":"https://a.example"}`))
			if err != nil {
				t.Errorf("request in flight = %v; want an answer", err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("request in flight = %s; want 200", resp.Status)
			}
		})
	}
	<-all
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for readyz(t, url) == 200 { // the signal takes a moment to be seen
	}
	close(release)
	wg.Wait()
	state, err := process.Wait()
	if err != nil || state.ExitCode() != 0 {
		t.Errorf("process ended with %v, %v; want exit code 0", state, err)
	}
}

// TestSecondSignal ends a process at once that has a request in flight.
func TestSecondSignal(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	stripe, _, env := surroundings(t, sandbox.StripeOptions{})
	stripe.Intercept(func(http.ResponseWriter, *http.Request) bool {
		close(arrived)
		<-release
		return true
	})
	env["SHUTDOWN_TIMEOUT"] = "10m"
	url, process := startProcess(t, env)
	answered := make(chan error, 1)
	go func() {
		_, err := http.Post(url+"/api/stripe/create-checkout", "application/json", strings.NewReader(
			`{"priceId":"price_lifetime","mode":"payment","successUrl":"https://a.example","cancelUrl":"https://a.example"}`))
		answered <- err
	}()
	<-arrived
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for readyz(t, url) == 200 {
	}
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	state, err := process.Wait()
	if err != nil || state.Success() {
		t.Errorf("process ended with %v, %v; want it ended by the signal", state, err)
	}
	if err := <-answered; err == nil {
		t.Error("request in flight = answered; want it lost with the process")
	}
}
