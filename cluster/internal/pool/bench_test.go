package pool_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/internal/raceflag"
)

// cannedConn responds to each write, which is taken for a whole request, with the same
// bytes: what is left is the client's own work.
type cannedConn struct {
	net.Conn
	response []byte
	asked    chan bool // true for a request, false for the end
	once     sync.Once
}

func dialCanned(response string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return &cannedConn{response: []byte(response), asked: make(chan bool, 2)}, nil
	}
}

func (c *cannedConn) Write(p []byte) (int, error) {
	c.asked <- true
	return len(p), nil
}

func (c *cannedConn) Read(p []byte) (int, error) {
	if <-c.asked {
		return copy(p, c.response), nil
	}
	return 0, net.ErrClosed
}

func (c *cannedConn) Close() error {
	c.once.Do(func() { c.asked <- false })
	return nil
}

func (c *cannedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *cannedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *cannedConn) SetDeadline(time.Time) error      { return nil }
func (c *cannedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *cannedConn) SetWriteDeadline(time.Time) error { return nil }

const (
	cannedBody  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
	cannedEmpty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n"
)

// exchange is one request, as a bare transport or a pool sends it.
type exchange func(*http.Request) error

func overTransport(t *http.Transport) exchange {
	return func(req *http.Request) error {
		resp, err := t.RoundTrip(req)
		if err != nil {
			return err
		}
		return finishBody(resp)
	}
}

func overPool(p *pool.Pool) exchange {
	return func(req *http.Request) error {
		s, err := p.Stream(req.Context())
		if err != nil {
			return err
		}
		resp, err := s.RoundTrip(req)
		if err == nil {
			err = finishBody(resp)
		}
		s.Release(err)
		return err
	}
}

func overStorage(p *pool.Pool) exchange {
	s := new(pool.Stream)
	return func(req *http.Request) error {
		if err := p.Attach(req.Context(), s); err != nil {
			return err
		}
		resp, err := s.RoundTrip(req)
		if err == nil {
			err = finishBody(resp)
		}
		s.Release(err)
		return err
	}
}

// canned returns the ways to send a request over a connection that responds with response.
func canned(response string) (ways map[string]exchange, end func()) {
	base := &http.Transport{DialContext: dialCanned(response)}
	cfg := pool.Config{Template: pool.NewTemplate(base, pool.HTTP1), Address: "bench:80", Observer: new(counts), Slots: newSlots(100, 100, 100)}
	one, other := pool.New(cfg), pool.New(cfg)
	ways = map[string]exchange{"transport": overTransport(base), "pool": overPool(one), "storage": overStorage(other)}
	return ways, func() {
		base.CloseIdleConnections()
		one.Close()
		other.Close()
	}
}

func benchRequest(tb testing.TB) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://bench/", nil)
	if err != nil {
		tb.Fatal(err)
	}
	return req
}

// BenchmarkCanned compares the pool with a bare transport on a connection that costs
// nothing.
func BenchmarkCanned(b *testing.B) {
	for name, response := range map[string]string{"body": cannedBody, "empty": cannedEmpty} {
		ways, end := canned(response)
		for way, send := range ways {
			b.Run(name+"/"+way, func(b *testing.B) {
				req := benchRequest(b)
				b.ReportAllocs()
				for b.Loop() {
					if err := send(req); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		end()
	}
}

// BenchmarkLoopback compares them over real sockets, with one caller and with eight.
func BenchmarkLoopback(b *testing.B) {
	for _, protocol := range []pool.Protocol{pool.HTTP1, pool.HTTP2} {
		s := benchServer(b, protocol)
		base := &http.Transport{Protocols: s.Config.Protocols, MaxIdleConnsPerHost: 100}
		cfg := pool.Config{Template: pool.NewTemplate(base, protocol), Address: s.Listener.Addr().String(), Observer: new(counts), Slots: newSlots(100, 100, 100)}
		for way, send := range map[string]exchange{"transport": overTransport(base), "pool": overPool(pool.New(cfg))} {
			for _, callers := range []int{1, 8} {
				b.Run(fmt.Sprintf("%v/%d callers/%s", protocol, callers, way), func(b *testing.B) { race(b, s.URL, callers, send) })
			}
		}
		base.CloseIdleConnections()
	}
}

func benchServer(b *testing.B, protocol pool.Protocol) *httptest.Server {
	b.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(protocol == pool.HTTP1)
	s.Config.Protocols.SetUnencryptedHTTP2(protocol == pool.HTTP2)
	s.Start()
	b.Cleanup(s.Close)
	return s
}

// race has callers share b.N requests.
func race(b *testing.B, url string, callers int, send exchange) {
	b.Helper()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			req, _ := http.NewRequest(http.MethodGet, url, nil)
			for left.Add(-1) >= 0 {
				if err := send(req); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkPick is a stream without a request, and one that is refused.
func BenchmarkPick(b *testing.B) {
	p, lent := pinned(b)
	s := new(pool.Stream)
	b.Run("attach and release", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := p.Attach(b.Context(), s); err != nil {
				b.Fatal(err)
			}
			s.Release(nil)
		}
	})
	b.Run("refused", func(b *testing.B) {
		lent.limit[pool.Request] = 0
		b.ReportAllocs()
		for b.Loop() {
			if err := p.Attach(b.Context(), s); err == nil {
				b.Fatal("it was not refused")
			}
		}
	})
}

// pinned is a pool with a connection that is ready.
func pinned(tb testing.TB) (*pool.Pool, *slots) {
	tb.Helper()
	lent := newSlots(1, 1, 1)
	p := pool.New(pool.Config{
		Template: pool.NewTemplate(&http.Transport{DialContext: dialCanned(cannedBody)}, pool.HTTP1),
		Address:  "bench:80", Observer: new(counts), Slots: lent,
	})
	s, err := p.Stream(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	s.Release(nil)
	tb.Cleanup(p.Close)
	return p, lent
}

// TestAllocations pins what a request costs: a pick and a refusal nothing, and a whole
// exchange at least seven allocations less than over a bare transport.
func TestAllocations(t *testing.T) {
	p, lent := pinned(t)
	s := new(pool.Stream)
	pins := map[string]func(){
		"attach and release": func() {
			if err := p.Attach(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			s.Release(nil)
		},
		"refused by max_requests": func() {
			lent.limit[pool.Request] = 0
			if err := p.Attach(t.Context(), s); err == nil {
				t.Fatal("it was not refused")
			}
			lent.limit[pool.Request] = 1
		},
	}
	for name, f := range pins {
		if got := testing.AllocsPerRun(200, f); got != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, got)
		}
	}
	held, err := p.Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lent.limit[pool.Pending] = 0
	if got := testing.AllocsPerRun(200, func() { p.Attach(t.Context(), s) }); got != 0 {
		t.Errorf("refused by max_pending_requests: got %v allocations, want 0", got)
	}
	held.Release(nil)
}

func TestAllocationsOfExchange(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	for name, response := range map[string]string{"body": cannedBody, "empty": cannedEmpty} {
		got := map[string]float64{}
		ways, end := canned(response)
		for way, send := range ways {
			req := benchRequest(t)
			got[way] = testing.AllocsPerRun(200, func() {
				if err := send(req); err != nil {
					t.Fatal(err)
				}
			})
		}
		end()
		if got["pool"] > got["transport"]-7 || got["storage"] > got["transport"]-8 {
			t.Errorf("%s: got %v allocations; want the pool 7 below the transport, and 8 with the caller's memory", name, got)
		}
	}
}
