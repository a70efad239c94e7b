package api

import "github.com/prometheus/client_golang/prometheus"

// Routes lists "METHOD path" of every route, for the test that holds openapi.yaml to them.
func Routes() []string {
	var list []string
	s := &service{Config: Config{Webhook: true, Prices: true, Registry: prometheus.NewRegistry()}}
	for _, r := range append(s.routes(), s.probes()...) {
		list = append(list, r.method+" "+r.path)
	}
	return list
}
