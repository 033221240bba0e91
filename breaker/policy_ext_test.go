package breaker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestPolicy_counts ends one call in each possible way.
func TestPolicy_counts(t *testing.T) {
	refusing := newBreaker(t, breaker.Config{NonBreakCount: 1})
	open(t, refusing, 1)
	success, failure := breaker.Status{Success: 1}, breaker.Status{Failure: 1}
	timedOut, rejection := breaker.Status{Timeout: 1}, breaker.Status{Rejection: 1}
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

	tests := map[string]struct {
		outside, inside pillion.Policy
		base            roundTrip
		want            breaker.Status
	}{
		"no body":                   {base: answer(http.StatusOK), want: success},
		"body":                      {base: text(http.StatusOK), want: success},
		"404":                       {base: text(http.StatusNotFound), want: success},
		"409":                       {base: text(http.StatusConflict), want: success},
		"429":                       {base: text(http.StatusTooManyRequests), want: success},
		"500":                       {base: answer(http.StatusInternalServerError), want: failure},
		"503 with a body":           {base: text(http.StatusServiceUnavailable), want: failure},
		"503 with a broken body":    {base: stream(http.StatusServiceUnavailable, brokenReader(errBoom)), want: failure},
		"status beyond 599":         {base: answer(600), want: success},
		"not connected":             {base: broken(dial), want: failure},
		"unknown error":             {base: broken(errBoom), want: failure},
		"no response, no error":     {base: func(*http.Request) (*http.Response, error) { return nil, nil }, want: failure},
		"body breaks":               {base: stream(http.StatusOK, brokenReader(syscall.ECONNRESET)), want: failure},
		"body cut short":            {base: stream(http.StatusOK, brokenReader(io.ErrUnexpectedEOF)), want: failure},
		"404 whose body breaks":     {base: stream(http.StatusNotFound, brokenReader(errBoom)), want: failure},
		"request cannot be sent":    {base: broken(errors.New("unsupported protocol scheme \"\"")), want: breaker.Status{}},
		"timeout of the base":       {base: broken(os.ErrDeadlineExceeded), want: timedOut},
		"timeout in the body":       {base: stream(http.StatusOK, brokenReader(os.ErrDeadlineExceeded)), want: timedOut},
		"per-try timeout":           {outside: timeout.Config{PerTry: time.Second}, base: hang, want: timedOut},
		"timeout inside":            {inside: timeout.Config{PerTry: time.Second}, base: hang, want: timedOut},
		"total timeout, no headers": {outside: timeout.Config{Total: time.Second}, base: hang, want: timedOut},
		"total timeout, body":       {outside: timeout.Config{Total: time.Second}, base: hangInBody, want: timedOut},
		"idle timeout, body":        {outside: timeout.Config{Idle: time.Second}, base: hangInBody, want: timedOut},
		"full limit inside":         {inside: limits.Config{MaxRequests: limits.Zero}, base: answer(http.StatusOK), want: rejection},
		"full limit outside":        {outside: limits.Config{MaxRequests: limits.Zero}, base: answer(http.StatusOK), want: breaker.Status{}},
		"refused by a breaker":      {inside: refusing, base: answer(http.StatusOK), want: breaker.Status{Break: 1}},
		"refused by one outside":    {outside: refusing, base: answer(http.StatusOK), want: breaker.Status{}},
		"each attempt of a retry":   {outside: retry.Config{On: "5xx", NumRetries: 2}, base: text(http.StatusBadGateway), want: breaker.Status{Failure: 3}},
		"discarded by a retry":      {outside: retry.Config{On: "retriable-4xx", NumRetries: 1}, base: text(http.StatusConflict), want: breaker.Status{Success: 2}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, breaker.Config{})
				_ = get(t, newUpstream(t, tt.outside, b, tt.inside), tt.base) // the counters are checked below
				wantStatus(t, b, tt.want)
			})
		})
	}
}

// hangInBody responds with a body that never arrives.
func hangInBody(req *http.Request) (*http.Response, error) {
	return stream(http.StatusOK, &hangingReader{req.Context()})(req)
}

type hangingReader struct{ ctx context.Context }

