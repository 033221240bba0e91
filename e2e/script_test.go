package e2e

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// waitLimit bounds the wait of a test for an event that must happen.
const waitLimit = 10 * time.Second

// short is a timeout that fires in a test.
const short = 40 * time.Millisecond

// scripted is a TCP server that runs a function for each connection.
type scripted struct {
	listener net.Listener
	play     func(conn net.Conn)
	running  sync.WaitGroup
	requests atomic.Int64 // the requests that play counted

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

// serveScript starts a server that runs play for each connection. At the end of the test it
// closes the remaining connections, which ends play.
func serveScript(t *testing.T, play func(s *scripted, conn net.Conn)) *scripted {
	t.Helper()
	s := &scripted{listener: listen(t)}
	s.play = func(conn net.Conn) { play(s, conn) }
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

// refusing returns an address at which nothing listens. A connection from there prevents
// other programs from using it.
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

func (s *scripted) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.running.Go(func() {
			defer conn.Close()
			s.play(conn)
			_, _ = io.Copy(io.Discard, conn)
		})
	}
}

func (s *scripted) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// addr returns the address of the server.
func (s *scripted) addr() string { return s.listener.Addr().String() }

// step is one action of a scripted HTTP/1 server on a connection.
type step func(conn net.Conn)

// afterRequest returns a function for scripted that reads requests, and runs the steps
// after each.
func afterRequest(steps ...step) func(*scripted, net.Conn) {
	return func(s *scripted, conn net.Conn) {
		requests := bufio.NewReader(conn)
		for {
			r, err := http.ReadRequest(requests)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			s.requests.Add(1)
			for _, step := range steps {
				step(conn)
			}
		}
	}
}

// firstByte waits for the first byte that the client sends.
func firstByte(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }

// say writes text unchanged.
func say(text string) step {
	return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
}

// fin ends the server's side of the connection.
func fin(conn net.Conn) { _ = conn.(*net.TCPConn).CloseWrite() }

// reset ends the connection with RST.
func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// wantSoon fails the test unless done is closed, or sent to.
func wantSoon[T any](t *testing.T, done <-chan T, what string) (value T) {
	t.Helper()
	select {
	case value = <-done:
	case <-time.After(waitLimit):
		t.Fatalf("%s: got nothing within %v", what, waitLimit)
	}
	return value
}

// wantNoLeaks fails the test at its end, after all cleanups that are registered later, if a
// goroutine runs that did not run before.
func wantNoLeaks(t *testing.T) {
	t.Helper()
	old := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, old) })
}

// stream is a request of which a scripted HTTP/2 server has received the headers.
type stream struct {
	*h2conn
	id    uint32
	n     int64 // its number among all requests of the server, from 1
	ended bool  // there is no body
}

// h2conn is a connection of a scripted HTTP/2 server.
type h2conn struct {
	net.Conn
	framer *http2.Framer
	head   bytes.Buffer
	hpack  *hpack.Encoder
	gone   chan struct{} // closed when the client has closed the connection
}

// h2script is an HTTP/2 server without TLS that runs a function for each request.
type h2script struct {
	requests atomic.Int64
	resets   atomic.Int64 // RST_STREAM frames received
}

// play serves one connection until it ends.
func (h *h2script) play(conn net.Conn, act func(s *stream)) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c := &h2conn{Conn: conn, framer: http2.NewFramer(conn, conn), gone: make(chan struct{})}
	c.hpack = hpack.NewEncoder(&c.head)
	// Frames are read while others are written: a pipe has no buffer.
	frames := make(chan func(), 1024)
	go h.read(c, act, frames)
	_ = c.framer.WriteSettings()
	for handle := range frames {
		handle()
	}
}

// read converts frames to actions.
func (h *h2script) read(c *h2conn, act func(*stream), frames chan<- func()) {
	defer close(frames)
	defer close(c.gone)
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				frames <- func() { _ = c.framer.WriteSettingsAck() }
			}
		case *http2.PingFrame:
			if data := f.Data; !f.IsAck() {
				frames <- func() { _ = c.framer.WritePing(true, data) }
			}
		case *http2.RSTStreamFrame:
			h.resets.Add(1)
		case *http2.HeadersFrame:
			s := &stream{h2conn: c, id: f.StreamID, n: h.requests.Add(1), ended: f.StreamEnded()}
			frames <- func() { act(s) }
		}
	}
}

// respond sends response headers with these pairs of names and values.
func (s *stream) respond(end bool, pairs ...string) {
	s.head.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = s.hpack.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	_ = s.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: s.head.Bytes(), EndHeaders: true, EndStream: end,
	})
}

// ok responds with 200 and a body.
func (s *stream) ok(body string) {
	s.respond(false, ":status", "200")
	_ = s.framer.WriteData(s.id, true, []byte(body))
}

// rst resets the stream.
func (s *stream) rst(code http2.ErrCode) { _ = s.framer.WriteRSTStream(s.id, code) }
