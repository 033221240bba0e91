package fault

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Zero is a MaxActiveFaults of zero, where the zero value means no limit.
const Zero = -1

// Config configures which faults are injected into which calls. It is a policy that must be outside
// retry, and should be outside timeout. Each upstream that uses it counts separately; use [New] for a
// MaxActiveFaults that several upstreams share. The zero value injects no faults. Each fault selects
// its share of the calls independently: a call can be delayed and then aborted. Mirrors Envoy's
// HTTPFault.
type Config struct {
	// Delay delays calls before they are sent. Nil means no delay. Mirrors delay.
	Delay *Delay `json:"delay,omitempty"`

	// Abort ends calls without sending them. Nil means no abort. Mirrors abort.
	Abort *Abort `json:"abort,omitempty"`

	// ResponseRateLimit slows the response bodies that an HTTP client reads. It does not affect
	// servers, gRPC, functions and upgraded connections. Nil means no limit. Mirrors
	// response_rate_limit.
	ResponseRateLimit *RateLimit `json:"response_rate_limit,omitempty"`

	// UpstreamCluster, if not empty, restricts faults to the upstream with this name. Mirrors
	// upstream_cluster.
	UpstreamCluster string `json:"upstream_cluster,omitempty"`

	// DownstreamNodes, if not empty, restricts faults to requests whose header
	// x-envoy-downstream-service-node is one of these names. An empty name is an error. Mirrors
	// downstream_nodes.
	DownstreamNodes []string `json:"downstream_nodes,omitempty"`

	// Headers, if not empty, restricts faults to requests that match all of these matchers. Mirrors
	// headers.
	Headers []envoy.HeaderMatcher `json:"headers,omitempty"`

	// MaxActiveFaults is the maximum number of concurrent calls with a fault. A call counts until its
	// response ends. At the limit, further calls have no fault. 0 means no limit; the constant Zero
	// means no faults; any other negative value is an error. Mirrors max_active_faults.
	MaxActiveFaults int `json:"max_active_faults,omitempty"`

	// Rand returns a uniform random number. It must be safe for concurrent use. Nil means
	// [math/rand/v2.Uint64].
	Rand func() uint64 `json:"-"`
}

// Delay configures how long calls are delayed. Exactly one of Fixed and Header must be set. Mirrors
// Envoy's FaultDelay.
type Delay struct {
	// Fixed is the delay; less than 1ms is an error. Mirrors fixed_delay.
	Fixed time.Duration `json:"fixed_delay,omitempty"`

	// Header makes the request header x-envoy-fault-delay-request the delay, in milliseconds. The
	// header x-envoy-fault-delay-request-percentage can lower the Numerator of Percentage. Invalid
	// values are ignored. The headers are forwarded. Mirrors header_delay.
	Header bool `json:"header_delay,omitempty"`

	// Percentage is the share of the calls that are delayed. The zero value means all calls, where
	// Envoy's means none. Mirrors percentage.
	Percentage envoy.Percent `json:"percentage,omitzero"`
}

// Abort configures the status with which calls are aborted. Exactly one of HTTPStatus, GRPCStatus and
// Header must be set. Mirrors Envoy's FaultAbort.
type Abort struct {
	// HTTPStatus is the HTTP status; a value outside 200 to 599 is an error. A gRPC call ends with the
	// corresponding gRPC status, such as 14 for 503. Mirrors http_status.
	HTTPStatus int `json:"http_status,omitempty"`

	// GRPCStatus is the gRPC status; a value outside 1 to 16 is an error. An HTTP request that is not
	// gRPC receives a response 200. Mirrors grpc_status.
	GRPCStatus int `json:"grpc_status,omitempty"`

	// Header makes the request header x-envoy-fault-abort-request the HTTP status or, without a valid
	// one, x-envoy-fault-abort-grpc-request the gRPC status. The header
	// x-envoy-fault-abort-request-percentage can lower the Numerator of Percentage. Invalid values are
	// ignored. The headers are forwarded. Mirrors header_abort.
	Header bool `json:"header_abort,omitempty"`

	// Percentage is the share of the calls that are aborted. The zero value means all calls, where
	// Envoy's means none. Mirrors percentage.
	Percentage envoy.Percent `json:"percentage,omitzero"`
}

