package pillion_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// listen records events: kind, attempt, outcome and wait.
func (j *journal) listen() pillion.Listener {
	return func(_ context.Context, e policy.Event) {
		line := fmt.Sprintf("%v %d: %d %v %v", e.Kind, e.Call.Attempt(), e.Outcome.Code, e.Outcome.Flags, e.Outcome.Detail)
		if e.Outcome.Has(policy.Discarded) {
			line += ", discarded"
		}
		if e.BackOff != (policy.BackOff{}) {
			line += fmt.Sprintf(", %v", e.BackOff)
		}
		j.add(line)
	}
}

// TestListener_sequence pins the events of a call, in their order.
func TestListener_sequence(t *testing.T) {
	tries := retry.Config{
		NumRetries: 1, Rand: func() float64 { return 0.5 }, BaseInterval: 20 * time.Millisecond, MaxInterval: 20 * time.Millisecond,
	}
	tests := []struct {
		name     string
		policies []pillion.Policy
		statuses []int
		post     bool
		want     []string
	}{
		{"good", nil, []int{200}, false, []string{
			"attempt 1: 0 - ",
			"head",
			"attempt end 1: 200 - via_upstream",
			"end 1: 200 - via_upstream",
		}},
		{"retried", []pillion.Policy{tries}, []int{503, 200}, false, []string{
			"attempt 1: 0 - ",
			"retry scheduled 1: 503 - via_upstream, {10ms false}",
			"attempt end 1: 503 - via_upstream, discarded",
			"retry 1: 503 - via_upstream, {10ms false}",
			"attempt 2: 0 - ",
			"retry success 2: 200 - via_upstream",
			"head",
			"attempt end 2: 200 - via_upstream",
			"end 1: 200 - via_upstream",
		}},
		{"retries used up", []pillion.Policy{tries}, []int{503, 503}, false, []string{
			"attempt 1: 0 - ",
			"retry scheduled 1: 503 - via_upstream, {10ms false}",
			"attempt end 1: 503 - via_upstream, discarded",
			"retry 1: 503 - via_upstream, {10ms false}",
			"attempt 2: 0 - ",
			"retry limit exceeded 2: 503 URX via_upstream",
			"head",
			"attempt end 2: 503 URX via_upstream",
			"end 1: 503 URX via_upstream",
		}},
		{"retry limit", []pillion.Policy{tries, limits.Config{MaxRetries: limits.Zero}}, []int{503}, false, []string{
			"attempt 1: 0 - ",
			"retry overflow 1: 503 UO via_upstream",
			"head",
			"attempt end 1: 503 UO via_upstream",
			"end 1: 503 UO via_upstream",
		}},
		{"no body to retry with", []pillion.Policy{retry.Config{On: "5xx"}}, []int{503}, true, []string{
			"attempt 1: 0 - ",
			"retry abandoned 1: 503 - via_upstream",
			"head",
			"attempt end 1: 503 - via_upstream",
			"end 1: 503 - via_upstream",
		}},
		{"refused", []pillion.Policy{limits.Config{MaxRequests: limits.Zero}}, nil, false, []string{
			"refused 1: 0 UO upstream_reset_before_response_started{overflow}",
			"end 1: 0 UO upstream_reset_before_response_started{overflow}",
		}},
		{"too late", []pillion.Policy{timeout.Config{Total: time.Second}}, []int{0}, false, []string{
			"attempt 1: 0 - ",
			"attempt end 1: 0 UT response_timeout",
			"end 1: 0 UT response_timeout",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var events journal
				// The listener's position does not matter.
				u := newUpstream(t, append(test.policies, events.listen(), pillion.Listener(nil))...)
				attempts := 0
				req := get(t.Context(), t)
				if test.post {
					req.Method, req.Body = http.MethodPost, io.NopCloser(strings.NewReader("order"))
				}
				resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
					status := test.statuses[attempts]
					if attempts++; status == 0 {
						<-req.Context().Done()
						return nil, req.Context().Err()
					}
					return answer(status, "soup"), nil
				})).RoundTrip(req)
				if err == nil {
					events.add("head")
					_, _ = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				if diff := cmp.Diff(test.want, events.all()); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestListener_context pins that each listener is called with the caller's context, in the order of
// registration, from the inside out.
func TestListener_context(t *testing.T) {
	type key struct{}
	var events journal
	named := func(name string) pillion.Listener {
		return func(ctx context.Context, e policy.Event) {
			if e.Kind == policy.EventEnd {
				events.add(fmt.Sprint(name, " ", ctx.Value(key{})))
			}
		}
	}
	u := newUpstream(t, named("outer"), timeout.Config{}, named("inner"))
	ctx := context.WithValue(t.Context(), key{}, "mine")
	if _, err := pillion.Do(ctx, u, func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"inner mine", "outer mine"}, events.all()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// textLogger returns a logger that writes to out, without the time.
func textLogger(out io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// logged returns what a logger writes about one call.
func logged(t *testing.T, level slog.Level, policies []pillion.Policy, base http.RoundTripper, ctx context.Context) []string { //nolint:revive // the context is a test's case
	t.Helper()
	var out bytes.Buffer
	resp, err := newUpstream(t, append(policies, pillion.Log(textLogger(&out, level)))...).Transport(base).RoundTrip(get(ctx, t))
	if err == nil {
		_, _ = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func TestLog(t *testing.T) {
	const call = "upstream_cluster=recipes method=GET path=/soup "
	const good = "response_code=200 response_flags=- response_code_details=via_upstream"
	gone, leave := context.WithCancel(t.Context())
	leave()
	honoring := roundTripper(func(req *http.Request) (*http.Response, error) { return nil, req.Context().Err() })
	tests := []struct {
		name     string
		level    slog.Level
		policies []pillion.Policy
		base     http.RoundTripper
		ctx      context.Context
		want     []string
	}{
		{"good", slog.LevelInfo, nil, answers(200, "soup"), nil, []string{
			`level=INFO msg="call end" ` + call + "upstream_request_attempt_count=1 " + good,
		}},
		{"good, in detail", slog.LevelDebug, nil, answers(200, "soup"), nil, []string{
			`level=DEBUG msg="call attempt" ` + call + "attempt=1",
			`level=DEBUG msg="call attempt end" ` + call + "attempt=1 " + good,
			`level=INFO msg="call end" ` + call + "upstream_request_attempt_count=1 " + good,
		}},
		{"good, level disabled", slog.LevelWarn, nil, answers(200, "soup"), nil, []string{""}},
		{"failed", slog.LevelInfo, []pillion.Policy{quick(1)}, answers(503, "no"), nil, []string{
			`level=WARN msg="call end" ` + call +
				"upstream_request_attempt_count=2 response_code=503 response_flags=URX response_code_details=via_upstream",
		}},
		{"retried, in detail", slog.LevelDebug, []pillion.Policy{quick(1)}, answers(503, "no"), nil, []string{
			`level=DEBUG msg="call attempt" ` + call + "attempt=1",
			`level=DEBUG msg="call retry scheduled" ` + call + "attempt=1 back_off=0s response_code=503 response_flags=- response_code_details=via_upstream",
			`level=DEBUG msg="call attempt end" ` + call + "attempt=1 response_code=503 response_flags=- response_code_details=via_upstream",
			`level=DEBUG msg="call retry" ` + call + "attempt=1 back_off=0s response_code=503 response_flags=- response_code_details=via_upstream",
			`level=DEBUG msg="call attempt" ` + call + "attempt=2",
			`level=DEBUG msg="call retry limit exceeded" ` + call + "attempt=2 response_code=503 response_flags=URX response_code_details=via_upstream",
			`level=DEBUG msg="call attempt end" ` + call + "attempt=2 response_code=503 response_flags=URX response_code_details=via_upstream",
			`level=WARN msg="call end" ` + call + "upstream_request_attempt_count=2 response_code=503 response_flags=URX response_code_details=via_upstream",
		}},
		{"refused", slog.LevelInfo, []pillion.Policy{limits.Config{MaxRequests: limits.Zero}}, answers(200, ""), nil, []string{
			`level=WARN msg="call end" ` + call +
				"upstream_request_attempt_count=1 response_code=0 response_flags=UO response_code_details=upstream_reset_before_response_started{overflow}" +
				` error="limits: recipes: max_requests of 0 reached"`,
		}},
		{"canceled caller", slog.LevelInfo, nil, honoring, gone, []string{
			`level=INFO msg="call end" ` + call +
				`upstream_request_attempt_count=1 response_code=0 response_flags=DC response_code_details=downstream_remote_disconnect error="context canceled"`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			if test.ctx != nil {
				ctx = test.ctx
			}
			if diff := cmp.Diff(test.want, logged(t, test.level, test.policies, test.base, ctx)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLog_function pins that a function has no attributes of a request, no response code, and of an error no
// details.
func TestLog_function(t *testing.T) {
	var out bytes.Buffer
	u := newUpstream(t, pillion.Log(textLogger(&out, slog.LevelInfo)))
	for _, result := range []error{nil, errBroken} {
		_, _ = pillion.Do(t.Context(), u, func(context.Context) (string, error) { return "soup", result })
	}
	const call = `msg="call end" upstream_cluster=recipes upstream_request_attempt_count=1 response_flags=-`
	want := "level=INFO " + call + " response_code_details=via_upstream\nlevel=WARN " + call + " error=broken\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLog_nil pins that there is no listener without a logger.
func TestLog_nil(t *testing.T) {
	if pillion.Log(nil) != nil {
		t.Error("got a listener, want none")
	}
}
