package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox"
)

// The bounds of what the panel keeps, because a sandbox may run for weeks.
const (
	maxEntries = 60
	maxInside  = 40  // calls of one request
	maxFields  = 30  // of one call
	maxText    = 160 // letters of one field
	maxRows    = 3   // of one table
	maxBody    = 64 << 10
)

// panel is what the page shows of what happens: each request to the service with
// the calls that it made for it, and the rows as they stand. It tells which call
// belongs to which request by their trace, which the service passes on.
type panel struct {
	rows func(table string) []map[string]any

	mu      sync.Mutex
	version int
	changed chan struct{} // closed at the next change
	entries []*entry      // oldest first
}

// entry is a call with those that it caused.
type entry struct {
	ID   int     `json:"id"`
	At   string  `json:"at"`
	From string  `json:"from"`
	Made []*shot `json:"made"`
	shot
	trace   string
	version int
}

// shot is one call as it is shown.
type shot struct {
	To     string  `json:"to"`
	Method string  `json:"method"`
	Path   string  `json:"path"`
	Event  string  `json:"event,omitempty"` // the type, of an Event
	Status int     `json:"status"`          // 0 before there is an answer
	Sent   []field `json:"sent"`
	Answer []field `json:"answer"`
}

type field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func newPanel(rows func(table string) []map[string]any) *panel {
	return &panel{rows: rows, changed: make(chan struct{})}
}

// watch has the panel show the requests that next answers, under this name.
func (p *panel) watch(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !worthShowing(name, r) {
			next.ServeHTTP(w, r)
			return
		}
		c, err := sandbox.ReadCall(r, maxBody)
		if err != nil {
			return // the client has gone
		}
		if name == "service" && traceID(r) == "" {
			random := make([]byte, 24)
			_, _ = rand.Read(random)
			r.Header.Set("Traceparent", "00-"+hex.EncodeToString(random[:16])+"-"+hex.EncodeToString(random[16:])+"-01")
		}
		s, inside := p.begin(name, traceID(r), c)
		answer := &sandbox.Copy{ResponseWriter: w}
		defer func() { p.end(s, inside, answer) }()
		next.ServeHTTP(answer, r)
	})
}

// worthShowing leaves out files, the pages themselves, what the service asks by
// itself every 30 seconds, and what a page reads of its user's rows, which this one
// does after every change.
func worthShowing(name string, r *http.Request) bool {
	path := r.URL.Path
	switch {
	case r.Method == http.MethodOptions:
		return false
	case name == "service":
		return strings.HasPrefix(path, "/api/stripe/") && !strings.HasSuffix(path, ".js") && !strings.HasSuffix(path, ".yaml")
	case name == "Stripe":
		return strings.HasPrefix(path, "/v1/") || r.Method == http.MethodPost
	}
	if r.Method == http.MethodGet && r.Header.Get("Origin") != "" {
		return false
	}
	return traceID(r) != "" || path != "/auth/v1/.well-known/jwks.json" && path != "/rest/v1/rpc/stripe_users_left"
}

