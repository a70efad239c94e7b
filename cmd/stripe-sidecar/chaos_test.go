//go:build chaos

package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// TestChaos has three replicas behind nginx under load, kills one and starts it
// again. Requests may be lost only inside the killed one, Events, which come
// again, not at all, and no user may end up with two Customers. It is run by
// make chaos; nginx and PostgreSQL must be installed.
func TestChaos(t *testing.T) {
	const (
		users   = 1500
		workers = 8
	)
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatal("install nginx (Debian: nginx-light) to run this test")
	}
	s := openShop(t, 3)
	front := startNginx(t, program, s.urls)

	// Each user makes the first checkout, and another one, and buys a
	// subscription, of which the Events go through nginx too.
	var lost, bought, killed, restarted atomic.Int32
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
	checkout := func(body string, u fakesupabase.User) bool {
		r, err := http.NewRequest("POST", front+"/api/stripe/create-checkout", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return false
		}
		r.Header.Set("Authorization", "Bearer "+s.supabase.SignIn(u.ID).AccessToken)
		resp, err := client.Do(r)
		if err != nil {
			lost.Add(1)
			return false
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 {
			lost.Add(1)
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
				u := accounts[i]
				checkout(oneTime, u)
				if checkout(recurring, u) {
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
	t.Logf("%d users, %d requests lost, %d Events delivered", users, lost.Load(), delivered.Load())
	if lost.Load() > workers {
		t.Errorf("requests lost = %d; want at most the %d that can be inside a killed replica", lost.Load(), workers)
	}
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

// startNginx puts nginx in front of the replicas, as the README shows.
func startNginx(t *testing.T, program string, urls []string) (url string) {
	t.Helper()
	dir := t.TempDir()
	var servers string
	for _, u := range urls {
		servers += "server " + strings.TrimPrefix(u, "http://") + ";\n"
	}
	// nginx cannot pick a free port itself.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	config := fmt.Sprintf(`
daemon off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream sidecar { %[2]s keepalive 64; }
	server {
		listen 127.0.0.1:%[3]d;
		location /api/stripe/ {
			proxy_pass http://sidecar;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
		}
	}
}`, dir, servers, port)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", path, "-p", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	url = fmt.Sprintf("http://127.0.0.1:%d", port)
	for deadline := time.Now().Add(10 * time.Second); ; {
		resp, err := http.Get(url)
		if err == nil {
			_ = resp.Body.Close()
			return url
		}
		if time.Now().After(deadline) {
			t.Fatalf("nginx = %v; want it to answer", err)
		}
	}
}
