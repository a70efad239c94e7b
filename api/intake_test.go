package api_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/upstream"
)

// withhold sends the header of a request and none of its body, and returns when
// the service waits for that.
func (w *site) withhold(path, client string) *bufio.Reader {
	w.tb.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { conn.Close() })
	// The service says 100 Continue when it begins to read.
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: %s\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n", path, client)
	answers := bufio.NewReader(conn)
	line, err := answers.ReadString('\n')
	if err != nil || !strings.Contains(line, " 100 ") {
		w.tb.Fatalf("POST %s without its body = %q, %v; want 100 Continue", path, line, err)
	}
	_, _ = answers.ReadString('\n')
	return answers
}

// TestWithheldBodies: who sends headers and no bodies takes nobody's place, is
// held to a few at once, and is not waited for.
func TestWithheldBodies(t *testing.T) {
	t.Parallel()
	for path, few := range map[string]int{"/api/stripe/webhook": 4, "/api/stripe/create-checkout": 20} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(s *settings) {
				s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)}
				s.api.MaxInFlight, s.api.MaxEvents = 160, 2
			})
			var first *bufio.Reader
			for n := range few {
				if withheld := w.withhold(path, "203.0.113.1"); n == 0 {
					first = withheld
				}
			}
			if got := w.do("POST", path, `{}`, "X-Forwarded-For", "203.0.113.1"); got.status != 503 || got.header.Get("Retry-After") == "" {
				t.Errorf("one more body of the same client = %d %s; want 503 and Retry-After", got.status, got.body)
			}
			for client := range 2 {
				w.withhold(path, fmt.Sprintf("198.51.100.%d", client))
			}
			if path == "/api/stripe/webhook" {
				if got := w.deliver(notOurs, whsec, time.Now()); got.status != 200 {
					t.Errorf("webhook = %d %s; want 200", got.status, got.body)
				}
			} else if got := w.checkout(buyOnce); got.status != 200 {
				t.Errorf("create-checkout = %d %s; want 200", got.status, got.body)
			}
			begun := time.Now()
			answer, err := http.ReadResponse(first, nil)
			if err != nil || answer.StatusCode != 400 {
				t.Fatalf("a body that never came = %v, %v; want 400", answer, err)
			}
			if waited := time.Since(begun); waited > 7*time.Second {
				t.Errorf("a body that never came was waited for for %s; want at most 5 s", waited)
			}
		})
	}
}

// TestFewWithheldBodies: with little memory one client holds fewer bodies back.
func TestFewWithheldBodies(t *testing.T) {
	t.Parallel()
	w := start(t, func(s *settings) { s.api.MaxInFlight = 20 })
	for range 3 {
		w.withhold("/api/stripe/create-checkout", "203.0.113.1")
	}
	if got := w.checkout(buyOnce, "X-Forwarded-For", "203.0.113.1"); got.status != 503 {
		t.Errorf("one more body of the same client = %d %s; want 503", got.status, got.body)
	}
	if got := w.checkout(buyOnce); got.status != 200 {
		t.Errorf("another client's = %d %s; want 200", got.status, got.body)
	}
}

// TestEventsAtOnce: as many Events are worked on at once as their size allows.
func TestEventsAtOnce(t *testing.T) {
	t.Parallel()
	for size, most := range map[int]int{0: 32, 100 << 10: 10, 600 << 10: 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			w := start(t, func(s *settings) {
				s.billing.WebhookSecrets = []upstream.Secret{upstream.NewSecret(whsec)}
				s.api.MaxEvents = 1
			})
			arrived, released := make(chan struct{}, most), make(chan struct{})
			release := sync.OnceFunc(func() { close(released) })
			t.Cleanup(release)
			w.stripe.Intercept(func(http.ResponseWriter, *http.Request) bool { arrived <- struct{}{}; <-released; return false })
			event := `{"id":"evt_1","type":"invoice.paid","data":{"object":{"id":"in_1"}}}` + strings.Repeat(" ", size)
			held := make(chan answer, most)
			for n := range most {
				go func() { held <- w.deliver(event, whsec, time.Now()) }()
				select {
				case <-arrived:
				case got := <-held:
					t.Fatalf("Event %d at once = %d %s; want %d to be worked on", n+1, got.status, got.body, most)
				}
			}
			if got := w.deliver(event, whsec, time.Now()); got.status != 503 || got.header.Get("Retry-After") == "" {
				t.Errorf("Event %d at once = %d %s; want 503 with Retry-After", most+1, got.status, got.body)
			}
			release()
			for range most {
				if got := <-held; got.status != 200 {
					t.Errorf("an Event that was worked on = %d %s; want 200", got.status, got.body)
				}
			}
		})
	}
}