var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$`)

func traceID(r *http.Request) string {
	if m := traceparent.FindStringSubmatch(r.Header.Get("Traceparent")); m != nil {
		return m[1]
	}
	return ""
}

// begin shows a call that has no answer yet, in the entry of its trace or in one
// of its own.
func (p *panel) begin(to, trace string, c sandbox.Call) (*shot, *entry) {
	from := "Another program"
	s := shot{To: to, Method: c.Method, Path: shown(c.Path), Sent: sent(to, c), Answer: []field{}}
	if c.Header.Get("Origin") != "" || c.Header.Get("Sec-Fetch-Site") != "" {
		from = "Browser"
	}
	if to == "service" && c.Header.Get("Stripe-Signature") != "" {
		var e struct{ Type string }
		_ = json.Unmarshal(c.Body, &e)
		from, s.Event = "Stripe", shown(e.Type)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range slices.Backward(p.entries) {
		if to == "service" || trace == "" || e.trace != trace {
			continue
		}
		if len(e.Made) < maxInside {
			e.Made = append(e.Made, &s)
		}
		p.touch(e)
		return &s, e
	}
	e := &entry{ID: p.version, At: time.Now().Format(time.RFC3339), From: from, Made: []*shot{}, shot: s, trace: trace}
	p.entries = append(p.entries, e)
	if len(p.entries) > maxEntries {
		p.entries = slices.Clone(p.entries[1:])
	}
	p.touch(e)
	return &e.shot, e
}

func (p *panel) end(s *shot, e *entry, answer *sandbox.Copy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Status, s.Answer = cmp.Or(answer.Status, 200), answered(answer.Body)
	p.touch(e)
}

// touch tells the streams of a change. p.mu is held.
func (p *panel) touch(e *entry) {
	p.version++
	e.version = p.version
	close(p.changed)
	p.changed = make(chan struct{})
}

// since returns what is newer than a version, one JSON object an entry, and a
// channel that is closed when there is more.
func (p *panel) since(version int) (newer [][]byte, now int, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		if e.version > version {
			newer = append(newer, mustJSON(e))
		}
	}
	return newer, p.version, p.changed
}

// stream sends all that is kept and then what changes, as server-sent events:
// start, upon which a page forgets what it knows, entry, which replaces the one
// with its id, and rows.
func (p *panel) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	var rows []byte
	fmt.Fprint(w, "retry: 1000\nevent: start\ndata:\n\n")
	for version := 0; ; {
		newer, now, changed := p.since(version)
		for _, e := range newer {
			fmt.Fprintf(w, "event: entry\ndata: %s\n\n", e)
		}
		if next := mustJSON(p.tables()); !bytes.Equal(next, rows) {
			rows = next
			fmt.Fprintf(w, "event: rows\ndata: %s\n\n", rows)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		version = now
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

type shownTable struct {
	Name  string    `json:"name"`
	Total int       `json:"total"`
	Rows  [][]field `json:"rows"` // the newest first
}

// tables are the service's, with the columns that tell the most.
func (p *panel) tables() []shownTable {
	var all []shownTable
	for _, t := range []struct{ name, columns string }{
		{"customers", "id stripe_customer_id"},
		{"subscriptions", "status price_id quantity user_id current_period_end cancel_at_period_end"},
		{"purchases", "payment_status price_id amount_total amount_refunded user_id email"},
	} {
		rows := p.rows(t.name)
		out := shownTable{t.name, len(rows), [][]field{}}
		slices.Reverse(rows)
		for _, row := range rows[:min(len(rows), maxRows)] {
			fields := []field{}
			for column := range strings.FieldsSeq(t.columns) {
				value := "null"
				if row[column] != nil {
					value = fmt.Sprint(row[column])
				}
				fields = append(fields, field{column, shown(value)})
			}
			out.Rows = append(out.Rows, fields)
		}
		all = append(all, out)
	}
	return all
}

// sent are the parameters of a call; not what is entered on Stripe's pages, and
// no header.
func sent(to string, c sandbox.Call) []field {
	fields := []field{}
	add := func(name string, value any) {
		if len(fields) == maxFields {
			return
		}
		text := shown(fmt.Sprint(value))
		if secretName.MatchString(name) {
			text = "(not shown)"
			if !plainName.MatchString(name) {
				name = text // a text that was sent as a name has the secret in it
			}
		}
		fields = append(fields, field{shown(name), text})
	}
	addAll := func(values url.Values) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			add(name, strings.Join(values[name], ", "))
		}
	}
	addAll(c.Query)
	switch {
	case to == "Stripe" && !strings.HasPrefix(c.Path, "/v1/"):
	case to == "Stripe":
		addAll(c.Form)
	default:
		// The others take JSON, whatever the type: curl's own is a form's.
		body := parse(c.Body)
		if c.Header.Get("Stripe-Signature") != "" {
			event, _ := body.(map[string]any)
			data, _ := event["data"].(map[string]any)
			object, _ := data["object"].(map[string]any)
			body = map[string]any{"id": event["id"], "data.object.id": object["id"]}
		}
		flatten("", body, add)
	}
	return fields
}

// flatten gives the values of a JSON body with names such as subscription.status,
// without those that are null.
func flatten(name string, v any, add func(name string, value any)) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			flatten(strings.TrimPrefix(name+"."+key, "."), v[key], add)
		}
	case []any:
		for i, element := range v {
			flatten(fmt.Sprintf("%s[%d]", name, i), element, add)
		}
	default:
		add(cmp.Or(name, "body"), v)
	}
}

// answered are those fields of an answer that say how it went. A list tells how
// long it is.
func answered(body []byte) []field {
	fields := []field{}
	add := func(name string, v any) {
		switch v := v.(type) {
		case nil:
		case []any:
			fields = append(fields, field{name, fmt.Sprint(len(v))})
		case map[string]any:
			fields = append(fields, field{name, shown(fmt.Sprint(v["message"]))})
		default:
			fields = append(fields, field{name, shown(fmt.Sprint(v))})
		}
	}
	switch v := parse(body).(type) {
	case []any:
		add("rows", v)
	case map[string]any:
		if v["data"] != nil {
			delete(v, "url") // of a list, which is where it came from
		}
		for name := range strings.FieldsSeq("error url id status code error_code msg message data prices subscriptions purchases") {
			add(name, v[name])
		}
	}
	return fields
}

// parse returns nil for what is not JSON.
func parse(body []byte) (v any) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // 1900000, not 1.9e+06
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}

var (
	secretName = regexp.MustCompile(`(?i)password|token|secret|api_?key`)
	plainName  = regexp.MustCompile(`^[\w.\[\]-]+$`)
	// Keys, tokens, and identifiers that are as good as a key.
	secretText = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+|\b(?:sk|rk|whsec|sb_secret)_\w+|\b\w{32,}`)
)

// shown is a text without secrets, and not long.
func shown(text string) string {
	text = text[:min(len(text), 10*maxText)] // looked at is no more than what can be shown
	text = secretText.ReplaceAllStringFunc(text, func(secret string) string { return secret[:min(len(secret), 14)] + "…" })
	if letters := []rune(text); len(letters) > maxText {
		text = string(letters[:maxText]) + "…"
	}
	return text
}

func mustJSON(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // the sandbox's own values
	}
	return out
}
