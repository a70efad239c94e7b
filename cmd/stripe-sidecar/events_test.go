package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"8space.app/stripe-sidecar/api"
	"8space.app/stripe-sidecar/internal/sandbox/child"
	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
	"8space.app/stripe-sidecar/internal/sandbox/pgtest"
)

// shop is several processes of the program with one Stripe, one Supabase and the
// service's tables in a real database.
type shop struct {
	t          *testing.T
	stripe     *fakestripe.Account
	supabase   *fakesupabase.Project
	db         *pgtest.Database
	env        map[string]string
	urls       []string
	processes  []*child.Process
	userID     string // of somebody who has
	customerID string // a Customer
}

// openShop starts n processes.
func openShop(t *testing.T, n int) *shop {
	t.Helper()
	s := &shop{t: t, db: pgtest.New(t)}
	s.db.Script(string(api.Schema))
	s.stripe, s.supabase, s.env = surroundings(t, fakestripe.Options{})
	s.env["STRIPE_WEBHOOK_SECRET"] = "whsec_shop"
	s.db.Connect(t, s.supabase)
	for range n {
		url, process := startProcess(t, s.env)
		s.urls, s.processes = append(s.urls, url), append(s.processes, process)
	}
	s.userID = s.supabase.SignUp("ada@example.com", "correct horse battery staple").ID
	s.db.AddUser(s.userID)
	if status, err := buy(t, s.urls[0], s.supabase.SignIn(s.userID).AccessToken); status != 200 || err != nil {
		t.Fatalf("create-checkout = %d, %v; want 200", status, err)
	}
	s.customerID = s.stripe.Customers()[0].ID
	return s
}

// deliver sends an Event to a process as Stripe does and returns the status.
func deliver(url string, payload []byte) (int, error) {
	r, err := http.NewRequest("POST", url+api.WebhookPath, strings.NewReader(string(payload)))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Stripe-Signature", fakestripe.Sign("whsec_shop", payload, time.Now()))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// live has a subscription begin, be paid, upgraded, cancelled at the period's
// end, resumed, not paid and ended; after is called after each step.
func (s *shop) live(after func()) {
	id := s.stripe.AddSubscription(s.customerID, "price_pro_monthly", "active")
	after()
	for _, step := range []func(){
		func() { s.stripe.ChangePrice(id, "price_basic_monthly") },
		func() { s.stripe.CancelAtPeriodEnd(id) },
		func() { s.stripe.Resume(id) },
		func() { s.stripe.FailPayment(id) },
		func() { s.stripe.CancelSubscription(id) },
	} {
		step()
		after()
	}
}

// lifeEvents returns the Events of each life: created, paid, upgraded, cancelled
// at the period's end, resumed, payment failed, deleted.
func (s *shop) lifeEvents() map[string][]fakestripe.Event {
	s.t.Helper()
	lives := map[string][]fakestripe.Event{}
	for _, e := range s.stripe.Events() {
		var payload struct {
			Data struct {
				Object struct{ Object, ID, Subscription string }
			}
		}
		if err := json.Unmarshal(e.Payload, &payload); err != nil {
			s.t.Fatalf("event %s = %v; want JSON", e.Payload, err)
		}
		o := payload.Data.Object
		id := o.Subscription
		if o.Object == "subscription" {
			id = o.ID
		}
		want := []string{"customer.subscription.created", "invoice.paid", "customer.subscription.updated", "customer.subscription.updated",
			"customer.subscription.updated", "invoice.payment_failed", "customer.subscription.deleted"}
		if n := len(lives[id]); n < len(want) && e.Type == want[n] {
			lives[id] = append(lives[id], e)
		}
	}
	for id, events := range lives {
		if len(events) != 7 {
			s.t.Fatalf("events of %s = %d; want 7", id, len(events))
		}
	}
	return lives
}

// checkRows compares every subscription's row with Stripe.
func (s *shop) checkRows() {
	s.t.Helper()
	subscriptions := s.stripe.Subscriptions()
	for _, u := range subscriptions {
		want := fmt.Sprint([]any{u.Customer, s.userID, u.Status, u.Price, u.CancelAtPeriodEnd, u.CurrentPeriodStart.Unix(), u.CurrentPeriodEnd.Unix()})
		got := s.db.Text(`select format('[%s %s %s %s %s %s %s]', stripe_customer_id, user_id, status, price_id, case when cancel_at_period_end then 'true' else 'false' end,
			extract(epoch from current_period_start)::bigint, extract(epoch from current_period_end)::bigint) from subscriptions where id = $1`, u.ID)
		if got != want {
			s.t.Errorf("row of %s = %s; want %s", u.ID, got, want)
		}
	}
	if got, want := s.db.Text("select count(*) from subscriptions"), fmt.Sprint(len(subscriptions)); got != want {
		s.t.Errorf("rows = %s; want %s", got, want)
	}
}

// TestEventsAnyOrder delivers the seven Events of a subscription's life in
// random permutations, with repetitions, to three processes at once.
// TestWritesAnyOrder goes through all permutations in the database, where the
// order is decided.
func TestEventsAnyOrder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const lives = 120
	s := openShop(t, 3)

	type delivery struct {
		url     string
		payload []byte
	}
	work := make(chan []delivery)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for deliveries := range work {
				for _, d := range deliveries {
					if status, err := deliver(d.url, d.payload); status != 200 || err != nil {
						t.Errorf("webhook = %d, %v; want 200", status, err)
					}
				}
			}
		})
	}
	for range lives {
		s.live(func() {})
	}
	for _, events := range s.lifeEvents() {
		order := append(random.Perm(len(events)), random.IntN(len(events))) // one of them again
		var deliveries []delivery
		for _, n := range order {
			deliveries = append(deliveries, delivery{s.urls[random.IntN(len(s.urls))], events[n].Payload})
		}
		work <- deliveries
	}
	close(work)
	workers.Wait()
	s.checkRows()
}

