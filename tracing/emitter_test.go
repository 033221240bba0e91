package tracing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a connection on which writes block until it is closed.
type stuck struct {
	closed chan struct{}
	once   sync.Once
}

func (s *stuck) Write([]byte) (int, error) { <-s.closed; return 0, net.ErrClosed }
func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// end begins and ends n segments.
func end(t *testing.T, tracer *Tracer, n int) {
	t.Helper()
	for range n {
		_, seg := tracer.Trace(t.Context(), "")
		seg.End(nil)
	}
}

// TestFullQueue blocks the connection. Callers never wait, documents that do not fit are
// counted and reported, and Close returns when its context ends.
func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported []error
		tracer, err := newTracer(Config{Name: "x", QueueSize: 10, OnError: func(err error) { reported = append(reported, err) }},
			func(context.Context, string) (io.WriteCloser, error) { return &stuck{closed: make(chan struct{})}, nil })
		if err != nil {
			t.Fatal(err)
		}
		end(t, tracer, 1)
		synctest.Wait() // the first document is being sent, and never finishes
		end(t, tracer, 25)
		if got := tracer.Stats(); got.QueueFull != 15 || got.Queued != 11 || got.Sent != 0 {
			t.Errorf("got %+v, want 15 dropped and 11 waiting", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := tracer.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v from Flush, want context.DeadlineExceeded", err)
		}
		if err := tracer.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v from Close, want context.DeadlineExceeded", err)
		}
		if err := tracer.Close(t.Context()); err != nil { // OnError has received all errors
			t.Error(err)
		}
		end(t, tracer, 1)
		if got := tracer.Stats(); got.Dropped() != 27 || got.Queued != 0 {
			t.Errorf("got %+v, want all 27 lost", got)
		}
		if len(reported) == 0 || !errors.Is(reported[0], ErrQueueFull) {
			t.Errorf("got %v, want ErrQueueFull first", reported)
		}
	})
}

// TestAllAreCounted ends segments in many goroutines while the tracer is closed. Each of
// them is sent or counted.
func TestAllAreCounted(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{QueueSize: 50})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { end(t, tracer, 200) })
	}
	all.Go(func() { _ = tracer.Flush(t.Context()) })
	all.Go(func() { _ = tracer.Close(t.Context()) })
	all.Wait()
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := tracer.Stats(); got.Sent+got.Dropped() != 1600 || got.Queued != 0 || int(got.Sent) != len(sent.packets) {
		t.Errorf("got %+v and %d packets, want 1600 in all", got, len(sent.packets))
	}
}

// TestErrorsAreReported makes sending fail. OnError is called immediately, then at most
// once per second, even after it panicked, and the connection is opened again once per
// second.
func TestErrorsAreReported(t *testing.T) {
	log := captureLogs(t)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var reported []time.Duration
		began := time.Now()
		tracer, sent := newTestTracer(t, Config{OnError: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			reported = append(reported, time.Since(began))
			if e, ok := errors.AsType[*SendError](err); !ok || e.Address != DefaultDaemon || !errors.Is(err, errBroken) ||
				err.Error() != "tracing: sending to 127.0.0.1:2000: broken" {
				t.Errorf("got %v, want a SendError", err)
			}
			panic("handler")
		}})
		sent.setFail(errBroken)
		for range 100 {
			end(t, tracer, 1)
			time.Sleep(50 * time.Millisecond) // 5s in total
		}
		if got := tracer.Stats(); got.SendFailed != 100 || got.Sent != 0 {
			t.Errorf("got %+v, want 100 failed", got)
		}
		sent.setFail(nil)
		time.Sleep(retryInterval)
		end(t, tracer, 1)
		if err := tracer.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := tracer.Stats(); got.Sent != 1 {
			t.Errorf("got %+v, want it to work again", got)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(reported) < 4 || len(reported) > 7 || reported[0] > 50*time.Millisecond {
			t.Errorf("OnError was called at %v, want once per second", reported)
		}
		if sent.dials < 5 || sent.dials > 8 {
			t.Errorf("got %d dials, want one per second", sent.dials)
		}
	})
	if got := log.String(); strings.Count(got, "level=ERROR") < 4 || !strings.Contains(got, "tracing: Config.OnError") || !strings.Contains(got, "panic=handler") {
		t.Errorf("got %q, want a report of each panic of OnError", got)
	}
}

