package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
)

// TestSigtermUnderLoad: a real process with 200 requests in flight is told to
// stop; each of them is answered and the exit code is 0.
func TestSigtermUnderLoad(t *testing.T) {
	t.Parallel()
	const requests = 200
	var arrived atomic.Int32
	all, release := make(chan struct{}), make(chan struct{})
	stripe, _, env := surroundings(t, fakestripe.Options{})
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
	if state := process.Wait(); state.ExitCode() != 0 {
		t.Errorf("process ended with %v; want exit code 0", state)
	}
}

// TestSecondSignal ends a process at once that has a request in flight.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	stripe, _, env := surroundings(t, fakestripe.Options{})
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
	if state := process.Wait(); state.Success() {
		t.Errorf("process ended with %v; want it ended by the signal", state)
	}
	if err := <-answered; err == nil {
		t.Error("request in flight = answered; want it lost with the process")
	}
}

// TestIdleConnection: a connection that a proxy keeps open is not closed at the signal,
// when the proxy may be sending on it, but with the next answer.
func TestIdleConnection(t *testing.T) {
	t.Parallel() // it waits for the service's stop
	_, _, env := surroundings(t, fakestripe.Options{})
	url, process := startProcess(t, env)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func() (*http.Response, error) {
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return nil, err
		}
		resp, err := http.ReadResponse(answers, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return resp, err
	}
	if resp, err := ask(); err != nil || resp.StatusCode != 200 || resp.Close {
		t.Fatalf("first answer = %v, %v; want 200, and the connection kept", resp, err)
	}
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for readyz(t, url) == 200 {
	}
	if resp, err := ask(); err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Errorf("answer while the service stops = %v, %v; want 200 and Connection: close", resp, err)
	}
}

// TestSlowClient: who sends a byte now and then does not hold a connection.
func TestSlowClient(t *testing.T) {
	t.Parallel() // it waits for the service's own time-outs
	_, _, env := surroundings(t, fakestripe.Options{})
	url, _ := startProcess(t, env)
	for name, begin := range map[string]string{
		"header": "POST /api/stripe/create-checkout HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"body":   "POST /api/stripe/create-checkout HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, begin); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(conn); err != nil || bytes.Contains(answer, []byte(" 200 ")) {
				t.Errorf("connection = %q, %v; want it closed by the service", answer, err)
			}
		})
	}
}
