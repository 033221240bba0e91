package pool_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// slow1 serves HTTP/1 and takes its time for each response.
func slow1(d time.Duration) func(int, net.Conn) {
	return func(_ int, c net.Conn) {
		in := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			time.Sleep(d)
			if _, err := io.WriteString(c, okBody); err != nil {
				return
			}
		}
	}
}

// atEach begins requests at their instants, in milliseconds.
func (l *lab) atEach(ms ...int) []<-chan outcome {
	var all []<-chan outcome
	begin := time.Now()
	for _, at := range ms {
		time.Sleep(time.Until(begin.Add(time.Duration(at) * time.Millisecond)))
		all = append(all, l.goGet(l.t.Context()))
		synctest.Wait()
	}
	return all
}

func isRefused(t *testing.T, done <-chan outcome, limit pool.Kind) {
	t.Helper()
	synctest.Wait()
	select {
	case o := <-done:
		var refused *pool.RefusedError
		if !errors.As(o.err, &refused) || refused.Limit != limit {
			t.Errorf("got %v, want refused by %v", o, limit)
		}
	default:
		t.Errorf("got no outcome, want refused by %v", limit)
	}
}

// The tests named after Envoy expect the counters that Envoy 1.40.0 showed for the same
// calls.

func TestEnvoyMaxPending(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{Slots: newSlots(1, 1, 1024)}, slow1(300*time.Millisecond), func(l *lab) {
		all := l.atEach(0, 80, 160)
		isRefused(l.t, all[2], pool.Pending)
		l.expect(map[pool.Event]int64{
			pool.CxActive: 1, pool.CxHTTP1Total: 1, pool.CxOverflow: 1, pool.CxTotal: 1, pool.RqActive: 1,
			pool.RqPendingActive: 1, pool.RqPendingOverflow: 1, pool.RqPendingTotal: 2, pool.RqTotal: 1,
		})
		time.Sleep(time.Second)
		l.wantAll(all[:2], "ok")
		l.expect(map[pool.Event]int64{pool.CxOverflow: 1, pool.CxTotal: 1, pool.RqTotal: 2, pool.RqPendingTotal: 2, pool.RqPendingActive: 0})
	})
}

func TestEnvoyMaxPendingZero(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{Slots: newSlots(1024, 0, 1024)}, forever1(okBody), func(l *lab) {
		isRefused(l.t, l.goGet(l.t.Context()), pool.Pending)
		l.expect(map[pool.Event]int64{pool.RqPendingOverflow: 1, pool.RqPendingTotal: 0, pool.CxTotal: 0, pool.CxOverflow: 0})
	})
}

func TestEnvoyMaxConnections(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{Slots: newSlots(1, 1024, 1024)}, slow1(250*time.Millisecond), func(l *lab) {
		all := l.atEach(0, 20, 40, 60)
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxOverflow: 3, pool.RqActive: 1, pool.RqPendingActive: 3, pool.RqPendingTotal: 4, pool.RqTotal: 1})
		time.Sleep(2 * time.Second)
		l.wantAll(all, "ok")
		// A connection that comes free serves one, and the others want another.
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxOverflow: 5, pool.RqTotal: 4, pool.RqPendingTotal: 4})
	})
}

func TestEnvoyMaxRequests(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{Slots: newSlots(1024, 1024, 1)}, slow1(300*time.Millisecond), func(l *lab) {
		all := l.atEach(0, 100)
		isRefused(l.t, all[1], pool.Request) // after it had a connection made
		l.expect(map[pool.Event]int64{
			pool.CxActive: 2, pool.CxTotal: 2, pool.RqActive: 1, pool.RqActiveOverflow: 1, pool.RqPendingOverflow: 0,
			pool.RqPendingTotal: 2, pool.RqTotal: 1,
		})
		isRefused(l.t, l.goGet(l.t.Context()), pool.Request) // immediately, on the connection that is ready
		time.Sleep(time.Second)
		l.want(all[0], "ok")
		l.expect(map[pool.Event]int64{pool.CxTotal: 2, pool.CxActive: 2, pool.RqActiveOverflow: 2, pool.RqPendingTotal: 2})
	})
}

func TestEnvoyHTTP2MaxPending(t *testing.T) {
	cfg := pool.Config{Slots: newSlots(1024, 1, 1024), ConnectTimeout: 300 * time.Millisecond}
	cfg.Template = pool.NewTemplate(&http.Transport{DialContext: blackhole}, pool.HTTP2)
	inLab(t, pool.HTTP2, cfg, nil, func(l *lab) {
		all := l.atEach(0, 50, 100)
		isRefused(l.t, all[1], pool.Pending)
		isRefused(l.t, all[2], pool.Pending)
		l.expect(map[pool.Event]int64{pool.CxActive: 1, pool.CxHTTP2Total: 1, pool.RqPendingActive: 1, pool.RqPendingOverflow: 2, pool.RqPendingTotal: 1})
		time.Sleep(time.Second)
		l.want(all[0], "connection timeout")
		l.expect(map[pool.Event]int64{
			pool.CxConnectFail: 1, pool.CxConnectTimeout: 1, pool.CxDestroy: 1, pool.CxDestroyLocal: 1, pool.CxTotal: 1,
			pool.RqPendingFailureEject: 1, pool.RqPendingActive: 0, pool.CxActive: 0, pool.RqTotal: 0,
		})
	})
}

