package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestAbort pins the local reply to an HTTP client, the statistics, and that an abort is not retried
// and is no failure for a breaker.
func TestAbort(t *testing.T) {
	b, err := breaker.New(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	k := newKitchen(t, Config{Abort: &Abort{HTTPStatus: 503}}, retry.Config{On: "5xx"}, b)
	resp, info, err := k.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusServiceUnavailable || string(body) != "fault filter abort" || resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("got %d, %q and %v, want Envoy's local reply", resp.StatusCode, body, resp.Header)
	}
	if info.Flags() != envoy.FI || info.Detail().String() != "fault_filter_abort" || info.Attempts() != 0 || !info.Done() {
		t.Errorf("got %v, %v, %d attempts, done %v", info.Flags(), info.Detail(), info.Attempts(), info.Done())
	}
	injected, ok := errors.AsType[*Error](info.Err())
	if !ok || *injected != (Error{Upstream: "recipes", HTTPStatus: 503, GRPCStatus: 14}) || !errors.Is(info.Err(), ErrInjected) {
		t.Errorf("got %#v, want an Error", info.Err())
	}
	if n := k.requests.Load(); n != 0 || b.Status() != (breaker.Status{}) {
		t.Errorf("got %d requests and %+v in the breaker, want none", n, b.Status())
	}
	want := map[string]int{"fault.aborts_injected": 1}
	if diff := cmp.Diff(want, k.stats(t, "")); diff != "" {
		t.Errorf("statistics: %s", diff)
	}
}

// TestAbort_grpcOverHTTP pins the local reply to an HTTP request with the content type of gRPC, and
// that an abort with a gRPC status is a response 200 to any other request.
func TestAbort_grpcOverHTTP(t *testing.T) {
	tests := []struct {
		abort       Abort
		contentType string
		status      int
		grpc        string
	}{
		{Abort{HTTPStatus: 503}, "application/grpc", 200, "14"},
		{Abort{GRPCStatus: 8}, "application/grpc", 200, "8"},
		{Abort{GRPCStatus: 8}, "text/plain", 200, ""},
		{Abort{HTTPStatus: 418}, "text/plain", 418, ""},
	}
	for _, tc := range tests {
		k := newKitchen(t, Config{Abort: &tc.abort})
		resp, _, err := k.get(t.Context(), "Content-Type", tc.contentType)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != tc.status || resp.Header.Get("Grpc-Status") != tc.grpc {
			t.Errorf("%+v, %s: got %d and gRPC status %q", tc.abort, tc.contentType, resp.StatusCode, resp.Header.Get("Grpc-Status"))
		}
	}
}

// TestAbort_function pins that an aborted function is not run, and that Do returns the Error.
func TestAbort_function(t *testing.T) {
	k := newKitchen(t, Config{Abort: &Abort{GRPCStatus: 5}})
	_, err := pillion.Do(t.Context(), k.Upstream, func(context.Context) (int, error) {
		t.Error("the function was run")
		return 0, nil
	})
	if err == nil || err.Error() != "fault: recipes: aborted on purpose with gRPC status 5" {
		t.Errorf("got %v", err)
	}
}

// TestAbort_server pins that a server sends the status to its client.
func TestAbort_server(t *testing.T) {
	k := newKitchen(t, Config{Abort: &Abort{HTTPStatus: 418}})
	h, err := k.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") }))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if w.Code != 418 || w.Body.String() != "fault filter abort" {
		t.Errorf("got %d and %q", w.Code, w.Body)
	}
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	r.Header.Set("Content-Type", "application/grpc")
	h.ServeHTTP(w, r)
	if w.Code != 200 || w.Header().Get("Grpc-Status") != "2" {
		t.Errorf("gRPC: got %d and %v", w.Code, w.Header())
	}
}

