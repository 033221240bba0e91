package fault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// slow returns an upstream whose responses arrive at 8 KiB per second, which is 409 bytes in 50ms.
func slow(t *testing.T, size int) *kitchen {
	t.Helper()
	k := newKitchen(t, Config{ResponseRateLimit: &RateLimit{LimitKbps: 8}}, timeout.Config{Total: 100 * time.Millisecond, Idle: 20 * time.Millisecond}, retry.Config{})
	k.reply = func(req *http.Request) (*http.Response, error) {
		return response(req, 200, iotest.DataErrReader(bytes.NewReader(make([]byte, size)))), nil
	}
	return k
}

// TestResponseRateLimit pins how long a body takes, and that the wait fires no timeout.
func TestResponseRateLimit(t *testing.T) {
	tests := []struct {
		size int
		want time.Duration
	}{{0, 0}, {1, 0}, {409, 0}, {410, 50 * time.Millisecond}, {2000, 200 * time.Millisecond}, {409 * 21, time.Second}}
	for _, tc := range tests {
		synctest.Test(t, func(t *testing.T) {
			k := slow(t, tc.size)
			began := time.Now()
			resp, info, err := k.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if took := time.Since(began); err != nil || len(body) != tc.size || took != tc.want {
				t.Errorf("%d bytes: got %d, %v after %v, want all after %v", tc.size, len(body), err, took, tc.want)
			}
			_ = resp.Body.Close()
			if info.Flags() != 0 || !info.Done() {
				t.Errorf("got %v, done %v, want no flag", info.Flags(), info.Done())
			}
			if got := k.stats(t, "fault"); got["fault.response_rl_injected"] != 1 || len(got) != 1 {
				t.Errorf("statistics: got %v", got)
			}
		})
	}
}

func TestResponseRateLimit_header(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKitchen(t, Config{ResponseRateLimit: &RateLimit{Header: true}})
		k.reply = func(req *http.Request) (*http.Response, error) {
			return response(req, 200, bytes.NewReader(make([]byte, 1023))), nil
		}
		for value, want := range map[string]time.Duration{"": 0, "0": 0, "fast": 0, "18446744073709551615": 0, "1": time.Second} {
			began := time.Now()
			k.status(t, "X-Envoy-Fault-Throughput-Response", value)
			if took := time.Since(began); took != want {
				t.Errorf("%q: got %v, want %v", value, took, want)
			}
		}
	})
}

// TestResponseRateLimit_close pins that Close makes a waiting Read return.
func TestResponseRateLimit_close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := slow(t, 1<<20)
		resp, info, err := k.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(75*time.Millisecond, func() { _ = resp.Body.Close() })
		began := time.Now()
		n, err := io.Copy(io.Discard, resp.Body)
		if took := time.Since(began); took != 75*time.Millisecond || n != 2*409 || err == nil {
			t.Errorf("got %d bytes and %v after %v, want 818 and an error after 75ms", n, err, took)
		}
		if info.Err() != nil || !info.Done() {
			t.Errorf("got %v, done %v: to close early is no failure", info.Err(), info.Done())
		}
	})
}

// TestResponseRateLimit_canceled pins that a waiting Read returns when the caller is canceled.
func TestResponseRateLimit_canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := slow(t, 1<<20)
		cause := errors.New("lunch is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		resp, info, err := k.get(ctx)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(75*time.Millisecond, func() { cancel(cause) })
		began := time.Now()
		_, err = io.Copy(io.Discard, resp.Body)
		if took := time.Since(began); took != 75*time.Millisecond || !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v after %v", err, took)
		}
		_ = resp.Body.Close()
		if info.Flags() != envoy.DC || len(k.stats(t, "active_faults")) != 0 {
			t.Errorf("got %v and %v", info.Flags(), k.stats(t, "active_faults"))
		}
	})
}

// TestResponseRateLimit_silentUpstream pins that the idle timeout still fires if the upstream is silent
// in a slowed body.
func TestResponseRateLimit_silentUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 600))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		defer server.Close()
		k := slow(t, 0)
		k.reply = server.RoundTrip
		resp, info, err := k.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		limit, ok := errors.AsType[*timeout.Error](err)
		if took := time.Since(began); !ok || limit.Scope != timeout.Idle || n != 600 || took != 70*time.Millisecond {
			t.Errorf("got %d bytes and %v after %v, want 600 and the idle timeout after 50ms and 20ms", n, err, took)
		}
		if info.Flags() != envoy.UT {
			t.Errorf("got %v, want UT", info.Flags())
		}
	})
}

// TestResponseRateLimit_noBody pins which responses are not changed.
func TestResponseRateLimit_noBody(t *testing.T) {
	k := slow(t, 0)
	upgraded := struct{ io.ReadWriteCloser }{}
	for _, resp := range []*http.Response{{StatusCode: 204, Body: http.NoBody}, {StatusCode: 101, Body: upgraded}} {
		k.reply = func(*http.Request) (*http.Response, error) { return resp, nil }
		got, _, err := k.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.Body.(io.Writer); resp.StatusCode == http.StatusSwitchingProtocols && !ok || resp.StatusCode == http.StatusNoContent && got.Body != http.NoBody {
			t.Errorf("%d: got a %T", resp.StatusCode, got.Body)
		}
	}
}

// forgetful is a policy that removes the conditions of each outcome.
type forgetful struct{}

func (forgetful) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		o := next(ctx, c)
		o.Conditions = 0
		return o
	}, nil
}

// TestResponseRateLimit_upgraded pins that the caller can write to an upgraded connection, even if
// another policy removes the conditions of the outcome.
func TestResponseRateLimit_upgraded(t *testing.T) {
	k := newKitchen(t, Config{ResponseRateLimit: &RateLimit{LimitKbps: 8}}, forgetful{})
	k.reply = func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: struct{ io.ReadWriteCloser }{}}, nil
	}
	got, _, err := k.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := got.Body.(io.Writer); !ok {
		t.Errorf("got a %T, want a connection", got.Body)
	}
}

// TestBucket pins that a reader that always waits receives one part in each interval, and that the
// burst after a long time is the parts of one second.
func TestBucket(t *testing.T) {
	for _, kbps := range []uint64{1, 8, 1000, 1 << 63} {
		b := newBucket(kbps)
		var now time.Duration
		total, waits := 0, 0
		for waits < 100 {
			n, wait := b.take(now, b.slice)
			if total += n; n == 0 {
				if wait <= 0 || wait > interval {
					t.Fatalf("%d: got a wait of %v", kbps, wait)
				}
				now += wait
				waits++
			}
		}
		if want := 100 * b.slice; total != want {
			t.Errorf("%d: got %d bytes in %v, want %d", kbps, total, now, want)
		}
		now += time.Hour
		burst := 0
		for {
			n, _ := b.take(now, b.slice)
			if n == 0 {
				break
			}
			burst += n
		}
		if burst != parts*b.slice {
			t.Errorf("%d: got a burst of %d after an hour, want %d", kbps, burst, parts*b.slice)
		}
	}
}
