package tracing

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/exception"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// The maximum number of stack frames, as in the gem. Frames beyond it are only counted.
const (
	maxStatusFrames = 10
	maxErrorFrames  = 250
	maxCallerFrames = 100
)

// thrown is the reason why a segment failed: one exception of its cause.
type thrown struct {
	id, kind, message string
	remote            bool
	stack             []uintptr // converted to frames when the document is written
	most              int
}

// SetError records err as a fault with a cause. The cause has the stack of the caller, or
// the stack that err carries (StackTrace() []uintptr, as in the X-Ray SDK). SetError
// replaces the flags and the cause that were recorded before, as in the gem. A nil err does
// nothing.
func (s *Segment) SetError(err error) { s.recordError(err, false) }

// recordError records err as the cause of a fault, or of an error if isError is set.
func (s *Segment) recordError(err error, isError bool) {
	if err == nil || !s.Sampled() {
		return
	}
	t := &thrown{id: newSegmentID(), kind: typeName(err), message: errorText(err), most: maxErrorFrames}
	if t.stack = carriedStack(err); t.stack == nil {
		t.stack = callers()
	}
	s.throw(t, isError, false, !isError)
}

// SetFlags sets the flags without a cause: error means an error of the caller, throttle that
// the caller sent too many requests, fault a fault of this service. It replaces the flags
// and the cause that were recorded before.
func (s *Segment) SetFlags(isError, throttle, fault bool) { s.throw(nil, isError, throttle, fault) }

// recordPanic records the value of a panic.
func (s *Segment) recordPanic(p any) {
	if !s.Sampled() {
		return
	}
	t := &thrown{id: newSegmentID(), kind: "panic", most: maxErrorFrames, stack: callers()}
	if err, ok := p.(error); ok {
		t.kind, t.message = typeName(err), errorText(err)
	} else {
		t.message = cutBytes(sprint(p), maxPacket)
	}
	s.throw(t, false, false, true)
}

// setStatus sets flags and a cause for an HTTP status, as in the gem: 429 is an error and a
// throttle, other 4xx are errors, 5xx are faults. Other statuses change nothing. remote
// reports whether another service caused it.
func (s *Segment) setStatus(status int, remote bool) {
	var text string
	switch {
	case status == 429:
		text = "Got 429"
	case status >= 400 && status <= 499:
		text = "Got 4xx"
	case status >= 500 && status <= 599:
		text = "Got 5xx"
	default:
		return
	}
	if !s.Sampled() {
		return
	}
	t := &thrown{id: newSegmentID(), kind: "http_response_error", message: text, remote: remote, most: maxStatusFrames, stack: callers()}
	if remote {
		t.kind = "http_request_error"
	}
	s.throw(t, status < 500, status == 429, status >= 500)
}

// throw sets the flags and the cause.
func (s *Segment) throw(t *thrown, isError, throttle, fault bool) {
	s.change(func(x *xray.Segment) {
		x.Error, x.Throttle, x.Fault = isError, throttle, fault
		x.Cause = nil
		if d := owner(x); d != nil {
			d.thrown = t
			return
		}
		if t != nil {
			addException(x, t)
		}
	})
}

// flagged reports whether any of x's flags is set. If so, all three flags are written.
func flagged(x *xray.Segment) bool { return x.Error || x.Throttle || x.Fault }

// materialise writes the cause to the field where the SDK's emitter looks for it.
func (d *document) materialise() {
	if d.thrown != nil {
		addException(&d.doc, d.thrown)
		d.thrown = nil
	}
}

func addException(x *xray.Segment, t *thrown) {
	frames, _ := stackOf(t.stack, t.most)
	cause := x.GetCause()
	cause.WorkingDirectory = workingDirectory()
	cause.Exceptions = append(cause.Exceptions, exception.Exception{
		ID: t.id, Type: t.kind, Message: t.message, Remote: t.remote, Stack: frames,
	})
}

// callers returns the stack of the code that called this package.
func callers() []uintptr {
	var pcs [512]uintptr
	n := runtime.Callers(2, pcs[:])
	return append([]uintptr(nil), pcs[:n]...)
}