// TestLookUpFails uses a daemon whose name cannot be resolved. New returns no error, and
// sending works once the name can be resolved.
func TestLookUpFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		works := false
		sent := &recorder{}
		tracer, err := newTracer(Config{Name: "x", Daemon: "nowhere:2000"}, func(ctx context.Context, a string) (io.WriteCloser, error) {
			if !works {
				return nil, &net.DNSError{Name: "nowhere"}
			}
			return sent.dial(ctx, a)
		})
		if err != nil {
			t.Fatal(err)
		}
		end(t, tracer, 3)
		if err := tracer.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		works = true
		end(t, tracer, 1) // too early for another attempt
		if err := tracer.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(retryInterval)
		end(t, tracer, 1)
		if err := tracer.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := tracer.Stats(); got.SendFailed != 4 || got.Sent != 1 {
			t.Errorf("got %+v, want 4 failed and 1 sent", got)
		}
	})
}

// refusing fails every second write with ECONNREFUSED, as a socket does after an earlier
// packet was refused.
type refusing struct{ n, got int }

func (r *refusing) Write(p []byte) (int, error) {
	if r.n++; r.n%2 == 0 {
		return 0, fmt.Errorf("write: %w", syscall.ECONNREFUSED)
	}
	r.got++
	return len(p), nil
}

func (*refusing) Close() error { return nil }

// TestRefused checks that each refused packet is counted once.
func TestRefused(t *testing.T) {
	r := &refusing{}
	tracer, err := newTracer(Config{Name: "x"}, func(context.Context, string) (io.WriteCloser, error) { return r, nil })
	if err != nil {
		t.Fatal(err)
	}
	end(t, tracer, 10)
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := tracer.Stats(); got.Sent+got.SendFailed != 10 || got.SendFailed != 9 || r.got != 10 {
		t.Errorf("got %+v, want 9 refused of 10", got)
	}
}

// TestRealSocket sends to a daemon on the loopback interface, and to a port on which
// nothing listens.
func TestRealSocket(t *testing.T) {
	addr, next := listenUDP(t)
	tracer, err := New(Config{Name: "x", Daemon: addr.String()})
	if err != nil {
		t.Fatal(err)
	}
	_, seg := tracer.Trace(t.Context(), "")
	seg.End(nil)
	if err = tracer.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if got := next(t); got.str("id") != seg.ID() {
		t.Errorf("got %v, want %s", got, seg.ID())
	}
	if err = tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err = errors.Join(tracer.Flush(t.Context()), tracer.Close(t.Context())); err != nil {
		t.Errorf("after Close: %v", err)
	}

	gone, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	refused, err := New(Config{Name: "x", Daemon: gone.LocalAddr().String()})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		end(t, refused, 1)
		if err := refused.Flush(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := refused.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := refused.Stats(); got.Sent+got.SendFailed != 10 || got.SendFailed == 0 {
		t.Errorf("got %+v, want refusals to be counted", got)
	}
}

// TestNoDaemon checks that NoDaemon only prevents sending.
func TestNoDaemon(t *testing.T) {
	tracer, err := newTracer(Config{Name: "x", Daemon: NoDaemon}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, seg := tracer.Trace(t.Context(), "")
	if !seg.Sampled() || !isTraceID(seg.TraceID()) {
		t.Errorf("got %+v, want a real trace", seg.Downstream())
	}
	seg.End(nil)
	if err := errors.Join(tracer.Flush(t.Context()), tracer.Close(t.Context())); err != nil || tracer.Stats() != (Stats{}) {
		t.Errorf("got %v and %+v", err, tracer.Stats())
	}
}

// TestSendingDoesNotWaitForTheHandler blocks OnError. Documents are sent nevertheless.
func TestSendingDoesNotWaitForTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		tracer, sent := newTestTracer(t, Config{OnError: func(error) { <-release }})
		sent.setFail(errBroken)
		end(t, tracer, 1)
		time.Sleep(2 * retryInterval)
		sent.setFail(nil)
		end(t, tracer, 5)
		if err := tracer.Flush(t.Context()); err != nil || tracer.Stats().Sent != 5 {
			t.Errorf("got %v and %+v, want 5 sent", err, tracer.Stats())
		}
		close(release)
		if err := tracer.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
