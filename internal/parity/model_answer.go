package parity

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// answer returns the response that the caller of a course receives.
func (m *model) answer(c *course) Answer {
	a := Answer{Case: c.name}
	switch {
	case c.end.gone:
		a.Error = "the caller was canceled"
		return a
	case c.end.code == 0:
		m.localAnswer(c, &a)
		return a
	case m.grpc():
		m.grpcAnswer(c, &a)
	default:
		m.httpAnswer(c, &a)
	}
	if !c.broke(m) {
		m.countAttempts(c, &a)
	}
	m.inform(c, &a)
	return a
}

// inform adds the informational responses that the caller sees.
func (m *model) inform(c *course, a *Answer) {
	for _, i := range c.end.step.Informational {
		if m.has(showsInformational) && !m.grpc() {
			a.Informational = append(a.Informational, i.Status)
		}
	}
}

// broke reports whether a gRPC caller receives an error of the library for a response that
// broke off.
func (c *course) broke(m *model) bool {
	return m.grpc() && c.end.after && m.has(reportsBroken) && m.has(countsNoAttemptsOfErrors)
}

// countAttempts adds the number of attempts, if the configuration asks for it.
func (m *model) countAttempts(c *course, a *Answer) {
	if m.parts.virtualHost.IncludeAttemptCountInResponse && a.Headers != nil {
		a.Headers["x-envoy-attempt-count"] = strconv.Itoa(c.made)
	}
}

// localAnswer adds the response that a proxy sends instead of the upstream.
func (m *model) localAnswer(c *course, a *Answer) {
	text := localText(c)
	a.Status, a.Headers = c.end.local, map[string]string{"content-type": "text/plain", "content-length": strconv.Itoa(len(text))}
	if c.request.Method != http.MethodHead {
		a.Body = text
	}
	if m.grpc() || isGRPCType(c.request.Headers["content-type"]) {
		a.Status, a.Body = http.StatusOK, ""
		a.Headers = statusHeaders(14, text)
		a.Headers["content-type"] = "application/grpc"
		if c.request.Method == http.MethodHead {
			delete(a.Headers, "grpc-message")
		}
	}
	if c.end.overflow && !m.parts.router.SuppressEnvoyHeaders {
		a.Headers["x-envoy-overloaded"] = "true"
	}
	if !m.grpc() || !m.has(countsNoAttemptsOfErrors) {
		m.countAttempts(c, a)
	}
}

// localText returns the text of a local reply.
func localText(c *course) string {
	if c.end.local == http.StatusGatewayTimeout {
		return "upstream request timeout"
	}
	before := "reset reason: "
	if c.made > 1 {
		before = "retried and the latest reset reason: "
	}
	reason, _, _ := strings.Cut(c.end.reason, "|")
	return "upstream connect error or disconnect/reset before headers. " + before + strings.ReplaceAll(reason, "_", " ")
}

// httpAnswer adds a response without changes.
func (m *model) httpAnswer(c *course, a *Answer) {
	step, h1 := c.end.step, m.scenario.Upstream.Protocol == "http1"
	a.Status, a.Headers = step.status(), joined(step.Headers)
	chunked := h1 && len(step.Trailers) > 0
	if h1 && !chunked && hasBody(step.status()) && a.Headers["content-length"] == "" {
		a.Headers["content-length"] = strconv.Itoa(len(step.Body))
	}
	if chunked && c.request.Method != http.MethodHead {
		delete(a.Headers, "content-length")
	}
	delete(a.Headers, "transfer-encoding")
	if c.request.Method != http.MethodHead && (hasBody(step.status()) || !h1) {
		a.Body = step.Body
		if !h1 || m.has(passesTrailers) {
			a.Trailers = joined(step.Trailers)
		}
	}
	if c.end.after {
		a.Error = "body: broken"
		m.breakOff(c, a)
	}
}

// breakOff removes the part of a response that does not arrive, because it breaks off.
func (m *model) breakOff(c *course, a *Answer) {
	n, ok := c.end.step.length()
	switch {
	case c.end.step.Action == "reset_after_headers" && (hasBody(a.Status) || m.has(readsLengths)):
		a.Trailers = nil
	case m.has(readsLengths) && ok && !slices.Contains(c.end.flags, "UT"):
		a.Body = a.Body[:min(n, len(a.Body))]
	default:
		a.Body, a.Trailers = "", nil
	}
}

// joined returns fields by their lower-case names.
func joined(fields [][2]string) map[string]string {
	all := map[string]string{}
	for _, f := range fields {
		name := strings.ToLower(f[0])
		if old, ok := all[name]; ok {
			f[1] = old + "," + f[1]
		}
		all[name] = f[1]
	}
	return all
}

