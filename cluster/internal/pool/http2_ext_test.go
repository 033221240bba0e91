package pool_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// desk is an HTTP/2 server whose streams wait for the test to respond.
type desk struct {
	t       *testing.T
	peers   chan *peer
	streams chan ticket
}

type ticket struct {
	p  *peer
	id uint32
}

func (k ticket) respond() { k.p.respond(k.id) }

// inDesk is inLab with a desk, whose connections begin with settings.
func inDesk(t *testing.T, cfg pool.Config, settings []http2.Setting, f func(l *lab, d *desk)) {
	t.Helper()
	var d *desk
	serve := script2(func(p *peer) {
		p.settings(settings...)
		d.peers <- p
	}, func(p *peer, id uint32) { d.streams <- ticket{p, id} })
	inLab(t, pool.HTTP2, cfg, serve, func(l *lab) {
		d = &desk{l.t, make(chan *peer, 100), make(chan ticket, 1000)}
		f(l, d)
	})
}

// arrived returns how many streams wait for a response.
func (d *desk) arrived() int {
	synctest.Wait()
	return len(d.streams)
}

// stream returns the next stream, which must have arrived.
func (d *desk) stream() ticket {
	d.t.Helper()
	if d.arrived() == 0 {
		d.t.Fatal("no stream has arrived")
	}
	return <-d.streams
}

// serve responds to n streams, one after the other.
func (d *desk) serve(n int) {
	d.t.Helper()
	for range n {
		d.stream().respond()
		synctest.Wait()
	}
}

// peer returns the next connection, which must be there.
func (d *desk) peer() *peer {
	d.t.Helper()
	synctest.Wait()
	select {
	case p := <-d.peers:
		return p
	default:
		d.t.Fatal("there is no connection")
		return nil
	}
}

func allow(n uint32) []http2.Setting { return []http2.Setting{maxStreams(n)} }

// get begins n requests.
func (l *lab) getN(n int) []<-chan outcome {
	var all []<-chan outcome
	for range n {
		all = append(all, l.goGet(l.t.Context()))
		synctest.Wait() // in order
	}
	return all
}

func (l *lab) wantAll(all []<-chan outcome, text string) {
	l.t.Helper()
	for _, done := range all {
		l.want(done, text)
	}
}

// A server that allows no streams holds requests back, in the pool or in net/http, until
// it allows them.
func TestMaxStreamsZero(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(1, 10, 10)}, allow(0), func(l *lab, d *desk) {
		all := l.getN(3)
		l.expect(map[pool.Event]int64{pool.CxTotal: 1})
		if got := d.arrived(); got > 1 {
			l.t.Errorf("%d streams arrived, want at most the first", got)
		}
		p := d.peer()
		p.settings(maxStreams(2))
		synctest.Wait()
		if got := d.arrived(); got != 2 {
			l.t.Errorf("%d streams arrived, want 2", got)
		}
		d.serve(3)
		l.wantAll(all, "ok")
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxActive: 1})
	})
}

// The same for requests that are canceled. There are never more connections than requests.
func TestMaxStreamsZeroCanceled(t *testing.T) {
	inDesk(t, pool.Config{}, allow(0), func(l *lab, _ *desk) {
		for range 3 {
			ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
			all := []<-chan outcome{l.goGet(ctx), l.goGet(ctx)}
			time.Sleep(2 * time.Second)
			l.wantAll(all, "deadline exceeded")
			cancel()
		}
		if got := l.counts.get(pool.CxTotal); got > 6 {
			l.t.Errorf("got %d connections for 6 requests", got)
		}
		l.expect(map[pool.Event]int64{pool.RqActive: 0, pool.RqPendingActive: 0})
	})
}

func TestMaxStreamsOne(t *testing.T) {
	inDesk(t, pool.Config{}, allow(1), func(l *lab, d *desk) {
		all := l.getN(3) // each gets a connection of its own
		l.expect(map[pool.Event]int64{pool.RqActive: 3, pool.CxTotal: 3, pool.RqPendingTotal: 3})
		d.serve(3)
		l.wantAll(all, "ok")
		for range 5 {
			one := l.goGet(l.t.Context())
			d.serve(1)
			l.want(one, "ok")
		}
		l.expect(map[pool.Event]int64{pool.CxTotal: 3, pool.RqPendingTotal: 3})
	})
}

// Settings that allow more wake waiting requests, and settings that allow less are honored.
func TestMaxStreamsChanges(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(1, 100, 100)}, allow(1), func(l *lab, d *desk) {
		all := l.getN(6)
		p := d.peer()
		l.expect(map[pool.Event]int64{pool.RqActive: 1, pool.RqPendingActive: 5})
		p.settings(maxStreams(4))
		l.expect(map[pool.Event]int64{pool.RqActive: 4, pool.RqPendingActive: 2})
		p.settings(maxStreams(2))
		l.expect(map[pool.Event]int64{pool.RqActive: 4})
		for _, active := range []int64{3, 2, 2, 2, 1, 0} { // no new one before there are fewer than two
			d.serve(1)
			l.expect(map[pool.Event]int64{pool.RqActive: active, pool.CxTotal: 1})
		}
		l.wantAll(all, "ok")
	})
}

