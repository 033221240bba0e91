package pillion_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// thorny is a body whose first Close panics.
type thorny struct {
	io.Reader
	closed bool
}

func (b *thorny) Close() error {
	if !b.closed {
		b.closed = true
		panic("soup")
	}
	return nil
}

// TestDiscard_panics discards a response whose body panics, before a retry or because a timeout had
// fired: its attempt ends, and the panic goes on to the caller.
func TestDiscard_panics(t *testing.T) {
	tests := map[string]struct {
		policy pillion.Policy
		takes  time.Duration
	}{
		"for a retry":     {policy: retry.Config{On: "5xx", NumRetries: 1}},
		"after a timeout": {policy: timeout.Config{PerTry: time.Second}, takes: 2 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var events [policy.EventEnd + 1]int
				u := newUpstream(t, pillion.Listener(func(_ context.Context, e policy.Event) { events[e.Kind]++ }),
					test.policy, limits.Config{MaxRequests: 1})
				body := &thorny{Reader: strings.NewReader("soup")}
				base := roundTripper(func(*http.Request) (*http.Response, error) {
					time.Sleep(test.takes)
					resp := answer(http.StatusServiceUnavailable, "")
					resp.Body, resp.ContentLength = body, 4
					return resp, nil
				})
				func() {
					defer func() {
						if p := recover(); p != "soup" {
							t.Errorf("got the panic %v, want soup", p)
						}
					}()
					_, _ = u.Transport(base).RoundTrip(get(t.Context(), t))
				}()
				if events[policy.EventAttempt] != 1 || events[policy.EventAttemptEnd] != 1 || events[policy.EventEnd] != 1 {
					t.Errorf("got %d attempts, %d attempt ends and %d ends, want one of each",
						events[policy.EventAttempt], events[policy.EventAttemptEnd], events[policy.EventEnd])
				}
				if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
					t.Errorf("the next call: got %v, want its slot free", err)
				}
			})
		})
	}
}
