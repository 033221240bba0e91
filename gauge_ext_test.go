package pillion_test

import (
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// TestBuilder_stats pins that a policy receives the statistics of all others, inside and outside.
func TestBuilder_stats(t *testing.T) {
	offering := func(name string, value uint64) pillion.Policy {
		return policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
			s.Stat(policy.Stat{Kind: policy.Gauge, Name: name, Read: func() uint64 { return value }})
			return next, nil
		})
	}
	got := map[string]uint64{}
	showing := policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
		s.Stats(func(s policy.Stat) error {
			got[s.Name] = s.Read()
			return nil
		})
		return next, nil
	})
	newUpstream(t, offering("outside", 1), showing, offering("inside", 2), offering("innermost", 3))
	if diff := cmp.Diff(map[string]uint64{"outside": 1, "inside": 2, "innermost": 3}, got); diff != "" {
		t.Errorf("statistics (-want +got):\n%s", diff)
	}
}

// TestTransport_connectionReset pins that a connection that is reset while it is being made is
// classified and reported as in Envoy, as a connection that could not be made.
func TestTransport_connectionReset(t *testing.T) {
	u := newUpstream(t, pillion.Options{LocalReplies: true})
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNRESET)}
	})
	ctx, info := pillion.WithInfo(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := u.Transport(base).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	const want = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_reset_by_peer}"
	if resp.StatusCode != http.StatusServiceUnavailable || info.Flags() != envoy.UF || info.Detail().String() != want {
		t.Errorf("got %d, %v, %v, want 503, UF, %s", resp.StatusCode, info.Flags(), info.Detail(), want)
	}
}
