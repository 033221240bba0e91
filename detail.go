package pillion

import "fmt"

// Detail says how an attempt ended, in Envoy's words. It prints as Envoy's
// %RESPONSE_CODE_DETAILS%, and knows the answer that Envoy would have given in
// the upstream's place.
type Detail uint8

// How an attempt can end.
const (
	NoDetail                   Detail = iota
	ViaUpstream                       // the upstream answered
	ConnectionRefused                 // nobody listens there
	ConnectionReset                   // closed in the moment in which it was made
	ConnectionFailure                 // no connection, for another reason (TLS, routing)
	ConnectionTimeout                 // no connection in time
	DNSFailure                        // the name was not resolved
	ConnectionTermination             // closed or reset before the answer
	RemoteReset                       // RST_STREAM before the answer
	RemoteRefusedStream               // RST_STREAM(REFUSED_STREAM)
	MalformedAnswer                   // what came was not the protocol
	ConnectionTerminationAfter        // closed or reset within the answer
	RemoteResetAfter                  // RST_STREAM within the answer
	MalformedAnswerAfter              // cut or broken within the answer
	Overflow                          // refused by a limit
	BreakerOpen                       // refused by an open circuit breaker, which Envoy has not
	ResponseTimeout                   // the total limit, or the caller's deadline
	TryTimeout                        // the limit of one try
	TryIdleTimeout                    // nothing came for too long within one try
	CallerGone                        // the caller cancelled
	NoHealthyUpstream                 // no endpoint
)

// detail is what is known of one Detail.
type detail struct {
	text       string
	flags      Flags
	status     int    // of the local reply, 0 when there is none
	body       string // of the local reply; the reason alone when reset is set
	reset      bool   // the body is Envoy's sentence about a reset, with body as its reason
	overloaded bool   // the local reply carries x-envoy-overloaded
}

const (
	beforeResponse = "upstream_reset_before_response_started"
	afterResponse  = "upstream_reset_after_response_started"
	timeoutBody    = "upstream request timeout"
)

//nolint:gochecknoglobals // a table that nothing writes
var details = [...]detail{
	NoDetail:    {},
	ViaUpstream: {text: "via_upstream"},
	ConnectionRefused: {
		text:  beforeResponse + "{remote_connection_failure|delayed_connect_error:_Connection_refused}",
		flags: UF, status: 503, body: "remote connection failure", reset: true,
	},
	ConnectionReset: {
		text:  beforeResponse + "{remote_connection_failure|delayed_connect_error:_Connection_reset_by_peer}",
		flags: UF, status: 503, body: "remote connection failure", reset: true,
	},
	ConnectionFailure: {
		text:  beforeResponse + "{remote_connection_failure}",
		flags: UF, status: 503, body: "remote connection failure", reset: true,
	},
	ConnectionTimeout: {
		text:  beforeResponse + "{connection_timeout}",
		flags: UF, status: 503, body: "connection timeout", reset: true,
	},
	DNSFailure: {text: "dns_resolution_failure", flags: DF, status: 503, body: "DNS resolution failure"},
	ConnectionTermination: {
		text:  beforeResponse + "{connection_termination}",
		flags: UC, status: 503, body: "connection termination", reset: true,
	},
	RemoteReset: {
		text:  beforeResponse + "{remote_reset}",
		flags: UR, status: 503, body: "remote reset", reset: true,
	},
	RemoteRefusedStream: {
		text:  beforeResponse + "{remote_refused_stream_reset}",
		flags: UR, status: 503, body: "remote refused stream reset", reset: true,
	},
	MalformedAnswer: {
		text:  beforeResponse + "{protocol_error}",
		flags: UPE, status: 502, body: "protocol error", reset: true,
	},
	ConnectionTerminationAfter: {text: afterResponse + "{connection_termination}", flags: UC},
	RemoteResetAfter:           {text: afterResponse + "{remote_reset}", flags: UR},
	MalformedAnswerAfter:       {text: afterResponse + "{protocol_error}", flags: UPE},
	Overflow: {
		text:  beforeResponse + "{overflow}",
		flags: UO, status: 503, body: "overflow", reset: true, overloaded: true,
	},
	BreakerOpen: {
		text:  "circuit_breaker_open",
		flags: UO, status: 503, body: "overflow", reset: true, overloaded: true,
	},
	ResponseTimeout:   {text: "response_timeout", flags: UT, status: 504, body: timeoutBody},
	TryTimeout:        {text: "upstream_per_try_timeout", flags: UT, status: 504, body: timeoutBody},
	TryIdleTimeout:    {text: "upstream_per_try_idle_timeout", flags: UT, status: 504, body: timeoutBody},
	CallerGone:        {text: "downstream_remote_disconnect", flags: DC},
	NoHealthyUpstream: {text: "no_healthy_upstream", flags: UH, status: 503, body: "no healthy upstream"},
}

// known is what is known of d: nothing, if there is no such Detail.
func (d Detail) known() detail {
	if int(d) >= len(details) {
		return detail{text: fmt.Sprintf("Detail(%d)", uint8(d))}
	}
	return details[d]
}

// String gives Envoy's text, such as "upstream_reset_before_response_started{overflow}".
func (d Detail) String() string { return d.known().text }

// Flags gives the response flags that go with d.
func (d Detail) Flags() Flags { return d.known().flags }

// LocalStatus is the HTTP status of the answer that Envoy gives in the
// upstream's place, 0 where there is none: the upstream answered, or the caller
// has gone.
func (d Detail) LocalStatus() int { return d.known().status }

// Overloaded reports whether that answer carries x-envoy-overloaded: nothing was
// asked of the upstream, because of a limit or an open breaker.
func (d Detail) Overloaded() bool { return d.known().overloaded }

// beforeResponseOf returns the detail of a failure before the response for that of a
// failure after it started. They have a local reply in common where only a 1xx response
// was there.
func beforeResponseOf(d Detail) Detail {
	switch d {
	case ConnectionTerminationAfter:
		return ConnectionTermination
	case RemoteResetAfter:
		return RemoteReset
	case MalformedAnswerAfter:
		return MalformedAnswer
	default:
		return d
	}
}

// afterResponseOf is the opposite of beforeResponseOf.
func afterResponseOf(d Detail) Detail {
	switch d {
	case ConnectionTermination:
		return ConnectionTerminationAfter
	case RemoteReset, RemoteRefusedStream:
		return RemoteResetAfter
	case MalformedAnswer:
		return MalformedAnswerAfter
	default:
		return d
	}
}

// localBody is the body of that answer. After a retry Envoy words it differently.
func (d Detail) localBody(retried bool) string {
	known := d.known()
	switch {
	case !known.reset:
		return known.body
	case retried:
		return "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: " + known.body
	}
	return "upstream connect error or disconnect/reset before headers. reset reason: " + known.body
}
