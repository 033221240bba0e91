package envoy

import (
	"strconv"
	"strings"
	"time"
)

// The headers that carry Envoy's settings and statistics, and gRPC's, in the canonical form of
// net/http. Metadata of gRPC ignores case.
const (
	AltStatNameHeader       = "X-Envoy-Upstream-Alt-Stat-Name"
	AttemptCountHeader      = "X-Envoy-Attempt-Count"
	CanaryHeader            = "X-Envoy-Upstream-Canary"
	DownstreamClusterHeader = "X-Envoy-Downstream-Service-Cluster"
	DownstreamNodeHeader    = "X-Envoy-Downstream-Service-Node"
	ExpectedTimeoutHeader   = "X-Envoy-Expected-Rq-Timeout-Ms"
	FaultAbortHeader        = "X-Envoy-Fault-Abort-Request"
	FaultAbortGRPCHeader    = "X-Envoy-Fault-Abort-Grpc-Request"
	FaultAbortPercentHeader = "X-Envoy-Fault-Abort-Request-Percentage"
	FaultDelayHeader        = "X-Envoy-Fault-Delay-Request"
	FaultDelayPercentHeader = "X-Envoy-Fault-Delay-Request-Percentage"
	FaultRateHeader         = "X-Envoy-Fault-Throughput-Response"
	FaultRatePercentHeader  = "X-Envoy-Fault-Throughput-Response-Percentage"
	GRPCMessageHeader       = "Grpc-Message"
	GRPCStatusHeader        = "Grpc-Status"
	GRPCTimeoutHeader       = "Grpc-Timeout"
	HedgeHeader             = "X-Envoy-Hedge-On-Per-Try-Timeout"
	IsTimeoutRetryHeader    = "X-Envoy-Is-Timeout-Retry"
	MaxRetriesHeader        = "X-Envoy-Max-Retries"
	OverloadedHeader        = "X-Envoy-Overloaded"
	PerTryTimeoutHeader     = "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms"
	RateLimitedHeader       = "X-Envoy-Ratelimited"
	RetriableHeadersHeader  = "X-Envoy-Retriable-Header-Names"
	RetriableStatusHeader   = "X-Envoy-Retriable-Status-Codes"
	RetryGRPCOnHeader       = "X-Envoy-Retry-Grpc-On"
	RetryOnHeader           = "X-Envoy-Retry-On"
	TimeoutHeader           = "X-Envoy-Upstream-Rq-Timeout-Ms"
)

// Milliseconds formats a limit for a header, in milliseconds. It rounds up, and never returns 0,
// which would mean no limit.
func Milliseconds(d time.Duration) string {
	ms := d / time.Millisecond
	if d%time.Millisecond > 0 {
		ms++
	}
	return strconv.FormatInt(int64(max(1, ms)), 10)
}

// ExpectedTimeout parses the value of [ExpectedTimeoutHeader], in which a client names how long it
// waits. It is not ok for 0 and for anything but a number: as in Envoy, they mean no limit.
func ExpectedTimeout(value string) (limit time.Duration, ok bool) {
	ms, err := strconv.ParseUint(value, 10, 32)
	return time.Duration(ms) * time.Millisecond, err == nil && ms > 0
}

// InboundDeadline returns how long the client of a request waits for the response: the shorter of
// [ExpectedTimeoutHeader] and [GRPCTimeoutHeader]. It is not ok if the client named neither. get
// returns the value of a header, "" if it is absent.
func InboundDeadline(get func(name string) string) (limit time.Duration, ok bool) {
	expected, some := ExpectedTimeout(get(ExpectedTimeoutHeader))
	timeout, grpc := GRPCTimeout(get(GRPCTimeoutHeader))
	if some && (!grpc || expected < timeout) {
		return expected, true
	}
	return timeout, grpc
}

// longestGRPCTimeout keeps a deadline within the range of the clock, whatever a client sends.
const longestGRPCTimeout = 100 * 365 * 24 * time.Hour

// GRPCTimeout parses the value of [GRPCTimeoutHeader]: up to eight digits and a unit. It is not ok
// for anything else. It returns at most a century.
func GRPCTimeout(value string) (limit time.Duration, ok bool) {
	last := len(value) - 1
	if last < 1 || last > 8 {
		return 0, false
	}
	unit := grpcUnit(value[last])
	n, err := strconv.ParseUint(value[:last], 10, 32)
	if err != nil || unit == 0 {
		return 0, false
	}
	return time.Duration(min(n, uint64(longestGRPCTimeout/unit))) * unit, true //nolint:gosec // neither is negative
}

func grpcUnit(letter byte) time.Duration {
	switch letter {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

// IsGRPC reports whether a content type is gRPC's, by Envoy's rule: gRPC-Web is not.
func IsGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
