package envoy

import (
	"fmt"
	"strings"
)

// Flags are Envoy's response flags: why a call failed. Several may be set together. They print in
// Envoy's short form and order ("URX,UF", "-" for none). Mirrors %RESPONSE_FLAGS% of Envoy's access
// log.
type Flags uint32

// The response flags, each with Envoy's long name.
const (
	DI    Flags = 1 << iota // DelayInjected: delayed on purpose
	URX                     // UpstreamRetryLimitExceeded: the call needed a retry, but the retries were used up
	UO                      // UpstreamOverflow: a breaker or a limit refused it
	UH                      // NoHealthyUpstream: no endpoint to send to
	UT                      // UpstreamRequestTimeout: a timeout fired, or the caller's deadline passed
	UR                      // UpstreamRemoteReset: the upstream reset the stream
	UF                      // UpstreamConnectionFailure: no connection could be made
	UC                      // UpstreamConnectionTermination: the connection ended before the response
	NR                      // NoRouteFound: no route for the request
	FI                      // FaultInjected: aborted on purpose
	RL                      // RateLimited: a rate limit refused it
	DC                      // DownstreamConnectionTermination: the caller was canceled or disconnected
	SI                      // StreamIdleTimeout: the stream was idle for too long
	UMSDR                   // UpstreamMaxStreamDurationReached: the stream lived too long
	UPE                     // UpstreamProtocolError: the upstream violated the protocol
	NC                      // NoClusterFound: the route names an unknown cluster
	DF                      // DnsResolutionFailed: the name could not be resolved
)

// flagNames is in the order of the bits, which is the order in which they print.
//
//nolint:gochecknoglobals // a table that nothing writes
var flagNames = [...]struct{ short, long string }{
	{"DI", "DelayInjected"},
	{"URX", "UpstreamRetryLimitExceeded"},
	{"UO", "UpstreamOverflow"},
	{"UH", "NoHealthyUpstream"},
	{"UT", "UpstreamRequestTimeout"},
	{"UR", "UpstreamRemoteReset"},
	{"UF", "UpstreamConnectionFailure"},
	{"UC", "UpstreamConnectionTermination"},
	{"NR", "NoRouteFound"},
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

// String returns Envoy's short form, such as "URX,UF", "-" if no flag is set.
func (f Flags) String() string {
	return f.join(func(i int) string { return flagNames[i].short })
}

// Long returns Envoy's long form, such as "UpstreamRetryLimitExceeded,UpstreamConnectionFailure".
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
