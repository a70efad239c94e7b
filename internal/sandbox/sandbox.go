// Package sandbox imitates, over HTTP and in memory, the parts of Stripe's API
// and of a Supabase project (Auth and PostgREST) that this service and a
// site's browser use, so that the real SDKs can run against them offline.
//
// It is faithful where a client looks: statuses, error envelopes and their
// codes, headers, idempotency keys, refresh token rotation, key sets, unique
// constraints, row level security. Its limits:
//
//   - Nothing is kept over a restart, and everything that answers is one
//     process with one lock: it shows what is right, not what is fast.
//   - Supabase has e-mail and password sign-in only, and every address counts
//     as confirmed. PostgREST has neither embedding nor casts nor foreign keys;
//     a lookup reads the whole table.
//   - Stripe's parameters are checked by Stripe's own published schema, and the
//     rules for parameters that exclude or need each other only as far as this
//     service can meet them. All prices are in US dollars; there are no taxes,
//     coupons or proration. Lists go forward only. Checkout takes two card
//     numbers and nothing else.
//   - Time brings nothing about but the end of Checkout Sessions: subscriptions
//     renew, fail and end when they are told to. Events have no
//     previous_attributes, every endpoint gets all of them, and a delivery is
//     given up after some minutes.
//   - There are no rate limits and no delays; [Supabase.Intercept] and
//     [Stripe.Intercept] add what a test needs.
//
// It refuses Stripe's live keys. Production code must not import it.
package sandbox

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Call is one request as it arrived.
type Call struct {
	Method, Path string
	Query        url.Values
	Form         url.Values // the form body; empty for any other content type
	Header       http.Header
	Body         []byte
}

// maxCalls bounds what a recorder keeps, because a sandbox may run for weeks.
const maxCalls = 50_000

// recorder keeps the calls of a server and lets a test answer in its place.
type recorder struct {
	callsMu   sync.Mutex
	calls     []Call
	intercept func(http.ResponseWriter, *http.Request) bool
}

// Calls returns the requests received so far, in order of arrival. Of more
// than 50,000 only the newest are kept.
func (rec *recorder) Calls() []Call { return rec.CallsTo("", "") }

// CallsTo returns the requests with this method and exactly this path, in
// order of arrival; an empty string stands for any.
func (rec *recorder) CallsTo(method, path string) []Call {
	rec.callsMu.Lock()
	defer rec.callsMu.Unlock()
	var found []Call
	for _, c := range rec.calls {
		if (method == "" || method == c.Method) && (path == "" || path == c.Path) {
			c.Query, c.Form, c.Header, c.Body = cloneValues(c.Query), cloneValues(c.Form), c.Header.Clone(), bytes.Clone(c.Body)
			found = append(found, c)
		}
	}
	return found
}

// ForgetCalls empties the record.
func (rec *recorder) ForgetCalls() {
	rec.callsMu.Lock()
	defer rec.callsMu.Unlock()
	rec.calls = nil
}

// Intercept has f called before every request, which is recorded all the same.
// If f returns true it has answered, and the server does nothing more. The
// body can be read by f and is there again for the server. nil removes f.
func (rec *recorder) Intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	rec.callsMu.Lock()
	defer rec.callsMu.Unlock()
	rec.intercept = f
}

// receive records r and offers it to the interceptor. It reports whether the
// server has still to answer; r.Body is then c.Body again.
func (rec *recorder) receive(w http.ResponseWriter, r *http.Request) (c Call, ok bool) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return c, false // the client has gone
	}
	c = Call{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Form: url.Values{}, Header: r.Header.Clone(), Body: body}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		c.Form, _ = url.ParseQuery(string(body))
	}
	rec.callsMu.Lock()
	if len(rec.calls) >= maxCalls {
		rec.calls = slices.Clone(rec.calls[maxCalls/2:])
	}
	rec.calls = append(rec.calls, c)
	f := rec.intercept
	rec.callsMu.Unlock()

	r.Body = io.NopCloser(bytes.NewReader(body))
	if f != nil && f(w, r) {
		return c, false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return c, true
}

func cloneValues(v url.Values) url.Values {
	c := maps.Clone(v)
	for key, values := range c {
		c[key] = slices.Clone(values)
	}
	return c
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // the sandbox's own values
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	w.Write(body)
}

// randomText returns n random characters a-z and 2-7.
func randomText(n int) string {
	text := ""
	for len(text) < n {
		text += rand.Text()
	}
	return strings.ToLower(text[:n])
}
