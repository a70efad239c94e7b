package upstream

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
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
			transport := Pool().(*pool)
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
