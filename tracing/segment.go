package tracing

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/aws/aws-xray-sdk-go/v2/header"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Segment is a segment or a subsegment: a unit of work in a trace. [Tracer.Trace] and
// [StartSubsegment] begin one; [Segment.End] ends it, and sends it if the trace is sampled.
// All methods may be called on a nil and on a zero Segment, where they do nothing, and may
// be called concurrently. After the end they change nothing.
type Segment struct {
	x *xray.Segment
	d *document // nil for a segment of the SDK
}

// document is a segment of this package: the Segment of the user, the view of the SDK and
// the context that carries it, in one allocation. The SDK's lock in doc guards all fields
// that are written after the beginning.
type document struct {
	Segment

	context.Context //nolint:containedctx // the document is the context that carries it

	doc    xray.Segment
	tracer *Tracer       // whose emitter sends it; nil if the SDK's emitter does
	in     *inbound      // of the whole trace; nil if there was no header
	more   *details      // nil if not sampled
	thrown *thrown       // nil unless it failed
	began  time.Duration // time of the beginning on the monotonic clock
	sized  bool          // the response's size is known, even if it is 0
	call   bool          // it belongs to a Client policy
	sent   bool
}

// details are the parts that only a sampled document needs.
type details struct {
	cfg      xray.Config // marks doc as a document of this package, and holds its emitter
	http     xray.HTTPData
	request  xray.RequestData
	response xray.ResponseData
}

// inbound is the trace information of the request.
type inbound struct {
	raw    string  // the header
	fields []Field // its fields that have no meaning here
	state  string  // the W3C tracestate
	header header.Header
}

//nolint:gochecknoglobals // only differences to it are used
var epoch = time.Now()

type documentKey struct{}

// Value returns the document if the SDK asks for the segment, and otherwise the value of
// the context in which the document was begun.
func (d *document) Value(key any) any {
	if key == any(xray.ContextKey) {
		return &d.doc
	}
	if _, ok := key.(documentKey); ok {
		return d
	}
	return d.Context.Value(key)
}

// ownEmitter makes a document the SDK's emitter: the SDK calls it to send a segment of the
// document's tree.
type ownEmitter struct{ *document }

// owner returns the sampled document of which x is the SDK's view. It returns nil for a
// segment of the SDK.
func owner(x *xray.Segment) *document {
	if x.Configuration == nil {
		return nil
	}
	if own, ok := x.Configuration.Emitter.(ownEmitter); ok && x == &own.doc {
		return own.document
	}
	return nil
}

// nearest returns the innermost document in ctx that belongs to x's trace. It returns nil
// if there is none.
func nearest(ctx context.Context, x *xray.Segment) *document {
	if d, ok := ctx.Value(documentKey{}).(*document); ok && d.doc.ParentSegment == x.ParentSegment {
		return d
	}
	if d := owner(x); d != nil {
		return d
	}
	return owner(x.ParentSegment)
}

// current returns the segment in ctx. It ignores a segment that the SDK made while it was
// disabled.
func current(ctx context.Context) *xray.Segment {
	x := xray.GetSegment(ctx)
	if x == nil || x.ParentSegment == nil {
		return nil
	}
	return x
}

// newDocument begins a document in ctx.
func newDocument(ctx context.Context, t *Tracer, name, id string, sampled bool) *document {
	d := &document{Context: ctx, tracer: t}
	d.Segment = Segment{x: &d.doc, d: d}
	x := &d.doc
	x.Name, x.ID = cut(name, maxName), id
	x.Facade = true // the SDK sends its subsegments below when they end, and this document does not wait for them
	x.InProgress = true
	x.Sampled, x.Dummy = sampled, !sampled
	if sampled {
		d.began = time.Since(epoch)
		x.StartTime = float64(time.Now().UnixNano()) / float64(time.Second)
		d.more = &details{}
		d.more.cfg.Emitter = ownEmitter{d}
		x.Configuration = &d.more.cfg
	}
	return d
}

// newSegment begins the segment of a trace.
func newSegment(ctx context.Context, t *Tracer, name string, h Header, id string, sampled bool) *document {
	d := newDocument(ctx, t, name, id, sampled)
	x := &d.doc
	x.ParentSegment = x
	x.TraceID, x.ParentID = h.Root, h.Parent
	if sampled { // the SDK reads these from the first segment of a trace
		d.more.cfg = t.sdk
		d.more.cfg.Emitter = ownEmitter{d}
	} else {
		x.Configuration = &t.sdk
	}
	return d
}

// newSubsegment begins a subsegment of parent. It is a separate document, which is sent
// when it ends.
func newSubsegment(ctx context.Context, t *Tracer, parent *xray.Segment, name string) *document {
	first := parent.ParentSegment
	d := newDocument(ctx, t, name, newSegmentID(), first.Sampled)
	x := &d.doc
	x.ParentSegment = first
	x.TraceID, x.ParentID = first.TraceID, parent.ID
	x.Type = "subsegment"
	if t == nil {
		x.Name = legalName(name) // the SDK does not normalize names
	}
	return d
}

// ID returns the id of the segment. It is "" for a nil Segment.
func (s *Segment) ID() string {
	if s.none() {
		return ""
	}
	return s.x.ID
}

// TraceID returns the id of the trace. It is a real id even if the trace is not sampled. It
// is "" for a nil Segment.
func (s *Segment) TraceID() string {
	if s.none() {
		return ""
	}
	return s.x.ParentSegment.TraceID
}

// Sampled reports whether the trace is recorded. If it is not, all methods work in the same
// way, but nothing is sent.
func (s *Segment) Sampled() bool { return !s.none() && s.x.ParentSegment.Sampled }

