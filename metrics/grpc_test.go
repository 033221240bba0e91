package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/metrics"
)

// rpc is a gRPC call that comes to what it is told to.
type rpc struct {
	path string
	set  func(o *pillion.Outcome)
}

func (r rpc) Request() pillion.Request { return pillion.Request{Protocol: "grpc", Path: r.path} }
func (rpc) Unary() bool                { return true }
func (r rpc) Try(_ context.Context, _ *pillion.Call, o *pillion.Outcome) {
	r.set(o)
	if o.Err != nil && o.Is == 0 {
		o.Is = pillion.Invalid
	}
}
func (rpc) Explain(*pillion.Call, *pillion.Outcome, error)   {}
func (rpc) Discard(*pillion.Call, *pillion.Outcome)          {}
func (rpc) NewCall(*pillion.Call) *pillion.Call              { return &pillion.Call{} }
func (rpc) RequestHeader(string) []string                    { return nil }
func (rpc) Header(*pillion.Call) pillion.Header              { return nil }
func (rpc) ResponseHeader(*pillion.Outcome, string) []string { return nil }
func (rpc) Idempotent() bool                                 { return false }
func (rpc) Replayable() bool                                 { return false }
func (rpc) Messages() (sent, received uint64)                { return 2, 3 }

func countRPC(t *testing.T, g metrics.GRPC, calls ...rpc) *metrics.Cluster {
	t.Helper()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	g.Registry = registry
	u, err := pillion.New("recipes", g)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		u.Invoke(t.Context(), c)
	}
	_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }) // is not counted
	return registry.Cluster("recipes")
}

// TestGRPC counts a call by its method and status.
func TestGRPC(t *testing.T) {
	bad := errors.New("bad")
	answer := func(code int) func(*pillion.Outcome) {
		return func(o *pillion.Outcome) {
			if o.Detail, o.Code = pillion.ViaUpstream, code; code != 0 {
				o.Err = bad
			}
		}
	}
	local := func(is pillion.Condition, d pillion.Detail) func(*pillion.Outcome) {
		return func(o *pillion.Outcome) { o.Err, o.Is, o.Detail = bad, is, d }
	}
	tests := []struct {
		set  func(*pillion.Outcome)
		want int
	}{
		{answer(0), 0},
		{answer(5), 5},
		{answer(16), 16},
		{answer(99), 2},
		{local(pillion.Cancelled, pillion.CallerGone), 1},
		{local(pillion.Timeout, pillion.ResponseTimeout), 4},
		{local(pillion.ConnectFailure|pillion.Timeout, pillion.ConnectionTimeout), 14},
		{local(pillion.Refused, pillion.Overflow), 14},
		{local(pillion.Reset, pillion.RemoteResetAfter), 14},
		{local(pillion.ProtocolError, pillion.MalformedAnswerAfter), 13},
		{local(pillion.Failed, pillion.NoDetail), 2},
	}
	for _, test := range tests {
		c := countRPC(t, metrics.GRPC{}, rpc{"/pkg.Svc/Method", test.set})
		success := uint64(0)
		if test.want == 0 {
			success = 1
		}
		for name, want := range map[string]uint64{
			strconv.Itoa(test.want): 1, "success": success, "failure": 1 - success, "total": 1, "request_message_count": 2, "response_message_count": 3,
		} {
			if got := c.Counter("grpc.pkg.Svc.Method." + name).Value(); got != want {
				t.Errorf("status %d: %s: got %d, want %d", test.want, name, got, want)
			}
		}
	}
}

// TestGRPC_bounded counts methods beyond the bound together.
func TestGRPC_bounded(t *testing.T) {
	var calls []rpc
	for i := range 5 {
		calls = append(calls, rpc{fmt.Sprint("/pkg.Svc/M", i), func(o *pillion.Outcome) { o.Detail = pillion.ViaUpstream }})
	}
	calls = append(calls, rpc{"no method", calls[0].set})
	c := countRPC(t, metrics.GRPC{MaxMethods: 2}, calls...)
	if got := c.Counter("grpc.total").Value(); got != 4 {
		t.Errorf("grpc.total: got %d, want 4", got)
	}
	if got := c.Counter("grpc.pkg.Svc.M1.total").Value(); got != 1 {
		t.Errorf("M1: got %d, want 1", got)
	}
	if got := countRPC(t, metrics.GRPC{MaxMethods: -1}, calls...).Counter("grpc.total").Value(); got != uint64(len(calls)) {
		t.Errorf("without methods: got %d, want %d", got, len(calls))
	}
}
