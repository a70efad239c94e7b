package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Proxies are the addresses whose X-Forwarded-For is believed.
type Proxies []netip.Prefix

// clientAddr returns the address that a request comes from: the peer's or,
// where that is a trusted proxy, the last one in X-Forwarded-For that is not.
// Anything further left may be the caller's own invention. It is the zero Addr for a
// trusted proxy that does not say whom it asks for.
func (p Proxies) clientAddr(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	known := !p.Contains(addr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !p.Contains(addr) {
			break
		}
		next := parseAddr(strings.TrimSpace(hop))
		if !next.IsValid() {
			break
		}
		addr, known = next, true
	}
	if !known {
		return netip.Addr{}
	}
	return addr
}

// Client returns what counts as one client of the address that a request
// comes from, or, through a trusted proxy, is forwarded from: see Network. It is the
// zero Prefix when that is not known.
func (p Proxies) Client(r *http.Request) netip.Prefix { return Network(p.clientAddr(r)) }

// Secure tells whether a trusted proxy says that it was asked over https.
func (p Proxies) Secure(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") && p.Contains(parseAddr(r.RemoteAddr))
}

// Contains tells whether an address is a trusted proxy's.
func (p Proxies) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// Network returns what counts as one client: an IPv4 address, or the 64 bits
// that one customer of a provider has at least; the zero Prefix for the zero Addr.
func Network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}

// Shares counts what clients hold of something: Each of them at most so many, and All
// together. Who is not known, the zero Prefix, counts with all alone.
type Shares struct {
	Each, All int

	mu    sync.Mutex
	held  map[netip.Prefix]int
	total int
}

// Take counts one more for a client, which leave gives back, once; ok is false where
// that would be too many.
func (s *Shares) Take(client netip.Prefix) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.All || client.IsValid() && s.held[client] >= s.Each {
		return nil, false
	}
	if s.held == nil {
		s.held = map[netip.Prefix]int{}
	}
	s.total++
	s.held[client]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total--
		if s.held[client]--; s.held[client] == 0 {
			delete(s.held, client)
		}
	}, true
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
