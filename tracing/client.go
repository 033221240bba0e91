package tracing

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-xray-sdk-go/v2/xray"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// NameHeader is a request header that names the subsegment of its call if [Client]
// CallerNames is set. It is never sent. Mirrors the gem's X-Aws-Xray-Name.
const NameHeader = "X-Aws-Xray-Name"

// Client is a policy that records each call to an upstream as a subsegment, and adds the
// trace header to the request. It belongs outside of retry.
//
//	recipes, err := pillion.New("recipes",
//		tracing.Client{Tracer: tracer},
//		retry.Config{NumRetries: 2},
//		tracing.Attempts{Tracer: tracer},
//		breaker.Config{},
//	)
//
// The subsegment has the namespace remote. Its name is that of [Overwrite]; otherwise, with
// CallerNames, that of the request's X-Aws-Xray-Name; otherwise Name; otherwise the name of
// the upstream. It records the method and the URL of the request, without the query, and
// the status and the length of the response. Flags and cause follow the status as in
// [Tracer.Handler]. A call that fails is a fault with its cause; an invalid request is
// flagged as an error instead, and a canceled call has no flags. A panic and
// [runtime.Goexit] are faults. The subsegment ends when the response's body ends.
//
// Annotations record what the other policies did, so that it can be searched: attempts, the
// number of attempts if there were several; response_flags, in Envoy's letters; refused,
// for a call that a breaker or a limit refused. The metadata pillion has
// response_code_details and endpoint.
//
// A call outside of any segment, or in a context of [Disable], is made without a subsegment
// and without a trace header. The caller's request and its header are not changed.
type Client struct {
	// Tracer sends the subsegments, including those in segments that the X-Ray SDK began.
	// Nil is an error.
	Tracer *Tracer `json:"-"`

	// Name names the subsegments. Empty means the upstream's name.
	Name string `json:"name,omitempty"`

	// CallerNames names the subsegment of a call by the request's X-Aws-Xray-Name, as the
	// gem does. Set it only if no untrusted client can set that header: a reverse proxy
	// forwards the headers of its clients, and so they could choose any name in the service
	// map. If false, the header is ignored. The header is not sent in either case.
	CallerNames bool `json:"caller_names,omitempty"`

	// Traced declares that the upstream sends its own segments: X-Ray shows the trace as
	// incomplete until they arrive. With Attempts, set it there instead. Mirrors
	// http.request.traced.
	Traced bool `json:"traced,omitempty"`
}

// Attempts is a policy that records each attempt of a call, including refused ones, as a
// subsegment of the one that [Client] records, and adds the trace header of the attempt to
// the request. It belongs inside of retry or hedge. The attempt takes over the namespace
// remote from the subsegment of the call. Its annotation attempt is its number.
type Attempts struct {
	// Tracer sends the subsegments. Nil is an error.
	Tracer *Tracer `json:"-"`

	// Name names the subsegments. Empty means the upstream's name.
	Name string `json:"name,omitempty"`

	// CallerNames names the subsegment of an attempt by the request's X-Aws-Xray-Name, as
	// in [Client].
	CallerNames bool `json:"caller_names,omitempty"`

	// Traced declares that the upstream sends its own segments.
	Traced bool `json:"traced,omitempty"`
}

// Place is outside of retry and hedge: inside, the policy would record attempts as calls.
func (Client) Place() policy.Place { return place() }

// Wrap records the calls.
func (c Client) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := c.Tracer.check("Client.Tracer"); err != nil {
		return nil, err
	}
	return wrap(s, &client{tracer: c.Tracer, name: c.Name, callerNames: c.CallerNames, traced: c.Traced, next: next}), nil
}

// Wrap records the attempts.
func (a Attempts) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := a.Tracer.check("Attempts.Tracer"); err != nil {
		return nil, err
	}
	return wrap(s, &client{
		tracer: a.Tracer, name: a.Name, callerNames: a.CallerNames, traced: a.Traced, next: next, attempts: true,
	}), nil
}

// place is the place of a policy that records calls.
func place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "tracing", Why: "would record attempts as calls"}
}

func wrap(s *policy.Builder, p *client) policy.Func {
	if p.tracer.off {
		return p.next
	}
	if p.name == "" {
		p.name = s.Upstream()
	}
	s.Require(policy.Needs{Consume: []string{NameHeader}})
	p.slot = s.Slot()
	p.hook = p.end
	return p.call
}

// client is either of the two policies over an upstream.
type client struct {
	tracer      *Tracer
	name        string
	callerNames bool
	traced      bool
	attempts    bool
	next        policy.Func
	slot        policy.Slot
	hook        policy.Hook
	scheme      atomic.Pointer[string] // of the URLs of responses, for calls without a response
}

// call records one call or one attempt.
func (p *client) call(ctx context.Context, c *policy.Call) *policy.Outcome {
	if Disabled(ctx) {
		return p.next(ctx, c)
	}
	parent := current(ctx)
	if parent == nil {
		p.missing()
		return p.next(ctx, c)
	}
	if !parent.ParentSegment.Sampled {
		return p.unsampled(ctx, c, parent)
	}
	d := startBelow(ctx, p.tracer, parent, p.nameOf(c))
	d.doc.Namespace = "remote"
	if p.attempts {
		d.isAttempt(parent, c.Attempt())
	} else {
		d.call = true
	}
	h := d.Downstream()
	p.setHeader(c, h.String(), h)
	c.State(p.slot).V = d
	returned := false
	defer d.unwound(&returned)
	o := p.next(d, c) //nolint:contextcheck // d is ctx with the subsegment in it
	p.recordHead(d, c, o)
	o.OnEnd(c, p.hook)
	returned = true
	return o
}

