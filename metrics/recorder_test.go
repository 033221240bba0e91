package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// responding returns a new response for each request.
type responding func(req *http.Request) (*http.Response, error)

func (f responding) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// response returns a response whose body ends with err.
func response(code, major int, err error) *http.Response {
	return &http.Response{
		StatusCode: code, ProtoMajor: major, Header: http.Header{},
		Body: io.NopCloser(io.MultiReader(strings.NewReader("soup"), failing{err})),
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// send makes a request through rt and reads the response to its end.
func send(t *testing.T, rt http.RoundTripper, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// TestOddCodes checks that an invalid HTTP status counts as unknown, as in Envoy.
func TestOddCodes(t *testing.T) {
	for code, name := range map[int]string{
		0: "unknown", 7: "unknown", 42: "unknown", 99: "unknown", 100: "100", 200: "200", 599: "599", 600: "unknown", 999: "unknown",
	} {
		r := registry(t, Settings{})
		u := upstream(t, Config{Registry: r})
		send(t, u.Transport(responding(func(*http.Request) (*http.Response, error) { return response(code, 1, io.EOF), nil })))
		want := map[string]uint64{"upstream_rq_total": 1, "upstream_rq_completed": 1, "upstream_rq_time": 1, "upstream_rq_" + name: 1}
		if name != "unknown" {
			want["upstream_rq_"+name[:1]+"xx"] = 1
		}
		if diff := cmp.Diff(want, withoutInternal(nonzero(r.Cluster("recipes")))); diff != "" {
			t.Errorf("%03d (-want +got):\n%s", code, diff)
		}
	}
}

// TestPanic ends calls without an outcome. They do not count in the times of completed calls, and
// later calls are counted.
func TestPanic(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r, TimeoutBudget: true}, GRPC{Registry: r}, timeout.Config{Total: time.Minute}, retry.Config{NumRetries: 1})
	rt := u.Transport(responding(func(*http.Request) (*http.Response, error) { panic("soup") }))
	for name, call := range map[string]func(){
		"a function that panics": func() {
			_, _ = pillion.Do(context.Background(), u, func(context.Context) (int, error) { panic("soup") })
		},
		"a function that exits its goroutine": func() {
			_, _ = pillion.Do(context.Background(), u, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		},
		"a transport that panics": func() { send(t, rt) },
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			call()
		}()
		<-done
		found := nonzero(r.Cluster("recipes"))
		for _, stat := range []string{"upstream_rq_time", "upstream_rq_completed", "upstream_rq_timeout_budget_percent_used"} {
			if found[stat] != 0 {
				t.Errorf("%s: got %d of %s, want 0", name, found[stat], stat)
			}
		}
	}
	before := nonzero(r.Cluster("recipes"))
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	found := nonzero(r.Cluster("recipes"))
	for _, stat := range []string{"upstream_rq_time", "upstream_rq_completed", "upstream_rq_200", "upstream_rq_timeout_budget_percent_used"} {
		if found[stat] != 1 {
			t.Errorf("afterwards: got %d of %s, want 1", found[stat], stat)
		}
	}
	if found["upstream_rq_total"] != before["upstream_rq_total"]+1 {
		t.Errorf("afterwards: got a total of %d, want one more than %d", found["upstream_rq_total"], before["upstream_rq_total"])
	}
	if found["upstream_rq_active"] != before["upstream_rq_active"] {
		t.Errorf("afterwards: got %d active, want %d as before", found["upstream_rq_active"], before["upstream_rq_active"])
	}
}

// TestTotal_unconnected checks that an attempt counts only if it had a connection, however it ended.
func TestTotal_unconnected(t *testing.T) {
	for name, connects := range map[string]bool{"no connection": false, "a connection": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := registry(t, Settings{})
				u := upstream(t, Config{Registry: r}, timeout.Config{Total: time.Second})
				send(t, u.Transport(responding(func(req *http.Request) (*http.Response, error) {
					trace := httptrace.ContextClientTrace(req.Context())
					trace.GetConn("recipes:80")
					if connects {
						trace.GotConn(httptrace.GotConnInfo{})
					}
					<-req.Context().Done()
					return nil, req.Context().Err()
				})))
				found := nonzero(r.Cluster("recipes"))
				if got, want := found["upstream_rq_total"], map[bool]uint64{true: 1}[connects]; got != want || found["upstream_rq_timeout"] != 1 {
					t.Errorf("got a total of %d, and %d timeouts, want %d and 1", got, found["upstream_rq_timeout"], want)
				}
			})
		})
	}
}