// TestEventsWhileItChanges delivers Events, some more than once, while the
// subscriptions go on changing, so that fetches overtake each other.
func TestEventsWhileItChanges(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := openShop(t, 3)
	var wg sync.WaitGroup
	free := make(chan struct{}, 64) // as many as the database has connections for
	next := len(s.stripe.Events())
	for range 40 {
		s.live(func() {
			events := s.stripe.Events()
			for _, e := range events[next:] {
				for range 1 + random.IntN(3) {
					url := s.urls[random.IntN(len(s.urls))]
					free <- struct{}{}
					wg.Go(func() {
						defer func() { <-free }()
						if status, err := deliver(url, e.Payload); status != 200 || err != nil {
							t.Errorf("webhook = %d, %v; want 200", status, err)
						}
					})
				}
			}
			next = len(events)
		})
	}
	wg.Wait()
	s.checkRows()
}

// TestKilledBeforeTheWrite kills a process that has fetched and not yet
// written; the Event comes again, to another one.
func TestKilledBeforeTheWrite(t *testing.T) {
	t.Parallel()
	s := openShop(t, 2)
	s.live(func() {})
	var created []byte
	for _, e := range s.stripe.Events() {
		if e.Type == "customer.subscription.created" {
			created = e.Payload
		}
	}
	var killed atomic.Bool
	s.supabase.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/stripe_write_subscription") && killed.CompareAndSwap(false, true) {
			if err := s.processes[0].Kill(); err != nil {
				t.Errorf("kill = %v; want no error", err)
			}
			panic(http.ErrAbortHandler)
		}
		return s.db.ServeFunctions(w, r)
	})
	if status, err := deliver(s.urls[0], created); err == nil {
		t.Errorf("webhook of the killed process = %d; want no answer", status)
	}
	if got := s.db.Text("select count(*) from subscriptions"); !killed.Load() || got != "0" {
		t.Errorf("rows after the kill (%t) = %s; want 0", killed.Load(), got)
	}
	if status, err := deliver(s.urls[1], created); status != 200 || err != nil {
		t.Errorf("webhook again = %d, %v; want 200", status, err)
	}
	s.checkRows()
}
