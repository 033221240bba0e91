package pillion_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/raceflag"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/timeout"
)

// blank is an empty body that allocates nothing.
type blank struct{}

func (blank) Read([]byte) (int, error) { return 0, io.EOF }
func (blank) Close() error             { return nil }

// TestAllocations pins what a call may allocate, in addition to its base.
func TestAllocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	every := []pillion.Policy{timeout.Config{Total: time.Hour, PerTry: time.Minute}, quick(1), limits.Config{}, breaker.Config{}}
	tests := []struct {
		name     string
		policies []pillion.Policy
		open     bool    // the response has a body
		http, do float64 // at most
	}{
		{"no policies", nil, false, 0, 1},
		{"no policies, body", nil, true, 0, 1},
		{"refused by a limit", []pillion.Policy{limits.Config{MaxRequests: limits.Zero}}, false, 0, 1},
		{"refused by a breaker", []pillion.Policy{open}, false, 0, 1},
		{"refused, all policies", []pillion.Policy{timeout.Config{}, quick(1), limits.Config{MaxRequests: limits.Zero}}, false, 0, 1},
		{"limits and breaker", []pillion.Policy{limits.Config{}, breaker.Config{}}, false, 0, 1},
		{"limits and breaker, body", []pillion.Policy{limits.Config{}, breaker.Config{}}, true, 1, 1},
		{"all policies", every, false, 4, 4},
		{"all policies, body", every, true, 4, 4},
	}
	cancellable, cancel := context.WithCancel(t.Context())
	defer cancel()
	for caller, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable} {
		for _, test := range tests {
			t.Run(test.name+", "+caller, func(t *testing.T) {
				u := newUpstream(t, test.policies...)
				resp := &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1}
				base := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
					if resp.Body = http.NoBody; test.open {
						resp.Body = blank{}
					}
					return resp, nil
				}))
				req := get(ctx, t)
				got := testing.AllocsPerRun(500, func() {
					if resp, err := base.RoundTrip(req); err == nil {
						_, _ = resp.Body.Read(nil)
						_ = resp.Body.Close()
					}
				})
				if got > test.http {
					t.Errorf("round trip: got %v allocations, want at most %v", got, test.http)
				}
				work := func(context.Context) (struct{}, error) { return struct{}{}, nil }
				got = testing.AllocsPerRun(500, func() { _, _ = pillion.Do(ctx, u, work) })
				if got > test.do {
					t.Errorf("Do: got %v allocations, want at most %v", got, test.do)
				}
			})
		}
	}
}