// TestAbort_percentage pins that the share is selected with Rand.
func TestAbort_percentage(t *testing.T) {
	next := uint64(0)
	k := newKitchen(t, Config{
		Abort: &Abort{HTTPStatus: 500, Percentage: envoy.Percent{Numerator: 2, Denominator: envoy.TenThousand}},
		Rand:  func() uint64 { next++; return next - 1 },
	})
	for i := range 10_002 {
		want := 200
		if i%10_000 < 2 {
			want = 500
		}
		if got := k.status(t); got != want {
			t.Fatalf("call %d: got %d, want %d", i, got, want)
		}
	}
	if got := k.stats(t, "fault")["fault.aborts_injected"]; got != 4 {
		t.Errorf("got %d aborts, want 4", got)
	}
}

// TestHeaders pins which values of request headers are honored, and that the headers are forwarded.
func TestHeaders(t *testing.T) {
	const abort, share, grpc = "X-Envoy-Fault-Abort-Request", "X-Envoy-Fault-Abort-Request-Percentage", "X-Envoy-Fault-Abort-Grpc-Request"
	tests := []struct {
		name    string
		headers []string
		want    int
	}{
		{"nothing", nil, 200},
		{"status", []string{abort, "418"}, 418},
		{"blanks and a sign", []string{abort, " +418 "}, 418},
		{"first line", []string{abort, "418", abort, "500"}, 418},
		{"too large", []string{abort, "9999"}, 200},
		{"too small", []string{abort, "199"}, 200},
		{"not a number", []string{abort, "teapot"}, 200},
		{"percentage of zero", []string{abort, "418", share, "0"}, 200},
		{"percentage that is not a number", []string{abort, "418", share, "x"}, 418},
		{"percentage of 33 bits", []string{abort, "418", share, "4294967296"}, 418},
		{"percentage above the configured one", []string{abort, "418", share, "100"}, 418},
		{"gRPC status and an invalid HTTP status", []string{abort, "1000", grpc, "8", "Content-Type", "application/grpc"}, -8},
		{"HTTP status before gRPC status", []string{abort, "429", grpc, "8", "Content-Type", "application/grpc"}, -14},
		{"gRPC status that does not exist", []string{grpc, "17", "Content-Type", "application/grpc"}, 200},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			k := newKitchen(t, Config{Abort: &Abort{Header: true, Percentage: envoy.Percent{Numerator: 50}}, Rand: func() uint64 { return 49 }})
			k.reply = func(req *http.Request) (*http.Response, error) {
				if len(tc.headers) > 0 && req.Header.Get(tc.headers[0]) == "" {
					t.Error("the header was not forwarded")
				}
				return response(req, 200, http.NoBody), nil
			}
			resp, _, err := k.get(t.Context(), tc.headers...)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			got := resp.StatusCode
			if code := resp.Header.Get("Grpc-Status"); code != "" {
				_, _ = fmt.Sscan("-"+code, &got)
			}
			if got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// TestHeaders_ignored pins that headers have no effect unless they are configured.
func TestHeaders_ignored(t *testing.T) {
	k := newKitchen(t, Config{Abort: &Abort{HTTPStatus: 500, Percentage: envoy.Percent{Numerator: envoy.Never}}})
	if got := k.status(t, "X-Envoy-Fault-Abort-Request", "418", "X-Envoy-Fault-Abort-Request-Percentage", "100"); got != 200 {
		t.Errorf("got %d, want 200", got)
	}
}

// TestDelay pins that a delay does not count towards the total timeout, and how it is reported.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		listen := policy.Listener(func(_ context.Context, e policy.Event) {
			if e.Kind == policy.EventDelayed {
				waits = append(waits, e.BackOff.Wait)
			}
		})
		k := newKitchen(t, Config{Delay: &Delay{Fixed: 300 * time.Millisecond}}, timeout.Config{Total: 150 * time.Millisecond}, retry.Config{}, listen)
		began := time.Now()
		resp, info, err := k.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 300*time.Millisecond || resp.StatusCode != http.StatusOK {
			t.Errorf("got %d after %v, want 200 after 300ms", resp.StatusCode, took)
		}
		if got := k.stats(t, "fault")["fault.active_faults"]; got != 1 {
			t.Errorf("got %d active faults before the end of the body, want 1", got)
		}
		_ = resp.Body.Close()
		if info.Flags() != envoy.DI || info.Detail() != envoy.ViaUpstream || len(waits) != 1 || waits[0] != 300*time.Millisecond {
			t.Errorf("got %v, %v and waits %v", info.Flags(), info.Detail(), waits)
		}
		if diff := cmp.Diff(map[string]int{"fault.delays_injected": 1}, k.stats(t, "fault")); diff != "" {
			t.Errorf("statistics: %s", diff)
		}
	})
}

