// Package respwriter wraps an [http.ResponseWriter] for middleware: a [Watcher] observes
// what the handler does, and the handler keeps every ability of the wrapped writer.
//
// Abilities that handlers detect by a type assertion are kept exactly: [http.Flusher],
// [http.Hijacker], [http.Pusher], [io.ReaderFrom] and http.CloseNotifier are present if and
// only if the wrapped writer has them. The methods for which [http.ResponseController] looks
// are always present. They return [http.ErrNotSupported] if neither the wrapped writer nor a
// writer that it unwraps to has the method.
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
	// Begin is called before the response headers are sent, with the final status. If they
	// were to be sent by a flush, and the flush is not supported, Begin is called again later.
	Begin(status int)

	// Enter is called before an operation that may wait for the client.
	Enter()

	// Leave is called after each Enter. written is the number of bytes of the body that were
	// written since, err the error of the operation.
	Leave(written int64, err error)

	// Hijacked is called after the handler has taken over conn.
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
	begun   bool // the headers were sent, or the connection was hijacked
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

// view is a Writer with the methods for handlers.
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

// Write writes a part of the body, and the headers before the first part.
func (v *view) Write(p []byte) (n int, err error) {
	v.writer().Begin(http.StatusOK)
	v.watcher.Enter()
	defer func() { v.watcher.Leave(int64(n), err) }()
	return v.wrapped.Write(p)
}

// WriteString is Write without a copy of s, if the wrapped writer needs none.
func (v *view) WriteString(s string) (n int, err error) {
	v.writer().Begin(http.StatusOK)
	v.watcher.Enter()
	defer func() { v.watcher.Leave(int64(n), err) }()
	return io.WriteString(v.wrapped, s)
}

// FlushError sends the headers and what was written so far.
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

// Unwrap returns the wrapped writer, for code that looks for other abilities. A
// [http.ResponseController] finds Hijack before it, even if the Writer's type has none.
func (v *view) Unwrap() http.ResponseWriter { return unwrapped{v, hijacker{v}} }

// unwrapped is between a Writer and the writer that it wraps.
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

// Flush sends the headers and what was written so far.
func (f flusher) Flush() { _ = f.v.FlushError() } // http.Flusher cannot report an error

// Hijack lets the handler take over the connection.
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
	return p.v.wrapped.(http.Pusher).Push(target, opts) //nolint:forcetypeassert // abilities has checked it
}

// CloseNotify returns a channel that receives a value when the client disconnects.
func (c closeNotifier) CloseNotify() <-chan bool {
	return c.v.wrapped.(http.CloseNotifier).CloseNotify() //nolint:forcetypeassert,staticcheck // abilities has checked it; frameworks still use it
}
