package main

import (
	"net"
	"net/netip"
	"sync"

	"8space.app/stripe-sidecar/api"
)

// fairListener closes the connections that one client holds beyond its share.
// Trusted proxies may have as many as they like.
type fairListener struct {
	net.Listener
	proxies api.Proxies
	shares  *api.Shares
}

func (l *fairListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		client := addr.Addr().Unmap().WithZone("")
		if l.proxies.Contains(client) {
			return conn, nil
		}
		if leave, ok := l.shares.Take(api.Network(client)); ok {
			return &fairConn{conn, sync.OnceFunc(leave)}, nil
		}
		_ = conn.Close()
	}
}

type fairConn struct {
	net.Conn
	leave func()
}

func (c *fairConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
