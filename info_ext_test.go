package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// told is everything that an Info reports.
type told struct {
	Upstream, Endpoint string
	Attempts, Code     int
	Flags              envoy.Flags
	Detail             *envoy.Detail
	Err                string
	Done               bool
}

func all8(i *pillion.Info) told {
	return told{i.Upstream(), i.Endpoint(), i.Attempts(), i.Code(), i.Flags(), i.Detail(), fmt.Sprint(i.Err()), i.Done()}
}

// TestWithInfo reads an Info before, at the response headers of, and after good and bad calls.
func TestWithInfo(t *testing.T) {
	none := told{Err: "<nil>"}
	good := told{
		Upstream: "recipes", Endpoint: "recipes.test", Attempts: 2, Code: 200, Detail: envoy.ViaUpstream, Err: "<nil>",
	}
	cut := "pillion: recipes: UPE upstream_reset_after_response_started{protocol_error}: unexpected EOF"
	with := func(t told, change func(*told)) told {
		change(&t)
		return t
	}
	tests := []struct {
		name      string
		policy    pillion.Policy
		body      io.ReadCloser
		head, end told
	}{
		{"whole", nil, newTape(t.Context(), io.EOF), good, with(good, func(t *told) { t.Done = true })},
		{"cut short", nil, newTape(t.Context(), io.ErrUnexpectedEOF), good, with(good, func(t *told) {
			t.Done, t.Err, t.Flags, t.Detail = true, cut, envoy.UPE, envoy.MalformedResponseAfter
		})},
		{"no body", nil, http.NoBody, with(good, func(t *told) { t.Done = true }), with(good, func(t *told) { t.Done = true })},
		{
			"refused",
			limits.Config{MaxRequests: limits.Zero},
			nil, none,
			told{
				Upstream: "recipes", Attempts: 1, Flags: envoy.UO, Detail: limits.Overflow,
				Err: "limits: recipes: max_requests of 0 reached", Done: true,
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			attempts := 0
			u := newUpstream(t, quick(1), test.policy)
			ctx, info := pillion.WithInfo(t.Context())
			if diff := cmp.Diff(none, all8(info)); diff != "" {
				t.Errorf("before the call (-want +got):\n%s", diff)
			}
			resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				if diff := cmp.Diff(none, all8(info)); diff != "" {
					t.Errorf("within the call (-want +got):\n%s", diff)
				}
				if attempts++; attempts == 1 {
					return answer(http.StatusServiceUnavailable, "no"), nil
				}
				return streams(test.body)(req)
			})).RoundTrip(get(ctx, t))
			if err == nil {
				if diff := cmp.Diff(test.head, all8(info)); diff != "" {
					t.Errorf("at the head (-want +got):\n%s", diff)
				}
				_, _ = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if diff := cmp.Diff(test.end, all8(info)); diff != "" {
				t.Errorf("at the end (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWithInfo_nested pins that only the innermost Info receives the report, and that an Info of
// several calls reports the last one.
func TestWithInfo_nested(t *testing.T) {
	outer, first := pillion.WithInfo(t.Context())
	inner, second := pillion.WithInfo(outer)
	u := newUpstream(t)
	fails := func(context.Context) (int, error) { return 0, errBroken }
	works := func(context.Context) (int, error) { return 42, nil }
	_, _ = pillion.Do(inner, u, fails)
	if first.Done() || !second.Done() || !errors.Is(second.Err(), errBroken) {
		t.Errorf("got done %v and %v with %v, want only the inner Info to be done", first.Done(), second.Done(), second.Err())
	}
	_, _ = pillion.Do(outer, u, works)
	if !first.Done() || first.Err() != nil || !errors.Is(second.Err(), errBroken) {
		t.Errorf("got %v and %v, want the outer Info to report its own call", first.Err(), second.Err())
	}
	_, _ = pillion.Do(inner, u, works)
	if second.Err() != nil || second.Detail() != envoy.ViaUpstream {
		t.Errorf("got %v, want the second call's end", second.Err())
	}
}

// TestWithInfo_upstreamOverUpstream uses one upstream as the base of another: the report of the
// outer one stays.
func TestWithInfo_upstreamOverUpstream(t *testing.T) {
	inside, err := pillion.New("inside", limits.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, info := pillion.WithInfo(t.Context())
	resp, err := newUpstream(t, limits.Config{}).Transport(inside.Transport(answers(http.StatusOK, "soup"))).RoundTrip(get(ctx, t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Upstream() != "recipes" || info.Done() {
		t.Errorf("at the head: got %q, done %v, want recipes", info.Upstream(), info.Done())
	}
	_, _ = io.ReadAll(resp.Body)
	if info.Upstream() != "recipes" || !info.Done() {
		t.Errorf("at the end: got %q, done %v, want recipes", info.Upstream(), info.Done())
	}
	_ = resp.Body.Close()
}

// TestWithInfo_endpoint pins that the Info reports the address that a policy picks.
func TestWithInfo_endpoint(t *testing.T) {
	u := newUpstream(t, quick(1), before(func(c *policy.Call) {
		c.SetEndpoint(fmt.Sprintf("192.0.2.%d:80", c.Attempt()))
		if got := c.Endpoint(); got != fmt.Sprintf("192.0.2.%d:80", c.Attempt()) {
			t.Errorf("Endpoint: got %s", got)
		}
	}))
	ctx, info := pillion.WithInfo(t.Context())
	resp, err := u.Transport(answers(http.StatusServiceUnavailable, "no")).RoundTrip(get(ctx, t))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if info.Endpoint() != "192.0.2.2:80" {
		t.Errorf("got %s, want the last attempt's", info.Endpoint())
	}
	// The next call has chosen none yet, although it may use the same storage.
	plain := newUpstream(t, limits.Config{MaxRequests: limits.Zero})
	ctx, info = pillion.WithInfo(t.Context())
	_, _ = plain.Transport(answers(http.StatusOK, "")).RoundTrip(get(ctx, t))
	if info.Endpoint() != "" {
		t.Errorf("refused: got %s, want none", info.Endpoint())
	}
}

// TestInfo_concurrent reads an Info while its call runs; it is for the race detector.
func TestInfo_concurrent(t *testing.T) {
	ctx, info := pillion.WithInfo(t.Context())
	u := newUpstream(t, quick(3))
	done := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for last := 0; ; {
			got := all8(info)
			if got.Attempts < last {
				t.Errorf("attempts: got %d after %d", got.Attempts, last)
			}
			last = got.Attempts
			select {
			case <-done:
				return
			default:
			}
		}
	})
	client := &http.Client{Transport: u.Transport(answers(http.StatusServiceUnavailable, "no"))}
	send(t, client, get(ctx, t))
	close(done)
	asking.Wait()
	if info.Attempts() != 4 || !info.Done() {
		t.Errorf("got %d attempts, done %v, want 4 and true", info.Attempts(), info.Done())
	}
}
