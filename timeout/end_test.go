package timeout

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/policy"
)

// rendezvous synchronizes a reader with concurrent hooks: the read returns when the hooks have
// begun, and the hooks run a while longer.
type rendezvous struct {
	ctx           context.Context
	hooked, ended *atomic.Bool
}

func (b rendezvous) Read([]byte) (int, error) {
	<-b.ctx.Done()
	spin(b.hooked)
	b.ended.Store(true)
	return 0, b.ctx.Err()
}

func (rendezvous) Close() error { return nil }

// spin waits for flag for a bounded number of steps, without letting a bubble's time pass.
func spin(flag *atomic.Bool) {
	for i := 0; i < 100000 && !flag.Load(); i++ {
		runtime.Gosched()
	}
}

// TestReaderComesAfterTheEnd fires a timeout while the body is read, in the timeout's goroutine and
// with slow hooks. The reader must receive the same error as the hooks, and only after they have
// returned: when the read returns, the call has ended.
func TestReaderComesAfterTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    Config
		caller time.Duration
		want   string
	}{
		{"total", Config{Total: 100 * ms}, never, "timeout: recipes: total limit of 100ms reached"},
		{"idle", Config{Idle: 100 * ms}, never, "timeout: recipes: idle limit of 100ms reached"},
		{"caller", Config{}, 100 * ms, "timeout: recipes: caller deadline passed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var hooked, ended, nothing atomic.Bool
				u := upstream(t, tc.cfg, policy.Listener(func(_ context.Context, e policy.Event) {
					if e.Kind == policy.EventAttemptEnd {
						hooked.Store(true)
						spin(&ended)
						spin(&nothing)
					}
				}))
				ctx, cancel := context.WithTimeout(t.Context(), tc.caller)
				defer cancel()
				ctx, info := pillion.WithInfo(ctx)
				resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, Body: rendezvous{req.Context(), &hooked, &ended}}, nil
				})).RoundTrip(get(ctx))
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.ReadAll(resp.Body)
				if !info.Done() {
					t.Error("the read returned before the call ended")
				}
				if err == nil || err.Error() != tc.want {
					t.Errorf("got %v, want %s", err, tc.want)
				}
				resp.Body.Close()
			})
		})
	}
}

// TestUpgrade checks that no timeout applies to an upgraded connection, which belongs to the caller.
func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.Copy(conn, buffered)
		}))
		defer s.Close()
		u := upstream(t, Config{Total: time.Second, PerTry: 500 * ms, Idle: 200 * ms})
		ctx, info := pillion.WithInfo(t.Context())
		req := get(ctx)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		resp, err := u.Transport(s).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		conn, ok := resp.Body.(io.ReadWriteCloser)
		if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got status %d with a body of %T, want 101 with a body that is an io.Writer", resp.StatusCode, resp.Body)
		}
		for range 3 {
			time.AfterFunc(time.Minute, func() {
				if _, err := conn.Write([]byte("hello")); err != nil {
					t.Error(err)
				}
			})
			var p [5]byte
			if _, err := io.ReadFull(conn, p[:]); err != nil || string(p[:]) != "hello" {
				t.Errorf("got %q and %v, want the echo of hello", p, err)
			}
			if info.Done() {
				t.Errorf("the call has ended with %v, want it to last as long as the connection", info.Err())
			}
		}
		conn.Close()
		if !info.Done() || info.Flags() != 0 || info.Err() != nil {
			t.Errorf("got done: %v with flags %v and %v, want true with none", info.Done(), info.Flags(), info.Err())
		}
	})
}