// stackOf returns up to most frames of a stack, and the number of frames beyond them. It
// omits the frames of this module and of the runtime's panic at the top, which say nothing
// about the error.
func stackOf(pcs []uintptr, most int) (stack []exception.Stack, truncated int) {
	if len(pcs) == 0 {
		return nil, 0
	}
	var all []runtime.Frame
	own := 0 // the number of the module's and the runtime's frames at the top
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		all = append(all, f)
		if f.Function == "runtime.gopanic" || (own == len(all)-1 && isOwn(f)) {
			own = len(all)
		}
		if !more {
			break
		}
	}
	if own < len(all) {
		all = all[own:]
	}
	for i, f := range all {
		if i == most {
			return stack, len(all) - most
		}
		stack = append(stack, exception.Stack{Path: framePath(f.File), Line: max(f.Line, 1), Label: f.Function})
	}
	return stack, 0
}

const module = "github.com/pillion-go/pillion"

// isOwn reports whether f is a frame of this module, or of net/http around it.
func isOwn(f runtime.Frame) bool {
	rest, ok := strings.CutPrefix(f.Function, module)
	if ok {
		return !strings.HasSuffix(f.File, "_test.go") && !strings.HasPrefix(rest, "/examples/") && !strings.HasPrefix(rest, "/bench")
	}
	return strings.HasPrefix(f.Function, "runtime.")
}

// framePath returns the path of a source file. It is relative to the working directory if
// the file is inside it.
func framePath(file string) string {
	if rest, ok := strings.CutPrefix(file, workingDirectory()); ok {
		return rest
	}
	return file
}

//nolint:gochecknoglobals // looked up once and never changed; few programs change their working directory
var workingDirectory = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return strings.TrimSuffix(dir, "/") + "/"
})

// carriedStack returns the stack that an error carries, or nil. A panic in the error's
// methods must not end the request.
func carriedStack(err error) (stack []uintptr) {
	defer func() {
		if recover() != nil {
			stack = nil
		}
	}()
	var carrier exception.StackTracer
	if errors.As(err, &carrier) {
		return carrier.StackTrace()
	}
	return nil
}

// typeName returns the name of an error's type, without the asterisk of a pointer type.
func typeName(err error) (name string) {
	name = strings.TrimLeft(fmt.Sprintf("%T", err), "*")
	defer func() { _ = recover() }() // as in carriedStack
	if e, ok := errors.AsType[*exception.XRayError](err); ok {
		return e.Type
	}
	return name
}

// errorText returns the error's text. A panic in the Error method must not end the request.
func errorText(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("%T: its Error method panicked: %v", err, p)
		}
	}()
	return cutBytes(err.Error(), maxPacket)
}

// exceptionStrategy is the SDK's default strategy, except that it recovers panics of Error
// methods.
type exceptionStrategy struct {
	*exception.DefaultFormattingStrategy
}

func newExceptionStrategy() (exception.FormattingStrategy, error) {
	s, err := exception.NewDefaultFormattingStrategy()
	return exceptionStrategy{s}, err
}

// callerStack is the stack of the code that made a call, and callersMore the number of
// frames beyond the maximum. Both are converted when the document is written.
type (
	callerStack []uintptr
	callersMore []uintptr
)

// MarshalJSON returns the frames.
func (s callerStack) MarshalJSON() ([]byte, error) {
	stack, _ := stackOf(s, maxCallerFrames)
	var w writer
	w.frames(stack)
	return w.b, nil
}

// MarshalJSON returns the number of frames beyond the maximum.
func (s callersMore) MarshalJSON() ([]byte, error) {
	_, truncated := stackOf(s, maxCallerFrames)
	return strconv.AppendInt(nil, int64(truncated), 10), nil
}

// recordCaller records the code that made the call.
func (s *Segment) recordCaller() {
	s.change(func(x *xray.Segment) {
		if x.Metadata == nil {
			x.Metadata = map[string]map[string]any{}
		}
		pcs := callers()
		x.Metadata["caller"] = map[string]any{"stack": callerStack(pcs), "truncated": callersMore(pcs)}
	})
}