// none reports whether s stands for no segment.
func (s *Segment) none() bool { return s == nil || s.x == nil }

// XRay returns the segment as the X-Ray SDK sees it, for functions that only the SDK has.
// It is nil for a nil Segment. It must not be ended through the SDK while it is in use
// here.
func (s *Segment) XRay() *xray.Segment {
	if s.none() {
		return nil
	}
	return s.x
}

// Incoming returns the trace header with which the trace arrived, cut at 4 KiB. It is "" if
// the trace began here.
func (s *Segment) Incoming() string {
	if s.none() {
		return ""
	}
	if in := s.inbound(); in != nil {
		return in.raw
	}
	if h := s.x.ParentSegment.IncomingHeader; h != nil {
		return h.String()
	}
	return ""
}

// inbound returns the trace information of the request that was kept.
func (s *Segment) inbound() *inbound {
	if s.d != nil {
		return s.d.in
	}
	if d := owner(s.x.ParentSegment); d != nil {
		return d.in
	}
	return nil
}

// Header returns the trace header for the response: the trace, the decision, the caller as
// parent, and the other fields of the request. It is zero for a nil Segment.
func (s *Segment) Header() Header {
	h := s.Downstream()
	if s.none() {
		return h
	}
	h.Parent = s.x.ParentSegment.ParentID
	if in := s.inbound(); in != nil {
		h.Fields = in.fields
	}
	return h
}

// Downstream returns the trace header for a call made within the segment: the trace, the
// decision, this segment as parent, and the other fields of the request, except Self, which
// names the previous hop. Write it with [Header.String] or [Header.TraceParent]. It is zero
// for a nil Segment.
func (s *Segment) Downstream() Header {
	if s.none() {
		return Header{}
	}
	h := Header{Root: s.TraceID(), Parent: s.x.ID, Sampled: NotSampled}
	if s.Sampled() {
		h.Sampled = Sampled
	}
	if in := s.inbound(); in != nil {
		h.State = in.state
		h.Fields = withoutSelf(in.fields)
	} else if in := s.x.ParentSegment.IncomingHeader; in != nil {
		h.Fields = fieldsOf(in.AdditionalData)
	}
	return h
}

// change runs f under the segment's lock, unless the segment is not recorded or has ended.
func (s *Segment) change(f func(x *xray.Segment)) {
	if !s.Sampled() {
		return
	}
	s.x.Lock()
	defer s.x.Unlock()
	if s.x.EndTime == 0 {
		f(s.x)
	}
}

// End ends the segment, and sends it if it is sampled. Only the first End counts. If err
// points to an error, End records it as a fault with a cause. If End is deferred directly,
// it also records a panic, and passes it on:
//
//	ctx, seg := tracing.StartSubsegment(ctx, "render")
//	defer seg.End(&err)
//
// err may be nil if there is no error to record. End does not detect [runtime.Goexit];
// [Capture] does.
func (s *Segment) End(err *error) { //nolint:gocritic // a pointer, because End is deferred before the error is known
	if p := recover(); p != nil {
		s.rethrow(p)
	}
	if err != nil && *err != nil {
		s.SetError(*err)
	}
	s.finish()
}

// unwound ends the segment of a function that did not return because it panicked or called
// runtime.Goexit. It is deferred directly, so that it can recover the panic.
func (s *Segment) unwound(returned *bool) {
	if !*returned {
		s.rethrow(recover())
	}
}

// rethrow ends the segment of a function that panicked with p, and panics again. A nil p
// means runtime.Goexit.
func (s *Segment) rethrow(p any) {
	if p == nil {
		s.SetError(errGoexit)
		s.finish()
		return
	}
	s.recordPanic(p)
	s.finish()
	panic(p)
}

var errGoexit = errors.New("the goroutine was ended by runtime.Goexit")

// finish ends the segment and sends it.
func (s *Segment) finish() {
	if s.none() {
		return
	}
	if s.d == nil { // the SDK ends its own segments
		s.x.Close(nil)
		return
	}
	s.d.finish()
}

func (d *document) finish() {
	x := &d.doc
	if !x.ParentSegment.Sampled {
		return // nothing was recorded, and nothing will be
	}
	x.Lock()
	defer x.Unlock()
	if d.sent {
		return
	}
	if x.EndTime == 0 { // otherwise it was closed through the SDK, which waits for subsegments
		x.EndTime = x.StartTime + (time.Since(epoch) - d.began).Seconds()
	}
	x.InProgress, x.Emitted = false, true
	d.send()
}

// send passes the document to its emitter, once. The caller holds the lock.
func (d *document) send() {
	if d.sent {
		return
	}
	d.sent = true
	if d.tracer != nil {
		d.tracer.emitter.take(&d.doc)
		return
	}
	d.materialise()
	if cfg := d.doc.ParentSegment.Configuration; cfg != nil && cfg.Emitter != nil {
		cfg.Emitter.Emit(&d.doc)
	}
}

// Emit sends a segment of the document's tree that the SDK ended: the document itself, or a
// subsegment that the SDK made. The SDK holds seg's lock.
func (e ownEmitter) Emit(seg *xray.Segment) {
	if d := owner(seg); d != nil {
		d.send()
		return
	}
	if e.tracer != nil && seg.ParentSegment.Sampled {
		e.tracer.emitter.take(seg)
	}
}

// RefreshEmitterWithAddress does nothing: the tracer decides where documents are sent.
func (ownEmitter) RefreshEmitterWithAddress(*net.UDPAddr) {}
