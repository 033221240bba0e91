package pillion_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestHedge_lateAfterEnd lets per-try timeouts fire while calls without a retry end. The storage of an
// ended call is used again, so the timer must not look at it. The race detector checks that.
func TestHedge_lateAfterEnd(t *testing.T) {
	const wait = time.Millisecond
	u := newUpstream(t, timeout.Config{Total: 10 * time.Second, PerTry: wait},
		retry.Config{On: "5xx", HedgeOnPerTryTimeout: true, NumRetries: retry.Zero})
	transport := u.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		time.Sleep(wait)
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("soup")), Request: r}, nil
	}))
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 400 {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://recipes/", http.NoBody)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := io.ReadAll(resp.Body); string(text) != "soup" || err != nil {
					t.Errorf("got %q, %v", text, err)
				}
				resp.Body.Close()
			}
		})
	}
	callers.Wait()
}
