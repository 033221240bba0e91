package envoy

// Detail describes how an attempt ended, in Envoy's terms. It prints as Envoy's
// %RESPONSE_CODE_DETAILS%, and knows the local reply: the response that Envoy sends if it has none
// from the upstream. A nil *Detail means that nothing is known.
//
// Details are compared by pointer. A policy makes its own with [NewDetail], once and not for each
// call. A Detail is immutable and safe for concurrent use.
type Detail struct{ spec DetailSpec }

// DetailSpec describes a [Detail]. The zero value of each field means none.
type DetailSpec struct {
	// Text is Envoy's text, without spaces.
	Text string

	// Flags are the response flags of an attempt with this detail.
	Flags Flags

	// Status is the HTTP status of the local reply. Zero means that there is no local reply: the
	// upstream sent a response, or the caller was canceled.
	Status int

	// Body is the text of the local reply; only the reason if Reset is set.
	Body string

	// Reset puts Body at the end of Envoy's sentence about a connection that was reset.
	Reset bool

	// GRPC is the gRPC status code of the local reply. Zero means the code that Envoy sends in
	// place of Status.
	GRPC int

	// Injected makes the local reply visible to the caller: an HTTP client receives it even where
	// it would receive an error in place of a local reply.
	Injected bool

	// Unrouted means that no statistic of the upstream's responses counts the call, and that it has
	// no attempts if it was refused. Mirrors a local reply of Envoy's connection manager, of a
	// filter before the router, or of the router to a stream that took too long.
	Unrouted bool

	// Overloaded adds x-envoy-overloaded to the local reply.
	Overloaded bool

	// Counter is Envoy's name of the cluster statistic that counts refusals with this detail,
	// without the prefix "cluster.<name>.", such as upstream_rq_active_overflow.
	Counter string
}

// NewDetail returns a new Detail. It does not equal any other Detail.
func NewDetail(spec DetailSpec) *Detail { return &Detail{spec} }

const (
	beforeResponse = "upstream_reset_before_response_started"
	afterResponse  = "upstream_reset_after_response_started"
	timeoutBody    = "upstream request timeout"
)

// The details of attempts with and without a response. Policies that refuse attempts define
// their own.
//
//nolint:gochecknoglobals // constants of a type that Go has no constants of
var (
	// ViaUpstream: the upstream sent a response.
	ViaUpstream = NewDetail(DetailSpec{Text: "via_upstream"})
	// ConnectionRefused: nothing listens there.
	ConnectionRefused = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_connection_failure|delayed_connect_error:_Connection_refused}",
		Flags: UF, Status: 503, Body: "remote connection failure", Reset: true,
	})
	// ConnectionReset: the connection was reset while it was being made.
	ConnectionReset = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_connection_failure|delayed_connect_error:_Connection_reset_by_peer}",
		Flags: UF, Status: 503, Body: "remote connection failure", Reset: true,
	})
	// ConnectionFailure: no connection could be made for another reason (TLS, routing).
	ConnectionFailure = NewDetail(DetailSpec{
		Text:  beforeResponse + "{remote_connection_failure}",
		Flags: UF, Status: 503, Body: "remote connection failure", Reset: true,
	})
	// ConnectionTimeout: no connection was made in time.
	ConnectionTimeout = NewDetail(DetailSpec{
		Text:  beforeResponse + "{connection_timeout}",
		Flags: UF, Status: 503, Body: "connection timeout", Reset: true,
	})
	// DNSFailure: the name could not be resolved.
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
	// MalformedResponse: the response violates the protocol.
	MalformedResponse = NewDetail(DetailSpec{
		Text:  beforeResponse + "{protocol_error}",
		Flags: UPE, Status: 502, Body: "protocol error", Reset: true,
	})
	// ConnectionTerminationAfter: the connection was closed or reset within the response.
	ConnectionTerminationAfter = NewDetail(DetailSpec{Text: afterResponse + "{connection_termination}", Flags: UC})
	// RemoteResetAfter: the upstream sent RST_STREAM within the response.
	RemoteResetAfter = NewDetail(DetailSpec{Text: afterResponse + "{remote_reset}", Flags: UR})
	// MalformedResponseAfter: the response was cut short or malformed.
	MalformedResponseAfter = NewDetail(DetailSpec{Text: afterResponse + "{protocol_error}", Flags: UPE})
	// ResponseTimeout: the total timeout fired, or the caller's deadline passed.
	ResponseTimeout = NewDetail(DetailSpec{Text: "response_timeout", Flags: UT, Status: 504, Body: timeoutBody})
	// PerTryTimeout: the per-try timeout fired.
	PerTryTimeout = NewDetail(DetailSpec{Text: "upstream_per_try_timeout", Flags: UT, Status: 504, Body: timeoutBody})
	// PerTryIdleTimeout: the idle timeout of one attempt fired.
	PerTryIdleTimeout = NewDetail(DetailSpec{Text: "upstream_per_try_idle_timeout", Flags: UT, Status: 504, Body: timeoutBody})
	// StreamDuration: the timeout of the whole stream fired.
	StreamDuration = NewDetail(DetailSpec{Text: "max_duration_timeout", Status: 504, Body: "downstream duration timeout", GRPC: 4, Unrouted: true})
	// StreamIdle: the idle timeout of the whole stream fired.
	StreamIdle = NewDetail(DetailSpec{Text: "stream_idle_timeout", Flags: SI, Status: 504, Body: "stream timeout", Unrouted: true})
	// CallerGone: the caller was canceled.
	CallerGone = NewDetail(DetailSpec{Text: "downstream_remote_disconnect", Flags: DC})
)

// known returns the description of d, zero for nil.
func (d *Detail) known() DetailSpec {
	if d == nil {
		return DetailSpec{}
	}
	return d.spec
}

// Equal reports whether d and e are the same Detail. It is for packages that compare values,
// such as go-cmp.
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

// LocalStatus returns the HTTP status of the local reply, 0 if there is none.
func (d *Detail) LocalStatus() int {
	if d == nil {
		return 0
	}
	return d.spec.Status
}

// GRPCStatus returns the gRPC status code of the local reply, by Envoy's rule if d names none.
func (d *Detail) GRPCStatus() int {
	known := d.known()
	if known.GRPC != 0 {
		return known.GRPC
	}
	return GRPCStatus(known.Status)
}

// Injected reports whether an HTTP client receives the local reply even where it would receive an
// error.
func (d *Detail) Injected() bool { return d.known().Injected }

// Unrouted reports whether no statistic of the upstream's responses counts the call.
func (d *Detail) Unrouted() bool { return d != nil && d.spec.Unrouted }

// Overloaded reports whether the local reply has x-envoy-overloaded: nothing was sent to the
// upstream, because of a limit or an open breaker.
func (d *Detail) Overloaded() bool { return d != nil && d.spec.Overloaded }

// Counter returns the cluster statistic that counts refusals with this detail, "" for none.
func (d *Detail) Counter() string { return d.known().Counter }

// LocalReply returns the status and the text of the local reply; 0 and "" if there is none. The
// text depends on whether the call was retried.
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

// BeforeResponse returns the detail of the same failure before the response, if d is one within the
// response, else d. If only a 1xx response came before, a failure within the response has the local
// reply of one before it.
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

// AfterResponse returns the detail of the same failure within the response, if d is one before the
// response, else d.
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
