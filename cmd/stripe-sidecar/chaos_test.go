//go:build chaos

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// These tests are run by make chaos; nginx, HAProxy, Caddy and PostgreSQL must be
// installed.

// TestChaosKill has three replicas behind nginx under load, kills one and starts it
// again. No request may be lost, since nginx asks another replica, nor an Event, and no
// user may end up with two Customers.
func TestChaosKill(t *testing.T) {
	const (
		users   = 1500
		workers = 8
	)
	s := openShop(t, 3)
	front := startProxy(t, "nginx", theSite(t), [3]string(s.urls))

	// Each user makes the first checkout, and another one, and buys a
	// subscription, of which the Events go through nginx too.
	var bought, killed, restarted atomic.Int32
	events := make(chan fakestripe.Event, users*20)
	var next atomic.Int32
	var wg sync.WaitGroup
	accounts := make([]fakesupabase.User, users)
	for i := range accounts {
		accounts[i] = s.supabase.SignUp(fmt.Sprintf("user%d@example.com", i), "correct horse battery staple")
		s.db.AddUser(accounts[i].ID)
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(client.CloseIdleConnections)
	checkout := func(body string, i int) bool {
		r, err := http.NewRequest("POST", front+"/api/stripe/create-checkout", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return false
		}
		r.Header.Set("Authorization", "Bearer "+s.supabase.SignIn(accounts[i].ID).AccessToken)
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.18.%d.%d", i/256, i%256))
		resp, err := client.Do(r)
		if err != nil {
			t.Errorf("create-checkout = %v; want 200", err)
			return false
		}
		defer resp.Body.Close()
		if answer, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || err != nil {
			t.Errorf("create-checkout = %s %s, %v; want 200", resp.Status, answer, err)
		}
		return resp.StatusCode == 200
	}
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= users {
					return
				}
				switch i {
				case users / 3:
					if err := s.processes[1].Kill(); err != nil {
						t.Errorf("kill = %v; want no error", err)
					}
					killed.Store(1)
				case users * 2 / 3:
					again := maps.Clone(s.env)
					again["PORT"] = s.urls[1][strings.LastIndex(s.urls[1], ":")+1:]
					startProcess(t, again)
					restarted.Store(1)
				}
				checkout(oneTime, i)
				if checkout(recurring, i) {
					bought.Add(1)
				}
			}
		})
	}
	// Meanwhile every subscription that was begun is paid and its Events sent,
	// again and again until they are taken, as Stripe does.
	var delivered atomic.Int32
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		var senders sync.WaitGroup
		for range workers {
			senders.Go(func() {
				for e := range events {
					for attempt := 0; attempt < 1000; attempt++ {
						if status, err := deliver(front, e.Payload); err == nil && status == 200 {
							delivered.Add(1)
							break
						}
					}
				}
			})
		}
		senders.Wait()
	}()
	paid, told := 0, 0
	pay := func() {
		sessions := s.stripe.CheckoutSessions()
		for ; paid < len(sessions); paid++ {
			if sessions[paid].Mode == "subscription" {
				s.stripe.PayCheckout(sessions[paid].ID)
			}
		}
		all := s.stripe.Events()
		for ; told < len(all); told++ {
			events <- all[told]
		}
	}
	working := make(chan struct{})
	go func() { wg.Wait(); close(working) }()
	for running := true; running; {
		select {
		case <-working:
			running = false
		case <-time.After(50 * time.Millisecond): // a batch at a time
		}
		pay()
	}
	close(events)
	<-sent

	if killed.Load()+restarted.Load() != 2 {
		t.Fatal("no replica was killed and started again")
	}
	t.Logf("%d users, %d subscriptions, %d Events delivered", users, bought.Load(), delivered.Load())
	if int(delivered.Load()) != told {
		t.Errorf("Events delivered = %d; want %d", delivered.Load(), told)
	}
	owners := map[string]int{}
	for _, c := range s.stripe.Customers() {
		owners[c.Metadata["supabase_user_id"]]++
	}
	for user, n := range owners {
		if n != 1 {
			t.Errorf("Customers of user %s = %d; want 1", user, n)
		}
	}
	if got, want := s.db.Text("select count(*) from subscriptions where user_id is not null and status = 'active'"), fmt.Sprint(len(s.stripe.Subscriptions())); got != want {
		t.Errorf("rows of active subscriptions = %s; want %s", got, want)
	}
}

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
	c.env["STRIPE_WEBHOOK_SECRET"], c.env["RATE_LIMIT_PER_MINUTE"] = "whsec_shop", "0"
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
			const event = `{"id":"evt_1","object":"event","type":"price.created","livemode":false,"data":{"object":{}}}`
			kinds := []struct {
				name string
				send func() error
			}{
				{"guest", func() error { return c.send("POST", front+"/api/stripe/create-checkout", oneTime) }},
				{"signed in", func() error {
					return c.send("POST", front+"/api/stripe/create-checkout", recurring, "Authorization", "Bearer "+tokens[rand.IntN(len(tokens))])
				}},
				{"webhook", func() error {
					return c.send("POST", front+api.WebhookPath, event, "Stripe-Signature", fakestripe.Sign("whsec_shop", []byte(event), time.Now()))
				}},
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

// confine returns a command in front of which a program has 64 MB and a quarter of a
// core, with systemd or with control groups of the first version. peak is the most that
// it has taken, in MB; 0 with systemd, which does not tell.
func confine(t *testing.T) (prefix []string, peak func() int) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err == nil && os.Geteuid() == 0 {
		return []string{"systemd-run", "--scope", "--quiet", "-p", "MemoryMax=64M", "-p", "MemorySwapMax=0", "-p", "CPUQuota=25%", "--"}, func() int { return 0 }
	}
	var groups []string
	for _, limit := range []struct{ controller, file, value string }{
		{"memory", "memory.limit_in_bytes", "64M"},
		{"cpu", "cpu.cfs_period_us", "100000"},
		{"cpu", "cpu.cfs_quota_us", "25000"},
	} {
		group := fmt.Sprintf("/sys/fs/cgroup/%s/stripe-sidecar-%d", limit.controller, os.Getpid())
		if err := os.Mkdir(group, 0o755); err == nil {
			t.Cleanup(func() {
				if err := os.Remove(group); err != nil {
					t.Errorf("the control group stays behind: %v", err)
				}
			})
			groups = append(groups, group)
		} else if !errors.Is(err, fs.ErrExist) {
			t.Skipf("become root, on a machine that systemd runs or that has control groups of the first version: %v", err)
		}
		if err := os.WriteFile(group+"/"+limit.file, []byte(limit.value), 0o644); err != nil {
			t.Skipf("the control groups are not to be had: %v", err)
		}
	}
	enter := "for group; do shift; [ \"$group\" = -- ] && break; echo $$ >\"$group/cgroup.procs\"; done; exec \"$@\""
	return append(append([]string{"sh", "-ec", enter, "sh"}, groups...), "--"), func() int {
		text, _ := os.ReadFile(groups[0] + "/memory.max_usage_in_bytes")
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n >> 20
	}
}