// nameOf returns the name of a call's subsegment.
func (p *client) nameOf(c *policy.Call) string {
	if p.callerNames {
		if name := c.RequestHeader(NameHeader); name != "" {
			return name
		}
	}
	return p.name
}

// unsampled makes a call in a trace that is not sampled: the call carries the trace, with a
// new id as parent, and nothing else is recorded.
func (p *client) unsampled(ctx context.Context, c *policy.Call, parent *xray.Segment) *policy.Outcome {
	takeName(ctx, "")
	seg := Segment{x: parent, d: nearest(ctx, parent)}
	h := seg.Downstream()
	if len(h.Fields) == 0 && !p.tracer.w3c && len(h.Root) == traceIDLen {
		p.setHeader(c, unsampledHeader(h.Root), h)
	} else {
		h.Parent = newSegmentID()
		p.setHeader(c, h.String(), h)
	}
	return p.next(ctx, c)
}

// unsampledHeader is the header of a call in a trace that is not sampled, with a new id as
// parent. It is equal to the text of a Header, but needs one allocation.
func unsampledHeader(root string) string {
	const before, between = "Root=", ";Sampled=0;Parent="
	var b [len(before) + traceIDLen + len(between) + segmentIDLen]byte
	n := copy(b[:], before)
	n += copy(b[n:], root)
	n += copy(b[n:], between)
	putHex(b[n:], random())
	return string(b[:])
}

// missing counts a call outside of any segment.
func (p *client) missing() {
	p.tracer.emitter.missing.Add(1)
	if p.tracer.missing == MissingReported {
		p.tracer.emitter.report(errNoSegment)
	}
}

// isAttempt records that d is an attempt of parent. The namespace remote moves to d, so
// that X-Ray counts the attempt, and not the whole call, as a call of the other service.
func (d *document) isAttempt(parent *xray.Segment, n int) {
	d.Annotate("attempt", n)
	if of := owner(parent); of != nil && of.call {
		of.change(func(x *xray.Segment) { x.Namespace = "" })
	}
}

// setHeader adds the trace to the attempt's headers.
func (p *client) setHeader(c *policy.Call, value string, h Header) {
	header := c.Header()
	if plain, ok := header.(http.Header); ok { // the names are canonical
		plain[HeaderName] = []string{value}
		delete(plain, NameHeader) // including an empty one
	} else {
		header.Set(HeaderName, value)
		header.Del(NameHeader)
	}
	if !p.tracer.w3c {
		return
	}
	if parent := h.TraceParent(); parent != "" {
		header.Set(TraceParentName, parent)
		if h.State != "" {
			header.Set(TraceStateName, h.State)
		}
	}
}

// recordHead records the request and the response headers.
func (p *client) recordHead(d *document, c *policy.Call, o *policy.Outcome) {
	resp, _ := o.Value.(*http.Response)
	r := c.Request()
	if r.Protocol == policy.ProtocolFunc {
		return
	}
	request := bound(xray.RequestData{
		Method: r.Method, URL: p.url(r, resp), UserAgent: c.RequestHeader("User-Agent"), Traced: p.traced,
	})
	d.change(func(x *xray.Segment) {
		d.more.request = request
		d.more.http.Request = &d.more.request
		x.HTTP = &d.more.http
	})
	if r.Protocol != policy.ProtocolHTTP || o.Code == 0 {
		return
	}
	size := int64(-1)
	if value, ok := c.ResponseHeader(o, "Content-Length"); ok {
		size = contentLength(value)
	}
	d.recordResponse(o.Code, size)
	d.setStatus(o.Code, true)
	if p.tracer.recordCaller && !p.attempts {
		d.recordCaller()
	}
}

// url returns the request's URL, without query. If there is no response, it uses the scheme
// of earlier responses.
func (p *client) url(r policy.Request, resp *http.Response) string {
	if resp != nil && resp.Request != nil && resp.Request.URL != nil {
		u := resp.Request.URL
		if known := p.scheme.Load(); known == nil || *known != u.Scheme {
			scheme := strings.Clone(u.Scheme) // it is a substring of the URL
			p.scheme.Store(&scheme)
		}
		return urlOf(u.Scheme, u.Host, u.EscapedPath())
	}
	scheme := "http"
	if known := p.scheme.Load(); known != nil {
		scheme = *known
	} else if strings.HasSuffix(r.Authority, ":443") {
		scheme = "https"
	}
	return urlOf(scheme, r.Authority, escapePath(r.Path))
}

// end ends the subsegment at the end of the call or of the attempt.
func (p *client) end(c *policy.Call, end *policy.Outcome) {
	d, ok := c.State(p.slot).V.(*document)
	if !ok {
		return
	}
	p.recordEnd(d, c, end)
	d.finish()
}

// recordEnd records errors, and what the policies did about them.
func (p *client) recordEnd(d *document, c *policy.Call, end *policy.Outcome) {
	switch {
	case end.Err == nil, end.Has(policy.Cancelled):
	case end.Detail == envoy.ViaUpstream && c.Request().Protocol == policy.ProtocolGRPC:
		d.setGRPC(end)
	case end.Has(policy.Invalid):
		d.recordError(end.Err, true)
	default:
		d.SetError(end.Err)
	}
	if end.Flags != 0 {
		d.Annotate("response_flags", end.Flags.String())
	}
	if end.Has(policy.Refused) {
		d.Annotate("refused", true)
	}
	if n := c.Attempts(); n > 1 && !p.attempts {
		d.Annotate("attempts", n)
	}
	if end.Detail != nil && end.Detail != envoy.ViaUpstream {
		d.AddMetadataTo(markName, "response_code_details", end.Detail.String())
	}
	if endpoint := c.Endpoint(); endpoint != "" && endpoint != c.Request().Authority {
		d.AddMetadataTo(markName, "endpoint", endpoint)
	}
}
