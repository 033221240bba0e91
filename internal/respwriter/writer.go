// Package respwriter wraps an [http.ResponseWriter] for middleware: a [Watcher] observes
// what the handler does, and the handler keeps every ability of the wrapped writer.
//
// Abilities that handlers detect by a type assertion are kept exactly: [http.Flusher],
// [http.Hijacker], [http.Pusher], [io.ReaderFrom] and http.CloseNotifier are present if, and
// only if, the wrapped writer has them. What [http.ResponseController] looks for is always
// present, and returns [http.ErrNotSupported] where the wrapped writer, and what it unwraps
// to, has no such method.
package respwriter

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Watcher observes the use of a [Writer]. Its methods are called in the goroutine of the
// handler.
type Watcher interface {
	// Begin is called before the response headers are sent, with the final status. It is
	// called again if the flush that it was called for is not supported.
	Begin(status int)

	// Enter is called before an operation that may wait for the client.
	Enter()

	// Leave is called after each Enter. written is the number of bytes of the body that were
	// written since, err what the operation failed with.
	Leave(written int64, err error)

	// Hijacked is called after the handler has taken conn over.
	Hijacked(conn net.Conn)
}

// Deadliner is a [Watcher] that sets the deadlines for which the handler asks. A Writer
// sets them itself for other Watchers.
type Deadliner interface {
	// SetReadDeadline sets a deadline for reading the request from w, the wrapped writer.
	SetReadDeadline(w http.ResponseWriter, deadline time.Time) error

	// SetWriteDeadline sets a deadline for writing the response to w, the wrapped writer.
	SetWriteDeadline(w http.ResponseWriter, deadline time.Time) error
}

// Writer wraps an [http.ResponseWriter] that a [Watcher] observes. The handler uses what
// [Writer.Shaped] returns. The zero value is not ready for use; see [Make].
type Writer struct {
	wrapped http.ResponseWriter
	watcher Watcher
	status  int
	begun   bool // the headers, or the connection, have left the handler's hands
}

// Make returns a Writer around wrapped that watcher observes.
func Make(wrapped http.ResponseWriter, watcher Watcher) Writer {
	return Writer{wrapped: wrapped, watcher: watcher}
}

// Wrapped returns the wrapped writer.
func (w *Writer) Wrapped() http.ResponseWriter { return w.wrapped }

// Begun reports whether the response headers were sent, or the connection hijacked.
func (w *Writer) Begun() bool { return w.begun }

// Status returns the status of the response, 0 if no headers were sent.
func (w *Writer) Status() int { return w.status }

// Begin reports to the watcher that the headers of a final response are about to be sent.
// An informational response is not final. Only the first call has an effect.
func (w *Writer) Begin(status int) (first bool) {
	if w.begun || !final(status) {
		return false
	}
	w.begun, w.status = true, status
	w.watcher.Begin(status)
	return true
}

// final reports whether net/http sends a response with this status as the final one. It
// panics for a status that does not have three digits.
func final(status int) bool {
	return status == http.StatusSwitchingProtocols || status >= 200 && status <= 999
}

// view is a Writer as handlers see it.
type view Writer

func (v *view) writer() *Writer { return (*Writer)(v) }

// Header returns the response headers.
func (v *view) Header() http.Header { return v.wrapped.Header() }

// WriteHeader sends the response headers.
func (v *view) WriteHeader(status int) {
	v.writer().Begin(status)
	v.watcher.Enter()
	defer v.watcher.Leave(0, nil)
	v.wrapped.WriteHeader(status)
}

// Write writes a part of the body, and the headers before the first.
func (v *view) Write(p []byte) (n int, err error) {
	v.writer().Begin(http.StatusOK)
	v.watcher.Enter()
	defer func() { v.watcher.Leave(int64(n), err) }()
	return v.wrapped.Write(p)
}

// WriteString is Write for writers that need no copy of s.
func (v *view) WriteString(s string) (n int, err error) {
	v.writer().Begin(http.StatusOK)
	v.watcher.Enter()
	defer func() { v.watcher.Leave(int64(n), err) }()
	return io.WriteString(v.wrapped, s)
}

// FlushError sends what was written so far, the headers at least.
func (v *view) FlushError() error {
	first := v.writer().Begin(http.StatusOK)
	supported, err := v.writer().flush()
	if !supported && first {
		v.begun, v.status = false, 0
	}
	return err
}

func (w *Writer) flush() (supported bool, err error) {
	var failure error
	w.watcher.Enter()
	defer func() { w.watcher.Leave(0, failure) }()
	err = http.NewResponseController(w.wrapped).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return false, err
	}
	failure = err
	return true, err
}

// SetReadDeadline sets the deadline for reading the request.
func (v *view) SetReadDeadline(deadline time.Time) error {
	if d, ok := v.watcher.(Deadliner); ok {
		return d.SetReadDeadline(v.wrapped, deadline)
	}
	return http.NewResponseController(v.wrapped).SetReadDeadline(deadline)
}

// SetWriteDeadline sets the deadline for writing the response.
func (v *view) SetWriteDeadline(deadline time.Time) error {
	if d, ok := v.watcher.(Deadliner); ok {
		return d.SetWriteDeadline(v.wrapped, deadline)
	}
	return http.NewResponseController(v.wrapped).SetWriteDeadline(deadline)
}

// EnableFullDuplex lets the handler read the request while it writes the response.
func (v *view) EnableFullDuplex() error {
	return http.NewResponseController(v.wrapped).EnableFullDuplex()
}

// Unwrap returns the wrapped writer to those who look for abilities of their own. A
// [http.ResponseController] finds Hijack on the way, even where the type has none.
func (v *view) Unwrap() http.ResponseWriter { return unwrapped{v, hijacker{v}} }

// unwrapped stands between a Writer and the writer that it wraps.
type unwrapped struct {
	*view
	hijacker
}

// Unwrap returns the wrapped writer.
func (u unwrapped) Unwrap() http.ResponseWriter { return u.wrapped }

// The abilities that a type assertion detects.
type (
	flusher       struct{ v *view }
	hijacker      struct{ v *view }
	pusher        struct{ v *view }
	readerFrom    struct{ v *view }
	closeNotifier struct{ v *view }
)

// Flush sends what was written so far, the headers at least.
func (f flusher) Flush() { _ = f.v.FlushError() } // http.Flusher cannot report an error

// Hijack lets the handler take the connection over.
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.v.wrapped).Hijack()
	if err == nil {
		h.v.watcher.Hijacked(conn)
		h.v.begun = true
	}
	return conn, buffered, err
}

// Push starts an HTTP/2 server push.
func (p pusher) Push(target string, opts *http.PushOptions) error {
	return p.v.wrapped.(http.Pusher).Push(target, opts) //nolint:forcetypeassert // abilities has seen it
}

// CloseNotify returns a channel that receives a value when the client has gone.
func (c closeNotifier) CloseNotify() <-chan bool {
	return c.v.wrapped.(http.CloseNotifier).CloseNotify() //nolint:forcetypeassert,staticcheck // abilities has seen it; frameworks still use it
}
