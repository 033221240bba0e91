package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/aws/aws-xray-sdk-go/v2/header"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Trace begins a segment: a trace of its own, for work that no request brought,
// such as a job. An empty name stands for the configured one. The segment must be
// ended with [Segment.End]. Within a segment it begins another trace all the same; the
// outer one goes on in the outer context.
//
//	ctx, seg := tracer.Trace(ctx, "nightly-report")
//	defer seg.End(&err)
//
// The segment is in the context for the X-Ray SDK too: xray.AddAnnotation,
// xray.BeginSubsegment, xray.SQLContext and the instrumentation of the AWS SDK work
// within it. With [Config] Disabled it returns ctx and nil. It panics if t or ctx is nil.
func (t *Tracer) Trace(ctx context.Context, name string) (context.Context, *Segment) {
	t.mustBeMade("Trace")
	mustHave(ctx, "Tracer.Trace")
	return t.Continue(ctx, name, Header{})
}

// Continue begins a segment of the trace that h is of, for work that came with a
// trace header by other ways than HTTP: in a message of a queue, say.
//
//	ctx, seg := tracer.Continue(ctx, "", tracing.ParseHeader(message.Attributes["AWSTraceHeader"]))
//	defer seg.End(&err)
//
// Without a legal Root it begins a new trace. A decision in h holds, whatever
// [Config] IgnoreSampled says; else the configured sampling decides. It panics if t or ctx is nil.
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
			h.Parent = "" // it is of no trace
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

// newInbound keeps what came with a trace. The SDK's own calls send its fields on.
func newInbound(h Header, raw string) *inbound {
	in := &inbound{raw: cutBytes(raw, maxHeader), fields: h.Fields, state: h.State}
	in.header = header.Header{TraceID: h.Root, AdditionalData: map[string]string{}}
	for _, f := range withoutSelf(h.Fields) {
		in.header.AdditionalData[f.Key] = f.Value
	}
	return in
}

// StartSubsegment begins a subsegment of the segment that ctx is in: one of ours or
// one of the X-Ray SDK's. Without a segment it gives ctx and nil, which records
// nothing: so a library may use it whether or not its caller traces.
//
//	ctx, seg := tracing.StartSubsegment(ctx, "render")
//	defer seg.End(&err)
//
// It is sent when it ends, on its own, with the segment around it as parent. It panics if
// ctx is nil.
func StartSubsegment(ctx context.Context, name string) (context.Context, *Segment) {
	mustHave(ctx, "StartSubsegment")
	d := startSubsegment(ctx, nil, name)
	if d == nil {
		return ctx, nil
	}
	return d, &d.Segment
}

// StartRemote is [StartSubsegment] for a call of another service, which X-Ray shows
// as a node of its own. The policy [Client] does it for HTTP; this is for protocols
// without a policy. What goes over the wire must carry [Segment.Downstream].
func StartRemote(ctx context.Context, name string) (context.Context, *Segment) {
	mustHave(ctx, "StartRemote")
	d := startSubsegment(ctx, nil, name)
	if d == nil {
		return ctx, nil
	}
	d.doc.Namespace = "remote"
	return d, &d.Segment
}

// startSubsegment begins a subsegment, nil without a segment around it. A tracer
// that is not nil sends it where the trace is the SDK's.
func startSubsegment(ctx context.Context, t *Tracer, name string) *document {
	parent := current(ctx)
	if parent == nil {
		return nil
	}
	return startBelow(ctx, t, parent, name)
}

// startBelow begins a subsegment of parent, which ctx is in.
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

// takeName gives the name of the subsegment that is being begun.
func takeName(ctx context.Context, name string) string {
	if o, ok := ctx.Value(overwriteKey{}).(*overwrite); ok {
		return o.take(name)
	}
	return name
}

// Capture runs f in a subsegment, and records its error, its panic, which passes on, or
// that it ended its goroutine with [runtime.Goexit]. Without a segment in ctx it only
// runs f. It panics if ctx or f is nil.
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

// Current returns the innermost segment that ctx is in, of this package or of the SDK;
// nil for none.
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

// Disable returns a context in which calls through a [Client] policy are not traced:
// they have no subsegment and send no trace header. It is for what is instrumented
// otherwise, and for calls that must not be seen. Subsegments that are begun by hand
// are not concerned. It is the gem's disable_trace, without its ids.
func Disable(ctx context.Context) context.Context {
	mustHave(ctx, "Disable")
	return context.WithValue(ctx, disabledKey{}, true)
}

// Disabled reports whether [Disable] holds in ctx.
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

// take gives the name of the subsegment that is being begun.
func (o *overwrite) take(name string) string {
	if o != nil && o.used.CompareAndSwap(false, true) {
		return o.name
	}
	return name
}

// Overwrite returns a context in which the next subsegment, whichever it is, takes
// name in place of its own: for a client whose name cannot be set. Only one does. While
// a name waits for its subsegment, a further Overwrite within is ignored. It is the gem's
// overwrite.
func Overwrite(ctx context.Context, name string) context.Context {
	mustHave(ctx, "Overwrite")
	if o, ok := ctx.Value(overwriteKey{}).(*overwrite); ok && o != nil && !o.used.Load() {
		return ctx
	}
	return context.WithValue(ctx, overwriteKey{}, &overwrite{name: name})
}

// Detach returns a context for work that goes on after the response was sent: it has
// ctx's values, so that the work's subsegments belong to the trace, but is not
// canceled with it. [Disable] and [Overwrite] do not go along. The segment may end
// before its subsegments do. For work that ends before the segment does, pass ctx itself
// to the goroutine.
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