func (r *hangingReader) Read([]byte) (int, error) {
	<-r.ctx.Done()
	return 0, r.ctx.Err()
}

func TestPolicy_whenJudged(t *testing.T) {
	success, failure := breaker.Status{Success: 1}, breaker.Status{Failure: 1}
	tests := map[string]struct {
		base         roundTrip
		finish       func(*http.Response, context.CancelFunc)
		before, want breaker.Status
	}{
		"good, at the end":         {text(http.StatusOK), readAll, breaker.Status{}, success},
		"good, closed early":       {text(http.StatusOK), closeOnly, breaker.Status{}, success},
		"good, broken":             {stream(http.StatusOK, brokenReader(errBoom)), readAll, breaker.Status{}, failure},
		"good, broken, unread":     {stream(http.StatusOK, brokenReader(errBoom)), closeOnly, breaker.Status{}, success},
		"good, canceled":           {text(http.StatusOK), cancelAndClose, breaker.Status{}, breaker.Status{}},
		"bad, at the headers":      {text(http.StatusInternalServerError), readAll, failure, failure},
		"bad, closed early":        {text(http.StatusInternalServerError), closeOnly, failure, failure},
		"bad, canceled":            {text(http.StatusInternalServerError), cancelAndClose, failure, failure},
		"good, without a body":     {answer(http.StatusOK), readAll, success, success},
		"upgraded, at the headers": {text(http.StatusSwitchingProtocols), readAll, success, success},
		"redirect, at the end too": {text(http.StatusFound), readAll, breaker.Status{}, success},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, breaker.Config{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				resp := begin(ctx, t, newUpstream(t, b), tt.base)
				wantStatus(t, b, tt.before)
				tt.finish(resp, cancel)
				wantStatus(t, b, tt.want)
				tt.finish(resp, cancel) // a second end changes nothing
				wantStatus(t, b, tt.want)
			})
		})
	}
}

func readAll(resp *http.Response, _ context.CancelFunc) {
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

func closeOnly(resp *http.Response, _ context.CancelFunc) { _ = resp.Body.Close() }

// cancelAndClose ends the call by canceling its context, before it calls Close.
func cancelAndClose(resp *http.Response, cancel context.CancelFunc) {
	cancel()
	synctest.Wait()
	_ = resp.Body.Close()
}

// TestPolicy_canceled cancels hundreds of calls, at each point of a call.
func TestPolicy_canceled(t *testing.T) {
	tests := map[string]func(context.Context, *testing.T, *pillion.Upstream, context.CancelFunc){
		"before the call": func(ctx context.Context, t *testing.T, u *pillion.Upstream, cancel context.CancelFunc) {
			t.Helper()
			cancel()
			_ = getContext(ctx, t, u, roundTrip(hang))
		},
		"before the headers": func(_ context.Context, t *testing.T, u *pillion.Upstream, _ context.CancelFunc) {
			t.Helper()
			walkAway(t, u)
		},
		"before the headers, another error": func(ctx context.Context, t *testing.T, u *pillion.Upstream, cancel context.CancelFunc) {
			t.Helper()
			_ = getContext(ctx, t, u, roundTrip(func(*http.Request) (*http.Response, error) {
				cancel()
				return nil, errBoom
			}))
		},
		"in the body": func(ctx context.Context, t *testing.T, u *pillion.Upstream, cancel context.CancelFunc) {
			t.Helper()
			resp := begin(ctx, t, u, roundTrip(hangInBody))
			cancel()
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		},
		"with an unread body": func(ctx context.Context, t *testing.T, u *pillion.Upstream, cancel context.CancelFunc) {
			t.Helper()
			_ = begin(ctx, t, u, text(http.StatusOK))
			cancel()
			synctest.Wait()
		},
		"a function": func(ctx context.Context, _ *testing.T, u *pillion.Upstream, cancel context.CancelFunc) {
			_, _ = pillion.Do(ctx, u, func(ctx context.Context) (any, error) {
				cancel()
				return nil, ctx.Err()
			})
		},
	}
	for name, call := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, breaker.Config{NonBreakCount: 1})
				u := newUpstream(t, b)
				for range 200 {
					ctx, cancel := context.WithCancel(t.Context())
					call(ctx, t, u, cancel)
					cancel()
				}
				wantStatus(t, b, breaker.Status{})
				if err := get(t, u, answer(http.StatusOK)); err != nil {
					t.Errorf("got error %v after canceled calls, want none", err)
				}
				wantState(t, b, breaker.Closed)
			})
		})
	}
}

