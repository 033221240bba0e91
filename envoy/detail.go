package envoy

// Detail says how an attempt ended, in Envoy's words. It prints as Envoy's
// %RESPONSE_CODE_DETAILS%, and knows the response that Envoy sends where it has none of the
// upstream. A nil *Detail means that nothing is known.
//
// Details are compared by pointer. A policy makes its own with [NewDetail], once and not for
// each call. A Detail is immutable and safe for concurrent use.
type Detail struct{ spec DetailSpec }

// DetailSpec is what a [Detail] knows. The zero value of each field means none.
type DetailSpec struct {
	// Text is Envoy's text, without spaces.
	Text string

	// Flags are the response flags of an attempt that ended so.
	Flags Flags

	// Status is the HTTP status of the local reply. Zero means that there is no local reply:
	// the upstream sent a response, or the caller is gone.
	Status int

	// Body is the text of the local reply, or the reason alone if Reset is set.
	Body string

	// Reset puts Body at the end of Envoy's sentence about a connection that was reset.
	Reset bool

	// GRPC is the gRPC status of the local reply. Zero means the one with which Envoy replies in
	// place of Status.
	GRPC int

	// Injected says that the local reply is what the caller is to see: an HTTP client gets it also
	// where it would get an error in place of a local reply.
	Injected bool

	// Unrouted says that the call ended before it came to the upstream's route. No statistic of
	// the upstream's responses counts it, and it has no attempts. Mirrors a local reply of one
	// of Envoy's filters.
	Unrouted bool

	// Overloaded adds x-envoy-overloaded to the local reply.
	Overloaded bool

	// Counter is the cluster statistic that counts refusals that end so, in Envoy's words and
	// without the prefix "cluster.<name>.", such as upstream_rq_active_overflow.
	Counter string
}

// NewDetail returns a new Detail. It is equal to no other one.
func NewDetail(spec DetailSpec) *Detail { return &Detail{spec} }

const (
	beforeResponse = "upstream_reset_before_response_started"
	afterResponse  = "upstream_reset_after_response_started"
	timeoutBody    = "upstream request timeout"
)

// How an attempt can end, with or without a response. Policies that refuse attempts have
// details of their own.
//
//nolint:gochecknoglobals // constants, which Go has none of this type
var (
	// ViaUpstream: the upstream sent a response.
	ViaUpstream = NewDetail(DetailSpec{Text: "via_upstream"})
	// ConnectionRefused: nothing listens there.
	ConnectionRefused = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_connection_failure|delayed_connect_error:_Connection_refused}",
		Flags: UF, Status: 503, Body: "remote connection failure", Reset: true,
	})
	// ConnectionReset: the connection was reset while it was made.
	ConnectionReset = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_connection_failure|delayed_connect_error:_Connection_reset_by_peer}",
		Flags: UF, Status: 503, Body: "remote connection failure", Reset: true,
	})
	// ConnectionFailure: there is no connection, for another reason (TLS, routing).
	ConnectionFailure = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_connection_failure}",
		Flags: UF, Status: 503, Body: "remote connection failure", Reset: true,
	})
	// ConnectionTimeout: there was no connection in time.
	ConnectionTimeout = NewDetail(DetailSpec{
		Text:  beforeResponse + "{connection_timeout}",
		Flags: UF, Status: 503, Body: "connection timeout", Reset: true,
	})
	// DNSFailure: the name was not resolved.
	DNSFailure = NewDetail(DetailSpec{Text: "dns_resolution_failure", Flags: DF, Status: 503, Body: "DNS resolution failure"})
	// NoHealthyUpstream: there is no endpoint to send to.
	NoHealthyUpstream = NewDetail(DetailSpec{
		Text: "no_healthy_upstream", Flags: UH, Status: 503, Body: "no healthy upstream", Counter: "upstream_cx_none_healthy",
	})
	// ConnectionTermination: the connection was closed or reset before the response.
	ConnectionTermination = NewDetail(DetailSpec{
		Text:  beforeResponse + "{connection_termination}",
		Flags: UC, Status: 503, Body: "connection termination", Reset: true,
	})
	// RemoteReset: the upstream sent RST_STREAM before the response.
	RemoteReset = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_reset}",
		Flags: UR, Status: 503, Body: "remote reset", Reset: true,
	})
	// RemoteRefusedStream: the upstream sent RST_STREAM with REFUSED_STREAM.
	RemoteRefusedStream = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_refused_stream_reset}",
		Flags: UR, Status: 503, Body: "remote refused stream reset", Reset: true,
	})
	// MalformedAnswer: what came was not the protocol.
	MalformedResponse = NewDetail(DetailSpec{
		Text:  beforeResponse + "{protocol_error}",
		Flags: UPE, Status: 502, Body: "protocol error", Reset: true,
	})
	// ConnectionTerminationAfter: the connection was closed or reset within the response.
	ConnectionTerminationAfter = NewDetail(DetailSpec{Text: afterResponse + "{connection_termination}", Flags: UC})
	// RemoteResetAfter: the upstream sent RST_STREAM within the response.
	RemoteResetAfter = NewDetail(DetailSpec{Text: afterResponse + "{remote_reset}", Flags: UR})
	// MalformedAnswerAfter: the response was cut short or broken.
	MalformedResponseAfter = NewDetail(DetailSpec{Text: afterResponse + "{protocol_error}", Flags: UPE})
	// ResponseTimeout: the total limit was reached, or the caller's deadline.
	ResponseTimeout = NewDetail(DetailSpec{Text: "response_timeout", Flags: UT, Status: 504, Body: timeoutBody})
	// TryTimeout: the limit of one attempt was reached.
	PerTryTimeout = NewDetail(DetailSpec{Text: "upstream_per_try_timeout", Flags: UT, Status: 504, Body: timeoutBody})
	// TryIdleTimeout: nothing came for too long within one attempt.
	PerTryIdleTimeout = NewDetail(DetailSpec{Text: "upstream_per_try_idle_timeout", Flags: UT, Status: 504, Body: timeoutBody})
	// CallerGone: the caller was canceled.
	CallerGone = NewDetail(DetailSpec{Text: "downstream_remote_disconnect", Flags: DC})
)

