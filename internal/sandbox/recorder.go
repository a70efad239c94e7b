// Package sandbox holds what the imitations of Stripe and of Supabase,
// fakestripe and fakesupabase, have in common. Both answer over HTTP and from
// memory, so that the real SDKs can run against them offline.
//
// They are faithful where a client looks, and each names its limits. Nothing is
// kept over a restart, and each is one process with one lock: it shows what is
// right, not what is fast. There are no rate limits and no delays;
// [Recorder.Intercept] adds what a test needs.
//
// Production code must not import any of them.
package sandbox

import (
	"bytes"
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

// The bounds of what a recorder keeps, because a sandbox may run for weeks.
const (
	maxCalls = 50_000
	maxBody  = 2 << 20  // of one call, more than any that is meant
	maxKept  = 64 << 20 // bodies together
)

// Recorder keeps the calls of a server and lets a test answer in its place. The
// zero value is ready.
type Recorder struct {
	callsMu   sync.Mutex
	calls     []Call
	kept      int // length of their bodies
	intercept func(http.ResponseWriter, *http.Request) bool
}

// Calls returns the requests received so far, in order of arrival. Of more
// than 50,000, or 64 MiB, only the newest are kept.
func (rec *Recorder) Calls() []Call { return rec.CallsTo("", "") }

// CallsTo returns the requests with this method and exactly this path, in
// order of arrival; an empty string stands for any.
func (rec *Recorder) CallsTo(method, path string) []Call {
	rec.callsMu.Lock()
	defer rec.callsMu.Unlock()
	var found []Call
	for _, c := range rec.calls {
		if (method == "" || method == c.Method) && (path == "" || path == c.Path) {
			c.Query, c.Form, c.Header, c.Body = CloneValues(c.Query), CloneValues(c.Form), c.Header.Clone(), bytes.Clone(c.Body)
			found = append(found, c)
		}
	}
	return found
}

// ForgetCalls empties the record.
func (rec *Recorder) ForgetCalls() {
	rec.callsMu.Lock()
	defer rec.callsMu.Unlock()
	rec.calls, rec.kept = nil, 0
}

// Intercept has f called before every request, which is recorded all the same.
// If f returns true it has answered, and the server does nothing more. The
// body can be read by f and is there again for the server. nil removes f.
func (rec *Recorder) Intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	rec.callsMu.Lock()
	defer rec.callsMu.Unlock()
	rec.intercept = f
}

// Receive records r and offers it to the interceptor. It reports whether the
// server has still to answer; r.Body is then c.Body again. It answers itself,
// with 413, a body of more than 2 MiB, which it does not record.
func (rec *Recorder) Receive(w http.ResponseWriter, r *http.Request) (c Call, ok bool) {
	c, err := ReadCall(r, maxBody+1)
	if err != nil {
		return c, false // the client has gone
	}
	if len(c.Body) > maxBody {
		http.Error(w, "The body is too large", http.StatusRequestEntityTooLarge)
		return c, false
	}
	rec.callsMu.Lock()
	rec.calls, rec.kept = append(rec.calls, c), rec.kept+len(c.Body)
	if len(rec.calls) > maxCalls || rec.kept > maxKept {
		rec.calls, rec.kept = slices.Clone(rec.calls[len(rec.calls)/2:]), 0
		for _, c := range rec.calls {
			rec.kept += len(c.Body)
		}
	}
	f := rec.intercept
	rec.callsMu.Unlock()

	if f != nil && f(w, r) {
		return c, false
	}
	r.Body = io.NopCloser(bytes.NewReader(c.Body))
	return c, true
}

// ReadCall reads at most so much of r's body; r.Body is then the whole again.
// The error is that of the connection.
func ReadCall(r *http.Request, most int64) (c Call, err error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, most))
	if err != nil {
		return c, err
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	c = Call{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Form: url.Values{}, Header: r.Header.Clone(), Body: body}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		c.Form, _ = url.ParseQuery(string(body))
	}
	return c, nil
}

// Copy is a ResponseWriter that keeps what it passes on.
type Copy struct {
	http.ResponseWriter
	Status int    // 0 as long as nothing is written
	Body   []byte // its first 64 KiB
}

const maxCopy = 64 << 10

func (c *Copy) WriteHeader(status int) {
	if c.Status == 0 && status >= 200 { // not for an informational answer
		c.Status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *Copy) Write(p []byte) (int, error) {
	if c.Status == 0 {
		c.Status = http.StatusOK
	}
	c.Body = append(c.Body, p[:min(len(p), maxCopy-len(c.Body))]...)
	return c.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (c *Copy) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// CloneValues returns a deep copy of v.
func CloneValues(v url.Values) url.Values {
	c := maps.Clone(v)
	for key, values := range c {
		c[key] = slices.Clone(values)
	}
	return c
}

// WriteJSON answers with v, of a type that JSON can carry, as JSON unless the
// header names another type already.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // an imitation's own values
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	w.Write(body)
}

// Bearer returns the token of the Authorization header, "" if there is none.
func Bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
