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

// How many frames of a stack are kept, as in the gem; the others are counted.
const (
	maxStatusFrames = 10
	maxErrorFrames  = 250
	maxCallerFrames = 100
)

// thrown is why a segment failed: one exception of its cause.
type thrown struct {
	id, kind, message string
	remote            bool
	stack             []uintptr // turned into frames when the document is written
	most              int
}

// SetError records err: the segment has a fault, and err as its cause, with the
// stack from here, or the one that err carries (StackTrace() []uintptr, as in the X-Ray
// SDK). What was recorded before is replaced: the last one counts, as in the gem. A nil
// err does nothing.
func (s *Segment) SetError(err error) { s.recordError(err, false) }

// recordError records err as the cause of a fault, or of an error of the caller.
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

// SetFlags records by hand what went wrong, without a cause: error is the caller's
// doing, throttle says that it asked too often, fault is this side's doing. What was
// recorded before is replaced.
func (s *Segment) SetFlags(isError, throttle, fault bool) { s.throw(nil, isError, throttle, fault) }

// recordPanic records what a panic said.
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

// setStatus records what an HTTP status says: 429 is an error and a throttle,
// other 4xx an error, 5xx a fault, each with a cause, as in the gem; others nothing.
// remote says that it is another service's doing.
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

// throw sets flags and cause.
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

// flagged reports whether x says anything of errors: then all three flags are
// written.
func flagged(x *xray.Segment) bool { return x.Error || x.Throttle || x.Fault }

// materialise writes the cause where the SDK looks for it, for documents that its
// emitter sends.
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

// callers is the stack of the code that uses this package.
func callers() []uintptr {
	var pcs [512]uintptr
	n := runtime.Callers(2, pcs[:])
	return append([]uintptr(nil), pcs[:n]...)
}

// stackOf gives up to most frames of a stack, and how many more there are. The
// frames of the library at its top, or of the runtime's panic, say nothing about the
// error: they are left out.
func stackOf(pcs []uintptr, most int) (stack []exception.Stack, truncated int) {
	if len(pcs) == 0 {
		return nil, 0
	}
	var all []runtime.Frame
	own := 0 // where the library's and the runtime's own end
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

// isOwn recognises the library's code, and net/http around it.
func isOwn(f runtime.Frame) bool {
	rest, ok := strings.CutPrefix(f.Function, module)
	if ok {
		return !strings.HasSuffix(f.File, "_test.go") && !strings.HasPrefix(rest, "/examples/") && !strings.HasPrefix(rest, "/bench")
	}
	return strings.HasPrefix(f.Function, "runtime.")
}

// framePath is a source file's path, relative to the working directory where it is
// inside.
func framePath(file string) string {
	if rest, ok := strings.CutPrefix(file, workingDirectory()); ok {
		return rest
	}
	return file
}

//nolint:gochecknoglobals // it is looked up once: programs that change it are few, and it is for reading only
var workingDirectory = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return strings.TrimSuffix(dir, "/") + "/"
})

// carriedStack returns the stack that an error carries, nil for none. Its methods may
// panic: that must not end the request.
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

// typeName returns the name of an error's type, without its pointer.
func typeName(err error) (name string) {
	name = strings.TrimLeft(fmt.Sprintf("%T", err), "*")
	defer func() { _ = recover() }() // as in carriedStack
	if e, ok := errors.AsType[*exception.XRayError](err); ok {
		return e.Type
	}
	return name
}

// errorText returns the error's text. An Error method that panics must not end the
// request.
func errorText(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("%T: its Error method panicked: %v", err, p)
		}
	}()
	return cutBytes(err.Error(), maxPacket)
}

// exceptionStrategy is the SDK's default one, but for Error methods that panic.
type exceptionStrategy struct {
	*exception.DefaultFormattingStrategy
}

func newExceptionStrategy() (exception.FormattingStrategy, error) {
	s, err := exception.NewDefaultFormattingStrategy()
	return exceptionStrategy{s}, err
}

// callerStack is the stack of who made a call, and callersMore how much of it is
// left out. They are turned into frames when the document is written.
type (
	callerStack []uintptr
	callersMore []uintptr
)

// MarshalJSON gives the frames.
func (s callerStack) MarshalJSON() ([]byte, error) {
	stack, _ := stackOf(s, maxCallerFrames)
	var w writer
	w.frames(stack)
	return w.b, nil
}

// MarshalJSON gives the number of the others.
func (s callersMore) MarshalJSON() ([]byte, error) {
	_, truncated := stackOf(s, maxCallerFrames)
	return strconv.AppendInt(nil, int64(truncated), 10), nil
}

// recordCaller notes who made the call.
func (s *Segment) recordCaller() {
	s.change(func(x *xray.Segment) {
		if x.Metadata == nil {
			x.Metadata = map[string]map[string]any{}
		}
		pcs := callers()
		x.Metadata["caller"] = map[string]any{"stack": callerStack(pcs), "truncated": callersMore(pcs)}
	})
}
