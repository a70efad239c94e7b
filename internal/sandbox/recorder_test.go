package sandbox_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"8space.app/stripe-sidecar/internal/sandbox"
)

// zeros is a body that does not end; it counts what was read of it.
type zeros struct{ read int }

func (z *zeros) Read(p []byte) (int, error) { z.read += len(p); return len(p), nil }

// TestReadCall: what was read is there again, and what was not is not read.
func TestReadCall(t *testing.T) {
	for _, tt := range []struct{ body, kept string }{
		{"", ""}, {"abc", "abc"}, {"abcd", "abcd"}, {"abcde", "abcd"},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(tt.body))
		c, err := sandbox.ReadCall(r, 4)
		if err != nil || string(c.Body) != tt.kept {
			t.Errorf("ReadCall(%q, 4) = %q, %v; want %q", tt.body, c.Body, err, tt.kept)
		}
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != tt.body {
			t.Errorf("after ReadCall(%q, 4) the body = %q, %v; want all of it", tt.body, rest, err)
		}
	}
}

// TestRecorderBounds: neither one body nor all that are kept grow for ever.
func TestRecorderBounds(t *testing.T) {
	var rec sandbox.Recorder
	receive := func(body io.Reader) (int, bool) {
		w := httptest.NewRecorder()
		_, ok := rec.Receive(w, httptest.NewRequest("POST", "/", body))
		return w.Code, ok
	}
	endless := &zeros{}
	if status, ok := receive(endless); ok || status != http.StatusRequestEntityTooLarge || endless.read > 8<<20 || len(rec.Calls()) > 0 {
		t.Errorf("Receive of an endless body = %d, %v, %d bytes read, %d calls kept; want 413, few and none", status, ok, endless.read, len(rec.Calls()))
	}
	const size = 1 << 20
	for range 100 {
		if status, ok := receive(strings.NewReader(strings.Repeat("x", size))); !ok {
			t.Fatalf("Receive of 1 MiB = %d, false; want true", status)
		}
	}
	if n := len(rec.Calls()); n < 30 || n > 64 {
		t.Errorf("calls kept = %d of 1 MiB; want at most 64", n)
	}
	rec.ForgetCalls()
	for range 60_000 {
		receive(strings.NewReader("x"))
	}
	if n := len(rec.Calls()); n < 20_000 || n > 50_000 {
		t.Errorf("calls kept = %d; want at most 50000", n)
	}
}