// TestDelay_thenAbort pins that a call with both faults counts as one active fault.
func TestDelay_thenAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKitchen(t, Config{Delay: &Delay{Fixed: time.Second}, Abort: &Abort{HTTPStatus: 500}, MaxActiveFaults: 1})
		resp, info, err := k.get(t.Context())
		if err != nil || resp.StatusCode != http.StatusInternalServerError || info.Flags() != envoy.DI|envoy.FI {
			t.Errorf("got %v, %v, %v", resp, info.Flags(), err)
		}
		want := map[string]int{"fault.delays_injected": 1, "fault.aborts_injected": 1}
		if diff := cmp.Diff(want, k.stats(t, "fault")); diff != "" {
			t.Errorf("statistics: %s", diff)
		}
	})
}

func TestDelay_header(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKitchen(t, Config{Delay: &Delay{Header: true}})
		for _, tc := range []struct {
			value, share string
			want         time.Duration
		}{{"120", "", 120 * time.Millisecond}, {"120", "0", 0}, {"0", "", 0}, {"", "", 0}, {"soon", "", 0}, {"18446744073709551615", "", longest}} {
			began := time.Now()
			k.status(t, "X-Envoy-Fault-Delay-Request", tc.value, "X-Envoy-Fault-Delay-Request-Percentage", tc.share)
			if took := time.Since(began); took != tc.want {
				t.Errorf("%q, %q: got %v, want %v", tc.value, tc.share, took, tc.want)
			}
		}
	})
}

// TestDelay_canceled pins that a delay ends when the caller is canceled, that the error has the
// caller's cause, and that the call is not counted.
func TestDelay_canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKitchen(t, Config{Delay: &Delay{Fixed: time.Hour}})
		cause := errors.New("lunch is over")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		began := time.Now()
		_, info, err := k.get(ctx)
		if took := time.Since(began); took != time.Second || !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
			t.Errorf("got %v after %v, want Canceled and its cause after 1s", err, took)
		}
		if info.Flags() != envoy.DI|envoy.DC || k.requests.Load() != 0 {
			t.Errorf("got %v and %d requests", info.Flags(), k.requests.Load())
		}
		if diff := cmp.Diff(map[string]int{"fault.delays_injected": 1}, k.stats(t, "")); diff != "" {
			t.Errorf("statistics: %s", diff)
		}
	})
}

// TestDelay_deadline pins that a delay ends at the caller's deadline, and when a total timeout outside
// fires.
func TestDelay_deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			caller, total time.Duration
			scope         policy.Scope
		}{
			"caller": {2 * time.Second, timeout.Unlimited, timeout.Caller},
			"total":  {time.Hour, time.Second, timeout.Total},
		} {
			k := newKitchen(t, timeout.Config{Total: tc.total}, Config{Delay: &Delay{Fixed: time.Minute}})
			ctx, cancel := context.WithTimeout(t.Context(), tc.caller)
			began := time.Now()
			_, info, err := k.get(ctx)
			cancel()
			limit, ok := errors.AsType[*timeout.Error](err)
			if !ok || limit.Scope != tc.scope || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v", name, err)
			}
			if took := time.Since(began); took >= time.Minute || info.Flags() != envoy.DI|envoy.UT {
				t.Errorf("%s: got %v after %v", name, info.Flags(), took)
			}
		}
	})
}

// TestDelay_disconnected pins that on a server a delay ends when the client disconnects.
func TestDelay_disconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKitchen(t, Config{Delay: &Delay{Fixed: time.Hour}})
		h, err := k.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") }))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		if took := time.Since(began); took != time.Second {
			t.Errorf("got %v, want 1s", took)
		}
	})
}