// A stream that was reset by this side keeps its slot until the server acknowledges a
// PING. Then net/http reports that there is room.
func TestResetKeepsSlotUntilPing(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(1, 10, 10)}, allow(2), func(l *lab, d *desk) {
		first := l.goGet(l.t.Context())
		d.serve(1)
		l.want(first, "ok")
		p := d.peer()
		p.held.Store(true)
		ctx, cancel := context.WithCancel(l.t.Context())
		canceled := []<-chan outcome{l.goGet(ctx), l.goGet(ctx)}
		synctest.Wait()
		cancel()
		l.wantAll(canceled, "canceled")
		l.expect(map[pool.Event]int64{pool.RqTxReset: 2, pool.RqActive: 0})
		next := l.goGet(l.t.Context())
		l.expect(map[pool.Event]int64{pool.RqPendingActive: 1, pool.CxTotal: 1})
		p.release()
		l.expect(map[pool.Event]int64{pool.RqPendingActive: 0, pool.RqActive: 1})
		d.stream()
		d.stream()
		d.serve(1)
		l.want(next, "ok")
	})
}

// net/http can miss that there is room again, while it runs its hook. The pool finds the
// room by itself.
func TestRoomThatIsNotReported(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(1, 10, 10)}, allow(2), func(l *lab, d *desk) {
		first := l.goGet(l.t.Context())
		d.serve(1)
		l.want(first, "ok")
		p := d.peer()
		for _, after := range []time.Duration{0, 200 * time.Millisecond} {
			p.held.Store(true)
			ctx, cancel := context.WithCancel(l.t.Context())
			canceled := []<-chan outcome{l.goGet(ctx), l.goGet(ctx)}
			synctest.Wait()
			l.Deafen()
			cancel()
			l.wantAll(canceled, "canceled")
			d.stream()
			d.stream()
			next := l.goGet(l.t.Context())
			time.Sleep(after)
			l.expect(map[pool.Event]int64{pool.RqPendingActive: 1, pool.RqActive: 0})
			p.release()
			time.Sleep(time.Second)
			l.expect(map[pool.Event]int64{pool.RqPendingActive: 0, pool.RqActive: 1, pool.CxTotal: 1})
			d.serve(1)
			l.want(next, "ok")
		}
	})
}

// inFull is inDesk with a connection that has no request and no room either: its only
// slot belongs to a stream that was reset. next is a request that waits.
func inFull(t *testing.T, f func(l *lab, d *desk, p *peer, next <-chan outcome)) {
	t.Helper()
	inDesk(t, pool.Config{Slots: newSlots(1, 10, 10)}, allow(1), func(l *lab, d *desk) {
		first := l.goGet(l.t.Context())
		d.serve(1)
		l.want(first, "ok")
		p := d.peer()
		p.held.Store(true)
		ctx, cancel := context.WithCancel(l.t.Context())
		canceled := l.goGet(ctx)
		d.stream()
		cancel()
		l.want(canceled, "canceled")
		next := l.goGet(l.t.Context())
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.RqPendingActive: 1, pool.RqActive: 0})
		f(l, d, p, next)
	})
}

// Drain ends a connection without room, and the requests that wait for it get another one.
func TestDrainWithoutRoom(t *testing.T) {
	inFull(t, func(l *lab, d *desk, _ *peer, next <-chan outcome) {
		l.Drain()
		l.expect(map[pool.Event]int64{pool.CxTotal: 2, pool.CxActive: 1, pool.RqActive: 1})
		d.serve(1)
		l.want(next, "ok")
	})
}

// A pool that is closed keeps a connection without room while requests wait for it.
func TestCloseWithoutRoom(t *testing.T) {
	inFull(t, func(l *lab, d *desk, p *peer, next <-chan outcome) {
		l.Close()
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxActive: 1, pool.RqPendingActive: 1})
		p.release()
		d.serve(1)
		l.want(next, "ok")
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxActive: 0})
	})
}

// GOAWAY while 100 streams are open: those that the server will process end well, the
// others fail immediately, and later ones use another connection.
func TestGoAwayWithStreams(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(10, 200, 200)}, nil, func(l *lab, d *desk) {
		all := l.getN(100)
		var tickets []ticket
		for range 100 {
			tickets = append(tickets, d.stream())
		}
		first := d.peer()
		first.goAway(tickets[59].id)
		l.wantAll(all[60:], "GOAWAY")
		later := l.getN(5)
		l.expect(map[pool.Event]int64{pool.CxTotal: 2, pool.RqActive: 65})
		for _, k := range tickets[:60] {
			k.respond()
		}
		d.serve(5)
		l.wantAll(all[:60], "ok")
		l.wantAll(later, "ok")
		l.expect(map[pool.Event]int64{
			pool.CxDestroyLocal: 1, pool.CxDestroyWithActiveRq: 0, pool.CxCloseNotify: 1,
			pool.RqRxReset: 0, pool.RqTxReset: 0, pool.RqPendingFailureEject: 0,
		})
	})
}

