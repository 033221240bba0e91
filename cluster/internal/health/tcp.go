package health

import (
	"context"
	"net"
)

// TCPConfig describes a TCP check. It mirrors Envoy's message TcpHealthCheck.
type TCPConfig struct {
	// Send is sent on the connection. Without Receive nothing is sent.
	Send []byte

	// Receive lists the segments that must be received, in this order, with any bytes in between.
	// Without it a connection is enough.
	Receive [][]byte

	// CloseConnections makes a new connection for each check. Checks without Receive always make
	// one. Envoy's field is reuse_connection, with the opposite meaning.
	CloseConnections bool
}

// Check returns an error if c is invalid.
func (c TCPConfig) Check() error { return payload(c.Receive).check("TCPConfig") }

// Dialer makes connections, as [net.Dialer] and [crypto/tls.Dialer] do.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// TCPProber checks a host with TCP connections. Unlike Envoy it does not watch a connection
// between checks: if the host closes it, the next check fails, and the check after that makes a
// new connection.
type TCPProber struct {
	config           TCPConfig
	dialer           Dialer
	network, address string
	conn             net.Conn // kept from the last check, or nil
}

// NewTCPProber returns a prober that connects to address. The error is that of
// [TCPConfig.Check].
func NewTCPProber(c TCPConfig, d Dialer, network, address string) (*TCPProber, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &TCPProber{config: c, dialer: d, network: network, address: address}, nil
}

// Probe sends and receives. It makes a connection if there is none from the last check.
func (p *TCPProber) Probe(ctx context.Context) Verdict {
	if err := p.connect(ctx); err != nil {
		return broken(ctx, err)
	}
	conn := p.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := p.exchange(conn)
	intact := stop()
	if err != nil || !intact || p.config.CloseConnections || len(p.config.Receive) == 0 {
		p.Close()
	}
	if err != nil {
		return broken(ctx, err)
	}
	return Verdict{Result: Passed}
}

func (p *TCPProber) connect(ctx context.Context) error {
	if p.conn != nil {
		return nil
	}
	conn, err := p.dialer.DialContext(ctx, p.network, p.address)
	if err != nil {
		return err
	}
	p.conn = conn
	return nil
}

// exchange sends Send and reads until Receive has arrived.
func (p *TCPProber) exchange(conn net.Conn) error {
	if len(p.config.Receive) == 0 {
		return nil
	}
	if _, err := conn.Write(p.config.Send); err != nil {
		return err
	}
	match := matcher{left: p.config.Receive}
	data := make([]byte, 4096)
	for {
		n, err := conn.Read(data)
		switch {
		case match.feed(data[:n]):
			return nil
		case err != nil:
			return err
		}
	}
}

// Close closes the connection.
func (p *TCPProber) Close() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}