// TestChaosSmall: the program with 64 MB and a quarter of a core, and the GOMEMLIMIT of
// the recipes, is asked by many at once, again and again; all are answered, with 200
// or at once with 503 and Retry-After, and it goes on.
func TestChaosSmall(t *testing.T) {
	program := filepath.Join(t.TempDir(), "stripe-sidecar")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build = %v: %s", err, out)
	}
	large := `{"id":"evt_1","object":"event","type":"price.created","livemode":false,"data":{"object":{}},"padding":"` + strings.Repeat("x", 900<<10) + `"}`
	for _, test := range []struct {
		atOnce int
		what   string
		path   string
		body   string
	}{
		{200, "checkouts", "/api/stripe/create-checkout", oneTime},
		{2500, "checkouts", "/api/stripe/create-checkout", oneTime},
		{200, "Events of 900 KB", api.WebhookPath, large},
		{200, "Events", api.WebhookPath, `{"id":"evt_1","object":"event","type":"invoice.paid","livemode":false,"data":{"object":{"id":"in_1"}}}`},
	} {
		atOnce := test.atOnce
		t.Run(fmt.Sprintf("%d %s", atOnce, test.what), func(t *testing.T) {
			stripe, supabase, env := surroundings(t, fakestripe.Options{})
			env["STRIPE_WEBHOOK_SECRET"] = "whsec_shop"
			prefix, peak := confine(t)
			cmd := exec.CommandContext(t.Context(), prefix[0], append(prefix[1:], program)...)
			cmd.Env = append(os.Environ(), "GOMEMLIMIT=48MiB")
			for name, value := range env {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			process, err := child.Start(cmd, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { process.Wait() })
			url := "http://" + process.Addr

			var tokens []string
			for i := range 20 {
				u := supabase.SignUp(fmt.Sprintf("user%d@example.com", i), "correct horse battery staple")
				tokens = append(tokens, supabase.SignIn(u.ID).AccessToken)
			}
			// Each waits for Stripe for 100 ms, so that all are in flight at the same time.
			stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { time.Sleep(100 * time.Millisecond); return false })
			client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
			var served, refused atomic.Int32
			for range 5 {
				var wg sync.WaitGroup
				for i := range atOnce {
					wg.Go(func() {
						r, err := http.NewRequest("POST", url+test.path, strings.NewReader(test.body))
						if err != nil {
							t.Error(err)
							return
						}
						r.Header.Set("Stripe-Signature", fakestripe.Sign("whsec_shop", []byte(test.body), time.Now()))
						r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.18.%d.%d", i/256, i%256))
						if i%2 == 0 {
							r.Header.Set("Authorization", "Bearer "+tokens[i%len(tokens)])
						}
						resp, err := client.Do(r)
						if err != nil {
							t.Errorf("POST %s = %v; want an answer", test.path, err)
							return
						}
						defer resp.Body.Close()
						answer, err := io.ReadAll(resp.Body)
						switch {
						case err == nil && resp.StatusCode == 200:
							served.Add(1)
						case err == nil && resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "":
							refused.Add(1)
						case err == nil && resp.StatusCode == 400 && test.body == large:
							refused.Add(1) // it took over 2 s to arrive at a quarter of a core; Stripe sends it again
						default:
							t.Errorf("POST %s = %s %s, %v; want 200, or 503 with Retry-After", test.path, resp.Status, answer, err)
						}
					})
				}
				wg.Wait()
			}
			t.Logf("5 times %d %s at once: %d served, %d refused; at most %d MB", atOnce, test.what, served.Load(), refused.Load(), peak())
			if peak() > 60 { // of 64, at which it would be killed
				t.Errorf("memory = %d MB at most; want no more than 60", peak())
			}
			select {
			case <-process.Ended():
				t.Errorf("the program ended with %s; want it to go on", process.Wait())
			default:
			}
		})
	}
}