// blackhole is a dialer whose SYN gets no response.
func blackhole(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A request that leaves lets its dial go on, as Envoy's router does, or ends it.
func TestEnvoyLeavesDial(t *testing.T) {
	for keep, want := range map[bool]map[pool.Event]int64{
		true:  {pool.CxActive: 1, pool.CxDestroy: 0, pool.RqCancelled: 1, pool.CxConnectFail: 0},
		false: {pool.CxActive: 0, pool.CxDestroyLocal: 1, pool.RqCancelled: 1, pool.CxConnectFail: 1},
	} {
		cfg := pool.Config{KeepDials: keep, ConnectTimeout: time.Second}
		cfg.Template = pool.NewTemplate(&http.Transport{DialContext: blackhole}, pool.HTTP1)
		inLab(t, pool.HTTP1, cfg, nil, func(l *lab) {
			ctx, cancel := context.WithTimeout(l.t.Context(), 200*time.Millisecond)
			defer cancel()
			done := l.goGet(ctx)
			time.Sleep(300 * time.Millisecond)
			l.want(done, "deadline exceeded")
			l.expect(want)
			time.Sleep(time.Second)
			timeouts := int64(0)
			if keep {
				timeouts = 1
			}
			l.expect(map[pool.Event]int64{pool.CxConnectTimeout: timeouts, pool.CxDestroyLocal: 1, pool.CxConnectFail: 1, pool.RqPendingFailureEject: 0})
		})
	}
}

func TestEnvoyMaxRequestsPerConnection(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{MaxRequestsPerConnection: 2}, forever1(okBody), func(l *lab) {
		for range 5 {
			if o := l.get(); o.body != "ok" {
				l.t.Fatalf("got %v", o)
			}
		}
		l.expect(map[pool.Event]int64{
			pool.CxActive: 1, pool.CxDestroy: 2, pool.CxDestroyLocal: 2, pool.CxMaxRequests: 2, pool.CxTotal: 3,
			pool.RqPendingTotal: 3, pool.RqTotal: 5, pool.CxDestroyWithActiveRq: 0,
		})
	})
}

func TestEnvoyMaxConnectionDuration(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{MaxConnectionDuration: 200 * time.Millisecond}, slow1(500*time.Millisecond), func(l *lab) {
		if o := l.get(); o.body != "ok" {
			l.t.Fatalf("got %v", o)
		}
		l.expect(map[pool.Event]int64{pool.CxDestroyLocal: 1, pool.CxMaxDurationReached: 1, pool.CxTotal: 1, pool.CxDestroyWithActiveRq: 0})
	})
}

func TestEnvoyIdleTimeout(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{IdleTimeout: 100 * time.Millisecond}, forever1(okBody), func(l *lab) {
		for range 2 {
			l.get()
			time.Sleep(250 * time.Millisecond)
		}
		l.expect(map[pool.Event]int64{pool.CxDestroyLocal: 2, pool.CxIdleTimeout: 2, pool.CxTotal: 2})
	})
}

// The idle timeout counts from the last request, of a connection that never had one from
// its beginning, and not at all if it is negative. The timeout of the template has no effect.
func TestIdleTimeout(t *testing.T) {
	base := func(l **lab) *http.Transport {
		return &http.Transport{IdleConnTimeout: time.Second, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (*l).dialer(script2(nil, func(p *peer, id uint32) { p.respond(id) }))(ctx, network, address)
		}}
	}
	for name, test := range map[string]struct {
		timeout time.Duration
		closed  int64
	}{"one hour": {0, 1}, "never": {pool.Never, 0}} {
		t.Run(name, func(t *testing.T) {
			var l *lab
			cfg := pool.Config{IdleTimeout: test.timeout, Template: pool.NewTemplate(base(&l), pool.HTTP2)}
			inLab(t, pool.HTTP2, cfg, nil, func(in *lab) {
				l = in
				for range 3 {
					if o := l.get(); o.body != "ok" {
						l.t.Fatalf("got %v", o)
					}
					time.Sleep(59 * time.Minute)
				}
				l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxDestroy: 0})
				time.Sleep(2 * time.Minute)
				l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxIdleTimeout: test.closed})
			})
		})
	}
}

// Connections made together do not end together.
func TestDurationJitter(t *testing.T) {
	draws := []float64{0, 0.5}
	cfg := pool.Config{MaxConnectionDuration: 100 * time.Second, DurationJitter: 0.2, Rand: func() float64 {
		next := draws[0]
		draws = draws[1:]
		return next
	}}
	inLab(t, pool.HTTP1, cfg, slow1(time.Second), func(l *lab) {
		l.getN(2)
		time.Sleep(105 * time.Second)
		l.expect(map[pool.Event]int64{pool.CxMaxDurationReached: 1, pool.CxActive: 1})
		time.Sleep(6 * time.Second)
		l.expect(map[pool.Event]int64{pool.CxMaxDurationReached: 2, pool.CxActive: 0})
	})
}

// justSlots is a Slots that cannot be exceeded.
type justSlots struct{ *slots }

func (justSlots) Acquire() {} // another method

// A pool without a connection makes one beyond the limit. It takes a slot if it can.
func TestConnectionBeyondLimit(t *testing.T) {
	for name, test := range map[string]struct {
		wrap func(*slots) pool.Slots
		used int64
	}{
		"counted":     {func(p *slots) pool.Slots { return p }, 1},
		"not counted": {func(p *slots) pool.Slots { return justSlots{p} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			lent := newSlots(0, 10, 10)
			inLab(t, pool.HTTP1, pool.Config{Slots: test.wrap(lent)}, slow1(time.Second), func(l *lab) {
				all := l.getN(2)
				l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxOverflow: 2, pool.RqPendingActive: 1})
				if got := lent.used[pool.Connection].Load(); got != test.used {
					l.t.Errorf("got %d slots in use, want %d", got, test.used)
				}
				time.Sleep(3 * time.Second)
				l.wantAll(all, "ok")
				l.Drain()
				if got := lent.used[pool.Connection].Load(); got != 0 {
					l.t.Errorf("got %d slots in use after Drain, want 0", got)
				}
			})
		})
	}
}