// TestPolicy_trial admits a trial after a circuit has been open for a second. The trial ends in
// different ways half a second later.
func TestPolicy_trial(t *testing.T) {
	const sleep = time.Second
	slowly := func(f roundTrip) roundTrip {
		return func(req *http.Request) (*http.Response, error) {
			time.Sleep(sleep / 2)
			return f(req)
		}
	}
	tests := map[string]struct {
		inside    pillion.Policy
		base      roundTrip
		cancelled bool
		want      breaker.State
	}{
		"succeeds":           {base: slowly(text(http.StatusOK)), want: breaker.Closed},
		"fails":              {base: slowly(text(http.StatusBadGateway)), want: breaker.Open},
		"breaks in the body": {base: slowly(stream(http.StatusOK, brokenReader(errBoom))), want: breaker.Open},
		"is canceled":        {base: slowly(hang), cancelled: true, want: breaker.Open},
		"times out":          {inside: timeout.Config{PerTry: sleep / 2}, base: hang, want: breaker.Open},
		"is refused later":   {inside: refuseAfter(sleep / 2), base: answer(http.StatusOK), want: breaker.Open},
		"panics":             {base: slowly(func(*http.Request) (*http.Response, error) { panic("boom") }), want: breaker.Open},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, breaker.Config{NonBreakCount: 1, Sleep: sleep})
				open(t, b, 1)
				u := newUpstream(t, b, tt.inside)
				time.Sleep(sleep + 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancelled {
					time.AfterFunc(sleep/2-1, cancel)
				}
				func() {
					defer func() { _ = recover() }()
					_ = getContext(ctx, t, u, tt.base)
				}()
				wantState(t, b, tt.want)
				if tt.want == breaker.Closed {
					wantStatus(t, b, breaker.Status{Success: 1})
					return
				}
				// The sleep runs from when the trial was admitted.
				time.Sleep(sleep / 2)
				if err := get(t, u, answer(http.StatusOK)); !errors.Is(err, breaker.ErrOpen) {
					t.Errorf("got error %v when sleep has not passed since the trial began, want one that is ErrOpen", err)
				}
				time.Sleep(time.Nanosecond)
				if err := get(t, newUpstream(t, b), answer(http.StatusOK)); err != nil {
					t.Errorf("got error %v when sleep has passed since the trial began, want none", err)
				}
				wantState(t, b, breaker.Closed)
			})
		})
	}
}

// refuseAfter is a policy that refuses every call after a delay.
type refuseAfter time.Duration

func (d refuseAfter) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(_ context.Context, c *policy.Call) *policy.Outcome {
		time.Sleep(time.Duration(d))
		return c.Refuse(errBoom, limits.Overflow)
	}, nil
}

func TestPolicy_slowTrialDoesNotBlockTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 1, Sleep: time.Second})
		open(t, b, 1)
		u := newUpstream(t, b)
		time.Sleep(time.Second + 1)
		first := begin(t.Context(), t, u, text(http.StatusOK))
		if err := get(t, u, answer(http.StatusOK)); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("got error %v during the trial, want one that is ErrOpen", err)
		}
		time.Sleep(time.Second + 1)
		if err := get(t, u, answer(http.StatusOK)); err != nil {
			t.Errorf("got error %v for a second trial, want none", err)
		}
		wantState(t, b, breaker.Closed)
		readAll(first, nil)
		wantStatus(t, b, breaker.Status{Success: 1}) // the slow trial resets again
	})
}

