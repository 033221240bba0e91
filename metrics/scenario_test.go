package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
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

// step is a response of a scripted upstream. The last step repeats.
type step struct {
	status int
	body   string
	header http.Header
	err    error         // instead of a response
	broken error         // in the body
	delay  time.Duration // before the headers
	slow   time.Duration // before the body
}

var (
	ok          = step{status: 200, body: "ok"}
	hang        = step{delay: time.Hour}
	reset       = step{err: &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}}
	fin         = step{err: io.EOF}
	garbage     = step{err: fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", errors.New(`malformed HTTP response "x"`))}
	refuse      = step{err: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}
	dialTimeout = step{err: &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}}
	cut         = step{status: 200, body: "x", broken: io.ErrUnexpectedEOF}
)

func status503(n int) []step { return slices.Repeat([]step{{status: 503, body: "no"}}, n) }

// script is an upstream that responds with its steps.
type script struct {
	steps []step
	next  int
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	at := s.steps[min(s.next, len(s.steps)-1)]
	s.next++
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	if err := wait(req.Context(), at.delay); err != nil {
		return nil, err
	}
	if at.err != nil {
		return nil, at.err
	}
	h := at.header
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{
		StatusCode: at.status, ProtoMajor: 1, ProtoMinor: 1, Header: h, Request: req, ContentLength: -1,
		Body: &slowBody{ctx: req.Context(), wait: at.slow, broken: at.broken, rest: strings.NewReader(at.body)},
	}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// slowBody is a body that arrives late and can break.
type slowBody struct {
	ctx    context.Context
	wait   time.Duration
	broken error
	rest   *strings.Reader
}

func (b *slowBody) Read(p []byte) (int, error) {
	if err := wait(b.ctx, b.wait); err != nil {
		return 0, err
	}
	n, err := b.rest.Read(p)
	if err != nil && b.broken != nil {
		return n, b.broken
	}
	return n, err
}

func (b *slowBody) Close() error { return nil }

// scenario configures the replay of a recorded scenario.
type scenario struct {
	policies []policy.Policy
	cfg      Config
	steps    []step
	calls    int // 0 means 1
	apart    time.Duration
	caller   time.Duration // after which the caller cancels
	alt      string
	method   string
	payload  string
}

// quick returns the retry policy of most scenarios.
func quick(on string, n int) retry.Config {
	return retry.Config{On: on, NumRetries: n, BaseInterval: 5 * time.Millisecond, MaxInterval: 10 * time.Millisecond}
}

func inAll(d time.Duration) timeout.Config { return timeout.Config{Total: d} }

func perTry(all, each time.Duration) timeout.Config { return timeout.Config{Total: all, PerTry: each} }

func scenarios() map[string]scenario {
	codes := func(codes ...int) (steps []step) {
		for _, c := range codes {
			steps = append(steps, step{status: c, body: "x"})
		}
		return steps
	}
	then := func(steps []step, last ...step) []step { return append(steps, last...) }
	r := func(c retry.Config) []policy.Policy { return []policy.Policy{inAll(0), c} }
	return map[string]scenario{
		"basic-200":       {steps: []step{ok}},
		"basic-post-body": {steps: []step{ok}, method: http.MethodPost, payload: "hello"},
		"counters-all-classes": {
			steps: codes(200, 201, 204, 301, 304, 400, 404, 409, 429, 500, 502, 503, 504), calls: 13,
		},
		"counters-odd-codes":        {steps: codes(299, 418, 499, 520, 599), calls: 5},
		"counters-head":             {steps: []step{{status: 200}}, method: http.MethodHead},
		"counters-alt-stat-name":    {steps: codes(200, 500), calls: 2, alt: "alt", cfg: Config{CallerStatNames: true}},
		"counters-canary":           {steps: []step{{status: 200, header: http.Header{"X-Envoy-Upstream-Canary": {"true"}}}, ok}, calls: 2},
		"counters-external-request": {steps: codes(503), cfg: Config{External: true}},

		"retry-5xx-success":        {policies: r(quick("5xx", 1)), steps: codes(500, 200)},
		"retry-5xx-exhausted":      {policies: r(quick("5xx", 2)), steps: codes(500)},
		"retry-5xx-default-one":    {policies: r(quick("5xx", 0)), steps: codes(500)},
		"retry-5xx-includes-reset": {policies: r(quick("5xx", 1)), steps: []step{reset, ok}},
		"retry-reset-exhausted":    {policies: r(quick("reset", 2)), steps: []step{reset}},
		"retry-limit-then-4xx":     {policies: r(quick("5xx", 2)), steps: codes(503, 404)},
		"retry-num-retries-zero":   {policies: r(quick("5xx", retry.Never)), steps: status503(1)},
		"retry-none-without-policy": {
			policies: []policy.Policy{inAll(0)}, steps: status503(1),
		},
		"retry-connect-failure-refused": {policies: r(quick("connect-failure", 2)), steps: []step{refuse}},
		"retry-body-over-buffer": {
			policies: append(r(quick("5xx", 2)), pillion.Options{ReplayBuffer: 3}), steps: then(status503(1), ok),
			method: http.MethodPost, payload: "too much",
		},
		"backoff-ratelimited-retry-after": {
			policies: r(retry.Config{
				On: "retriable-status-codes", RetriableStatusCodes: []int{429},
				ResetHeaders: []retry.ResetHeader{{Name: "Retry-After"}},
			}),
			steps: []step{{status: 429, header: http.Header{"Retry-After": {"1"}}}, ok},
		},

		"protocol-error":             {steps: []step{garbage}},
		"protocol-error-retry-5xx":   {policies: r(quick("5xx", 1)), steps: []step{garbage, ok}},
		"reset-after-headers":        {steps: []step{cut}},
		"reset-no-retry":             {steps: []step{reset}},
		"fin-no-retry":               {steps: []step{fin}},
		"connect-refused-no-retry":   {steps: []step{refuse}},
		"connect-timeout-no-retry":   {steps: []step{dialTimeout}},
		"timeout-global":             {policies: []policy.Policy{inAll(300 * time.Millisecond)}, steps: []step{hang}},
		"timeout-after-headers":      {policies: []policy.Policy{inAll(300 * time.Millisecond)}, steps: []step{{status: 200, body: "x", slow: time.Hour}}},
		"timeout-client-disconnects": {policies: []policy.Policy{inAll(3 * time.Second)}, steps: []step{hang}, caller: 150 * time.Millisecond},
		"timeout-global-cuts-retries": {
			policies: []policy.Policy{perTry(500*time.Millisecond, 150*time.Millisecond), quick("5xx", 5)},
			steps:    []step{hang},
		},
		"timeout-per-try-retry": {
			policies: []policy.Policy{perTry(0, 150*time.Millisecond), quick("5xx", 1)}, steps: []step{hang, ok},
		},
		"timeout-per-try-exhausted": {
			policies: []policy.Policy{perTry(0, 150*time.Millisecond), quick("5xx", 2)}, steps: []step{hang},
		},
		"timeout-per-try-idle": {
			policies: []policy.Policy{timeout.Config{Idle: 150 * time.Millisecond}, quick("5xx", 1)}, steps: []step{hang, ok},
		},
		"timeout-request-slow-upstream-ok": {
			policies: []policy.Policy{perTry(0, 150*time.Millisecond)}, steps: []step{hang},
		},
		"cb-max-requests": {
			policies: []policy.Policy{limits.Config{MaxRequests: 1}},
			steps:    []step{{status: 200, body: "ok", delay: 300 * time.Millisecond}}, calls: 2, apart: 100 * time.Millisecond,
		},
		"cb-max-requests-zero": {policies: []policy.Policy{limits.Config{MaxRequests: limits.Zero}}, steps: []step{ok}},
		"cb-max-retries-zero": {
			policies: []policy.Policy{quick("5xx", 1), limits.Config{MaxRetries: limits.Zero}}, steps: then(status503(1), ok),
		},
	}
}

// TestScenarios replays recorded scenarios over scripted round trippers, and compares every
// statistic that is not 0 with Envoy's. The recording has no scenarios that need a complete Envoy
// configuration.
func TestScenarios(t *testing.T) {
	var recorded map[string]map[string]uint64
	text, err := os.ReadFile("testdata/scenarios.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	played := scenarios()
	same := 0
	for _, name := range slices.Sorted(maps.Keys(recorded)) {
		passed := t.Run(name, func(t *testing.T) {
			sc, known := played[name]
			if !known {
				t.Fatal("got no replay of the scenario, want one")
			}
			synctest.Test(t, func(t *testing.T) {
				if diff := cmp.Diff(recorded[name], play(t, sc)); diff != "" {
					t.Errorf("statistics (-Envoy +here):\n%s", diff)
				}
			})
		})
		if passed {
			same++
		}
	}
	closing(t, "scenarios", len(recorded), same, 0)
}

// play makes the calls of a scenario and returns the statistics that are not 0. The value of a
// histogram is its number of values.
func play(t *testing.T, sc scenario) map[string]uint64 {
	t.Helper()
	sc.cfg.Registry = registry(t, Settings{})
	u, err := pillion.New("upstream", append([]policy.Policy{sc.cfg}, sc.policies...)...)
	if err != nil {
		t.Fatal(err)
	}
	rt := u.Transport(&script{steps: sc.steps})
	finished := make(chan struct{})
	calls := max(1, sc.calls)
	for range calls {
		go func() {
			defer func() { finished <- struct{}{} }()
			sc.call(t.Context(), rt)
		}()
		if sc.apart == 0 {
			<-finished
			continue
		}
		time.Sleep(sc.apart)
	}
	if sc.apart != 0 {
		for range calls {
			<-finished
		}
	}
	synctest.Wait()
	return nonzero(sc.cfg.Registry.Cluster("upstream"))
}

// call makes one call and reads its response to the end.
func (sc *scenario) call(ctx context.Context, rt http.RoundTripper) {
	if sc.caller != 0 {
		left, leave := context.WithCancel(ctx)
		time.AfterFunc(sc.caller, leave)
		ctx = left
	}
	method := sc.method
	if method == "" {
		method = http.MethodGet
	}
	var payload io.Reader
	if sc.payload != "" {
		payload = io.MultiReader(strings.NewReader(sc.payload)) // has no GetBody
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://upstream/", payload)
	if err != nil {
		panic(err)
	}
	if sc.alt != "" {
		req.Header.Set("x-envoy-upstream-alt-stat-name", sc.alt)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

func nonzero(c *ClusterStats) map[string]uint64 {
	found := map[string]uint64{}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name, r := range c.rows {
		var n uint64
		if r.kind == histogramKind {
			n = count(r.bins.bins(nil))
		} else {
			n = r.num.Value()
		}
		if n != 0 {
			found[name] = n
		}
	}
	return found
}
