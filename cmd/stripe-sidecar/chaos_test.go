//go:build chaos

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// These tests are run by make chaos; nginx, HAProxy, Caddy and PostgreSQL must be
// installed.

const chaosSecret = "whsec_chaos"

// cluster is three replicas of the program with one Stripe and one Supabase.
type cluster struct {
	stripe    *fakestripe.Account
	supabase  *fakesupabase.Project
	env       map[string]string
	urls      [3]string
	processes [3]*child.Process
	client    *http.Client
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 100, IdleConnTimeout: 2 * time.Second}}} // sooner than any proxy closes one
	t.Cleanup(c.client.CloseIdleConnections)
	c.stripe, c.supabase, c.env = surroundings(t, fakestripe.Options{})
	c.env["STRIPE_WEBHOOK_SECRET"], c.env["RATE_LIMIT_PER_MINUTE"] = chaosSecret, "0"
	for i := range c.urls {
		c.urls[i], c.processes[i] = startProcess(t, c.env)
	}
	return c
}

// restart starts a replica again where it was.
func (c *cluster) restart(t *testing.T, i int) {
	c.env["PORT"] = c.urls[i][strings.LastIndex(c.urls[i], ":")+1:]
	_, c.processes[i] = startProcess(t, c.env)
}

// send returns nil for an answer of 200.
func (c *cluster) send(method, url, body string, headers ...string) error {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

func (c *cluster) deliver(url string, event []byte) error {
	return c.send("POST", url+"/api/stripe/webhook", string(event), "Stripe-Signature", fakestripe.Sign(chaosSecret, event, time.Now()))
}

// TestChaosRollingRestart has 300 requests a second for 30 s go through each proxy, as
// its recipe has it, while each of three replicas is restarted in turn, again and
// again; no request fails.
func TestChaosRollingRestart(t *testing.T) {
	const perSecond, lasts = 300, 30 * time.Second
	for _, proxy := range proxies {
		t.Run(proxy.program, func(t *testing.T) {
			c := startCluster(t)
			front := startProxy(t, proxy.program, theSite(t), c.urls)
			var tokens []string
			for i := range 100 {
				u := c.supabase.SignUp(fmt.Sprintf("user%d@example.com", i), "correct horse battery staple")
				tokens = append(tokens, c.supabase.SignIn(u.ID).AccessToken)
			}
			event := []byte(`{"id":"evt_1","object":"event","type":"price.created","livemode":false,"data":{"object":{}}}`)
			kinds := []struct {
				name string
				send func() error
			}{
				{"guest", func() error { return c.send("POST", front+"/api/stripe/create-checkout", oneTime) }},
				{"signed in", func() error {
					return c.send("POST", front+"/api/stripe/create-checkout", recurring, "Authorization", "Bearer "+tokens[rand.IntN(len(tokens))])
				}},
				{"webhook", func() error { return c.deliver(front, event) }},
				{"buttons", func() error { return c.send("GET", front+"/api/stripe/buttons.js", "") }},
			}

			ctx, cancel := context.WithTimeout(t.Context(), lasts)
			defer cancel()
			restarts := 0
			restarting := make(chan struct{})
			go func() {
				defer close(restarting)
				for i := 0; ctx.Err() == nil; i = (i + 1) % 3 {
					if err := c.processes[i].Signal(syscall.SIGTERM); err != nil {
						t.Errorf("SIGTERM = %v; want no error", err)
						return
					}
					if state := c.processes[i].Wait(); !state.Success() {
						t.Errorf("a replica that was told to stop = %v; want exit code 0", state)
					}
					c.restart(t, i)
					restarts++
				}
			}()
			var wg sync.WaitGroup
			var failed atomic.Int32
			sent := 0
			for begun := time.Now(); ctx.Err() == nil; sent++ {
				time.Sleep(time.Until(begun.Add(time.Duration(sent) * time.Second / perSecond))) // catching up when late
				kind := kinds[sent%len(kinds)]
				wg.Go(func() {
					begun := time.Now()
					if err := kind.send(); err != nil {
						failed.Add(1)
						t.Errorf("%s after %s = %v; want 200", kind.name, time.Since(begun).Round(time.Millisecond), err)
					}
				})
			}
			wg.Wait()
			<-restarting
			t.Logf("%d requests in %s, %d restarts, %d failed", sent, lasts, restarts, failed.Load())
			if restarts < 6 || sent < perSecond*int(lasts.Seconds())*9/10 {
				t.Errorf("requests = %d, restarts = %d; want %d a second and each replica restarted twice", sent, restarts, perSecond)
			}
		})
	}
}
