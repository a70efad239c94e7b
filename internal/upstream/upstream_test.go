package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestPool: a burst over HTTPS takes a handful of connections where the
// host speaks HTTP/2, and one for each request where it does not.
func TestPool(t *testing.T) {
	const burst = 100
	for name, http2 := range map[string]bool{"HTTP/2": true, "HTTP/1.1": false} {
		t.Run(name, func(t *testing.T) {
			var connections, arrived atomic.Int32
			all := make(chan struct{})
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/burst" {
					if arrived.Add(1) == burst {
						close(all)
					}
					<-all // each holds its connection or stream until all are there
				}
			}))
			server.EnableHTTP2 = http2
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			server.StartTLS()
			defer server.Close()
			transport := newPool()
			for _, half := range []*http.Transport{transport.many, transport.few} {
				half.TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
				defer half.CloseIdleConnections()
			}
			get := func(path string) {
				r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := transport.RoundTrip(r)
				if err != nil {
					t.Errorf("GET %s = %v; want an answer", path, err)
					return
				}
				_ = resp.Body.Close()
			}
			get("/")
			var wg sync.WaitGroup
			for range burst {
				wg.Go(func() { get("/burst") })
			}
			wg.Wait()
			if n := connections.Load(); http2 && n > 8 || !http2 && n < burst {
				t.Errorf("connections for %d requests at once = %d; want at most 8 over HTTP/2, and one each over HTTP/1.1", burst, n)
			}
		})
	}
}

// silent is a connection that can die without a word: what is written is lost,
// and nothing comes any more.
type silent struct {
	net.Conn
	dead *atomic.Bool
}

func (c silent) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestDeadConnection: a connection over HTTP/2 that died without a word is given
// up within five seconds.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	var dials atomic.Int32
	var dead atomic.Bool
	p := newPool()
	p.few.TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	defer p.few.CloseIdleConnections()
	p.few.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if dials.Add(1) == 1 && err == nil {
			return silent{conn, &dead}, nil
		}
		return conn, err
	}
	get := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
		if err != nil {
			return err
		}
		resp, err := New(Config{Transport: p}).RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatalf("first GET = %v; want an answer", err)
	}
	dead.Store(true)
	begun := time.Now()
	for get() != nil {
		if time.Since(begun) > 6*time.Second {
			t.Fatalf("GET = no answer for %s after %d dials; want a new connection within 5 s", time.Since(begun), dials.Load())
		}
	}
}
