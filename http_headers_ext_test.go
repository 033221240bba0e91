package pillion_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// notebook is a server in memory that records the headers of its requests. It sends its statuses
// one after the other, and repeats the last: 0 stands for silence, -1 for a refused connection.
type notebook struct {
	answers []int
	seen    []http.Header
}

func (n *notebook) RoundTrip(req *http.Request) (*http.Response, error) {
	n.seen = append(n.seen, req.Header.Clone())
	switch status := n.answers[min(len(n.seen), len(n.answers))-1]; status {
	case 0:
		<-req.Context().Done()
		return nil, req.Context().Err()
	case -1:
		return nil, syscall.ECONNREFUSED
	default:
		return answer(status, "soup"), nil
	}
}

// values returns the value of a header in each attempt, "-" for none.
func (n *notebook) values(name string) string {
	var all []string
	for _, h := range n.seen {
		value := strings.Join(h.Values(name), "+")
		if value == "" {
			value = "-"
		}
		all = append(all, value)
	}
	return strings.Join(all, " ")
}

// TestOptions_headers pins the headers of each attempt, and of the response.
func TestOptions_headers(t *testing.T) {
	const (
		count, again = "X-Envoy-Attempt-Count", "X-Envoy-Is-Timeout-Retry"
		most, until  = "X-Envoy-Max-Retries", "X-Envoy-Upstream-Rq-Timeout-Ms"
		expected     = "X-Envoy-Expected-Rq-Timeout-Ms"
	)
	all := pillion.Options{IncludeRequestAttemptCount: true, IncludeAttemptCountInResponse: true, IncludeIsTimeoutRetryHeader: true}
	suppressed := all
	suppressed.SuppressEnvoyHeaders = true
	sidecar := pillion.Options{Sidecar: true}
	quietSidecar := pillion.Options{Sidecar: true, SuppressEnvoyHeaders: true}
	tries := timeout.Config{Total: time.Minute, PerTry: time.Second}
	tests := []struct {
		name     string
		http     pillion.Options
		timeout  timeout.Config
		own      []string // in the caller's request
		answers  []int
		sent     map[string]string
		received string // x-envoy-attempt-count
	}{
		{name: "default", answers: []int{503, 200}, sent: map[string]string{count: "- -", again: "- -", most: "- -", until: "- -"}},
		{name: "the number", http: pillion.Options{IncludeRequestAttemptCount: true}, answers: []int{503, 503, 200}, sent: map[string]string{count: "1 2 3", again: "- - -"}},
		{
			name: "the number, replacing the caller's", http: pillion.Options{IncludeRequestAttemptCount: true}, own: []string{count, "9", again, "7"},
			answers: []int{503, 200}, sent: map[string]string{count: "1 2", again: "7 7"},
		},
		{name: "the number in the response", http: pillion.Options{IncludeAttemptCountInResponse: true}, answers: []int{503, 200}, sent: map[string]string{count: "- -"}, received: "2"},
		{name: "the number in the only response", http: pillion.Options{IncludeAttemptCountInResponse: true}, answers: []int{200}, received: "1"},
		{
			name: "after a timeout, or not", http: pillion.Options{IncludeIsTimeoutRetryHeader: true}, timeout: tries,
			answers: []int{503, 0, 503, 0, 200}, sent: map[string]string{again: "- false true false true", count: "- - - - -"},
		},
		{name: "after a refused connection", http: pillion.Options{IncludeIsTimeoutRetryHeader: true}, answers: []int{-1, 200}, sent: map[string]string{again: "- false"}},
		{name: "all", http: all, timeout: tries, answers: []int{0, 200}, sent: map[string]string{count: "1 2", again: "- true"}, received: "2"},
		{
			name: "suppressing spares what was asked for", http: suppressed, timeout: timeout.Config{Total: time.Minute, PerTry: time.Second, ExpectedHeader: true},
			answers: []int{0, 200}, sent: map[string]string{count: "1 2", again: "- true", expected: "- -"}, received: "2",
		},
		{
			name: "suppressing leaves the caller's own", http: pillion.Options{SuppressEnvoyHeaders: true}, own: []string{count, "9"},
			answers: []int{200}, sent: map[string]string{count: "9"},
		},

		{name: "to a sidecar", http: sidecar, timeout: timeout.Config{Total: timeout.Unlimited}, answers: []int{503, 200}, sent: map[string]string{most: "0 0", until: "- -"}},
		{name: "to a sidecar, with a per-try limit", http: sidecar, timeout: tries, answers: []int{503, 200}, sent: map[string]string{most: "0 0", until: "1000 1000"}},
		{
			name: "to a sidecar, with what is left", http: sidecar, timeout: timeout.Config{Total: 1500 * time.Millisecond, PerTry: time.Second},
			answers: []int{0, 200}, sent: map[string]string{most: "0 0", until: "1000 500"},
		},
		{
			name: "to a sidecar, replacing the caller's", http: sidecar, timeout: tries, own: []string{most, "5", until, "9"},
			answers: []int{503, 200}, sent: map[string]string{most: "0 0", until: "1000 1000"},
		},
		{
			name: "to a sidecar, the caller's headers honored", http: sidecar, timeout: timeout.Config{EnvoyHeaders: true}, own: []string{until, "700"},
			answers: []int{200}, sent: map[string]string{most: "0", until: "700"},
		},
		{name: "to a sidecar, the rest suppressed", http: quietSidecar, timeout: tries, answers: []int{200}, sent: map[string]string{most: "0", until: "1000", count: "-"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &notebook{answers: test.answers}
				u := newUpstream(t, test.http, test.timeout, quick(len(test.answers)))
				req := get(t.Context(), t)
				for i := 0; i < len(test.own); i += 2 {
					req.Header.Set(test.own[i], test.own[i+1])
				}
				before := req.Header.Clone()
				resp, err := u.Transport(server).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				for name, want := range test.sent {
					if got := server.values(name); got != want {
						t.Errorf("%s sent: got %q, want %q", name, got, want)
					}
				}
				if got := resp.Header.Get(count); got != test.received {
					t.Errorf("%s received: got %q, want %q", count, got, test.received)
				}
				if diff := cmp.Diff(before, req.Header); diff != "" {
					t.Errorf("the caller's header has changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestOptions_localReplyHeaders pins that local replies have the headers of a response, and
// x-envoy-overloaded unless that is suppressed.
func TestOptions_localReplyHeaders(t *testing.T) {
	full := limits.Config{MaxRequests: limits.Zero}
	tests := []struct {
		name   string
		http   pillion.Options
		policy pillion.Policy
		want   http.Header
	}{
		{"refused", pillion.Options{}, full, http.Header{"X-Envoy-Overloaded": {"true"}}},
		{"refused, suppressed", pillion.Options{SuppressEnvoyHeaders: true, IncludeAttemptCountInResponse: true}, full, http.Header{"X-Envoy-Attempt-Count": {"1"}}},
		{
			"refused, with the number",
			pillion.Options{IncludeAttemptCountInResponse: true},
			full,
			http.Header{"X-Envoy-Overloaded": {"true"}, "X-Envoy-Attempt-Count": {"1"}},
		},
		{"failed, with the number", pillion.Options{IncludeAttemptCountInResponse: true}, quick(2), http.Header{"X-Envoy-Attempt-Count": {"3"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.http.LocalReplies = true
			resp, err := newUpstream(t, test.http, test.policy).Transport(&notebook{answers: []int{-1}}).RoundTrip(get(t.Context(), t))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			resp.Header.Del("Content-Type")
			resp.Header.Del("Content-Length")
			if diff := cmp.Diff(test.want, resp.Header); diff != "" || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("got %d, (-want +got):\n%s", resp.StatusCode, diff)
			}
		})
	}
}

// TestOptions_countInResponseWithoutHeader uses a base whose response has no header map.
func TestOptions_countInResponseWithoutHeader(t *testing.T) {
	u := newUpstream(t, pillion.Options{IncludeAttemptCountInResponse: true})
	resp, err := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
		resp := answer(http.StatusOK, "soup")
		resp.Header = nil
		return resp, nil
	})).RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("X-Envoy-Attempt-Count"); got != "1" {
		t.Errorf("got %q, want 1", got)
	}
}

// TestConsumeHeaders pins that headers that policies honor are not sent to the server, in any
// attempt, whatever the case of their names.
func TestConsumeHeaders(t *testing.T) {
	honor := func(names ...string) pillion.Policy {
		return policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
			s.Require(policy.Needs{Consume: names})
			return next, nil
		})
	}
	own := http.Header{"X-One": {"1"}, "X-Two": {"2", "2"}, "X-Three": {"3"}, "X-Four": nil}
	tests := []struct {
		name     string
		policies []pillion.Policy
		header   http.Header
		want     http.Header
	}{
		{"none", nil, own, own},
		{"one", []pillion.Policy{honor("x-one")}, own, http.Header{"X-Two": {"2", "2"}, "X-Three": {"3"}, "X-Four": nil}},
		{"the headers of two policies", []pillion.Policy{honor("X-ONE", "x-four"), honor("X-Two")}, own, http.Header{"X-Three": {"3"}}},
		{"an absent header", []pillion.Policy{honor("X-Five")}, own, own},
		{"no header map", []pillion.Policy{honor("X-One")}, nil, nil},
		// What an inner policy adds belongs to the attempt, and is removed like the caller's.
		{"a header that a policy adds", []pillion.Policy{honor("X-One"), before(func(c *policy.Call) { c.Header().Set("X-Six", "6") })}, own, http.Header{
			"X-Two": {"2", "2"}, "X-Three": {"3"}, "X-Four": nil, "X-Six": {"6"},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := &notebook{answers: []int{503, 200}}
			var honored string
			asked := before(func(c *policy.Call) { honored = c.RequestHeader("X-One") })
			u := newUpstream(t, append([]pillion.Policy{quick(1), asked}, test.policies...)...)
			req := get(t.Context(), t)
			req.Header = test.header.Clone()
			resp, err := u.Transport(server).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if diff := cmp.Diff([]http.Header{test.want, test.want}, server.seen); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.header, req.Header); diff != "" {
				t.Errorf("the caller's header has changed (-want +got):\n%s", diff)
			}
			if want := test.header.Get("X-One"); honored != want {
				t.Errorf("the policy itself: got %q, want %q", honored, want)
			}
		})
	}
}

// TestOptions_sidecarAfterTheEnd pins that no attempt is sent with a timeout of 0, which a sidecar
// takes as none.
func TestOptions_sidecarAfterTheEnd(t *testing.T) {
	server := &notebook{answers: []int{200}}
	u := newUpstream(t, pillion.Options{Sidecar: true}, before(func(c *policy.Call) { c.LimitTotal(1) }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := u.Transport(server).RoundTrip(get(ctx, t))
	switch {
	case err == nil:
		_ = resp.Body.Close()
		if got := server.values("X-Envoy-Upstream-Rq-Timeout-Ms"); got != "1" {
			t.Errorf("got %q, want 1", got)
		}
	case !errors.Is(err, context.DeadlineExceeded):
		t.Error(err)
	}
}
