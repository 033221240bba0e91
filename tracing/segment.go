package tracing

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/aws/aws-xray-sdk-go/v2/header"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Segment is a segment or a subsegment: a piece of work in a trace. [Tracer.Trace]
// and [StartSubsegment] begin one, [Segment.End] ends it, and sends it if the trace is
// sampled. All methods may be called on a nil and on a zero Segment, which record
// nothing, and concurrently. After the end they change nothing.
type Segment struct {
	x *xray.Segment
	d *document // nil for one that the SDK made
}

// document is a segment of ours: what users hold, what the SDK sees and the context
// that carries it, in one allocation. The SDK's lock in doc guards all that is written
// after the beginning.
type document struct {
	Segment

	context.Context //nolint:containedctx // the document is the context that carries it

	doc    xray.Segment
	tracer *Tracer       // whose emitter sends it; nil where the SDK's does
	in     *inbound      // of the whole trace; nil where no header came
	more   *details      // nil if not sampled
	thrown *thrown       // why it failed
	began  time.Duration // on the monotonic clock
	sized  bool          // the response's size is known, be it 0
	call   bool          // of a Client policy
	sent   bool
}

// details is what only a sampled document needs.
type details struct {
	cfg      xray.Config // says that doc is ours, and whose emitter it has
	http     xray.HTTPData
	request  xray.RequestData
	response xray.ResponseData
}

// inbound is what came with a trace.
type inbound struct {
	raw    string  // the header
	fields []Field // its fields without a meaning
	state  string  // the W3C tracestate
	header header.Header
}

//nolint:gochecknoglobals // only differences are taken
var epoch = time.Now()

type documentKey struct{}

// Value has the SDK find the document, and everything else in the context that it
// was begun in.
func (d *document) Value(key any) any {
	if key == any(xray.ContextKey) {
		return &d.doc
	}
	if _, ok := key.(documentKey); ok {
		return d
	}
	return d.Context.Value(key)
}

// ownEmitter is a document as the SDK's emitter: the SDK calls it when a segment
// of the document's tree is to be sent.
type ownEmitter struct{ *document }

// owner gives the sampled document of ours that x is the SDK's view of, nil for the
// SDK's own.
func owner(x *xray.Segment) *document {
	if x.Configuration == nil {
		return nil
	}
	if own, ok := x.Configuration.Emitter.(ownEmitter); ok && x == &own.doc {
		return own.document
	}
	return nil
}

// nearest gives the innermost document of ours in ctx that is of x's trace, nil for
// none.
func nearest(ctx context.Context, x *xray.Segment) *document {
	if d, ok := ctx.Value(documentKey{}).(*document); ok && d.doc.ParentSegment == x.ParentSegment {
		return d
	}
	if d := owner(x); d != nil {
		return d
	}
	return owner(x.ParentSegment)
}

// current finds the segment that ctx is in. One of the SDK's that was made while
// it was disabled is none.
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
	x.Facade = true // the SDK's subsegments below are sent as they end, and do not hold this one up
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
	if sampled { // what else the SDK asks the first segment of a trace for
		d.more.cfg = t.sdk
		d.more.cfg.Emitter = ownEmitter{d}
	} else {
		x.Configuration = &t.sdk
	}
	return d
}

// newSubsegment begins a subsegment of parent. It is a document of its own, which
// is sent when it ends.
func newSubsegment(ctx context.Context, t *Tracer, parent *xray.Segment, name string) *document {
	first := parent.ParentSegment
	d := newDocument(ctx, t, name, newSegmentID(), first.Sampled)
	x := &d.doc
	x.ParentSegment = first
	x.TraceID, x.ParentID = first.TraceID, parent.ID
	x.Type = "subsegment"
	if t == nil {
		x.Name = legalName(name) // the SDK sends it as it is
	}
	return d
}

// ID is the segment's own id, "" for a nil Segment.
func (s *Segment) ID() string {
	if s.none() {
		return ""
	}
	return s.x.ID
}

// TraceID is the id of the trace, a real one also when the trace is not sampled.
// It is "" for a nil Segment.
func (s *Segment) TraceID() string {
	if s.none() {
		return ""
	}
	return s.x.ParentSegment.TraceID
}

// Sampled reports whether the trace is recorded. All of it works alike if not,
// but nothing is sent.
func (s *Segment) Sampled() bool { return !s.none() && s.x.ParentSegment.Sampled }

// none reports whether s stands for no segment.
func (s *Segment) none() bool { return s == nil || s.x == nil }

// XRay is the segment as the X-Ray SDK sees it, for what only the SDK can do; nil
// for a nil Segment. It must not be ended through the SDK while it is used here.
func (s *Segment) XRay() *xray.Segment {
	if s.none() {
		return nil
	}
	return s.x
}

// Incoming returns the trace header that the trace came with, as it came, but for what is
// over 4 KiB; "" if the trace began here.
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

// inbound is what came with the trace, as far as we kept it.
func (s *Segment) inbound() *inbound {
	if s.d != nil {
		return s.d.in
	}
	if d := owner(s.x.ParentSegment); d != nil {
		return d.in
	}
	return nil
}

// Header is what this process says of the trace to who called it: the trace, the
// decision, the caller as parent, and the fields that came. It goes into responses. It is
// zero for a nil Segment.
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

// Downstream is what a call made within the segment must send: the trace, the
// decision, this segment as parent, and the fields that came, but for Self, which
// names the hop before. Write it with [Header.String], or [Header.TraceParent]. It is
// zero for a nil Segment.
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

// change runs f under the segment's lock, if the segment records anything and has
// not ended.
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

// End ends the segment, and sends it if it is sampled. Only the first End counts.
// An error that err points to is recorded, with fault and cause. Deferred directly, End
// records a panic as well, and lets it pass on:
//
//	ctx, seg := tracing.StartSubsegment(ctx, "render")
//	defer seg.End(&err)
//
// err may be nil, if there is none to record. End does not see that a goroutine ends by
// [runtime.Goexit]; [Capture] does.
func (s *Segment) End(err *error) { //nolint:gocritic // a pointer, since it is deferred before the error is known
	if p := recover(); p != nil {
		s.rethrow(p)
	}
	if err != nil && *err != nil {
		s.SetError(*err)
	}
	s.finish()
}

// unwound ends the segment of a function that did not return: it panicked, or ended its
// goroutine. It is deferred directly, to recover the panic.
func (s *Segment) unwound(returned *bool) {
	if !*returned {
		s.rethrow(recover())
	}
}

// rethrow ends the segment of a function that panicked with p, and lets the panic pass
// on. A nil p says that the function ended its goroutine.
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

// finish ends the segment and has it sent.
func (s *Segment) finish() {
	if s.none() {
		return
	}
	if s.d == nil { // the SDK's: let it
		s.x.Close(nil)
		return
	}
	s.d.finish()
}

func (d *document) finish() {
	x := &d.doc
	if !x.ParentSegment.Sampled {
		return // nothing was recorded, nothing will be
	}
	x.Lock()
	defer x.Unlock()
	if d.sent {
		return
	}
	if x.EndTime == 0 { // else the SDK was told to close it, and waits for subsegments
		x.EndTime = x.StartTime + (time.Since(epoch) - d.began).Seconds()
	}
	x.InProgress, x.Emitted = false, true
	d.send()
}

// send hands the document over, once. The caller holds the lock.
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

// Emit sends what the SDK ended of the document's tree: the document itself, or a
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

// RefreshEmitterWithAddress does nothing: where documents go is the tracer's business.
func (ownEmitter) RefreshEmitterWithAddress(*net.UDPAddr) {}
