package tracing

import (
	"regexp"
	"strings"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Request describes an HTTP request, for segments that are made by hand.
type Request struct {
	Method    string
	URL       string // user, password, query and fragment are left out
	UserAgent string

	ClientIP      string
	XForwardedFor bool // ClientIP was read from X-Forwarded-For; of segments only
	Traced        bool // the other side sends segments of its own; of subsegments only
}

// SetRequest records which request the segment serves, or the subsegment makes.
// [Tracer.Handler] and [Client] do it by themselves. URL and user agent are cut at 2000
// characters, method and client address at 250.
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

// SetResponse says what the answer was; a size of less than 0 is not known. It
// does not judge the status: [Segment.SetStatus] does.
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

// SetStatus judges an HTTP status, as [Tracer.Handler] and [Client] do: 429 is an
// error and a throttle, another 4xx an error, a 5xx a fault, each with a cause, of
// which a remote subsegment says that it is the other side's; any other status is
// nothing, and takes nothing back.
func (s *Segment) SetStatus(status int) {
	if !s.none() {
		s.setStatus(status, s.x.Namespace == "remote")
	}
}

// bareURL returns a URL without user, password, query and fragment. It need not be
// legal: what may be a password is left out.
func bareURL(u string) string {
	before, rest := cutScheme(u)
	if before == "" && strings.HasPrefix(rest, "/") {
		return withoutQuery(rest) // a path
	}
	for at := userEnd(rest); at >= 0; at = userEnd(rest) {
		rest = rest[at+1:]
	}
	return before + withoutQuery(rest)
}

// userEnd returns where user and password end that s begins with, -1 if it has none. A
// password may have characters that end a host: then there is no port before them.
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

// beforeHost matches what stands before a host: slashes, with or without a scheme. A
// scheme of several parts, such as jdbc:mysql, needs two slashes.
var beforeHost = regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9+.-]*:[/\\]+|(?:[A-Za-z][A-Za-z0-9+.-]*:){2,}//+|[/\\]{2,})`)

// cutScheme cuts u before its host. before is empty if nothing stands there.
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
