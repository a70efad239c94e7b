package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/fakesupabase"
)

// told is what the panel's stream has told so far.
type told struct {
	raw     bytes.Buffer
	entries map[int]*entry
	tables  []shownTable
}

// follow reads the stream until enough.
func follow(t *testing.T, site string, enough func(*told) bool) *told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", site+"/sandbox/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	told := &told{entries: map[int]*entry{}}
	kind := ""
	for lines := bufio.NewScanner(resp.Body); !enough(told); {
		if !lines.Scan() {
			t.Fatalf("panel = %s, %v; want more", &told.raw, lines.Err())
		}
		told.raw.WriteString(lines.Text() + "\n")
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event":
			kind = value
		case name != "data":
		case kind == "rows":
			err = json.Unmarshal([]byte(value), &told.tables)
		case kind == "entry":
			e := &entry{}
			err = json.Unmarshal([]byte(value), e)
			told.entries[e.ID] = e
		}
		if err != nil {
			t.Fatalf("%s %s = %v; want JSON", kind, value, err)
		}
	}
	return told
}

// lines are the entries from the oldest to the newest, each with what it made.
func (told *told) lines() string {
	var all []string
	line := func(from string, s shot) string {
		what := s.Method + " " + s.Path
		if s.Event != "" {
			what = s.Event
		}
		return fmt.Sprintf("%s → %s %s %d", from, s.To, what, s.Status)
	}
	for _, id := range slices.Sorted(maps.Keys(told.entries)) {
		e := told.entries[id]
		all = append(all, line(e.From, e.shot))
		for _, made := range e.Made {
			all = append(all, line(" ", *made))
		}
	}
	return strings.Join(all, "\n")
}

// find returns the oldest POST to a path.
func (told *told) find(path string) shot {
	for _, id := range slices.Sorted(maps.Keys(told.entries)) {
		e := told.entries[id]
		for _, s := range append([]*shot{&e.shot}, e.Made...) {
			if s.Method == "POST" && s.Path == path {
				return *s
			}
		}
	}
	return shot{}
}

// TestPanel buys as a signed-in user and reads what the panel tells of it.
func TestPanel(t *testing.T) {
	t.Parallel()
	s := start(t)
	send := func(url, body string, headers ...string) (answer struct {
		URL, Error  string
		AccessToken string `json:"access_token"`
	}) {
		t.Helper()
		r, err := http.NewRequest("POST", url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatalf("POST %s = %d, %v; want JSON", url, resp.StatusCode, err)
		}
		return answer
	}
	supabase := s.variables["SUPABASE_URL"]
	token := send(supabase+"/auth/v1/token?grant_type=password", `{"email":"`+demoEmail+`","password":"`+demoPassword+`"}`,
		"apikey", fakesupabase.AnonKey, "Origin", s.site).AccessToken
	checkout := s.site + "/api/stripe/create-checkout"
	order := `{"priceId":"price_lifetime","mode":"payment","successUrl":"` + s.site + `/?bought","cancelUrl":"` + s.site + `/"}`
	if url := send(checkout, order, "Authorization", "Bearer "+token, "Origin", s.site).URL; url == "" {
		t.Fatal("create-checkout = no url; want one")
	}
	send(checkout, strings.Replace(order, "lifetime", "x", 1))

	heard := follow(t, s.site, func(told *told) bool {
		events, answered := 0, 0
		for _, e := range told.entries {
			if e.Event != "" {
				events++
			}
			if e.Status > 0 {
				answered++
			}
		}
		return len(told.entries) == 4 && events == 1 && answered == 4 && told.tables != nil
	})
	lines := heard.lines()
	for _, want := range []string{
		"Browser → Supabase POST /auth/v1/token 200",
		"Browser → service POST /api/stripe/create-checkout 200\n  → ",
		"  → Supabase GET /rest/v1/customers 200\n  → Stripe POST /v1/customers 200\n  → Supabase POST /rest/v1/customers 201\n  → Stripe POST /v1/checkout/sessions 200",
		"Stripe → service customer.created 200",
		"Another program → service POST /api/stripe/create-checkout 400",
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("panel = %s; want %s", lines, want)
		}
	}
	session := heard.find("/v1/checkout/sessions")
	if !slices.Contains(session.Sent, field{"line_items[0][price]", "price_lifetime"}) || !slices.Contains(session.Sent, field{"mode", "payment"}) {
		t.Errorf("sent to Stripe = %v; want the price and the mode", session.Sent)
	}
	if got := heard.find("/auth/v1/token"); !slices.Contains(got.Sent, field{"email", demoEmail}) || !slices.Contains(got.Sent, field{"password", "(not shown)"}) || len(got.Answer) > 0 {
		t.Errorf("sign-in = %+v; want the address and no secret", got)
	}
	if len(heard.tables) != 3 || heard.tables[0].Name != "customers" || heard.tables[0].Total != 1 || heard.tables[2].Total != 0 {
		t.Errorf("rows = %+v; want a customer, and no purchase before it is paid", heard.tables)
	}
	refused := false
	for _, e := range heard.entries {
		refused = refused || slices.Contains(e.Answer, field{"error", "This price is not for sale"})
	}
	if !refused {
		t.Errorf("panel = %s; want the error of the second order", &heard.raw)
	}
	for _, secret := range []string{fakesupabase.ServiceRoleKey, stripeKey, webhookSecret, token, strings.Split(token, ".")[2], `"` + demoPassword + `"`} {
		if strings.Contains(heard.raw.String(), secret) {
			t.Errorf("panel tells %s; want no secret", secret)
		}
	}
	if again := follow(t, s.site, func(again *told) bool { return len(again.entries) == 4 }); again.lines() != lines {
		t.Errorf("panel asked again = %s; want the same, %s", again.lines(), lines)
	}
}

