package pool_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

func dialing(f func(ctx context.Context) (net.Conn, error)) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return f(ctx) }}
}

// timeoutError is what a dialer reports before its context is done.
type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }
func (timeoutError) Timeout() bool { return true }

// All requests that waited get the reason why a dial failed.
func TestConnectError(t *testing.T) {
	tests := map[string]struct {
		err    error
		reason pool.Reason
		want   map[pool.Event]int64
	}{
		"refused":        {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, pool.RemoteFailure, map[pool.Event]int64{pool.CxDestroyRemote: 1, pool.CxConnectTimeout: 0}},
		"i/o timeout":    {&net.OpError{Op: "dial", Err: timeoutError{}}, pool.Timeout, map[pool.Event]int64{pool.CxDestroyLocal: 1, pool.CxConnectTimeout: 1}},
		"deadline":       {context.DeadlineExceeded, pool.Timeout, map[pool.Event]int64{pool.CxDestroyLocal: 1, pool.CxConnectTimeout: 1}},
		"kernel timeout": {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, pool.RemoteFailure, map[pool.Event]int64{pool.CxDestroyRemote: 1, pool.CxConnectTimeout: 0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var gate chan struct{}
			cfg := pool.Config{Slots: newSlots(1, 10, 10), Template: pool.NewTemplate(dialing(func(context.Context) (net.Conn, error) {
				<-gate
				return nil, test.err
			}), pool.HTTP1)}
			inLab(t, pool.HTTP1, cfg, nil, func(l *lab) {
				gate = make(chan struct{})
				all := l.getN(3)
				close(gate)
				synctest.Wait()
				for _, done := range all {
					o := <-done
					var failed *pool.ConnectError
					if !errors.As(o.err, &failed) || failed.Reason != test.reason || failed.TLS || !errors.Is(o.err, test.err) {
						l.t.Errorf("got %+v, want %v", o.err, test.reason)
						continue
					}
					var ne net.Error
					if !errors.As(o.err, &ne) || ne.Timeout() != (test.reason == pool.Timeout) {
						l.t.Errorf("got %v, want a net.Error that says whether it is a timeout", o.err)
					}
				}
				test.want[pool.CxTotal], test.want[pool.CxConnectFail], test.want[pool.RqPendingFailureEject] = 1, 1, 3
				l.expect(test.want)
			})
		})
	}
}

// The connect timeout holds even for a dialer that does not honor its context, and covers
// the TLS handshake.
func TestConnectTimeout(t *testing.T) {
	tests := map[string]struct {
		scheme string
		dial   func(gate chan struct{}) func(context.Context) (net.Conn, error)
		tls    bool
	}{
		"deaf dialer": {"http", func(gate chan struct{}) func(context.Context) (net.Conn, error) {
			return func(context.Context) (net.Conn, error) {
				<-gate
				client, server := net.Pipe()
				go server.Read(make([]byte, 1)) // until it is closed
				return client, nil
			}
		}, false},
		"silent TLS server": {"https", func(chan struct{}) func(context.Context) (net.Conn, error) {
			return func(context.Context) (net.Conn, error) {
				client, server := net.Pipe()
				go io.Copy(io.Discard, server)
				return client, nil
			}
		}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				seen := new(counts)
				p := pool.New(pool.Config{
					Scheme: test.scheme, Address: "lab:443", ConnectTimeout: 300 * time.Millisecond, Observer: seen,
					Template: pool.NewTemplate(dialing(test.dial(gate)), pool.HTTP1),
				})
				start := time.Now()
				o := send(t.Context(), p, http.MethodGet, nil)
				var failed *pool.ConnectError
				if !errors.As(o.err, &failed) || failed.Reason != pool.Timeout || failed.TLS != test.tls {
					t.Errorf("got %+v, want a timeout", o.err)
				}
				if got := time.Since(start); got != 300*time.Millisecond {
					t.Errorf("it took %v, want 300ms", got)
				}
				close(gate)
				p.Close()
				<-p.Done()
				synctest.Wait() // the dial ends, and what it made is closed
				if seen.get(pool.CxConnectTimeout) != 1 || seen.get(pool.CxActive) != 0 {
					t.Errorf("got %d timeouts, %d active", seen.get(pool.CxConnectTimeout), seen.get(pool.CxActive))
				}
			})
		})
	}
}