func TestPolicy_panicPassesThrough(t *testing.T) {
	tests := map[string]func(*testing.T, *pillion.Upstream){
		"transport": func(t *testing.T, u *pillion.Upstream) {
			t.Helper()
			_ = get(t, u, roundTrip(func(*http.Request) (*http.Response, error) { panic(errBoom) }))
		},
		"function": func(t *testing.T, u *pillion.Upstream) {
			t.Helper()
			_, _ = pillion.Do(t.Context(), u, func(context.Context) (any, error) { panic(errBoom) })
		},
	}
	for name, call := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{NonBreakCount: 1})
			func() {
				defer func() {
					if got := recover(); got != any(errBoom) {
						t.Errorf("got panic %v, want %v", got, errBoom)
					}
				}()
				call(t, newUpstream(t, b))
			}()
			wantStatus(t, b, breaker.Status{Failure: 1})
			if got := refusalOf(t, b).Last; len(got) != 1 || got[0].Err == nil || !strings.Contains(got[0].Err.Error(), "panic") {
				t.Errorf("got last failures %v, want one that mentions a panic", got)
			}
		})
	}
}

// TestPolicy_classify counts a 429 as a failure. Classify is called for the response headers
// and, unless they are a failure, at the end.
func TestPolicy_classify(t *testing.T) {
	var asked atomic.Int32
	b := newBreaker(t, breaker.Config{Classify: func(o *policy.Outcome) breaker.Result {
		asked.Add(1)
		if o.Code == http.StatusTooManyRequests {
			return breaker.Failure
		}
		if o.Err == nil && o.Code == http.StatusTeapot && !o.Open() {
			return breaker.Dependency
		}
		return breaker.Classify(o)
	}})
	u := newUpstream(t, b)
	tests := []struct {
		base  roundTrip
		asked int32
		want  breaker.Status
	}{
		{answer(http.StatusOK), 1, breaker.Status{Success: 1}},
		{text(http.StatusOK), 2, breaker.Status{Success: 2}},
		{text(http.StatusTooManyRequests), 1, breaker.Status{Success: 2, Failure: 1}},
		{text(http.StatusTeapot), 2, breaker.Status{Success: 2, Failure: 1, Dependency: 1}},
	}
	for i, tt := range tests {
		asked.Store(0)
		if err := get(t, u, tt.base); err != nil {
			t.Fatal(err)
		}
		if got := asked.Load(); got != tt.asked {
			t.Errorf("call %d: got %d calls of Classify, want %d", i, got, tt.asked)
		}
		wantStatus(t, b, tt.want)
	}
}

func TestPolicy_classifyPanics(t *testing.T) {
	b := newBreaker(t, breaker.Config{Classify: func(*policy.Outcome) breaker.Result { panic(errBoom) }})
	func() {
		defer func() {
			if got := recover(); got != any(errBoom) {
				t.Errorf("got panic %v, want %v", got, errBoom)
			}
		}()
		_ = get(t, newUpstream(t, b), answer(http.StatusOK))
	}()
	wantStatus(t, b, breaker.Status{Failure: 1})
}

// TestPolicy_shared shares a breaker between HTTP on one upstream and functions on another.
func TestPolicy_shared(t *testing.T) {
	b := newBreaker(t, breaker.Config{Name: "shared", NonBreakCount: 4})
	web := newUpstream(t, b)
	jobs, err := pillion.New("jobs", b)
	if err != nil {
		t.Fatal(err)
	}
	work := func(err error) error {
		_, err = pillion.Do(t.Context(), jobs, func(context.Context) (string, error) { return "", err })
		return err
	}
	for range 2 {
		if err := get(t, web, answer(http.StatusBadGateway)); err != nil {
			t.Fatal(err)
		}
		if err := work(errBoom); !errors.Is(err, errBoom) {
			t.Fatalf("got error %v, want %v", err, errBoom)
		}
	}
	wantStatus(t, b, breaker.Status{Failure: 4})
	first, second := get(t, web, answer(http.StatusOK)), work(nil)
	if first == nil || !errors.Is(second, first) {
		t.Errorf("got errors %v and %v, want the same refusal", first, second)
	}
	wantStatus(t, b, breaker.Status{Failure: 4, Break: 2})
}