// TestPanelBounds: a sandbox may run for weeks.
func TestPanelBounds(t *testing.T) {
	t.Parallel()
	p := newPanel(func(string) []map[string]any {
		rows := make([]map[string]any, 1000)
		for i := range rows {
			rows[i] = map[string]any{"id": fmt.Sprint(i)}
		}
		return rows
	})
	h := map[string]http.Handler{}
	for _, name := range []string{"service", "Stripe"} {
		h[name] = p.watch(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name == "service" && r.Header.Get("Last") != "" {
				for range maxInside + 5 {
					inside := httptest.NewRequest("POST", "/v1/customers", strings.NewReader(strings.Repeat(`{"a":`, 9)+"1"+strings.Repeat("}", 9)))
					inside.Header.Set("Traceparent", r.Header.Get("Traceparent"))
					h["Stripe"].ServeHTTP(httptest.NewRecorder(), inside)
				}
			}
			fmt.Fprintf(w, `{"error":%q}`, strings.Repeat("é ", 1000))
		}))
	}
	for i := range maxEntries + 10 {
		body := map[string]any{"number": i}
		for j := range 100 {
			body[fmt.Sprint("field", j)] = strings.Repeat("x ", 100)
		}
		r := httptest.NewRequest("POST", "/api/stripe/create-checkout", bytes.NewReader(mustJSON(body)))
		if i == maxEntries+9 {
			r.Header.Set("Last", "yes")
		}
		h["service"].ServeHTTP(httptest.NewRecorder(), r)
	}
	entries, version, _ := p.since(0)
	if len(entries) != maxEntries {
		t.Errorf("entries = %d; want %d", len(entries), maxEntries)
	}
	for i, raw := range entries {
		var e entry
		made := 0
		if i == maxEntries-1 {
			made = maxInside
		}
		if err := json.Unmarshal(raw, &e); err != nil || len(e.Made) != made || len(e.Sent) != maxFields || len([]rune(e.Answer[0].Value)) > maxText+1 {
			t.Fatalf("entry = %.200s, %v; want %d calls and %d fields of at most %d letters", raw, err, made, maxFields, maxText)
		}
	}
	if newer, _, _ := p.since(version); len(newer) > 0 {
		t.Errorf("newer than the newest = %d; want none", len(newer))
	}
	if tables := p.tables(); tables[0].Total != 1000 || len(tables[0].Rows) != maxRows || tables[0].Rows[0][0].Value != "999" {
		t.Errorf("rows = %+v; want the newest %d of 1000", tables[0], maxRows)
	}
}