// TestMaxActiveFaults pins that calls at the limit have no fault, that a call counts until its response
// ends, and that upstreams share the limit of a Fault.
func TestMaxActiveFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := New(Config{Delay: &Delay{Fixed: time.Second}, MaxActiveFaults: 1})
		if err != nil {
			t.Fatal(err)
		}
		k, other := newKitchen(t, f), newKitchen(t, f)
		took := func(k *kitchen) (*http.Response, time.Duration) {
			began := time.Now()
			resp, _, err := k.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return resp, time.Since(began)
		}
		first, d := took(k)
		if d != time.Second {
			t.Errorf("first call: got %v, want 1s", d)
		}
		for _, k := range []*kitchen{k, other} {
			resp, took := took(k)
			if _ = resp.Body.Close(); took != 0 {
				t.Errorf("during an open response: got %v, want no delay", took)
			}
		}
		_ = first.Body.Close()
		resp, d := took(other)
		if _ = resp.Body.Close(); d != time.Second {
			t.Errorf("after the response: got %v, want 1s", d)
		}
		if got, want := k.stats(t, "fault"), map[string]int{"fault.delays_injected": 1, "fault.faults_overflow": 1}; !maps.Equal(got, want) {
			t.Errorf("statistics: got %v, want %v", got, want)
		}
	})
}

func TestMaxActiveFaults_none(t *testing.T) {
	k := newKitchen(t, Config{Abort: &Abort{HTTPStatus: 500}, MaxActiveFaults: Zero})
	if got := k.status(t); got != 200 {
		t.Errorf("got %d, want 200", got)
	}
	if got := k.stats(t, "fault"); got["fault.faults_overflow"] != 1 || len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// TestActiveFaults_panic pins that a call that panicked no longer counts as active.
func TestActiveFaults_panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKitchen(t, Config{Delay: &Delay{Fixed: time.Second}})
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic did not reach the caller")
				}
			}()
			_, _ = pillion.Do(t.Context(), k.Upstream, func(context.Context) (int, error) { panic("broken") })
		}()
		if got := k.stats(t, "fault.active_faults"); len(got) != 0 {
			t.Errorf("got %v, want none", got)
		}
	})
}