// known returns what d knows.
func (d *Detail) known() DetailSpec {
	if d == nil {
		return DetailSpec{}
	}
	return d.spec
}

// Equal reports whether d and e are one Detail. It is for packages that compare values, such
// as go-cmp.
func (d *Detail) Equal(e *Detail) bool { return d == e }

// String returns Envoy's text, such as "upstream_reset_before_response_started{overflow}".
func (d *Detail) String() string {
	if d == nil {
		return ""
	}
	return d.spec.Text
}

// Flags returns the response flags that go with d.
func (d *Detail) Flags() Flags {
	if d == nil {
		return 0
	}
	return d.spec.Flags
}

// LocalStatus is the HTTP status of the response that Envoy sends in the upstream's place, 0
// if it sends none.
func (d *Detail) LocalStatus() int {
	if d == nil {
		return 0
	}
	return d.spec.Status
}

// GRPCStatus is the gRPC status code of that response, by Envoy's rule if d names none.
func (d *Detail) GRPCStatus() int {
	known := d.known()
	if known.GRPC != 0 {
		return known.GRPC
	}
	return GRPCStatus(known.Status)
}

// Injected reports whether an HTTP client gets that response also where it would get an error.
func (d *Detail) Injected() bool { return d.known().Injected }

// Unrouted reports whether the call ended before it came to the upstream's route.
func (d *Detail) Unrouted() bool { return d != nil && d.spec.Unrouted }

// Overloaded reports whether that response has x-envoy-overloaded: nothing was sent to the
// upstream, because of a limit or an open breaker.
func (d *Detail) Overloaded() bool { return d != nil && d.spec.Overloaded }

// Counter is the cluster statistic that counts refusals with this detail, "" for none.
func (d *Detail) Counter() string { return d.known().Counter }

// LocalReply returns the status of the response that Envoy sends in the upstream's place, 0 if
// it sends none, and its text, which is another one if the call was retried.
func (d *Detail) LocalReply(retried bool) (status int, text string) {
	known := d.known()
	switch {
	case !known.Reset:
		text = known.Body
	case retried:
		text = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: " + known.Body
	default:
		text = "upstream connect error or disconnect/reset before headers. reset reason: " + known.Body
	}
	return known.Status, text
}

// BeforeResponse returns the detail of a failure before the response for that of a failure
// within it, and any other detail as it is. They have a local reply in common if only a 1xx
// response came before.
func (d *Detail) BeforeResponse() *Detail {
	switch d {
	case ConnectionTerminationAfter:
		return ConnectionTermination
	case RemoteResetAfter:
		return RemoteReset
	case MalformedResponseAfter:
		return MalformedResponse
	}
	return d
}

// AfterResponse is the opposite of BeforeResponse.
func (d *Detail) AfterResponse() *Detail {
	switch d {
	case ConnectionTermination:
		return ConnectionTerminationAfter
	case RemoteReset, RemoteRefusedStream:
		return RemoteResetAfter
	case MalformedResponse:
		return MalformedResponseAfter
	}
	return d
}
