package soak

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	soakHeader   = "X-Soak"        // carries the number of the call to the server
	behaveHeader = "X-Soak-Behave" // asks the server for a good response
)

// link is a server's end of a connection. Its dice make the choices for the whole connection.
type link struct {
	dice
	net.Conn              // TLS, if the connection uses it
	raw      *net.TCPConn // below TLS
	in       *bufio.Reader
	round    *round
}

// fin closes the writing side.
func (p *link) fin() { _ = p.raw.CloseWrite() }

// reset closes the connection with RST.
func (p *link) reset() {
	_ = p.raw.SetLinger(0)
	_ = p.raw.Close()
}

// damage writes bytes that break TLS and HTTP.
func (p *link) damage(d dice) {
	_, _ = p.raw.Write([]byte{pick(d, byte(21), 22, 23, 0), 3, 3, 0, 2, 2, byte(d.IntN(120))})
}

// hang waits until the other side has closed the connection.
func (p *link) hang() { _, _ = io.Copy(io.Discard, p.Conn) }

// say writes text.
func (p *link) say(text string) { _, _ = io.WriteString(p.Conn, text) }

// playTLS serves one connection in the protocol that the handshake agreed on.
func playTLS(p *link) {
	if p.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol == "h2" {
		playHTTP2(p)
		return
	}
	playHTTP1(p)
}

// plan returns the record of a request's call, and the dice for what the server does with
// this attempt.
func (p *link) plan(header http.Header) (*record, dice) {
	n, _ := strconv.ParseUint(header.Get(soakHeader), 10, 64)
	attempt, _ := strconv.ParseUint(header.Get("X-Envoy-Attempt-Count"), 10, 64)
	return p.round.ledger.find(n), newDice(p.round.seed, n, attempt, 1)
}

// listener is a TCP server with scripted connections.
type listener struct {
	net.Listener
	round   *round
	play    func(*link)
	tls     *tls.Config // nil without TLS
	number  atomic.Uint64
	running sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

// listen starts a server, which runs until the end of the round.
func (r *round) listen(cfg *tls.Config, play func(*link)) *listener {
	r.Helper()
	l := &listener{Listener: r.bind(), round: r, play: play, tls: cfg}
	l.running.Go(l.accept)
	r.Cleanup(func() { r.await("a server", l.stop) })
	return l
}

func (l *listener) accept() {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
		n := l.number.Add(1)
		l.running.Go(func() {
			defer conn.Close()
			l.serve(conn.(*net.TCPConn), newDice(l.round.seed, n, 2))
		})
	}
}

func (l *listener) stop() {
	_ = l.Close()
	l.mu.Lock()
	for _, conn := range l.conns {
		_ = conn.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}

// serve plays one connection, or none.
func (l *listener) serve(conn *net.TCPConn, d dice) {
	p := &link{dice: d, Conn: conn, raw: conn, round: l.round}
	switch d.IntN(30) {
	case 0:
		p.reset()
		return
	case 1:
		p.fin()
		p.hang()
		return
	case 2:
		p.hang()
		return
	case 3:
		p.damage(d)
	}
	if l.tls != nil {
		secure := tls.Server(conn, l.tls)
		if secure.HandshakeContext(l.round.ctx) != nil {
			return
		}
		p.Conn = secure
	}
	p.in = bufio.NewReader(p.Conn)
	l.play(p)
}

// certificate returns the certificate of net/http/httptest, and a pool that trusts it.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	trusting := x509.NewCertPool()
	trusting.AddCert(s.Certificate())
	return s.TLS.Certificates[0], trusting
})

func serverTLS(protocols ...string) *tls.Config {
	own, _ := certificate()
	return &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: protocols}
}

func clientTLS() *tls.Config {
	_, trusting := certificate()
	return &tls.Config{RootCAs: trusting}
}

// bind listens on a free port.
func (r *round) bind() net.Listener {
	r.Helper()
	var config net.ListenConfig
	l, err := config.Listen(r.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	return l
}

// refusing returns an address that refuses connections. A connection from that address keeps it
// in use.
func (r *round) refusing() string {
	r.Helper()
	l := r.bind()
	defer l.Close()
	conn, err := dial(r.Context(), "tcp", l.Addr().String())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// nowhere is a host that does not exist.
const nowhere = "nowhere.test"

// dial makes a connection.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	if strings.HasPrefix(address, nowhere) {
		return nil, &net.DNSError{Err: "no such host", Name: nowhere, IsNotFound: true}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// dial makes a connection that is counted while it is open.
func (r *round) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	r.ledger.use(address)
	return &counted{Conn: conn, ledger: r.ledger, address: address}, nil
}

// counted is a connection that is counted while it is open.
type counted struct {
	net.Conn
	ledger  *ledger
	address string
	closed  sync.Once
}

func (c *counted) Close() error {
	c.closed.Do(func() { c.ledger.free(c.address) })
	return c.Conn.Close()
}
