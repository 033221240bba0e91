package tracing

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/aws/aws-xray-sdk-go/v2/xray"

	"github.com/pillion-go/pillion/internal/respwriter"
)

// Handler returns a handler that serves each request in a segment. Use it outside of
// routers and other middleware. It panics if t or next is nil.
//
//	http.ListenAndServe(":8080", tracer.Handler(mux))
//
// The segment continues the trace of the request's header, or begins a new trace. Its name
// is that of NameFor or Name. It records the request and the response, and sets flags by
// the status: 429 is a throttle and an error, other 4xx are errors, 5xx are faults. It ends
// when next returns. A panic and [runtime.Goexit] are recorded as faults and passed on. A
// trace header is trusted from any caller, as in AWS's SDKs: any caller can choose the
// trace of its request, and have it recorded with Sampled=1, unless [Config] IgnoreSampled
// is set. The response's X-Amzn-Trace-Id names the trace, whatever value next sets. The
// request that next receives has the header too, in a copy of the header map. Requests with
// an excluded path, and all requests if [Config] Disabled is set, are passed on unchanged;
// calls made for them belong to no trace.
//
// The ResponseWriter that next receives can flush, hijack, push, send files and notify of a
// closed connection if the server's can. It works with http.ResponseController.
func (t *Tracer) Handler(next http.Handler) http.Handler {
	t.mustBeMade("Handler")
	if f, ok := next.(http.HandlerFunc); next == nil || ok && f == nil {
		panic("tracing: Tracer.Handler: next is nil")
	}
	if t.off {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mustBeWhole(w, r)
		if t.excluded(pathOf(r)) {
			next.ServeHTTP(w, r)
			return
		}
		t.serve(w, r, next) //nolint:contextcheck // it is the request's context
	})
}

// pathOf returns the path of r. A request that was not read by a server may have no URL.
func pathOf(r *http.Request) string {
	if r.URL == nil {
		return ""
	}
	return r.URL.Path
}

// excluded reports whether requests for path are not traced.
func (t *Tracer) excluded(path string) bool {
	if len(t.exact) != 0 {
		if _, ok := t.exact[path]; ok {
			return true
		}
	}
	for _, p := range t.patterns {
		if p.MatchString(path) {
			return true
		}
	}
	return false
}

// serve serves one request in its segment.
func (t *Tracer) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	raw := r.Header.Get(HeaderName)
	d := t.accept(r, raw)
	value := d.Header().String()
	if d.Sampled() {
		t.recordRequest(d, r)
	}
	resp := newResponse(w, value)
	returned := false
	defer d.served(resp, &returned)
	inner := r.WithContext(d)
	if value != raw {
		inner.Header = r.Header.Clone()
		if inner.Header == nil {
			inner.Header = http.Header{}
		}
		inner.Header[HeaderName] = []string{value}
	}
	next.ServeHTTP(resp.w.Shaped(), inner)
	respwriter.HandBack(r, inner)
	returned = true
}

// accept begins the segment of a request.
func (t *Tracer) accept(r *http.Request, raw string) *document {
	h := ParseHeader(raw)
	if t.w3c && h.Root == "" {
		if w3c, ok := ParseTraceParent(r.Header.Get(TraceParentName), strings.Join(r.Header[TraceStateName], ",")); ok {
			w3c.Fields = h.Fields
			h = w3c
		}
	}
	return t.begin(r.Context(), t.segmentName(r), t.withDecision(h), raw, request{host: r.Host, method: r.Method, path: pathOf(r)})
}

// segmentName returns the name of a request's segment. It is copied, because NameFor may
// return a substring of the request.
func (t *Tracer) segmentName(r *http.Request) string {
	if t.nameFor != nil {
		if name := t.nameFor(r); name != "" {
			return strings.Clone(cut(name, maxName))
		}
	}
	return t.name
}

// withDecision returns the header of a request, without its decision if IgnoreSampled is
// set.
func (t *Tracer) withDecision(h Header) Header {
	if t.ignoreSampled {
		h.Sampled = Undecided
	}
	return h
}

// recordRequest records the request.
func (t *Tracer) recordRequest(d *document, r *http.Request) {
	by := t.forwardedBy(r)
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(by.proto, "https") {
		scheme = "https"
	}
	d.change(func(x *xray.Segment) {
		d.more.request = bound(xray.RequestData{
			Method: r.Method, URL: urlOf(scheme, r.Host, escapedPathOf(r)),
			UserAgent: r.UserAgent(), ClientIP: by.client, XForwardedFor: by.header,
		})
		d.more.http.Request = &d.more.request
		x.HTTP = &d.more.http
	})
}

// escapedPathOf returns the path of r, escaped as in a URL.
func escapedPathOf(r *http.Request) string {
	if r.URL == nil {
		return ""
	}
	return r.URL.EscapedPath()
}

// urlOf returns a URL without query, fragment, user and password.
func urlOf(scheme, host, path string) string {
	host = host[strings.LastIndexByte(host, '@')+1:]
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path
}

// served ends the segment of a request whose handler returned, panicked or called
// runtime.Goexit. It is deferred directly, so that it can recover a panic.
func (d *document) served(resp *response, returned *bool) {
	if *returned {
		resp.w.Begin(http.StatusOK) // the handler wrote nothing
	}
	status := resp.w.Status()
	if status >= 100 && status <= 999 { // net/http panics on other values
		d.recordResponse(status, resp.size())
	}
	if *returned {
		d.setStatus(status, false)
		d.finish()
		return
	}
	d.rethrow(recover())
}

// recordResponse records the response. A negative size is unknown.
func (d *document) recordResponse(status int, size int64) {
	d.change(func(x *xray.Segment) {
		m := d.more
		m.response.Status = status
		if size >= 0 {
			m.response.ContentLength, d.sized = int(size), true
		}
		m.http.Response = &m.response
		if x.HTTP == nil {
			x.HTTP = &m.http
		} else {
			x.HTTP.Response = &m.response
		}
	})
}

// contentLength returns the value of a Content-Length header, or -1 if there is none.
func contentLength(value string) int64 {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// escapePath returns a path, escaped as in a URL.
func escapePath(path string) string {
	u := url.URL{Path: path}
	return u.EscapedPath()
}
