package main

import (
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

const beTheProgram = "STRIPE_SIDECAR_TEST_IS_THE_PROGRAM"

// TestMain lets the test binary be the program, so that tests can have several
// real processes of it and kill them. Most of the time of those that do is waiting,
// so more of them run at once than there are processors.
func TestMain(m *testing.M) {
	if os.Getenv(beTheProgram) != "" {
		main()
		return
	}
	_ = flag.Set("test.parallel", "6")
	os.Exit(m.Run())
}

// programCommand is the program, to be run as a process of its own.
func programCommand(t *testing.T, env map[string]string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), beTheProgram+"=1")
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// startProcess runs the program as a process of its own.
func startProcess(t *testing.T, env map[string]string) (url string, process *child.Process) {
	t.Helper()
	cmd := programCommand(t, env)
	process, err := child.Start(cmd, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Wait() }) // the end of the context has killed it
	return "http://" + process.Addr, process
}

// runProcess runs the program with a command as a process of its own, to its end.
func runProcess(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := programCommand(t, env, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("%v = %v; want it to run", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// surroundings are one Stripe and one Supabase for several processes.
func surroundings(t *testing.T, o fakestripe.Options) (stripe *fakestripe.Account, supabase *fakesupabase.Project, env map[string]string) {
	t.Helper()
	stripe, supabase = fakestripe.New(o), fakesupabase.New(fakesupabase.Options{})
	stripeServer, supabaseServer := httptest.NewServer(stripe), httptest.NewServer(supabase)
	t.Cleanup(stripeServer.Close)
	t.Cleanup(supabaseServer.Close)
	return stripe, supabase, valid("STRIPE_API_BASE", stripeServer.URL, "SUPABASE_URL", supabaseServer.URL)
}

// buy starts a purchase with a user's access token and returns the status.
func buy(t *testing.T, url, token string) (int, error) {
	t.Helper()
	r, err := http.NewRequest("POST", url+"/api/stripe/create-checkout", strings.NewReader(
		`{"priceId":"price_pro_monthly","mode":"subscription","successUrl":"https://a.example","cancelUrl":"https://a.example"}`))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// TestFirstCheckoutsAtOnce: 50 first checkouts of one user over three processes
// give one Customer, one row, and 50 Checkout Sessions of that Customer. The
// first creation is held until another one has come in, so that Stripe's 409 for
// a key in flight is met for certain.
func TestFirstCheckoutsAtOnce(t *testing.T) {
	t.Parallel()
	const checkouts = 50
	var creations atomic.Int32
	second := make(chan struct{})
	stripe, supabase, env := surroundings(t, fakestripe.Options{Executing: func(r *http.Request) {
		if r.URL.Path == "/v1/customers" {
			<-second
		}
	}})
	stripe.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/customers" && creations.Add(1) == 2 {
			close(second)
		}
		return false
	})
	var urls []string
	for range 3 {
		url, _ := startProcess(t, env)
		urls = append(urls, url)
	}
	u := supabase.SignUp("ada@example.com", "correct horse battery staple")
	token := supabase.SignIn(u.ID).AccessToken

	var wg sync.WaitGroup
	for i := range checkouts {
		wg.Go(func() {
			if status, err := buy(t, urls[i%len(urls)], token); status != 200 || err != nil {
				t.Errorf("create-checkout = %d, %v; want 200", status, err)
			}
		})
	}
	wg.Wait()

	customers, rows := stripe.Customers(), supabase.Rows("customers")
	if len(customers) != 1 || len(rows) != 1 || rows[0]["id"] != u.ID || rows[0]["stripe_customer_id"] != customers[0].ID {
		t.Fatalf("Customers = %v, rows = %v; want one of each, the Customer in the user's row", customers, rows)
	}
	sessions := stripe.CheckoutSessions()
	if len(sessions) != checkouts {
		t.Errorf("Checkout Sessions = %d; want %d", len(sessions), checkouts)
	}
	for _, s := range sessions {
		if s.Customer != customers[0].ID {
			t.Errorf("Checkout Session for %s; want %s", s.Customer, customers[0].ID)
		}
	}
}

// TestCrashBeforeTheRow: a process is killed between creating the Customer and
// writing the row; the next checkout ends with the same Customer.
func TestCrashBeforeTheRow(t *testing.T) {
	t.Parallel()
	stripe, supabase, env := surroundings(t, fakestripe.Options{})
	url, process := startProcess(t, env)
	other, _ := startProcess(t, env)
	u := supabase.SignUp("ada@example.com", "correct horse battery staple")
	token := supabase.SignIn(u.ID).AccessToken

	supabase.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != "POST" || r.URL.Path != "/rest/v1/customers" {
			return false
		}
		supabase.Intercept(nil)
		if err := process.Kill(); err != nil {
			t.Errorf("kill = %v; want no error", err)
		}
		panic(http.ErrAbortHandler) // the row is never written
	})
	if status, err := buy(t, url, token); err == nil {
		t.Errorf("create-checkout of the killed process = %d; want no answer", status)
	}
	created := stripe.Customers()
	if len(created) != 1 || len(supabase.Rows("customers")) != 0 || len(stripe.CheckoutSessions()) != 0 {
		t.Fatalf("after the crash: Customers = %v, rows = %v; want one Customer and no row", created, supabase.Rows("customers"))
	}
	if status, err := buy(t, other, token); status != 200 || err != nil {
		t.Errorf("next create-checkout = %d, %v; want 200", status, err)
	}
	rows, sessions := supabase.Rows("customers"), stripe.CheckoutSessions()
	if len(stripe.Customers()) != 1 || len(rows) != 1 || rows[0]["stripe_customer_id"] != created[0].ID || sessions[0].Customer != created[0].ID {
		t.Errorf("Customers = %v, rows = %v, sold to %s; want %s everywhere", stripe.Customers(), rows, sessions[0].Customer, created[0].ID)
	}
}

// TestTabsAtOnce: a user opens thirty tabs at once over three processes; one of
// the Checkout Sessions can be paid, and one subscription comes of it.
func TestTabsAtOnce(t *testing.T) {
	t.Parallel()
	stripe, supabase, env := surroundings(t, fakestripe.Options{})
	env["CHECKOUT_ONE_SUBSCRIPTION"] = "true"
	var urls []string
	for range 3 {
		url, _ := startProcess(t, env)
		urls = append(urls, url)
	}
	u := supabase.SignUp("ada@example.com", "correct horse battery staple")
	token := supabase.SignIn(u.ID).AccessToken
	tabs := func(n int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if status, err := buy(t, urls[i%len(urls)], token); status != 200 || err != nil {
					t.Errorf("create-checkout = %d, %v; want 200", status, err)
				}
			})
		}
		wg.Wait()
	}
	for _, n := range []int{2, 30, 3} {
		tabs(n)
		open := 0
		for _, s := range stripe.CheckoutSessions() {
			if s.Status == "open" {
				open++
			}
		}
		if open != 1 {
			t.Errorf("open Checkout Sessions after %d tabs at once = %d; want 1", n, open)
		}
	}
	for _, s := range stripe.CheckoutSessions() {
		if s.Status == "open" {
			stripe.PayCheckout(s.ID)
			tabs(3)
		}
	}
	if n, portals := len(stripe.Subscriptions()), len(stripe.PortalSessions()); n != 1 || portals != 3 {
		t.Errorf("subscriptions = %d, portal sessions = %d; want 1 and 3", n, portals)
	}
}