// A stream that the server resets with PROTOCOL_ERROR counts as one that this side reset.
func TestServerResetsWithProtocolError(t *testing.T) {
	serve := script2(nil, func(p *peer, id uint32) { p.reset(id, http2.ErrCodeProtocol) })
	inLab(t, pool.HTTP2, pool.Config{}, serve, func(l *lab) {
		l.wantAll(l.getN(1), "stream error")
		l.expect(map[pool.Event]int64{pool.RqTotal: 1, pool.RqRxReset: 0, pool.RqTxReset: 1})
	})
}

// Streams that the server resets leave the connection as it is, however many they are.
func TestServerResetsStreams(t *testing.T) {
	codes := map[string]struct {
		code http2.ErrCode
		want int64
	}{
		"internal error": {http2.ErrCodeInternal, 200},
		"no error":       {http2.ErrCodeNo, 200},
		"refused":        {http2.ErrCodeRefusedStream, 0},
	}
	for name, test := range codes {
		t.Run(name, func(t *testing.T) {
			serve := script2(nil, func(p *peer, id uint32) { p.reset(id, test.code) })
			inLab(t, pool.HTTP2, pool.Config{}, serve, func(l *lab) {
				for range 10 {
					l.wantAll(l.getN(20), "stream error")
				}
				l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxActive: 1, pool.RqRxReset: test.want, pool.RqTotal: 200})
			})
		})
	}
}

// A connection that ends with its streams open fails all of them.
func TestConnectionEndsWithStreams(t *testing.T) {
	inDesk(t, pool.Config{}, nil, func(l *lab, d *desk) {
		all := l.getN(10)
		d.peer().close()
		l.wantAll(all, "error")
		l.expect(map[pool.Event]int64{
			pool.CxDestroyRemote: 1, pool.CxDestroyRemoteWithActiveRq: 1, pool.CxDestroyWithActiveRq: 1,
			pool.RqPendingFailureEject: 10, pool.CxTotal: 1, pool.CxCloseNotify: 0,
		})
	})
}

// A server that closes each connection at its begin fails the requests that waited for it,
// rather than have the pool dial for ever. With HTTP/2 that may be a failed connect, since
// net/http writes before it has a connection.
func TestConnectionEndsAtItsBegin(t *testing.T) {
	serves := map[pool.Protocol]func(int, net.Conn){
		pool.HTTP1: func(int, net.Conn) {},
		pool.HTTP2: script2(func(p *peer) { p.close() }, nil),
	}
	for protocol, serve := range serves {
		t.Run(protocol.String(), func(t *testing.T) {
			inLab(t, protocol, pool.Config{}, serve, func(l *lab) {
				for range 20 {
					if o := l.get(); o.err == nil {
						l.t.Fatalf("got %v, want an error", o)
					}
					synctest.Wait()
				}
				l.expect(map[pool.Event]int64{pool.CxTotal: 20, pool.CxDestroyRemote: 20})
				if attached, failed := l.counts.get(pool.RqTotal), l.counts.get(pool.CxConnectFail); attached+failed != 20 || protocol == pool.HTTP1 && failed > 0 {
					l.t.Errorf("got %d requests attached and %d failed connects", attached, failed)
				}
			})
		})
	}
}

// More requests than net/http sends before it knows the server's settings.
func TestManyWaitForHTTP2(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(1, 1000, 1000)}, allow(500), func(l *lab, d *desk) {
		var all []<-chan outcome
		for range 400 {
			all = append(all, l.goGet(l.t.Context()))
		}
		l.expect(map[pool.Event]int64{pool.RqActive: 400, pool.CxTotal: 1})
		d.serve(400)
		l.wantAll(all, "ok")
	})
}

// MaxConcurrentStreams holds where the server would allow more.
func TestMaxConcurrentStreams(t *testing.T) {
	inDesk(t, pool.Config{MaxConcurrentStreams: 3, Slots: newSlots(2, 10, 10)}, nil, func(l *lab, d *desk) {
		all := l.getN(7)
		l.expect(map[pool.Event]int64{pool.RqActive: 6, pool.RqPendingActive: 1, pool.CxTotal: 2, pool.CxOverflow: 1})
		d.serve(7)
		l.wantAll(all, "ok")
	})
}

// The last connection that became ready takes the next request.
func TestLastReadyFirst(t *testing.T) {
	inDesk(t, pool.Config{MaxConcurrentStreams: 1}, nil, func(l *lab, d *desk) {
		all := l.getN(3)
		tickets := []ticket{d.stream(), d.stream(), d.stream()}
		for _, i := range []int{1, 2, 0} {
			tickets[i].respond()
			l.want(all[i], "ok")
		}
		for _, want := range []int{0, 2, 1} {
			l.goGet(l.t.Context())
			synctest.Wait()
			if k := d.stream(); k.p != tickets[want].p {
				l.t.Errorf("got connection %d, want %d", k.p.n, want)
			} else {
				defer k.respond()
			}
		}
	})
}