// RateLimit configures the rate of response bodies. Exactly one of LimitKbps and Header must be set.
// Mirrors Envoy's FaultRateLimit.
type RateLimit struct {
	// LimitKbps is the rate in KiB per second; negative is an error. Every 50ms a part of the body
	// arrives. Mirrors fixed_limit.limit_kbps.
	LimitKbps int `json:"limit_kbps,omitempty"`

	// Header makes the request header x-envoy-fault-throughput-response the rate, in KiB per second.
	// The header x-envoy-fault-throughput-response-percentage can lower the Numerator of Percentage.
	// Invalid values are ignored. The headers are forwarded. Mirrors header_limit.
	Header bool `json:"header_limit,omitempty"`

	// Percentage is the share of the responses that are slowed. The zero value means all responses,
	// where Envoy's means none. Mirrors percentage.
	Percentage envoy.Percent `json:"percentage,omitzero"`
}

// Place returns a place outside retry and hedge policies.
func (Config) Place() policy.Place { return place() }

func place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "fault", Why: "would retry aborts, and the per-try timeout would end delays"}
}

// Wrap makes the counters of an upstream and wraps next with the faults.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	f, err := New(c)
	if err != nil {
		return nil, err
	}
	return f.Wrap(b, next)
}

// check returns an error for each invalid field.
func (c Config) check() error {
	bad := []error{c.Delay.check(), c.Abort.check(), c.ResponseRateLimit.check()}
	if c.MaxActiveFaults < 0 && c.MaxActiveFaults != Zero {
		bad = append(bad, fmt.Errorf("fault: Config.MaxActiveFaults: %d is negative; write 1 or more, 0 for no limit, or fault.Zero for no faults", c.MaxActiveFaults))
	}
	if slices.Contains(c.DownstreamNodes, "") {
		bad = append(bad, errors.New("fault: Config.DownstreamNodes: a name is empty; leave it out"))
	}
	return errors.Join(bad...)
}

func (d *Delay) check() error {
	if d == nil {
		return nil
	}
	why := ""
	switch {
	case d.Header && d.Fixed != 0, !d.Header && d.Fixed == 0:
		why = "Delay: set either Fixed or Header"
	case d.Fixed < time.Millisecond && !d.Header:
		why = fmt.Sprintf("Delay.Fixed: %v %s", d.Fixed, settings.Duration(d.Fixed, "leave out Delay for no delay"))
	}
	return badFields("Delay", why, d.Percentage)
}

func (a *Abort) check() error {
	if a == nil {
		return nil
	}
	why := ""
	switch {
	case count(a.HTTPStatus != 0, a.GRPCStatus != 0, a.Header) != 1:
		why = "Abort: set exactly one of HTTPStatus, GRPCStatus and Header"
	case a.HTTPStatus != 0 && !isHTTPStatus(uint64(a.HTTPStatus)): //nolint:gosec // a negative status becomes a large one
		why = fmt.Sprintf("Abort.HTTPStatus: %d is not within 200 and 599; write a status such as 503", a.HTTPStatus)
	case a.GRPCStatus != 0 && !isGRPCStatus(uint64(a.GRPCStatus)): //nolint:gosec // a negative status becomes a large one
		why = fmt.Sprintf("Abort.GRPCStatus: %d is not within 1 and 16; write a code such as 14 for UNAVAILABLE", a.GRPCStatus)
	}
	return badFields("Abort", why, a.Percentage)
}

func isHTTPStatus(n uint64) bool { return n >= 200 && n < 600 }
func isGRPCStatus(n uint64) bool { return n >= 1 && n <= 16 }

func (r *RateLimit) check() error {
	if r == nil {
		return nil
	}
	why := ""
	switch {
	case r.Header && r.LimitKbps != 0, !r.Header && r.LimitKbps == 0:
		why = "ResponseRateLimit: set either LimitKbps or Header"
	case r.LimitKbps < 0:
		why = fmt.Sprintf("ResponseRateLimit.LimitKbps: %d is negative; write a number of KiB per second", r.LimitKbps)
	}
	return badFields("ResponseRateLimit", why, r.Percentage)
}

// badFields joins the errors of a fault: why, if it is not "", and that of its Percentage p.
func badFields(field, why string, p envoy.Percent) error {
	var bad []error
	if why != "" {
		bad = append(bad, errors.New("fault: Config."+why))
	}
	if err := p.Check(); err != nil {
		bad = append(bad, fmt.Errorf("fault: Config.%s.Percentage.%w", field, err))
	}
	return errors.Join(bad...)
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}