// TestMatches pins which calls have faults.
func TestMatches(t *testing.T) {
	abort := &Abort{HTTPStatus: 500}
	tests := []struct {
		name    string
		config  Config
		headers []string
		want    int
	}{
		{"this upstream", Config{UpstreamCluster: "recipes"}, nil, 500},
		{"another upstream", Config{UpstreamCluster: "users"}, nil, 200},
		{"all headers", Config{Headers: []envoy.HeaderMatcher{{Name: "X-Chaos", Exact: "yes"}, {Name: "X-Tenant"}}}, []string{"X-Chaos", "yes", "X-Tenant", "a"}, 500},
		{"one header of two", Config{Headers: []envoy.HeaderMatcher{{Name: "X-Chaos", Exact: "yes"}, {Name: "X-Tenant"}}}, []string{"X-Chaos", "yes"}, 200},
		{"node", Config{DownstreamNodes: []string{"a", "b"}}, []string{"X-Envoy-Downstream-Service-Node", "b"}, 500},
		{"another node", Config{DownstreamNodes: []string{"a", "b"}}, []string{"X-Envoy-Downstream-Service-Node", "c"}, 200},
		{"no node", Config{DownstreamNodes: []string{"a"}}, nil, 200},
		{"nothing configured", Config{}, nil, 500},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tc.config.Abort = abort
			if got := newKitchen(t, tc.config).status(t, tc.headers...); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// TestDownstreamClusters pins that faults are counted by downstream cluster, and that the number of
// clusters is bounded.
func TestDownstreamClusters(t *testing.T) {
	k := newKitchen(t, Config{Abort: &Abort{HTTPStatus: 500}})
	var calls sync.WaitGroup
	for i := range 2 * maxClusters {
		calls.Go(func() {
			_, _, _ = k.get(t.Context(), "X-Envoy-Downstream-Service-Cluster", fmt.Sprintf("shop%d", i))
			_, _, _ = k.get(t.Context(), "X-Envoy-Downstream-Service-Cluster", strings.Repeat("x", maxClusterName+1))
		})
	}
	calls.Wait()
	got := k.stats(t, ".shop")
	if len(got) != maxClusters {
		t.Errorf("got %d statistics, want %d", len(got), maxClusters)
	}
	for name, n := range got {
		if n != 1 || !strings.HasPrefix(name, "fault.shop") || !strings.HasSuffix(name, ".aborts_injected") {
			t.Errorf("got %s: %d", name, n)
		}
	}
	if n := k.stats(t, "fault")["fault.aborts_injected"]; n != 4*maxClusters {
		t.Errorf("got %d aborts, want %d", n, 4*maxClusters)
	}
}

func TestPlace(t *testing.T) {
	_, err := pillion.New("recipes", retry.Config{}, Config{})
	if err == nil || !strings.Contains(err.Error(), "retry outside fault would retry aborts") {
		t.Errorf("got %v, want an error of the order", err)
	}
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = pillion.New("recipes", retry.Config{}, f); err == nil {
		t.Error("a Fault inside retry: got no error")
	}
}

func TestConfig_check(t *testing.T) {
	tests := map[string]Config{
		"": {},
		"Config.Delay: set either Fixed or Header": {Delay: &Delay{}},
		"Config.Delay: set either Fixed or":        {Delay: &Delay{Fixed: time.Second, Header: true}},
		"Config.Delay.Fixed: -1ns is negative; write a duration such as 5*time.Second, or leave out Delay for no delay": {Delay: &Delay{Fixed: -1}},
		"Config.Delay.Fixed: 500ns is below 1ms; did you":                                                               {Delay: &Delay{Fixed: 500}},
		"Config.Delay.Percentage.Numerator: -7":                                                                         {Delay: &Delay{Fixed: time.Second, Percentage: envoy.Percent{Numerator: -7}}},
		"Config.Abort: set exactly one of":                                                                              {Abort: &Abort{}},
		"Config.Abort: set exactly one of HTTPStatus, GRPCStatus and Header":                                            {Abort: &Abort{HTTPStatus: 500, GRPCStatus: 2}},
		"Config.Abort.HTTPStatus: 199 is not within 200 and 599; write a status such as 503":                            {Abort: &Abort{HTTPStatus: 199}},
		"Config.Abort.HTTPStatus: -1":                                                                                   {Abort: &Abort{HTTPStatus: -1}},
		"Config.Abort.GRPCStatus: 17 is not within 1 and 16; write a code such as 14 for UNAVAILABLE":                   {Abort: &Abort{GRPCStatus: 17}},
		"Config.ResponseRateLimit: set either LimitKbps or Header":                                                      {ResponseRateLimit: &RateLimit{}},
		"Config.ResponseRateLimit.LimitKbps: -1 is negative; write a number of KiB per second":                          {ResponseRateLimit: &RateLimit{LimitKbps: -1}},
		"Config.MaxActiveFaults: -2 is negative; write 1 or more, 0 for no limit, or fault.Zero for no faults":          {MaxActiveFaults: -2},
		"Config.Headers[0]: Name is empty":                                                                              {Headers: []envoy.HeaderMatcher{{}}},
		"Config.DownstreamNodes: a name":                                                                                {DownstreamNodes: []string{""}},
	}
	for want, c := range tests {
		_, err := pillion.New("recipes", c)
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), "fault: "+want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestContract checks the contract of policies.
func TestContract(t *testing.T) {
	policytest.Policy(t, func() policy.Policy { return Config{Delay: &Delay{Fixed: time.Millisecond}} })
	policytest.Policy(t, func() policy.Policy {
		return Config{Abort: &Abort{HTTPStatus: 503, Percentage: envoy.Percent{Numerator: 50}}}
	})
}