// header returns the value of a header, with several lines joined.
func (s Step) header(name string) string { return joined(s.Headers)[strings.ToLower(name)] }

// grpcAnswer adds the response to a gRPC call.
func (m *model) grpcAnswer(c *course, a *Answer) {
	step := c.end.step
	a.Status, a.Headers, a.Body, a.Trailers = step.status(), joined(step.Headers), c.end.arrived(), joined(step.Trailers)
	if c.end.after {
		a.Error, a.Trailers = "body: broken", nil
	}
	switch {
	case c.end.after:
		m.statusOfBroken(c, a)
	case m.has(makesStatuses) && !isGRPCType(step.header("content-type")):
		text, code := plainStatus(step)
		*a = Answer{Case: a.Case, Status: http.StatusOK, Headers: statusHeaders(code, text)}
	default:
		m.unaryAnswer(step, a)
	}
}

// statusOfBroken replaces a response that breaks off with the status that the caller receives.
func (m *model) statusOfBroken(c *course, a *Answer) {
	if !m.has(reportsBroken) {
		return
	}
	text := "upstream request timeout"
	code := 14
	*a = Answer{Case: a.Case, Status: http.StatusOK, Body: firstMessage(c.end.arrived())}
	if !slices.Contains(c.end.flags, "UT") {
		code, text = m.brokenCode(c.end.step), "pillion: upstream: "+c.end.flags[len(c.end.flags)-1]+" "+c.end.details+": "+m.cause(c.end.step)
	}
	a.Headers = statusHeaders(code, text)
	a.Headers["content-type"] = "application/grpc"
}

// arrived returns the part of the body that arrives.
func (e *ending) arrived() string {
	if e.after && e.details == "response_timeout" {
		return ""
	}
	return e.step.Body
}

// brokenCode returns gRPC's status for a response that ended after its header.
func (m *model) brokenCode(step Step) int {
	if step.Action == "" && len(step.Trailers) > 0 {
		return 2 // its status was malformed
	}
	return 13
}

// cause returns gRPC's text for a response that ended after its header.
func (m *model) cause(step Step) string {
	switch {
	case step.Action == "reset_after_headers":
		return "stream terminated by RST_STREAM with error code: INTERNAL_ERROR"
	case len(step.Trailers) == 0 && firstMessage(step.Body) != step.Body:
		return "unexpected EOF"
	case len(step.Trailers) == 0:
		return "server closed the stream without sending trailers"
	}
	return malformedStatus(joined(step.Trailers)["grpc-status"])
}

// statusHeaders returns a status as headers.
func statusHeaders(code int, text string) map[string]string {
	h := map[string]string{"grpc-status": strconv.Itoa(code)}
	if text != "" {
		h["grpc-message"] = text
	}
	return h
}

// plainStatus returns the status that gRPC's client makes from a response in plain HTTP.
func plainStatus(step Step) (text string, code int) {
	code, ok := map[int]int{400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}[step.status()]
	if !ok {
		code = 2
	}
	text = fmt.Sprintf("unexpected HTTP status code received from server: %d (%s); ", step.status(), http.StatusText(step.status()))
	if kind := step.header("content-type"); kind != "" {
		text += fmt.Sprintf("transport: received unexpected content-type %q", kind)
	} else {
		text += "malformed header: missing HTTP content-type"
	}
	const most = 1024
	if step.Body != "" || len(step.Trailers) > 0 {
		text += fmt.Sprintf("\ndata: %q", step.Body[:min(most, len(step.Body))])
	}
	return text, code
}