// A dial serves the request that has waited longest, and outlives the one that began it.
func TestDialIsIndependent(t *testing.T) {
	var gate chan struct{}
	var l *lab
	cfg := pool.Config{Slots: newSlots(1, 10, 10), Template: pool.NewTemplate(dialing(func(ctx context.Context) (net.Conn, error) {
		<-gate
		return l.dialer(forever1(okBody))(ctx, "", "")
	}), pool.HTTP1)}
	inLab(t, pool.HTTP1, cfg, nil, func(in *lab) {
		l, gate = in, make(chan struct{})
		ctx, cancel := context.WithCancel(l.t.Context())
		first := l.goGet(ctx)
		synctest.Wait()
		second := l.goGet(l.t.Context())
		synctest.Wait()
		cancel()
		l.want(first, "canceled")
		close(gate)
		l.want(second, "ok")
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxConnectFail: 0, pool.RqCancelled: 1})
	})
}

// A panic of the dialer is a failed connect, and not the end of the process.
func TestDialPanics(t *testing.T) {
	var reported any
	cfg := pool.Config{
		Panicked: func(v any) { reported = v },
		Template: pool.NewTemplate(dialing(func(context.Context) (net.Conn, error) { panic("soup") }), pool.HTTP1),
	}
	inLab(t, pool.HTTP1, cfg, nil, func(l *lab) {
		o := l.get()
		var failed *pool.ConnectError
		if !errors.As(o.err, &failed) || failed.Reason != pool.LocalFailure || !strings.Contains(o.err.Error(), "soup") {
			l.t.Errorf("got %v", o.err)
		}
		if reported != "soup" {
			l.t.Errorf("got %v reported, want soup", reported)
		}
		l.expect(map[pool.Event]int64{pool.CxConnectFail: 1, pool.CxDestroyLocal: 1})
	})
}

// Without a limit a dial takes its time.
func TestNoConnectTimeout(t *testing.T) {
	var l *lab
	cfg := pool.Config{ConnectTimeout: pool.Never, Template: pool.NewTemplate(dialing(func(ctx context.Context) (net.Conn, error) {
		if _, ok := ctx.Deadline(); ok {
			return nil, errors.New("there is a deadline")
		}
		time.Sleep(time.Hour)
		return l.dialer(forever1(okBody))(ctx, "", "")
	}), pool.HTTP1)}
	inLab(t, pool.HTTP1, cfg, nil, func(in *lab) {
		l = in
		if o := l.get(); o.body != "ok" {
			l.t.Errorf("got %v", o)
		}
	})
}

// Done waits for the last stream, also if its connection has died before.
func TestDoneWaitsForStreams(t *testing.T) {
	inDesk(t, pool.Config{}, nil, func(l *lab, d *desk) {
		s, err := l.Stream(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		l.Close()
		d.peer().close()
		l.expect(map[pool.Event]int64{pool.CxActive: 0, pool.RqActive: 1})
		select {
		case <-l.Done():
			l.t.Error("done, with a stream that was not released")
		default:
		}
		s.Release(nil)
		<-l.Done()
	})
}

// A pool that was closed refuses, and ends when nothing is left.
func TestClose(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{Slots: newSlots(1, 10, 10)}, slow1(time.Second), func(l *lab) {
		all := l.getN(2)
		l.Close()
		l.Close()
		if o := l.get(); !errors.Is(o.err, pool.ErrClosed) {
			l.t.Errorf("got %v, want ErrClosed", o)
		}
		select {
		case <-l.Done():
			l.t.Error("done while requests wait")
		default:
		}
		time.Sleep(3 * time.Second)
		l.wantAll(all, "ok") // also the one that waited
		<-l.Done()
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxDestroyLocal: 1, pool.CxDestroyWithActiveRq: 0})
	})
}

// A request whose context has ended gets its cause, and is not counted.
func TestContextEndedBefore(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{}, forever1(okBody), func(l *lab) {
		ctx, cancel := context.WithCancelCause(l.t.Context())
		cancel(errBody)
		if _, err := l.Stream(ctx); !errors.Is(err, errBody) {
			l.t.Errorf("got %v, want the cause", err)
		}
		l.expect(map[pool.Event]int64{pool.RqPendingTotal: 0, pool.CxTotal: 0, pool.RqCancelled: 0})
	})
}
