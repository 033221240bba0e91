package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/aws/aws-xray-sdk-go/v2/header"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Trace begins a new trace with a segment, for work that is not part of a request, such as
// a job. An empty name means the configured one. The segment must be ended with
// [Segment.End]. Within a segment, Trace begins another trace; the outer one continues in
// the outer context.
//
//	ctx, seg := tracer.Trace(ctx, "nightly-report")
//	defer seg.End(&err)
//
// The segment is in the context for the X-Ray SDK too: xray.AddAnnotation,
// xray.BeginSubsegment, xray.SQLContext and the instrumentation of the AWS SDK work within
// it. With [Config] Disabled, Trace returns ctx and nil. It panics if t or ctx is nil.
func (t *Tracer) Trace(ctx context.Context, name string) (context.Context, *Segment) {
	t.mustBeMade("Trace")
	mustHave(ctx, "Tracer.Trace")
	return t.Continue(ctx, name, Header{})
}

// Continue begins a segment in the trace of h, for work whose trace header did not arrive
// over HTTP, but for example in a message of a queue.
//
//	ctx, seg := tracer.Continue(ctx, "", tracing.ParseHeader(message.Attributes["AWSTraceHeader"]))
//	defer seg.End(&err)
//
// If h has no legal Root, Continue begins a new trace. A decision in h takes precedence,
// whatever [Config] IgnoreSampled is; without one, the configured sampling decides. It
// panics if t or ctx is nil.
func (t *Tracer) Continue(ctx context.Context, name string, h Header) (context.Context, *Segment) {
	t.mustBeMade("Continue")
	mustHave(ctx, "Tracer.Continue")
	if t.off {
		return ctx, nil
	}
	if name == "" {
		name = t.name
	}
	d := t.begin(ctx, name, h, "", request{})
	return d, &d.Segment
}

// begin begins the segment of a trace.
func (t *Tracer) begin(ctx context.Context, name string, h Header, raw string, r request) *document {
	var root, id string
	if isTraceID(h.Root) {
		id = newSegmentID()
	} else {
		root, id = newIDs(time.Now())
		if h.Root != "" {
			h.Parent = "" // it belongs to no trace
		}
		h.Root = root
	}
	if !isSegmentID(h.Parent) {
		h.Parent = ""
	}
	h.Fields = sendableFields(h.Fields)
	if !isTraceState(h.State) {
		h.State = ""
	}
	sampled, rule := h.Sampled == Sampled, ""
	if h.Sampled == Undecided {
		sampled, rule = t.decide(name, r)
	}
	d := newSegment(ctx, t, name, h, id, sampled)
	if raw != "" || len(h.Fields) != 0 || h.State != "" {
		d.in = newInbound(h, raw)
		d.doc.RequestWasTraced = raw != "" // for xray.RequestWasTraced
		d.doc.IncomingHeader = &d.in.header
	}
	if rule != "" {
		d.doc.AWS = map[string]any{"xray": xray.SDK{Version: xray.SDKVersion, Type: xray.SDKType, RuleName: rule}}
	}
	return d
}

// newInbound keeps the parts of a trace header that are sent on. The SDK's own calls send
// the fields on.
func newInbound(h Header, raw string) *inbound {
	in := &inbound{raw: cutBytes(raw, maxHeader), fields: h.Fields, state: h.State}
	in.header = header.Header{TraceID: h.Root, AdditionalData: map[string]string{}}
	for _, f := range withoutSelf(h.Fields) {
		in.header.AdditionalData[f.Key] = f.Value
	}
	return in
}

// StartSubsegment begins a subsegment of the segment in ctx, which this package or the
// X-Ray SDK made. Without a segment in ctx, it returns ctx and nil, whose methods do
// nothing. A library can therefore use it whether or not its caller traces.
//
//	ctx, seg := tracing.StartSubsegment(ctx, "render")
//	defer seg.End(&err)
//
// The subsegment is sent on its own when it ends, with the segment around it as parent.
// StartSubsegment panics if ctx is nil.
func StartSubsegment(ctx context.Context, name string) (context.Context, *Segment) {
	mustHave(ctx, "StartSubsegment")
	d := startSubsegment(ctx, nil, name)
	if d == nil {
		return ctx, nil
	}
	return d, &d.Segment
}

