package pool_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/internal/testtime"
)

// moody is a server on loopback whose handler does something else each time.
type moody struct {
	net.Listener
	server http.Server
	open   atomic.Int64
	served sync.WaitGroup
}

func newMoody(t *testing.T, protocol pool.Protocol) *moody {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &moody{Listener: l}
	m.server.Handler = http.HandlerFunc(m.serve)
	m.server.ErrorLog = quietLog()
	m.server.Protocols = new(http.Protocols)
	m.server.Protocols.SetHTTP1(protocol == pool.HTTP1)
	m.server.Protocols.SetUnencryptedHTTP2(protocol == pool.HTTP2)
	m.server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 4}
	m.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	m.server.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			m.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			m.open.Add(-1)
		default:
		}
	}
	m.served.Go(func() { m.server.Serve(l) })
	return m
}

type connKey struct{}

func (m *moody) serve(w http.ResponseWriter, r *http.Request) {
	switch rand.IntN(12) {
	case 0:
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	case 1:
		panic(http.ErrAbortHandler)
	case 2:
		rst(r.Context().Value(connKey{}).(net.Conn))
		return
	case 3:
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case 4:
		w.Header().Set("Connection", "close") // with HTTP/2 a GOAWAY
	case 5:
		w.WriteHeader(http.StatusNoContent)
		return
	case 6:
		io.WriteString(w, strings.Repeat("x", 100_000))
		return
	case 7:
		io.WriteString(w, "early") // the request's body is not read
		return
	case 8:
		select {
		case <-r.Context().Done():
		case <-time.After(30 * time.Millisecond):
		}
		return
	}
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "ok")
}

// caller sends requests as badly as it can.
func (m *moody) caller(p *pool.Pool, until time.Time, ends *sync.Map) {
	for time.Now().Before(until) {
		patience := time.Hour
		if rand.IntN(3) == 0 {
			patience = time.Duration(rand.IntN(5000)) * time.Microsecond
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), patience, context.Canceled)
		err := m.call(ctx, p)
		cancel()
		if refused := new(pool.RefusedError); errors.As(err, &refused) {
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
		n, _ := ends.LoadOrStore(kindOf(err), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
}

func (m *moody) call(ctx context.Context, p *pool.Pool) error {
	s, err := p.Stream(ctx)
	if err != nil {
		return err
	}
	var body io.Reader
	switch rand.IntN(4) {
	case 0:
		body = strings.NewReader("soup")
	case 1:
		body = &closer{Reader: strings.NewReader(strings.Repeat("soup", 50_000))}
	}
	if rand.IntN(20) == 0 {
		s.Release(nil) // nothing is sent
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://stress/", body)
	if err != nil {
		return err
	}
	resp, err := s.RoundTrip(req)
	if err == nil {
		err = m.read(resp)
	}
	s.Release(err)
	return err
}

var errLeft = errors.New("the body was left")

func (m *moody) read(resp *http.Response) error {
	defer resp.Body.Close()
	if rand.IntN(8) == 0 {
		_, err := io.CopyN(io.Discard, resp.Body, 1)
		return errors.Join(errLeft, err)
	}
	_, err := io.Copy(io.Discard, resp.Body)
	return err
}

func kindOf(err error) string {
	var refused *pool.RefusedError
	var connect *pool.ConnectError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &refused):
		return refused.Limit.String()
	case errors.As(err, &connect):
		return "connect"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	case errors.Is(err, errLeft):
		return "left"
	}
	return "failed"
}

// TestStress runs 40 callers on a pool of eight connections with room for 20 requests that
// wait. The server closes and resets, requests are canceled and the pool is drained. In the
// end all gauges and slots are back at zero, and no connection and no goroutine is left.
func TestStress(t *testing.T) {
	for _, protocol := range []pool.Protocol{pool.HTTP1, pool.HTTP2} {
		t.Run(protocol.String(), func(t *testing.T) {
			silence(t)
			m := newMoody(t, protocol)
			seen, lent := new(counts), newSlots(8, 20, 30)
			p := pool.New(pool.Config{
				Template: pool.NewTemplate(&http.Transport{}, protocol), Address: m.Addr().String(),
				Slots: lent, Observer: seen, MaxRequestsPerConnection: 50, MaxConcurrentStreams: 6,
				MaxConnectionDuration: 300 * time.Millisecond, DurationJitter: 0.5, IdleTimeout: 3 * time.Millisecond,
			})
			until := time.Now().Add(testtime.Soak(t, 2*time.Second))
			var callers sync.WaitGroup
			var ends sync.Map
			for range 40 {
				callers.Go(func() { m.caller(p, until, &ends) })
			}
			callers.Go(func() {
				for time.Now().Before(until) {
					time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
					p.Drain()
					if got := lent.used[pool.Connection].Load(); got > 8 {
						t.Errorf("got %d connections, want at most 8", got)
					}
					checkServed(t, p)
				}
			})
			callers.Wait()
			finished(t, p, seen)
			checkBalanced(t, seen, lent)
			testtime.Eventually(t, func() bool { return m.open.Load() == 0 })
			m.server.Close()
			m.served.Wait()
			ends.Range(func(k, v any) bool { t.Logf("%v: %d", k, v.(*atomic.Int64).Load()); return true })
			for _, kind := range []string{"ok", "canceled", "failed", "left", "max_pending_requests"} {
				if _, ok := ends.Load(kind); !ok {
					t.Errorf("no request ended as %q: the test does not show what it should", kind)
				}
			}
		})
	}
}
