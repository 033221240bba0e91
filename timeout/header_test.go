package timeout

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/retry"
)

// TestExpectedHeader checks the header that each attempt sends.
func TestExpectedHeader(t *testing.T) {
	const name = "X-Envoy-Expected-Rq-Timeout-Ms"
	const none = "none"
	for _, tc := range []struct {
		name   string
		cfg    Config
		caller time.Duration // 0 for no deadline
		head   time.Duration // until the headers of each response, a 503
		want   []string
	}{
		{name: "PerTry", cfg: Config{PerTry: 300 * ms}, want: []string{"300", "300", "300"}},
		{name: "Total by default", head: 100 * ms, want: []string{"15000", "14400", "13800"}},
		{name: "time left of Total", cfg: Config{Total: 2 * time.Second}, head: 100 * ms, want: []string{"2000", "1400", "800"}},
		{
			name: "PerTry, then time left of Total", cfg: Config{Total: time.Second, PerTry: 600 * ms}, head: 100 * ms,
			want: []string{"600", "400"},
		},
		{
			name: "time left until the caller's deadline", cfg: Config{Total: Unlimited}, caller: time.Second, head: 100 * ms,
			want: []string{"1000", "400"},
		},
		{
			name: "caller's deadline before Total", cfg: Config{Total: 2 * time.Second}, caller: time.Second, head: 100 * ms,
			want: []string{"1000", "400"},
		},
		{
			name: "Total before the caller's deadline", cfg: Config{Total: time.Second}, caller: 2 * time.Second, head: 100 * ms,
			want: []string{"1000", "400"},
		},
		{name: "no limit", cfg: Config{Total: Unlimited}, want: []string{none, none, none}},
		{name: "Idle only", cfg: Config{Total: Unlimited, Idle: time.Second}, want: []string{none, none, none}},
		{name: "rounded up", cfg: Config{PerTry: 1500 * time.Microsecond}, want: []string{"2", "2", "2"}},
		{name: "never 0", cfg: Config{Total: 500*ms + 1}, want: []string{"501", "1"}},
		{name: "not rounded", cfg: Config{PerTry: 2 * ms}, want: []string{"2", "2", "2"}},
		{name: "just over", cfg: Config{PerTry: 2*ms + 1}, want: []string{"3", "3", "3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tc.caller != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.caller)
					defer cancel()
				}
				tc.cfg.ExpectedHeader = true
				u := upstream(t, tc.cfg, retry.Retryable{Tries: 3, Sleep: 500 * ms})
				var got []string
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					values := req.Header.Values(name)
					switch len(values) {
					case 0:
						got = append(got, none)
					case 1:
						got = append(got, values[0])
					default:
						t.Errorf("got %q, want one value at most", values)
					}
					return server{status: 503, head: tc.head}.RoundTrip(req)
				})
				call(t, u, base, get(ctx), 0)
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s of each attempt (-want +got):\n%s", name, diff)
				}
			})
		})
	}
}

// TestExpectedHeaderLeavesTheRequestAlone checks that the caller's headers are not changed.
func TestExpectedHeaderLeavesTheRequestAlone(t *testing.T) {
	const name = "X-Envoy-Expected-Rq-Timeout-Ms"
	for _, tc := range []struct {
		name   string
		cfg    Config
		header http.Header
		want   string
	}{
		{"caller's is replaced", Config{ExpectedHeader: true}, http.Header{name: {"7"}, "X-Own": {"1"}}, "15000"},
		{"caller has no header at all", Config{ExpectedHeader: true}, nil, "15000"},
		{"not set", Config{}, http.Header{"X-Own": {"1"}}, ""},
		{"not set, caller's is sent", Config{}, http.Header{name: {"7"}}, "7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				req.Header = tc.header
				before := tc.header.Clone()
				base := roundTripper(func(sent *http.Request) (*http.Response, error) {
					if got := sent.Header.Get(name); got != tc.want {
						t.Errorf("got %q sent, want %q", got, tc.want)
					}
					if got, want := sent.Header.Get("X-Own"), before.Get("X-Own"); got != want {
						t.Errorf("got X-Own %q sent, want %q", got, want)
					}
					return server{}.RoundTrip(sent)
				})
				call(t, upstream(t, tc.cfg), base, req, 0)
				if diff := cmp.Diff(before, req.Header); diff != "" {
					t.Errorf("the caller's header has changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}
