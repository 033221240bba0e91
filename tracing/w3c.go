package tracing

import "strings"

// The headers of W3C Trace Context.
const (
	TraceParentName = "Traceparent"
	TraceStateName  = "Tracestate"
)

// maxTraceState is the number of bytes of a tracestate that is sent on, the minimum of the
// recommendation.
const maxTraceState = 512

// ParseTraceParent parses a W3C traceparent as a trace header. Ids are mapped as AWS
// documents it: the trace 5759e988bd862e3fe1be46a994272793 is X-Ray's
// 1-5759e988-bd862e3fe1be46a994272793. The flag is the sampling decision. ok is false if
// the recommendation requires the header to be ignored. tracestate is kept in the Header;
// one that is over 512 bytes or cannot be sent is dropped.
func ParseTraceParent(traceparent, tracestate string) (h Header, ok bool) {
	version, rest, _ := strings.Cut(strings.TrimSpace(traceparent), "-")
	trace, rest, _ := strings.Cut(rest, "-")
	parent, flags, _ := strings.Cut(rest, "-")
	if !isLowerHex(version, 2) || version == "ff" || !isLowerHex(trace, 32) || !isLowerHex(parent, segmentIDLen) ||
		isZero(trace) || isZero(parent) {
		return Header{}, false
	}
	if version != "00" {
		flags, _, _ = strings.Cut(flags, "-") // later versions may have more
	}
	if !isLowerHex(flags, 2) {
		return Header{}, false
	}
	h = Header{Root: "1-" + trace[:8] + "-" + trace[8:], Parent: strings.Clone(parent), Sampled: NotSampled}
	if strings.IndexByte(hexDigits, flags[1])&1 != 0 {
		h.Sampled = Sampled
	}
	if isTraceState(tracestate) {
		h.State = tracestate
	}
	return h, true
}

// isTraceState reports whether s may be sent as a tracestate.
func isTraceState(s string) bool { return len(s) <= maxTraceState && sendable(s) }

// TraceParent returns the header as a W3C traceparent. It is "" if there is no decision, or
// if an id is illegal or consists of zeros, as the SDK's ids do in a trace that is not
// sampled.
func (h Header) TraceParent() string {
	if h.Sampled == Undecided || !isTraceID(h.Root) || !isSegmentID(h.Parent) || isZero(h.Parent) ||
		isZero(h.Root[2:10]+h.Root[11:]) {
		return ""
	}
	flags := "-00"
	if h.Sampled == Sampled {
		flags = "-01"
	}
	return strings.ToLower("00-" + h.Root[2:10] + h.Root[11:] + "-" + h.Parent + flags)
}

func isLowerHex(s string, length int) bool {
	return len(s) == length && isHex(s) && strings.ToLower(s) == s
}

func isZero(s string) bool { return strings.Trim(s, "0") == "" }