// TestTimeoutBudget checks the share of its timeout that each attempt and each call used.
func TestTimeoutBudget(t *testing.T) {
	const second = time.Second
	perTry := func(d time.Duration) timeout.Config { return timeout.Config{Total: 100 * second, PerTry: d} }
	again := retry.Config{On: "5xx", NumRetries: 1, BaseInterval: second, MaxInterval: second}
	for _, tc := range []struct {
		name     string
		policies []policy.Policy
		steps    []step
		tries    []uint64 // lowest values of the bins
		call     []uint64
	}{
		{"one attempt", []policy.Policy{perTry(20 * second)}, []step{{status: 200, delay: 5 * second}}, []uint64{25}, []uint64{5}},
		{"a retry", []policy.Policy{perTry(20 * second), again}, []step{{status: 503, delay: 5 * second}, ok}, []uint64{0, 25}, nil},
		{"no timeout", []policy.Policy{timeout.Config{Total: timeout.Unlimited}}, []step{{status: 200, delay: 5 * second}}, []uint64{0}, []uint64{0}},
		{"no timeout of an attempt", []policy.Policy{timeout.Config{Total: 100 * second}}, []step{{status: 200, delay: 5 * second}}, []uint64{0}, []uint64{5}},
		{"a timeout of attempts above the total", []policy.Policy{timeout.Config{Total: 100 * second}, timeout.Config{Total: timeout.Unlimited, PerTry: 200 * second}}, []step{{status: 200, delay: 5 * second}}, []uint64{0}, []uint64{5}},
		{"the total timeout fires", []policy.Policy{timeout.Config{Total: 10 * second}}, []step{hang}, nil, []uint64{100}},
		{"the per-try timeout fires", []policy.Policy{perTry(20 * second)}, []step{hang}, []uint64{100}, []uint64{20}},
		{"silence", []policy.Policy{timeout.Config{Total: 100 * second, PerTry: 50 * second, Idle: 30 * second}}, []step{hang}, []uint64{60}, []uint64{30}},
		{"in the body", []policy.Policy{timeout.Config{Total: 10 * second, PerTry: 5 * second}}, []step{{status: 200, body: "x", slow: time.Hour}}, []uint64{200}, []uint64{100}},
		{"a reset", []policy.Policy{perTry(20 * second)}, []step{{err: reset.err, delay: 5 * second}}, []uint64{25}, nil},
		{"refused by limits", []policy.Policy{perTry(20 * second), limits.Config{MaxRequests: limits.Zero}}, []step{ok}, []uint64{0}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := registry(t, Settings{})
				u := upstream(t, append([]policy.Policy{Config{Registry: r, TimeoutBudget: true}}, tc.policies...)...)
				send(t, u.Transport(&script{steps: tc.steps}))
				synctest.Wait()
				c := r.Cluster("recipes")
				if got := lows(c.Histogram("upstream_rq_timeout_budget_per_try_percent_used")); !cmp.Equal(got, tc.tries) {
					t.Errorf("attempts: got %v, want %v", got, tc.tries)
				}
				got := lows(c.Histogram("upstream_rq_timeout_budget_percent_used"))
				if tc.name == "a retry" { // its back-off is random
					if len(got) != 1 || got[0] < 5 || got[0] > 7 {
						t.Errorf("the call: got %v, want 5 to 7", got)
					}
				} else if !cmp.Equal(got, tc.call) {
					t.Errorf("the call: got %v, want %v", got, tc.call)
				}
			})
		})
	}
}

// lows returns the lowest value of the bin of each recorded value.
func lows(h *Histogram) (all []uint64) {
	for _, b := range (histograms{h}).bins(nil) {
		for range b.count {
			all = append(all, uint64(b.low))
		}
	}
	return all
}

