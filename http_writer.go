package pillion

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
)

// serverWriter is a ResponseWriter that knows what was written. What it cannot do
// for every server stands in the types that shaped adds to it.
type serverWriter struct {
	http.ResponseWriter
	call   *Call
	code   int
	begun  bool // the head is out of the handler's hands
	late   bool // and was so only after a limit had struck
	broken bool // the client can no longer be written to
}

// status is that of the answer, by the rules of net/http.
func (w *serverWriter) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}

// begin notes the answer's status. An informational one is not the answer.
func (w *serverWriter) begin(code int) {
	if w.begun || (code >= 100 && code < 200 && code != http.StatusSwitchingProtocols) {
		return
	}
	w.begun, w.code, w.late = true, code, !w.call.HeadersSent()
}

// WriteHeader writes the head.
func (w *serverWriter) WriteHeader(code int) {
	w.begin(code)
	w.ResponseWriter.WriteHeader(code)
}

// Write writes the body, and the head before it.
func (w *serverWriter) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	return n, w.told(err)
}

// WriteString is Write for servers that need no copy of it.
func (w *serverWriter) WriteString(s string) (int, error) {
	w.begin(http.StatusOK)
	n, err := io.WriteString(w.ResponseWriter, s)
	return n, w.told(err)
}

// told notes that a write failed.
func (w *serverWriter) told(err error) error {
	w.broken = w.broken || err != nil
	return err
}

// FlushError sends what was written so far. It is what [http.ResponseController] asks
// for first, and finds also where there is no [http.Flusher] to find.
func (w *serverWriter) FlushError() error {
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return err
	}
	w.begin(http.StatusOK)
	return w.told(err)
}

// Unwrap is for [http.ResponseController]. It finds Hijack on the way to the
// server's own.
func (w *serverWriter) Unwrap() http.ResponseWriter { return unwrapped{w, hijacker{w}} }

// unwrapped is what lies below a serverWriter to those who look there.
type unwrapped struct {
	*serverWriter
	hijacker
}

// Unwrap gives the server's own writer.
func (u unwrapped) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// ability is what handlers find out about a ResponseWriter by its type.
type ability uint8

const (
	flushes ability = 1 << iota
	hijacks
	pushes
)

func abilities(w http.ResponseWriter) (a ability) {
	if _, ok := w.(http.Flusher); ok {
		a |= flushes
	}
	if _, ok := w.(http.Hijacker); ok {
		a |= hijacks
	}
	if _, ok := w.(http.Pusher); ok {
		a |= pushes
	}
	return a
}

// shaped gives the writer as the handler sees it: it can do what the server's can,
// and nothing more.
func (w *serverWriter) shaped() http.ResponseWriter {
	f, h, p := flusher{w}, hijacker{w}, pusher{w}
	switch abilities(w.ResponseWriter) {
	case flushes | hijacks:
		if _, ok := w.ResponseWriter.(io.ReaderFrom); ok { // HTTP/1
			return struct {
				*serverWriter
				flusher
				hijacker
				sender
			}{w, f, h, sender{w}}
		}
		return struct {
			*serverWriter
			flusher
			hijacker
		}{w, f, h}
	case flushes | pushes: // HTTP/2
		return struct {
			*serverWriter
			flusher
			pusher
		}{w, f, p}
	case flushes: // a recorder
		return struct {
			*serverWriter
			flusher
		}{w, f}
	case pushes: // http.TimeoutHandler
		return struct {
			*serverWriter
			pusher
		}{w, p}
	case hijacks:
		return struct {
			*serverWriter
			hijacker
		}{w, h}
	case hijacks | pushes:
		return struct {
			*serverWriter
			hijacker
			pusher
		}{w, h, p}
	case flushes | hijacks | pushes: // middleware that says it can do all
		return struct {
			*serverWriter
			flusher
			hijacker
			pusher
		}{w, f, h, p}
	}
	return w
}

// flusher sends what was written so far.
type flusher struct{ w *serverWriter }

// Flush sends the head, if it is still to come, and what was written of the body.
func (f flusher) Flush() { _ = f.w.FlushError() } // http.Flusher has no way to tell

// hijacker takes the connection over.
type hijacker struct{ w *serverWriter }

// Hijack gives the connection to the handler: whatever it answers there is its own
// affair, under no limit, and told as a 101.
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.w.ResponseWriter).Hijack()
	if err == nil {
		h.w.begin(http.StatusSwitchingProtocols)
		h.w.call.LiftLimits()
	}
	return conn, rw, err
}

// pusher promises answers that nobody asked for yet.
type pusher struct{ w *serverWriter }

// Push starts an HTTP/2 push, which is a request of its own.
func (p pusher) Push(target string, opts *http.PushOptions) error {
	push, ok := p.w.ResponseWriter.(http.Pusher)
	if !ok {
		return http.ErrNotSupported
	}
	return push.Push(target, opts)
}

// sender sends files without copying them.
type sender struct{ w *serverWriter }

// ReadFrom writes what is left of r.
func (s sender) ReadFrom(r io.Reader) (int64, error) {
	s.w.begin(http.StatusOK)
	n, err := io.Copy(s.w.ResponseWriter, r)
	return n, s.w.told(err)
}
