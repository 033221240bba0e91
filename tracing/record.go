package tracing

import (
	"strings"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Request describes an HTTP request, for segments that are made by hand.
type Request struct {
	Method    string
	URL       string // query, fragment and password are left out
	UserAgent string

	ClientIP      string // of segments only
	XForwardedFor bool   // ClientIP was read from X-Forwarded-For; of segments only
	Traced        bool   // the other side sends segments of its own; of subsegments only
}

// SetRequest says what request the segment serves, or the subsegment makes.
// [Tracer.Handler] and [Client] do it by themselves.
func (s *Segment) SetRequest(r Request) {
	s.change(func(x *xray.Segment) {
		request := x.GetHTTP().GetRequest()
		*request = xray.RequestData{Method: r.Method, URL: bareURL(r.URL), UserAgent: r.UserAgent}
		if x.ParentSegment == x {
			request.ClientIP, request.XForwardedFor = r.ClientIP, r.XForwardedFor
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
	if s != nil {
		s.setStatus(status, s.x.Namespace == "remote")
	}
}

// bareURL leaves out of an URL what may be secret.
func bareURL(u string) string {
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		u = u[:i]
	}
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return u
	}
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		return strings.TrimSuffix(scheme+"://"+authority[i+1:]+"/"+path, "/")
	}
	return u
}