// TestBrokenOff counts broken streams and connections, by the HTTP version of the upstream.
func TestBrokenOff(t *testing.T) {
	fails := func(err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	hangs := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	body := func(major int, err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return response(200, major, err), nil }
	}
	local := map[string]uint64{"upstream_cx_destroy_local_with_active_rq": 1, "upstream_cx_destroy_with_active_rq": 1}
	remote := map[string]uint64{"upstream_cx_destroy_remote_with_active_rq": 1, "upstream_cx_destroy_with_active_rq": 1}
	malformed := func(in map[string]uint64) map[string]uint64 {
		out := maps.Clone(in)
		out["upstream_cx_protocol_error"] = 1
		return out
	}
	for _, tc := range []struct {
		name  string
		major int // of an earlier response, 0 for none
		serve func(*http.Request) (*http.Response, error)
		want  map[string]uint64
	}{
		{"a good response", 1, body(1, io.EOF), nil},
		{"refused", 1, fails(refuse.err), nil},
		{"HTTP/1, reset", 1, fails(reset.err), remote},
		{"HTTP/1, closed", 1, fails(io.EOF), remote},
		{"HTTP/1, timed out", 1, hangs, local},
		{"HTTP/1, malformed", 1, fails(garbage.err), malformed(local)},
		{"HTTP/1, cut short", 1, body(1, io.ErrUnexpectedEOF), malformed(remote)},
		{"HTTP/1, reset in the body", 1, body(1, syscall.ECONNRESET), malformed(remote)},
		{"HTTP/2, timed out", 2, hangs, map[string]uint64{"upstream_rq_tx_reset": 1}},
		{"HTTP/2, reset", 2, fails(errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer")), map[string]uint64{"upstream_rq_rx_reset": 1}},
		{"HTTP/2, reset in the body", 0, body(2, errors.New("stream error: stream ID 1; CANCEL; received from peer")), map[string]uint64{"upstream_rq_rx_reset": 1}},
		{"HTTP/2, closed", 2, fails(io.EOF), nil},
		{"unknown, timed out", 0, hangs, nil},
	} {
		for _, dials := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, connections counted: %v", tc.name, dials), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := registry(t, Settings{})
					c := r.Cluster("recipes")
					if dials {
						c.connections()
					}
					u := upstream(t, Config{Registry: r}, timeout.Config{Total: time.Second})
					if tc.major != 0 {
						send(t, u.Transport(responding(body(tc.major, io.EOF))))
					}
					send(t, u.Transport(responding(tc.serve)))
					got := map[string]uint64{}
					for name, n := range nonzero(c) {
						if strings.HasPrefix(name, "upstream_cx_") || strings.HasSuffix(name, "x_reset") {
							got[name] = n
						}
					}
					want := map[string]uint64{}
					for name, n := range tc.want {
						if dials || !strings.HasPrefix(name, "upstream_cx_") {
							want[name] = n
						}
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestCallerNames_long checks that names longer than the limit are ignored.
func TestCallerNames_long(t *testing.T) {
	r := registry(t, Settings{})
	rt := upstream(t, Config{Registry: r, CallerStatNames: true}).Transport(stub(""))
	for _, n := range []int{1, maxName, maxName + 1, 1 << 20} {
		send(t, rt, envoy.AltStatNameHeader, strings.Repeat("x", n))
	}
	names := 0
	for name := range nonzero(r.Cluster("recipes")) {
		if strings.HasPrefix(name, "x") && strings.HasSuffix(name, ".internal.upstream_rq_200") {
			names++
		}
		if len(name) > maxName+100 {
			t.Errorf("got a name of %d bytes, want it ignored", len(name))
		}
	}
	if names != 2 {
		t.Errorf("got %d names, want 2", names)
	}
}

// TestTwice checks that counting an upstream twice in a cluster is an error.
func TestTwice(t *testing.T) {
	r := registry(t, Settings{})
	for name, policies := range map[string][]policy.Policy{
		"the same twice":      {Config{Registry: r}, Config{Registry: r}},
		"one name":            {Config{Registry: r, StatName: "x"}, Config{Registry: r, StatName: "x", External: true}},
		"the upstream's name": {Config{Registry: r, StatName: "recipes"}, limits.Config{}, Config{Registry: r}},
		"names shown alike":   {Config{Registry: r, StatName: "a:b"}, Config{Registry: r, StatName: "a_b"}},
		"the default":         {Config{}, Config{Registry: Default()}},
	} {
		_, err := pillion.New("recipes", policies...)
		if err == nil || !strings.Contains(err.Error(), "metrics: Config.StatName: ") || !strings.Contains(err.Error(), "or set another") {
			t.Errorf("%s: got %v, want an error that names Config.StatName", name, err)
		}
	}
	u := upstream(t, Config{Registry: r}, Config{Registry: r, StatName: "all"}, GRPC{Registry: r}, Config{Registry: registry(t, Settings{})})
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"recipes", "all"} {
		if got := nonzero(r.Cluster(name))["upstream_rq_total"]; got != 1 {
			t.Errorf("%s: got %d, want 1", name, got)
		}
	}
}

// TestNoRegistry uses a nil Registry, which means the default, and the zero Registry.
func TestNoRegistry(t *testing.T) {
	var none *Registry
	none.Cluster("no-registry").Counter("upstream_rq_total").Inc()
	if got := page(t, none, "/stats?filter=no-registry"); got != "cluster.no-registry.upstream_rq_total: 1\n" {
		t.Errorf("got %q, want the statistics of the default registry", got)
	}
	none.Remove("no-registry")
	if got := page(t, Default(), "/stats?filter=no-registry"); got != "" {
		t.Errorf("removed: got %q", got)
	}
	var zero Registry
	u := upstream(t, Config{Registry: &zero}, GRPC{Registry: &zero})
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	zero.Remove("other")
	if got := nonzero(zero.Cluster("recipes"))["upstream_rq_total"]; got != 1 {
		t.Errorf("the zero registry: got %d, want 1", got)
	}
	validPrometheus(t, page(t, &zero, "/stats/prometheus"))
}