// TestPanelHides: whatever type a body says it is of, it is shown as what it is,
// without passwords.
func TestPanelHides(t *testing.T) {
	t.Parallel()
	const form = "application/x-www-form-urlencoded"
	for _, tt := range []struct {
		to, path, kind, body string
		want                 []field
	}{
		{"Supabase", "/auth/v1/token", form, `{"email":"a@example.com","password":"hunter22"}`, []field{{"email", "a@example.com"}, {"password", "(not shown)"}}},
		{"Supabase", "/auth/v1/token", form, "email=a&password=hunter22", []field{}},
		{"Supabase", "/auth/v1/token", "application/json", `[{"email":"a","password":"hunter22"},2,null]`,
			[]field{{"[0].email", "a"}, {"[0].password", "(not shown)"}, {"[1]", "2"}}},
		{"Supabase", "/auth/v1/token", "application/json", `{"passwords":["hunter22"]}`, []field{{"passwords[0]", "(not shown)"}}},
		{"Supabase", "/rest/v1/customers?" + url.QueryEscape(`{"password":"hunter22"}`), "", "", []field{{"(not shown)", "(not shown)"}}},
		{"service", "/api/stripe/create-checkout", form, `{"priceId":"price_x"}`, []field{{"priceId", "price_x"}}},
		{"Stripe", "/v1/customers", form, `email=a&metadata[password]=hunter22`, []field{{"email", "a"}, {"metadata[password]", "(not shown)"}}},
		{"Stripe", "/v1/customers", form, `{"password":"hunter22"}`, []field{{"(not shown)", "(not shown)"}}},
		{"Stripe", "/c/pay/cs_test_1", form, "card=4242", []field{}},
	} {
		p := newPanel(func(string) []map[string]any { return nil })
		r := httptest.NewRequest("POST", tt.path, strings.NewReader(tt.body))
		r.Header.Set("Content-Type", tt.kind)
		p.watch(tt.to, http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
		if len(p.entries) != 1 || !slices.Equal(p.entries[0].Sent, tt.want) {
			t.Errorf("%s %s %s = %s; want %q", tt.to, tt.path, tt.body, mustJSON(p.entries), tt.want)
		}
	}
}

// endless is a body that does not end, and tells how much of it was read.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) { e.read += len(p); return len(p), nil }

// TestPanelPassesOn: the panel looks at the beginning of a body, and who answers
// gets all of it and decides how much to read.
func TestPanelPassesOn(t *testing.T) {
	t.Parallel()
	p := newPanel(func(string) []map[string]any { return nil })
	body := &endless{}
	p.watch("service", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body.read > 2*maxBody {
			t.Errorf("read before there is an answer = %d; want no more than %d kept", body.read, maxBody)
		}
		n, err := io.CopyN(io.Discard, r.Body, 3*maxBody)
		if err != nil {
			t.Errorf("body passed on = %d, %v; want all of it", n, err)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/api/stripe/create-checkout", body))
	if len(p.entries) != 1 || p.entries[0].Status != http.StatusRequestEntityTooLarge {
		t.Errorf("panel = %s; want the answer, 413", mustJSON(p.entries))
	}
}

func TestShown(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"price_lifetime", "price_lifetime"},
		{"f71d45b2-eec0-4504-bf6a-43cc22eca2ef", "f71d45b2-eec0-4504-bf6a-43cc22eca2ef"},
		{"successUrl http://localhost:1/?b={CHECKOUT_SESSION_ID}", "successUrl http://localhost:1/?b={CHECKOUT_SESSION_ID}"},
		{"Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln-bmF0", "Bearer eyJhbGciOiJFUz…"},
		{"key " + fakesupabase.ServiceRoleKey, "key sb_secret_sand…"},
		{stripeKey + " " + webhookSecret, "sk_test_sandbo… whsec_sandbox_…"},
		{"/c/pay/cs_test_a1B2C3D4E5F6G7H8I9J0K1L2M3N4O5P6", "/c/pay/cs_test_a1B2C3…"},
	} {
		if got := shown(tt.text); got != tt.want {
			t.Errorf("shown(%q) = %q; want %q", tt.text, got, tt.want)
		}
	}
}
