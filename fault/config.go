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

// Zero is a number of zero where zero means the default.
const Zero = -1

// Config says which faults are injected into which calls. It is a policy, to stand outside retry
// and timeout. The zero value injects none. Faults are drawn independently of each other: a call
// may be delayed and then aborted. It mirrors Envoy's HTTPFault.
type Config struct {
	// Delay holds calls up before they are sent. Nil means no delay. Mirrors delay.
	Delay *Delay `json:"delay,omitempty"`

	// Abort ends calls in place of sending them. Nil means no abort. Mirrors abort.
	Abort *Abort `json:"abort,omitempty"`

	// ResponseRateLimit slows the bodies of the responses that an HTTP client gets. It has no
	// effect on other calls, and none on an upgraded connection. Nil means no limit.
	// Mirrors response_rate_limit.
	ResponseRateLimit *RateLimit `json:"response_rate_limit,omitempty"`

	// UpstreamCluster is the name of the only upstream whose calls get faults. Empty means any.
	// Mirrors upstream_cluster.
	UpstreamCluster string `json:"upstream_cluster,omitempty"`

	// DownstreamNodes, if there are any, limit faults to requests whose header
	// x-envoy-downstream-service-node is one of them. Mirrors downstream_nodes.
	DownstreamNodes []string `json:"downstream_nodes,omitempty"`

	// Headers, if there are any, limit faults to requests that all of them match.
	// Mirrors headers.
	Headers []envoy.HeaderMatcher `json:"headers,omitempty"`

	// MaxActiveFaults is how many calls with a fault may be under way at a time; further ones
	// get none. A call counts to the end of its response. 0 means no such limit, the constant Zero no
	// fault at all, any other negative value is an error. Mirrors max_active_faults.
	MaxActiveFaults int `json:"max_active_faults,omitempty"`

	// Rand returns uniform random numbers. It must be safe for concurrent use. Nil means
	// [math/rand/v2.Uint64].
	Rand func() uint64 `json:"-"`
}

// Delay says how long calls are held up, and which share of them. One of Fixed and Header must be
// set. Mirrors Envoy's FaultDelay.
type Delay struct {
	// Fixed is how long. Less than 1ms is an error. Mirrors fixed_delay.
	Fixed time.Duration `json:"fixed_delay,omitempty"`

	// Header lets the request say it, in milliseconds, in x-envoy-fault-delay-request, and lower
	// the numerator of Percentage in x-envoy-fault-delay-request-percentage. What cannot be read is
	// ignored. The headers are sent on. Mirrors header_delay.
	Header bool `json:"header_delay,omitempty"`

	// Percentage is the share of the calls. The zero value is all of them, where Envoy's is none.
	Percentage envoy.Percent `json:"percentage,omitzero"`
}

// Abort says with which status calls end, and which share of them. One of HTTPStatus, GRPCStatus
// and Header must be set. Mirrors Envoy's FaultAbort.
type Abort struct {
	// HTTPStatus is the status, from 200 to 599. A gRPC call gets the gRPC status that stands for
	// it: 14 for 503. Mirrors http_status.
	HTTPStatus int `json:"http_status,omitempty"`

	// GRPCStatus is the gRPC status, from 1 to 16. An HTTP request that is not gRPC gets a 200.
	// Mirrors grpc_status.
	GRPCStatus int `json:"grpc_status,omitempty"`

	// Header lets the request say it: in x-envoy-fault-abort-request the HTTP status, or in
	// x-envoy-fault-abort-grpc-request the gRPC status, and lower the numerator of Percentage in
	// x-envoy-fault-abort-request-percentage. What is no such status is ignored. The headers are
	// sent on. Mirrors header_abort.
	Header bool `json:"header_abort,omitempty"`

	// Percentage is the share of the calls. The zero value is all of them, where Envoy's is none.
	Percentage envoy.Percent `json:"percentage,omitzero"`
}

// RateLimit says how fast responses are, and which share of them. One of LimitKbps and Header must
// be set. Mirrors Envoy's FaultRateLimit.
type RateLimit struct {
	// LimitKbps is the rate in KiB a second. The body arrives in parts, each of what comes in 50ms.
	// Mirrors fixed_limit.limit_kbps.
	LimitKbps int `json:"limit_kbps,omitempty"`

	// Header lets the request say it, in x-envoy-fault-throughput-response, and lower the numerator
	// of Percentage in x-envoy-fault-throughput-response-percentage. What cannot be read is
	// ignored. The headers are sent on. Mirrors header_limit.
	Header bool `json:"header_limit,omitempty"`

	// Percentage is the share of the calls. The zero value is all of them, where Envoy's is none.
	Percentage envoy.Percent `json:"percentage,omitzero"`
}

// Place is outside of what retries or hedges.
func (Config) Place() policy.Place { return place() }

func place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "fault", Why: "would have its aborts retried, and its delays ended by the limit of one attempt"}
}

// Wrap injects faults into the calls of one upstream.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	f, err := New(c)
	if err != nil {
		return nil, err
	}
	return f.Wrap(b, next)
}

// check reports each bad field.
func (c Config) check() error {
	bad := []error{c.Delay.check(), c.Abort.check(), c.ResponseRateLimit.check()}
	if c.MaxActiveFaults < 0 && c.MaxActiveFaults != Zero {
		bad = append(bad, fmt.Errorf("fault: Config.MaxActiveFaults: %d is negative; write 1 or more, 0 for no limit, or fault.Zero for no fault", c.MaxActiveFaults))
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
		why = "write one of Fixed and Header"
	case d.Fixed < time.Millisecond && !d.Header:
		why = fmt.Sprintf("Fixed %v %s", d.Fixed, settings.Duration(d.Fixed, "leave out Delay for no delay"))
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
		why = "write one of HTTPStatus, GRPCStatus and Header"
	case a.HTTPStatus != 0 && !isHTTPStatus(uint64(a.HTTPStatus)): //nolint:gosec // a negative one is large, and wrong too
		why = fmt.Sprintf("HTTPStatus %d is not within 200 and 599; write a status such as 503", a.HTTPStatus)
	case a.GRPCStatus != 0 && !isGRPCStatus(uint64(a.GRPCStatus)): //nolint:gosec // likewise
		why = fmt.Sprintf("GRPCStatus %d is not within 1 and 16; write a code such as 14 for UNAVAILABLE", a.GRPCStatus)
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
		why = "write one of LimitKbps and Header"
	case r.LimitKbps < 0:
		why = fmt.Sprintf("LimitKbps %d is negative; write how many KiB may pass in a second", r.LimitKbps)
	}
	return badFields("ResponseRateLimit", why, r.Percentage)
}

// badFields makes an error of what is wrong with a fault.
func badFields(field, why string, p envoy.Percent) error {
	var bad []error
	if why != "" {
		bad = append(bad, fmt.Errorf("fault: Config.%s: %s", field, why))
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
