package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"
)

// collector is where spans go, by OTLP over HTTP. OpenTelemetry's own client,
// otlptracehttp, links all of gRPC, which it does not use: 6.7 of 22.2 MB of this
// program. It can come back when https://github.com/open-telemetry/opentelemetry-go/issues/2579
// is closed.
type collector struct {
	url    string
	header http.Header
	client http.Client
}

// newCollector reads the standard variables; nil if they name no collector.
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func newCollector(getenv func(string) string) (*collector, error) {
	const general, traces = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
	get := func(name string) string { return cmp.Or(getenv(traces+name), getenv(general+name)) }

	endpoint := get("ENDPOINT")
	if endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New(general + "ENDPOINT is not a URL of http or https")
	}
	if getenv(traces+"ENDPOINT") == "" {
		u = u.JoinPath("v1/traces")
	}
	if p := get("PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, fmt.Errorf("%sPROTOCOL is %q: only http/protobuf is spoken, as a rule on port 4318", general, p)
	}
	for _, name := range []string{"CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"} {
		if get(name) != "" {
			return nil, fmt.Errorf("%s%s does not count: SSL_CERT_FILE names authorities, and there are no client certificates", general, name)
		}
	}
	c := &collector{url: u.String(), header: http.Header{"Content-Type": {"application/x-protobuf"}}}
	for pair := range strings.SplitSeq(get("HEADERS"), ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		name, value, found := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || err != nil || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, errors.New(general + "HEADERS is not a list of name=value, comma-separated, with values URL-encoded")
		}
		c.header.Set(name, value)
	}
	milliseconds, err := strconv.Atoi(cmp.Or(get("TIMEOUT"), "10000"))
	if err != nil || milliseconds <= 0 {
		return nil, errors.New(general + "TIMEOUT is not a number of milliseconds")
	}
	c.client = http.Client{
		Timeout:       time.Duration(milliseconds) * time.Millisecond,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the headers may hold a key
	}
	return c, nil
}

// Start and Stop are what otlptrace asks of a client.
func (c *collector) Start(context.Context) error { return nil }
func (c *collector) Stop(context.Context) error  { return nil }

// UploadTraces sends spans, again and again until ctx ends where the collector is
// away or busy.
func (c *collector) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// Field by field this is the protocol's ExportTraceServiceRequest, whose package
	// is the one that links gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	for pause := time.Second; ; pause *= 2 {
		again, err := c.post(ctx, body)
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (c *collector) post(ctx context.Context, body []byte) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header = c.header.Clone()
	resp, err := c.client.Do(r)
	var failed *url.Error
	if errors.As(err, &failed) {
		return true, failed.Err // without the URL, which may hold a key
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true
	}
	return again, errors.New("the collector answered " + resp.Status)
}
