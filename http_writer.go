package pillion

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// serverWriter is a ResponseWriter that knows what was written.
type serverWriter struct {
	http.ResponseWriter
	code   int
	begun  bool // the head is out of the handler's hands
	broken bool // the client can no longer be written to
	call   *Call
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
	w.begun, w.code = true, code
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
	w.broken = w.broken || err != nil
	return n, err
}

// ReadFrom lets the server send a file without copying it.
func (w *serverWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	n, err := io.Copy(w.ResponseWriter, r)
	w.broken = w.broken || err != nil
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *serverWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// shaped gives the writer as the handler sees it: it can do what the server's can,
// and nothing more.
func (w *serverWriter) shaped() http.ResponseWriter {
	_, flushes := w.ResponseWriter.(http.Flusher)
	_, hijacks := w.ResponseWriter.(http.Hijacker)
	_, pushes := w.ResponseWriter.(http.Pusher)
	switch {
	case flushes && hijacks: // HTTP/1
		return struct {
			*serverWriter
			flusher
			hijacker
		}{w, flusher{w}, hijacker{w}}
	case flushes && pushes: // HTTP/2
		return struct {
			*serverWriter
			flusher
			http.Pusher
		}{w, flusher{w}, w.ResponseWriter.(http.Pusher)}
	case flushes: // a recorder, or somebody's middleware
		return struct {
			*serverWriter
			flusher
		}{w, flusher{w}}
	}
	return w
}

// flusher sends what was written so far.
type flusher struct{ w *serverWriter }

// Flush sends the head, if it is still to come, and what was written of the body.
func (f flusher) Flush() { _ = f.FlushError() } // http.Flusher has no way to tell

// FlushError is what [http.ResponseController] asks for first.
func (f flusher) FlushError() error {
	f.w.begin(http.StatusOK)
	err := http.NewResponseController(f.w.ResponseWriter).Flush()
	f.w.broken = f.w.broken || err != nil
	return err
}

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
