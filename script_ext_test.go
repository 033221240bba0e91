package pillion_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a test waits for something that must happen. It is a safety net, no test
// depends on its value.
const patience = 10 * time.Second

// part is what a scripted server does on one connection, step by step. After the last step it reads
// until the client has closed the connection.
type part []step

// step is one step of a scripted server.
type step func(p *peer)

// peer is the server's side of one connection.
type peer struct {
	net.Conn
	read *bufio.Reader
	raw  *net.TCPConn // below TLS, if there is TLS
}

// scripted is a TCP server that plays a part on each connection.
type scripted struct {
	t        *testing.T
	listener net.Listener
	tls      *tls.Config
	parts    []part
	accepted atomic.Int32
	running  sync.WaitGroup
}

// serveScript starts a server that plays parts on its connections, in their order, and the last of
// them on all later connections. The test fails if its client has left a connection open at the
// end.
func serveScript(t *testing.T, parts ...part) *scripted {
	t.Helper()
	return serveScriptTLS(t, nil, parts...)
}

// serveScriptTLS is serveScript with TLS if config is not nil.
func serveScriptTLS(t *testing.T, config *tls.Config, parts ...part) *scripted {
	t.Helper()
	s := &scripted{t: t, listener: listen(t), tls: config, parts: parts}
	s.running.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (s *scripted) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		n := int(s.accepted.Add(1))
		s.running.Go(func() { s.play(n, conn.(*net.TCPConn)) })
	}
}

// play plays connection n, from 1.
func (s *scripted) play(n int, raw *net.TCPConn) {
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Errorf("connection %d: %v", n, err)
	}
	p := &peer{Conn: raw, raw: raw}
	if s.tls != nil {
		p.Conn = tls.Server(raw, s.tls)
	}
	p.read = bufio.NewReader(p.Conn)
	for _, step := range s.parts[min(n, len(s.parts))-1] {
		step(p)
	}
	if _, err := io.Copy(io.Discard, raw); errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("connection %d: got no close from the client within %v, want one", n, patience)
	}
}

func (s *scripted) close() {
	_ = s.listener.Close()
	s.running.Wait()
}

// dialScript returns a DialContext whose connections are pipes to a server that plays steps. It is
// for tests in a bubble, where no step can use the connection below TLS. As on a network, a Write
// of the server does not wait for its reader.
func dialScript(t *testing.T, steps part) func(ctx context.Context, network, address string) (net.Conn, error) {
	t.Helper()
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		p := &peer{Conn: newQueued(server), read: bufio.NewReader(server)}
		t.Cleanup(func() { _ = p.Close() })
		go func() {
			defer p.Close()
			for _, step := range steps {
				step(p)
			}
			untilClosed(p)
		}()
		return client, nil
	}
}

// queued is a connection that queues what is written.
type queued struct {
	net.Conn
	parts  chan []byte
	once   sync.Once
	closed chan struct{}
}

func newQueued(conn net.Conn) *queued {
	c := &queued{Conn: conn, parts: make(chan []byte, 100), closed: make(chan struct{})}
	go func() {
		for {
			select {
			case part := <-c.parts:
				_, _ = c.Conn.Write(part)
			case <-c.closed:
				return
			}
		}
	}()
	return c
}

func (c *queued) Write(p []byte) (int, error) {
	select {
	case c.parts <- slices.Clone(p):
		return len(p), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

// Close discards what is queued.
func (c *queued) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// addr returns the address of the server.
func (s *scripted) addr() string { return s.listener.Addr().String() }

// firstByte waits for the first byte of a request.
func firstByte(p *peer) { _, _ = p.read.ReadByte() }

// untilClosed reads until the client has closed the connection.
func untilClosed(p *peer) { _, _ = io.Copy(io.Discard, p.read) }

// request reads a complete request.
func request(p *peer) {
	if r, err := http.ReadRequest(p.read); err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// requestHead reads a request up to its body.
func requestHead(p *peer) { _, _ = http.ReadRequest(p.read) }

// neither reads nor writes for longer than any limit of the tests.
func neither(*peer) { time.Sleep(25 * short) }

// say writes text unchanged.
func say(text string) step {
	return func(p *peer) { _, _ = io.WriteString(p, text) }
}

// sayOn writes text repeatedly, until the client closes the connection.
func sayOn(text string) step {
	return func(p *peer) {
		for {
			if _, err := io.WriteString(p, text); err != nil {
				return
			}
		}
	}
}

// fin ends the server's side of the connection.
func fin(p *peer) { _ = p.raw.CloseWrite() }

// reset ends the connection with RST.
func reset(p *peer) {
	_ = p.raw.SetLinger(0)
	_ = p.raw.Close()
}

// hold waits until release is closed.
func hold(release <-chan struct{}) step {
	return func(*peer) {
		select {
		case <-release:
		case <-time.After(patience):
		}
	}
}

// tell closes done.
func tell(done chan<- struct{}) step {
	return func(*peer) { close(done) }
}

// refusing returns an address that refuses connections. A connection from that address keeps other
// programs from using it.
func refusing(t *testing.T) string {
	t.Helper()
	l := listen(t)
	defer l.Close()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// wantSoon fails the test unless done is closed, or sent to.
func wantSoon[T any](t *testing.T, done <-chan T, what string) (value T) {
	t.Helper()
	select {
	case value = <-done:
	case <-time.After(patience):
		t.Fatalf("%s: got nothing within %v", what, patience)
	}
	return value
}

// bounded returns the test's context for a call. It also ends if a call takes longer than any
// should. It has no deadline, which policies would see.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	late := time.AfterFunc(6*patience, func() { cancel(errTooLong) })
	t.Cleanup(func() {
		late.Stop()
		cancel(nil)
	})
	return ctx
}

var errTooLong = errors.New("the test's call takes too long")

// wantNoLeaks fails the test at its end, after all cleanups that are registered later, if a
// goroutine runs that did not run before.
func wantNoLeaks(t *testing.T) {
	t.Helper()
	old := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, old) })
}

// silenceDefaultLogger hides reports of panics from the test's output.
func silenceDefaultLogger(t *testing.T) {
	t.Helper()
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
}
