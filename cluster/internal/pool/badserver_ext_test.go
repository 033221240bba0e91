package pool_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// badServer is a server on loopback that does as it likes with each connection.
type badServer struct {
	net.Listener
	served sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

func serveBadly(t *testing.T, serve func(n int, c net.Conn)) *badServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &badServer{Listener: l}
	s.served.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.served.Go(func() {
				defer c.Close()
				serve(n, c)
			})
		}
	})
	return s
}

func (s *badServer) end() {
	s.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.served.Wait()
}

// rst closes c so that the client gets a RST.
func rst(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// untilEOF reads until the client closes.
func untilEOF(c net.Conn) { io.Copy(io.Discard, c) }

// request1 reads a request.
func request1(c net.Conn) bool {
	_, err := http.ReadRequest(bufio.NewReader(c))
	return err == nil
}

// bad1 are servers of HTTP/1, and bad2 of HTTP/2, that serve no request well.
var bad1 = map[string]func(n int, c net.Conn){
	"never responds":     func(_ int, c net.Conn) { untilEOF(c) },
	"closes":             func(int, net.Conn) {},
	"resets":             func(_ int, c net.Conn) { rst(c) },
	"closes at request":  func(_ int, c net.Conn) { request1(c) },
	"resets at request":  func(_ int, c net.Conn) { request1(c); rst(c) },
	"half-closes":        func(_ int, c net.Conn) { request1(c); c.(*net.TCPConn).CloseWrite(); untilEOF(c) },
	"closes in the head": func(_ int, c net.Conn) { request1(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-") },
	"closes in the body": func(_ int, c net.Conn) {
		request1(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso")
	},
	"resets in the body": func(_ int, c net.Conn) {
		request1(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso")
		rst(c)
	},
	"half-closes in body": func(_ int, c net.Conn) {
		request1(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso")
		c.(*net.TCPConn).CloseWrite()
		untilEOF(c)
	},
	"speaks no HTTP": func(_ int, c net.Conn) { request1(c); io.WriteString(c, "220 soup ready\r\n"); untilEOF(c) },
	"hangs in the body": func(_ int, c net.Conn) {
		request1(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso")
		untilEOF(c)
	},
	"one byte at a time": func(_ int, c net.Conn) {
		request1(c)
		for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n") {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		untilEOF(c)
	},
}

var bad2 = map[string]func(n int, c net.Conn){
	"never speaks":          func(_ int, c net.Conn) { untilEOF(c) },
	"never responds":        script2(nil, nil),
	"closes":                func(int, net.Conn) {},
	"resets":                func(_ int, c net.Conn) { rst(c) },
	"closes after settings": script2(func(p *peer) { p.settings(); p.close() }, nil),
	"speaks HTTP/1":         func(_ int, c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); untilEOF(c) },
	"allows no stream":      script2(func(p *peer) { p.settings(maxStreams(0)) }, nil),
	"goes away":             script2(func(p *peer) { p.settings(); p.goAway(0) }, nil),
	"goes away at request":  script2(nil, func(p *peer, _ uint32) { p.goAway(0) }),
	"resets streams":        script2(nil, func(p *peer, id uint32) { p.reset(id, http2.ErrCodeInternal) }),
	"refuses streams":       script2(nil, func(p *peer, id uint32) { p.reset(id, http2.ErrCodeRefusedStream) }),
	"protocol error":        script2(nil, func(p *peer, id uint32) { p.reset(id, http2.ErrCodeProtocol) }),
	"closes at request":     script2(nil, func(p *peer, _ uint32) { p.close() }),
	"resets at request":     script2(nil, func(p *peer, _ uint32) { p.do(func() { rst(p.conn) }) }),
	"half-closes":           script2(nil, func(p *peer, _ uint32) { p.do(func() { p.conn.(*net.TCPConn).CloseWrite() }) }),
	"hangs in the body":     script2(nil, func(p *peer, id uint32) { p.head(id, false) }),
	"resets in the body":    script2(nil, func(p *peer, id uint32) { p.head(id, false); p.reset(id, http2.ErrCodeCancel) }),
	"bad frame": script2(nil, func(p *peer, _ uint32) {
		p.do(func() { p.framer.WriteRawFrame(http2.FrameData, 0, 0, []byte("soup")) })
	}),
	"settings back and forth": script2(func(p *peer) {
		for i := range uint32(50) {
			p.settings(maxStreams(i % 3))
		}
	}, nil),
}

// TestBadServers sends many requests to servers that do not serve them. Each ends within
// its time, the number of connections keeps to its limit, and in the end nothing is left.
//
//nolint:tparallel // it replaces the log of the whole process
func TestBadServers(t *testing.T) {
	silence(t)
	for protocol, servers := range map[pool.Protocol]map[string]func(int, net.Conn){pool.HTTP1: bad1, pool.HTTP2: bad2} {
		for name, serve := range servers {
			t.Run(protocol.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				storm(t, protocol, serve)
			})
		}
	}
}

func storm(t *testing.T, protocol pool.Protocol, serve func(int, net.Conn)) {
	t.Helper()
	s := serveBadly(t, serve)
	defer s.end()
	seen, lent := new(counts), newSlots(4, 20, 100)
	p := pool.New(pool.Config{
		Template: pool.NewTemplate(&http.Transport{}, protocol), Address: s.Addr().String(),
		ConnectTimeout: 200 * time.Millisecond, Slots: lent, Observer: seen,
	})
	var callers sync.WaitGroup
	for range 15 {
		callers.Go(func() {
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
				start := time.Now()
				if o := send(ctx, p, http.MethodGet, nil); o.err == nil {
					t.Errorf("got %v, want an error", o)
				} else if took := time.Since(start); took > 5*time.Second {
					t.Errorf("it took %v until %v", took, o.err)
				}
				cancel()
				if got := lent.used[pool.Connection].Load(); got > 4 {
					t.Errorf("got %d connections, want at most 4", got)
				}
				checkServed(t, p)
			}
		})
	}
	callers.Wait()
	finished(t, p, seen)
	checkBalanced(t, seen, lent)
}

// checkServed checks that no request waits for a connection that cannot come.
func checkServed(t *testing.T, p *pool.Pool) {
	t.Helper()
	if got := p.Stats(); got.Pending > 0 && got.Connecting+got.Ready+got.Busy == 0 {
		t.Errorf("got %+v, want a connection being made for those that wait", got)
	}
}

// A pool outlives what a server does to it: the same endpoint serves well afterwards.
//
//nolint:tparallel // it replaces the log of the whole process
func TestServerRecovers(t *testing.T) {
	silence(t)
	for protocol, servers := range map[pool.Protocol]map[string]func(int, net.Conn){pool.HTTP1: bad1, pool.HTTP2: bad2} {
		good := forever1(okBody)
		if protocol == pool.HTTP2 {
			good = script2(nil, func(p *peer, id uint32) { p.respond(id) })
		}
		for name, bad := range servers {
			t.Run(protocol.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				recovers(t, protocol, bad, good)
			})
		}
	}
}

// recovers sends requests to a server whose first two connections are bad.
func recovers(t *testing.T, protocol pool.Protocol, bad, good func(int, net.Conn)) {
	t.Helper()
	s := serveBadly(t, func(n int, c net.Conn) {
		if n < 2 {
			bad(n, c)
			return
		}
		good(n, c)
	})
	defer s.end()
	seen := new(counts)
	p := pool.New(pool.Config{
		Template: pool.NewTemplate(&http.Transport{}, protocol), Address: s.Addr().String(),
		MaxConcurrentStreams: 1, Observer: seen,
	})
	defer finished(t, p, seen)
	for i := range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		o := send(ctx, p, http.MethodGet, nil)
		cancel()
		if o.err == nil {
			if i == 0 {
				t.Errorf("got %v at the first attempt, want an error", o)
			}
			return
		}
		if errors.Is(o.err, pool.ErrClosed) {
			t.Fatal(o.err)
		}
		p.Drain() // what an ejection does
	}
	t.Error("no request was served")
}

// A response may arrive at one byte a second.
func TestSlowResponse(t *testing.T) {
	const response = okBody
	inLab(t, pool.HTTP1, pool.Config{}, func(_ int, c net.Conn) {
		if !request1(c) {
			return
		}
		for _, b := range []byte(response) {
			time.Sleep(time.Second)
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
		}
		io.Copy(io.Discard, c)
	}, func(l *lab) {
		start := time.Now()
		if o := l.get(); o.body != "ok" || time.Since(start) != time.Duration(len(response))*time.Second {
			l.t.Errorf("got %v after %v", o, time.Since(start))
		}
		l.expect(map[pool.Event]int64{pool.CxActive: 1, pool.CxRxBytes: int64(len(response))})
	})
}