// isGRPCType reports whether a content type is gRPC's.
func isGRPCType(kind string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(kind), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// unaryAnswer adds a whole response: gRPC's client requires one message with the status OK,
// and none with other statuses.
func (m *model) unaryAnswer(step Step, a *Answer) {
	alone := step.Body == "" && len(step.Trailers) == 0
	end := a.Trailers
	if alone {
		end = a.Headers
	}
	if m.has(makesStatuses) {
		a.Status = http.StatusOK
	}
	if m.has(findsMalformed) {
		if n, err := strconv.ParseInt(end["grpc-status"], 10, 32); err == nil {
			end["grpc-status"] = strconv.FormatUint(uint64(uint32(n)), 10) //nolint:gosec // gRPC's client does the same
		} else {
			end["grpc-status"] = "2"
		}
		if !alone {
			delete(a.Headers, "grpc-status")
			delete(a.Headers, "grpc-message")
		}
	}
	if m.has(wantsWholeMessages) {
		m.oneMessage(step, a, end)
	}
}

// oneMessage adds the error of gRPC's client for a unary response that does not have
// exactly one message.
func (m *model) oneMessage(step Step, a *Answer, end map[string]string) {
	n, whole := messages(step.Body)
	ok := end["grpc-status"] == "0"
	a.Body = firstMessage(step.Body)
	switch {
	case tooLarge(step.Body) > 0:
		end["grpc-status"], end["grpc-message"] = "8", fmt.Sprintf("grpc: received message larger than max (%d vs. %d)", tooLarge(step.Body), mostMessage)
	case !whole:
		end["grpc-status"], end["grpc-message"] = "13", "unexpected EOF"
	case ok && n == 0:
		end["grpc-status"], end["grpc-message"] = "13", "cardinality violation: received no response message from non-server-streaming RPC"
	case n > 1:
		a.Trailers = nil
		a.Headers = statusHeaders(13, "cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message")
	}
}

// firstMessage returns the first message of a body. It is "" if the message is incomplete.
func firstMessage(body string) string {
	if len(body) < 5 {
		return ""
	}
	size := 5 + int(binary.BigEndian.Uint32([]byte(body[1:5])))
	if len(body) < size {
		return ""
	}
	return body[:size]
}

// mostMessage is the length of the longest message that gRPC's client accepts.
const mostMessage = 4 << 20

// tooLarge returns the size of the first message of a body, if it exceeds the limit.
func tooLarge(body string) int {
	if len(body) < 5 {
		return 0
	}
	if size := int(binary.BigEndian.Uint32([]byte(body[1:5]))); size > mostMessage {
		return size
	}
	return 0
}

// messages returns the number of gRPC messages in a body, and reports whether the last one
// is complete.
func messages(body string) (n int, whole bool) {
	for body != "" {
		if len(body) < 5 {
			return n, false
		}
		size := int(binary.BigEndian.Uint32([]byte(body[1:5])))
		if len(body) < 5+size {
			return n, false
		}
		n, body = n+1, body[5+size:]
	}
	return n, true
}

// malformedGRPC reports whether gRPC's client finds no valid response in a header.
func malformedGRPC(step Step) bool {
	value, there := joined(step.Headers)["grpc-status"]
	_, err := strconv.ParseInt(value, 10, 32)
	return there && err != nil
}

func malformedStatus(value string) string {
	_, err := strconv.ParseInt(value, 10, 32)
	return fmt.Sprintf("transport: malformed grpc-status: %v", err)
}

// cutShort reports whether gRPC's client misses the end of a response that has begun.
func cutShort(step Step) bool {
	if step.Action == "reset_after_headers" || tooLarge(step.Body) > 0 || !isGRPCType(step.header("content-type")) || (step.Body == "" && len(step.Trailers) == 0) {
		return false
	}
	value, there := joined(step.Trailers)["grpc-status"]
	_, err := strconv.ParseInt(value, 10, 32)
	return len(step.Trailers) == 0 || (there && err != nil)
}

// countGRPC counts as the filter grpc_stats does.
func (m *model) countGRPC(c *course) {
	const prefix = "grpc.pkg.Svc.Method."
	c.stats[prefix+"request_message_count"]++
	a := m.answer(c)
	c.stats[prefix+"response_message_count"] += m.countedMessages(c, &a)
	code, ok := m.countedStatus(c, &a)
	if !ok {
		return
	}
	c.stats[prefix+code]++
	c.stats[prefix+"total"]++
	if code == "0" {
		c.stats[prefix+"success"]++
	} else {
		c.stats[prefix+"failure"]++
	}
}

// countedMessages returns the number of messages of a response that are counted: those that
// pass, or the one that the caller receives.
func (m *model) countedMessages(c *course, a *Answer) int {
	step := c.end.step
	n, whole := messages(c.end.arrived())
	if !whole && !m.has(countsReceivedMessages) {
		n++ // a message that has begun
	}
	if c.end.code == 0 || c.end.gone || step.status() != http.StatusOK || !isGRPCType(step.header("content-type")) {
		return 0
	}
	if m.has(countsReceivedMessages) && (n != 1 || !whole || c.end.after || a.Trailers["grpc-status"] != "0") {
		return 0
	}
	return n
}

// countedStatus returns the status that is counted.
func (m *model) countedStatus(c *course, a *Answer) (string, bool) {
	if c.end.after && c.end.details == "response_timeout" && m.has(reportsBroken) {
		return "14", true
	}
	plain := c.end.code != 0 && !isGRPCType(c.end.step.header("content-type"))
	if c.end.gone || c.end.after || (plain && m.has(makesStatuses)) {
		return "", false
	}
	code := a.Trailers["grpc-status"]
	if code == "" {
		code = a.Headers["grpc-status"]
	}
	if n, err := strconv.Atoi(code); err == nil && n > 16 && m.has(findsMalformed) {
		code = "2"
	}
	return code, code != ""
}
