package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr returns the address that a request comes from: the peer's or,
// where that is a trusted proxy, the last one in X-Forwarded-For that is none.
// Anything further left may be the caller's own invention. known is false for a
// trusted proxy that does not say whom it asks for.
func (s *service) clientAddr(r *http.Request) (addr netip.Addr, known bool) {
	addr = parseAddr(r.RemoteAddr)
	known = !s.trusted(addr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !s.trusted(addr) {
			break
		}
		next := parseAddr(strings.TrimSpace(hop))
		if !next.IsValid() {
			break
		}
		addr, known = next, true
	}
	return addr, known
}

func (s *service) trusted(addr netip.Addr) bool {
	return slices.ContainsFunc(s.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseAddr reads an IP address with or without a port; the zero Addr for
// anything else.
func parseAddr(s string) netip.Addr {
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		withPort, _ := netip.ParseAddrPort(s)
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("")
}
