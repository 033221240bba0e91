package tracing

import (
	"regexp"
	"strings"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Request describes an HTTP request, for segments that are made by hand.
type Request struct {
	Method    string
	URL       string // user, password, query and fragment are removed
	UserAgent string

	ClientIP      string
	XForwardedFor bool // ClientIP was read from X-Forwarded-For; for segments only
	Traced        bool // the called service sends its own segments; for subsegments only
}

// SetRequest records the request that the segment serves, or that the subsegment makes.
// [Tracer.Handler] and [Client] do this. URL and user agent are cut at 2000 characters,
// method and client address at 250.
func (s *Segment) SetRequest(r Request) {
	s.change(func(x *xray.Segment) {
		request := x.GetHTTP().GetRequest()
		*request = bound(xray.RequestData{Method: r.Method, URL: bareURL(r.URL), UserAgent: r.UserAgent, ClientIP: r.ClientIP})
		if x.ParentSegment == x {
			request.XForwardedFor = r.XForwardedFor
		} else {
			request.Traced = r.Traced
		}
	})
}

// SetResponse records the response; a negative size is unknown. It does not set flags by
// the status: [Segment.SetStatus] does.
func (s *Segment) SetResponse(status int, size int64) {
	s.change(func(x *xray.Segment) {
		response := x.GetHTTP().GetResponse()
		*response = xray.ResponseData{Status: status}
		d := owner(x)
		if d != nil {
			d.sized = size >= 0
		}
		if size >= 0 {
			response.ContentLength = int(size)
		}
	})
}

// SetStatus sets flags and a cause by an HTTP status, as [Tracer.Handler] and [Client] do:
// 429 is an error and a throttle, other 4xx are errors, 5xx are faults. In a subsegment of
// the namespace remote, the cause is attributed to the other service. Other statuses change
// nothing.
func (s *Segment) SetStatus(status int) {
	if !s.none() {
		s.setStatus(status, s.x.Namespace == "remote")
	}
}

// bareURL returns a URL without user, password, query and fragment. The URL may be illegal:
// anything that may be a password is removed.
func bareURL(u string) string {
	before, rest := cutScheme(u)
	if before == "" && strings.HasPrefix(rest, "/") {
		return withoutQuery(rest) // it is a path
	}
	for at := userEnd(rest); at >= 0; at = userEnd(rest) {
		rest = rest[at+1:]
	}
	return before + withoutQuery(rest)
}

// userEnd returns the index at which user and password end in s, or -1 if there are none. A
// password may contain characters that end a host: then there is no port before them.
func userEnd(s string) int {
	end := strings.IndexAny(s, `/\?#`)
	if end < 0 {
		end = len(s)
	}
	if at := strings.LastIndexByte(s[:end], '@'); at >= 0 || isHostPort(s[:end]) {
		return at
	}
	return strings.LastIndexByte(s, '@')
}

// beforeHost matches the text before a host: slashes, with or without a scheme. A scheme of
// several parts, such as jdbc:mysql, needs two slashes.
var beforeHost = regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9+.-]*:[/\\]+|(?:[A-Za-z][A-Za-z0-9+.-]*:){2,}//+|[/\\]{2,})`)

// cutScheme splits u before its host. before is empty if there is no text before the host.
func cutScheme(u string) (before, rest string) {
	before = beforeHost.FindString(u)
	return before, u[len(before):]
}

// isHostPort reports whether s may be a host, with or without a port.
func isHostPort(s string) bool {
	port := s
	if address, after, ok := strings.Cut(s, "]"); ok && strings.HasPrefix(address, "[") {
		port = after
	}
	_, port, _ = strings.Cut(port, ":")
	return strings.Trim(port, "0123456789") == ""
}

func withoutQuery(u string) string {
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		u = u[:i]
	}
	return u
}