// StartRemote is [StartSubsegment] for a call of another service, which X-Ray shows as a
// separate node. The policy [Client] does this for HTTP; StartRemote is for protocols
// without a policy. The request must carry [Segment.Downstream]. It panics if ctx is nil.
func StartRemote(ctx context.Context, name string) (context.Context, *Segment) {
	mustHave(ctx, "StartRemote")
	d := startSubsegment(ctx, nil, name)
	if d == nil {
		return ctx, nil
	}
	d.doc.Namespace = "remote"
	return d, &d.Segment
}

// startSubsegment begins a subsegment. It returns nil if there is no segment in ctx. If the
// SDK began the trace and t is not nil, t sends the subsegment.
func startSubsegment(ctx context.Context, t *Tracer, name string) *document {
	parent := current(ctx)
	if parent == nil {
		return nil
	}
	return startBelow(ctx, t, parent, name)
}

// startBelow begins a subsegment of parent, the segment in ctx.
func startBelow(ctx context.Context, t *Tracer, parent *xray.Segment, name string) *document {
	near := nearest(ctx, parent)
	if near != nil && near.tracer != nil {
		t = near.tracer
	}
	d := newSubsegment(ctx, t, parent, takeName(ctx, name))
	if near != nil {
		d.in = near.in
	}
	return d
}

// takeName returns the name of the subsegment that begins in ctx.
func takeName(ctx context.Context, name string) string {
	if o, ok := ctx.Value(overwriteKey{}).(*overwrite); ok {
		return o.take(name)
	}
	return name
}

// Capture runs f in a subsegment. It records f's error, its panic, which is passed on, or
// [runtime.Goexit]. Without a segment in ctx it only runs f. It panics if ctx or f is nil.
func Capture(ctx context.Context, name string, f func(context.Context) error) (err error) {
	mustHave(ctx, "Capture")
	if f == nil {
		panic("tracing: Capture: f is nil")
	}
	ctx, seg := StartSubsegment(ctx, name)
	defer seg.End(&err)
	err = errGoexit // until f returns
	return f(ctx)
}

// Current returns the innermost segment in ctx, of this package or of the SDK. It returns
// nil if there is none.
func Current(ctx context.Context) *Segment {
	mustHave(ctx, "Current")
	x := current(ctx)
	if x == nil {
		return nil
	}
	if d := nearest(ctx, x); d != nil && &d.doc == x {
		return &d.Segment
	}
	return &Segment{x: x}
}

type (
	disabledKey  struct{}
	overwriteKey struct{}
)

// Disable returns a context in which [Client] policies do not trace calls: the calls have
// no subsegment and send no trace header. Use it for calls that are instrumented in another
// way, and for calls that must not be recorded. Explicit subsegments are not affected. It
// is the gem's disable_trace, without its ids.
func Disable(ctx context.Context) context.Context {
	mustHave(ctx, "Disable")
	return context.WithValue(ctx, disabledKey{}, true)
}

// Disabled reports whether [Disable] is in effect in ctx.
func Disabled(ctx context.Context) bool {
	mustHave(ctx, "Disabled")
	off, _ := ctx.Value(disabledKey{}).(bool)
	return off
}

// overwrite is a name for one subsegment.
type overwrite struct {
	name string
	used atomic.Bool
}

// take returns the name of the subsegment that begins.
func (o *overwrite) take(name string) string {
	if o != nil && o.used.CompareAndSwap(false, true) {
		return o.name
	}
	return name
}

// Overwrite returns a context in which the next subsegment uses name instead of its own,
// for a client whose name cannot be set. It applies to one subsegment only. While a name
// waits for its subsegment, a nested Overwrite is ignored. It is the gem's overwrite.
func Overwrite(ctx context.Context, name string) context.Context {
	mustHave(ctx, "Overwrite")
	if o, ok := ctx.Value(overwriteKey{}).(*overwrite); ok && o != nil && !o.used.Load() {
		return ctx
	}
	return context.WithValue(ctx, overwriteKey{}, &overwrite{name: name})
}

// Detach returns a context for work that continues after the response was sent. It has
// ctx's values, so that the subsegments of the work belong to the trace, but it is not
// canceled with ctx. [Disable] and [Overwrite] do not apply in it. The segment may end
// before its subsegments. For work that ends before the segment, pass ctx itself to the
// goroutine.
func Detach(ctx context.Context) context.Context {
	mustHave(ctx, "Detach")
	ctx = context.WithoutCancel(ctx)
	if Disabled(ctx) {
		ctx = context.WithValue(ctx, disabledKey{}, false)
	}
	if o, ok := ctx.Value(overwriteKey{}).(*overwrite); ok && o != nil {
		ctx = context.WithValue(ctx, overwriteKey{}, (*overwrite)(nil))
	}
	return ctx
}
