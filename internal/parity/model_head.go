package parity

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/envoy"
)

// refused returns the end of an attempt whose response headers are invalid; ok is false if
// they are valid.
func (m *model) refused(step Step, method string) (e ending, ok bool) {
	malformed := failed("UPE", "protocol_error", http.StatusBadGateway)
	h1, here := m.scenario.Upstream.Protocol == "http1", m.has(readsHeads)
	switch {
	case m.grpc() && m.has(findsMalformed) && malformedGRPC(step):
		return malformed, true
	case h1 && here:
		return malformed, refusedHere(step)
	case h1:
		return malformed, refusedByEnvoy(step)
	case m.has(readsLengths):
		return e, false
	case len(step.Headers)+1 > mostHeaders:
		return failed("UR", "remote_reset", http.StatusServiceUnavailable), true
	}
	return malformed, refusedLength(step, method)
}

// mostHeaders is the maximum number of headers that Envoy accepts.
const mostHeaders = 100

// refusedLength reports whether Envoy refuses the headers of an HTTP/2 response because of
// its length.
func refusedLength(step Step, method string) bool {
	length, there := step.length()
	switch {
	case !there || length == 0:
		return false
	case step.status() == http.StatusNoContent:
		return true
	}
	return method != http.MethodHead && step.status() != http.StatusNotModified && step.Body == "" && len(step.Trailers) == 0
}

// length returns the content-length in the headers of a step.
func (s Step) length() (n int, there bool) {
	n, err := strconv.Atoi(s.header("content-length"))
	return n, err == nil
}

// cut returns the flag and the reason of a response that is cut off behind its header. A
// response that has no body is complete.
func (m *model) cut(step Step, method string) (flag, reason string) {
	h2 := m.scenario.Upstream.Protocol == "h2"
	bodiless := method == http.MethodHead || !hasBody(step.status())
	switch {
	case !h2 && bodiless, h2 && method == http.MethodHead && m.has(readsLengths):
		return "", ""
	case !h2, bodiless && step.Body != "" && !m.has(readsLengths):
		return "UPE", "protocol_error"
	}
	return "UR", "remote_reset"
}

// brokenLength returns the end of an HTTP/2 response whose body does not have its
// content-length.
func (m *model) brokenLength(step Step, method string) (flag, reason string) {
	length, there := step.length()
	fits := !there || length == len(step.Body)
	bodiless := !hasBody(step.status())
	switch {
	case method == http.MethodHead:
	case m.has(readsLengths) && !m.grpc() && there && length < len(step.Body):
		return "UPE", "protocol_error"
	case m.has(readsLengths) && !m.grpc() && !fits:
		return "UC", "connection_termination"
	case m.has(readsLengths):
	case bodiless && step.Body != "", !bodiless && !fits:
		return "UPE", "protocol_error"
	}
	return "", ""
}

// refusedHere reports whether net/http refuses the headers of an HTTP/1 response.
func refusedHere(step Step) bool {
	return step.status() < 100 || step.status() > 999 || slices.ContainsFunc(step.Headers, func(f [2]string) bool {
		name := strings.ToLower(f[0])
		return !envoy.IsToken(strings.ReplaceAll(name, " ", "")) || strings.ContainsFunc(f[1], func(r rune) bool { return isControl(r) || r == '\r' }) ||
			(name == "content-length" && differs(step, f[1])) || (name == "transfer-encoding" && f[1] != "chunked")
	})
}

// differs reports whether a content-length is not that of the body.
func differs(step Step, value string) bool {
	return len(step.Trailers) == 0 && hasBody(step.status()) && value != strconv.Itoa(len(step.Body))
}

// refusedByEnvoy reports whether Envoy refuses the headers of an HTTP/1 response.
func refusedByEnvoy(step Step) bool {
	lengths, framed := 0, false
	for _, f := range step.Headers {
		switch name := strings.ToLower(f[0]); {
		case !envoy.IsToken(name) || strings.ContainsFunc(f[1], isControl):
			return true
		case name == "content-length":
			lengths++
			framed = framed || f[1] != "0"
		case name == "transfer-encoding":
			lengths++
			framed = true
		}
	}
	chunked := len(step.Trailers) > 0
	own := hasBody(step.status()) || chunked // it declares a length or is chunked
	switch {
	case step.status() == http.StatusNoContent && (framed || chunked), own && lengths > 0, step.status() < 100 && (step.Body != "" || chunked):
		return true
	}
	n := len(step.Headers)
	if own {
		n++
	}
	return n > mostHeaders
}

// isControl reports whether a header value must not contain a character. Envoy accepts CR.
func isControl(r rune) bool { return (r < ' ' && r != '\t' && r != '\r') || r == 0x7f }
