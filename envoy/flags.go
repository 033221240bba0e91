package envoy

import (
	"fmt"
	"strings"
)

// Flags are Envoy's response flags: why a call did not go as it should. They
// add up, and print in Envoy's short form and order ("URX,UF", "-" for none).
// Mirrors %RESPONSE_FLAGS% of Envoy's access log.
type Flags uint32

// The response flags, each with Envoy's long name.
const (
	URX   Flags = 1 << iota // UpstreamRetryLimitExceeded: it would have been retried, but the retries were used up
	UO                      // UpstreamOverflow: refused by a breaker or a limit
	UH                      // NoHealthyUpstream: no endpoint to send to
	UT                      // UpstreamRequestTimeout: a limit of ours, or the caller's deadline, ran out
	UR                      // UpstreamRemoteReset: the upstream reset the stream
	UF                      // UpstreamConnectionFailure: no connection could be made
	UC                      // UpstreamConnectionTermination: the connection ended before the answer
	NR                      // NoRouteFound: no route for the request
	DI                      // DelayInjected: delayed on purpose
	FI                      // FaultInjected: aborted on purpose
	RL                      // RateLimited: refused by a rate limit
	DC                      // DownstreamConnectionTermination: the caller went away
	SI                      // StreamIdleTimeout: nothing moved for too long
	UMSDR                   // UpstreamMaxStreamDurationReached: the stream lived too long
	UPE                     // UpstreamProtocolError: the upstream did not speak the protocol
	NC                      // NoClusterFound: the route names an unknown cluster
	DF                      // DnsResolutionFailed: the name could not be resolved
)

// flagNames is in the order of the bits, which is the order they print in.
//
//nolint:gochecknoglobals // a table that nothing writes
var flagNames = [...]struct{ short, long string }{
	{"URX", "UpstreamRetryLimitExceeded"},
	{"UO", "UpstreamOverflow"},
	{"UH", "NoHealthyUpstream"},
	{"UT", "UpstreamRequestTimeout"},
	{"UR", "UpstreamRemoteReset"},
	{"UF", "UpstreamConnectionFailure"},
	{"UC", "UpstreamConnectionTermination"},
	{"NR", "NoRouteFound"},
	{"DI", "DelayInjected"},
	{"FI", "FaultInjected"},
	{"RL", "RateLimited"},
	{"DC", "DownstreamConnectionTermination"},
	{"SI", "StreamIdleTimeout"},
	{"UMSDR", "UpstreamMaxStreamDurationReached"},
	{"UPE", "UpstreamProtocolError"},
	{"NC", "NoClusterFound"},
	{"DF", "DnsResolutionFailed"},
}

// Has reports whether all of flags are set in f.
func (f Flags) Has(flags Flags) bool { return f&flags == flags }

// String gives Envoy's short form, such as "URX,UF", or "-" when no flag is set.
func (f Flags) String() string {
	return f.join(func(i int) string { return flagNames[i].short })
}

// Long gives Envoy's long form, such as "UpstreamRetryLimitExceeded,UpstreamConnectionFailure".
func (f Flags) Long() string {
	return f.join(func(i int) string { return flagNames[i].long })
}

func (f Flags) join(name func(int) string) string {
	if f == 0 {
		return "-"
	}
	var names []string
	for i := range flagNames {
		if f.Has(1 << i) {
			names = append(names, name(i))
		}
	}
	if rest := f >> len(flagNames); rest != 0 {
		names = append(names, fmt.Sprintf("Flags(%#x)", uint32(rest<<len(flagNames))))
	}
	return strings.Join(names, ",")
}