// TestPolicy_both uses one upstream for HTTP and functions.
func TestPolicy_both(t *testing.T) {
	b := newBreaker(t, breaker.Config{NonBreakCount: 2})
	u := newUpstream(t, b)
	if err := get(t, u, broken(errBoom)); err == nil {
		t.Error("got no error, want one")
	}
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, context.DeadlineExceeded })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
	}
	wantStatus(t, b, breaker.Status{Failure: 1, Timeout: 1})
	if err := get(t, u, answer(http.StatusOK)); !errors.Is(err, breaker.ErrOpen) {
		t.Errorf("got error %v, want one that is ErrOpen", err)
	}
}

// TestPolicy_ownState uses one Config in two upstreams.
func TestPolicy_ownState(t *testing.T) {
	cfg := breaker.Config{NonBreakCount: 1}
	bad, good := newUpstream(t, cfg), newUpstream(t, cfg)
	_ = get(t, bad, broken(errBoom))
	if err := get(t, bad, answer(http.StatusOK)); !errors.Is(err, breaker.ErrOpen) {
		t.Errorf("got error %v, want one that is ErrOpen", err)
	}
	if err := get(t, good, answer(http.StatusOK)); err != nil {
		t.Errorf("got error %v from the other upstream, want none", err)
	}
}

// TestPolicy_manySlots nests so many breakers that their state no longer fits in the Call.
func TestPolicy_manySlots(t *testing.T) {
	var policies []pillion.Policy
	var all []*breaker.Breaker
	for i := range 6 {
		b := newBreaker(t, breaker.Config{Name: strconv.Itoa(i)})
		policies, all = append(policies, b), append(all, b)
	}
	u := newUpstream(t, policies...)
	for range 3 {
		if err := get(t, u, text(http.StatusOK)); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range all {
		wantStatus(t, b, breaker.Status{Success: 3})
	}
}

func TestClassify(t *testing.T) {
	tests := map[string]struct {
		outcome policy.Outcome
		want    breaker.Result
	}{
		"success":                     {policy.Outcome{}, breaker.Success},
		"discarded":                   {policy.Outcome{Conditions: policy.Discarded}, breaker.Success},
		"5xx":                         {policy.Outcome{Conditions: policy.Status5xx}, breaker.Failure},
		"5xx, discarded":              {policy.Outcome{Conditions: policy.Status5xx | policy.Discarded}, breaker.Failure},
		"409":                         {policy.Outcome{Conditions: policy.Retriable4xx}, breaker.Success},
		"reset":                       {policy.Outcome{Conditions: policy.Reset}, breaker.Failure},
		"refused stream":              {policy.Outcome{Conditions: policy.Reset | policy.RefusedStream}, breaker.Failure},
		"no connection":               {policy.Outcome{Conditions: policy.ConnectFailure}, breaker.Failure},
		"no connection in time":       {policy.Outcome{Conditions: policy.ConnectFailure | policy.Timeout}, breaker.Timeout},
		"no protocol":                 {policy.Outcome{Conditions: policy.ProtocolError}, breaker.Failure},
		"failed":                      {policy.Outcome{Conditions: policy.Failed}, breaker.Failure},
		"timeout":                     {policy.Outcome{Conditions: policy.Timeout}, breaker.Timeout},
		"cancelled":                   {policy.Outcome{Conditions: policy.Cancelled}, breaker.Ignored},
		"canceled while it timed out": {policy.Outcome{Conditions: policy.Cancelled | policy.Timeout}, breaker.Ignored},
		"bad request to send":         {policy.Outcome{Conditions: policy.Invalid}, breaker.Ignored},
		"full":                        {policy.Outcome{Conditions: policy.Refused, Detail: limits.Overflow}, breaker.Rejection},
		"refused by a breaker":        {policy.Outcome{Conditions: policy.Refused, Detail: breaker.CircuitOpen}, breaker.Break},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := breaker.Classify(&tt.outcome); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	results := []string{"success", "failure", "rejection", "timeout", "break", "dependency", "ignored"}
	for r, want := range results {
		if got := breaker.Result(r).String(); got != want {
			t.Errorf("result %d: got %q, want %q", r, got, want)
		}
	}
	for s, want := range []string{"closed", "open", "half-open"} {
		if got := breaker.State(s).String(); got != want {
			t.Errorf("state %d: got %q, want %q", s, got, want)
		}
	}
}
