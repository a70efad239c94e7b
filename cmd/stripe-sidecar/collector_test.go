package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"8space.app/stripe-sidecar/internal/upstream"
)

// TestCollectorVariables: where spans go by the standard variables, and what is
// refused at start rather than ignored.
func TestCollectorVariables(t *testing.T) {
	for _, test := range []struct {
		variables, want string // what follows OTEL_EXPORTER_OTLP_, + for a space; URL, headers and time-out
	}{
		{"", "none"},
		{"HEADERS=api-key=1", "none"},
		{"ENDPOINT=http://collector:4318", "http://collector:4318/v1/traces map[] 10s"},
		{"ENDPOINT=https://otlp.example/otlp/", "https://otlp.example/otlp/v1/traces map[] 10s"},
		{"TRACES_ENDPOINT=http://a/x ENDPOINT=http://b", "http://a/x map[] 10s"},
		{"ENDPOINT=http://a HEADERS=Authorization=Basic%20YQ==,x-scope=1 TIMEOUT=500 PROTOCOL=http/protobuf", "http://a/v1/traces map[Authorization:[Basic YQ==] X-Scope:[1]] 500ms"},
		{"ENDPOINT=http://a HEADERS=x=1 TRACES_HEADERS=y=2 TRACES_TIMEOUT=1 TIMEOUT=2", "http://a/v1/traces map[Y:[2]] 1ms"},
		{"ENDPOINT=http://h/?a=b", "http://h/v1/traces?a=b map[] 10s"},
		{"ENDPOINT=http://a COMPRESSION=gzip HEADERS=a=b,+", "http://a/v1/traces map[A:[b]] 10s"},
		{"ENDPOINT=http://a HEADERS=api+key=hidden", "OTEL_EXPORTER_OTLP_HEADERS is not a list of name=value, comma-separated, with values URL-encoded"},
		{"ENDPOINT=http://a HEADERS=a=hid%0Aden", "OTEL_EXPORTER_OTLP_HEADERS is not a list of name=value, comma-separated, with values URL-encoded"},
		{"ENDPOINT=collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL of http or https"},
		{"ENDPOINT=http://a PROTOCOL=grpc", `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc": only http/protobuf is spoken, as a rule on port 4318`},
		{"ENDPOINT=http://a HEADERS=hidden", "OTEL_EXPORTER_OTLP_HEADERS is not a list of name=value, comma-separated, with values URL-encoded"},
		{"ENDPOINT=http://a TIMEOUT=10s", "OTEL_EXPORTER_OTLP_TIMEOUT is not a number of milliseconds"},
		{"ENDPOINT=http://a TRACES_CERTIFICATE=/ca.pem", "OTEL_EXPORTER_OTLP_CERTIFICATE does not count: SSL_CERT_FILE names authorities, and there are no client certificates"},
	} {
		env := map[string]string{}
		for _, pair := range strings.Fields(test.variables) {
			name, value, _ := strings.Cut(pair, "=")
			env["OTEL_EXPORTER_OTLP_"+name] = strings.ReplaceAll(value, "+", " ")
		}
		c, err := newCollector(func(name string) string { return env[name] })
		got := "none"
		if err != nil {
			got = err.Error()
		} else if c != nil {
			if kind := c.header["Content-Type"]; len(kind) != 1 || kind[0] != "application/x-protobuf" {
				t.Errorf("%s: Content-Type = %q; want application/x-protobuf", test.variables, kind)
			}
			delete(c.header, "Content-Type")
			got = fmt.Sprint(c.url, " ", map[string][]string(c.header), " ", c.client.Timeout)
		}
		if got != test.want {
			t.Errorf("newCollector(%s) = %s; want %s", test.variables, got, test.want)
		}
	}
}

// TestCollectorMistake: what is wrong with these variables is a wrong configuration too.
func TestCollectorMistake(t *testing.T) {
	setenv(t, valid("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"))
	var stderr strings.Builder
	const want = "stripe-sidecar: OTEL_EXPORTER_OTLP_ENDPOINT is not a URL of http or https\n"
	if code := run(t.Context(), nil, io.Discard, &stderr); code != 2 || stderr.String() != want {
		t.Errorf("run = %d, %q; want 2, %q", code, &stderr, want)
	}
}

// TestCollectorRetries: a collector that is away or busy is tried again, less and
// less often, until the time is over; one that refuses is not.
func TestCollectorRetries(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		answers []int // 0: no connection; the last one is for all that follow
		at      string
		err     string
	}{
		{[]int{200}, "[0s]", "<nil>"},
		{[]int{503, 0, 429, 202}, "[0s 1s 3s 7s]", "<nil>"},
		{[]int{400}, "[0s]", "the collector answered 400 Bad Request"},
		{[]int{301}, "[0s]", "the collector answered 301 Moved Permanently"},
		{[]int{503, 401}, "[0s 1s]", "the collector answered 401 Unauthorized"},
		{[]int{0}, "[0s 1s 3s 7s 15s]", "connection refused"},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun, at := time.Now(), []time.Duration{}
			c := &collector{url: "http://collector/?key=hidden", client: http.Client{
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
				Transport: upstream.RoundTrip(func(r *http.Request) (*http.Response, error) {
					status := test.answers[min(len(at), len(test.answers)-1)]
					at = append(at, time.Since(begun))
					if status == 0 {
						return nil, errors.New("connection refused")
					}
					return &http.Response{StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: http.Header{"Location": {"/"}},
						Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
				})}}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := c.UploadTraces(ctx, nil); fmt.Sprint(err) != test.err || fmt.Sprint(at) != test.at {
				t.Errorf("UploadTraces with %v = %v after posts at %v; want %s after %s", test.answers, err, at, test.err, test.at)
			}
		})
	}
}
