package tracing

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// response is a ResponseWriter that sees status and size, and adds the trace header
// to the head.
type response struct {
	http.ResponseWriter

	trace    string // the trace header
	status   int    // 0 until the head is written
	written  int64
	hijacked bool
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader writes the head.
func (r *response) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

// begin notes that the head is written. An informational one is not the answer.
func (r *response) begin(status int) {
	if r.status != 0 || r.hijacked || (status < http.StatusOK && status != http.StatusSwitchingProtocols) {
		return
	}
	r.status = status
	r.Header()[HeaderName] = []string{r.trace}
}

// head is what a handler leaves behind that wrote nothing: net/http answers 200.
func (r *response) head() { r.begin(http.StatusOK) }

// Write writes a part of the body.
func (r *response) Write(p []byte) (int, error) {
	r.head()
	n, err := r.ResponseWriter.Write(p)
	r.written += int64(n)
	return n, err
}

// WriteString writes a part of the body.
func (r *response) WriteString(s string) (int, error) {
	r.head()
	n, err := io.WriteString(r.ResponseWriter, s)
	r.written += int64(n)
	return n, err
}

// size is the length of the body: what the head says of it, else what was written.
func (r *response) size() int64 {
	if n := contentLength(r.Header().Get("Content-Length")); n >= 0 {
		return n
	}
	return r.written
}

type (
	flusher    struct{ r *response }
	hijacker   struct{ r *response }
	readerFrom struct{ r *response }
	pusher     struct{ r *response }
)

// Flush sends what was written, the head at least.
func (f flusher) Flush() {
	f.r.head()
	f.r.ResponseWriter.(http.Flusher).Flush() //nolint:forcetypeassert // wrapped saw it
}

// Hijack hands the connection over: what is answered is no longer seen.
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := h.r.ResponseWriter.(http.Hijacker).Hijack() //nolint:forcetypeassert // wrapped saw it
	if err == nil {
		h.r.hijacked = true
	}
	return conn, buffered, err
}

// ReadFrom sends a file without copying it.
func (f readerFrom) ReadFrom(src io.Reader) (int64, error) {
	f.r.head()
	n, err := f.r.ResponseWriter.(io.ReaderFrom).ReadFrom(src) //nolint:forcetypeassert // wrapped saw it
	f.r.written += n
	return n, err
}

// Push starts an HTTP/2 server push.
func (p pusher) Push(target string, opts *http.PushOptions) error {
	return p.r.ResponseWriter.(http.Pusher).Push(target, opts) //nolint:forcetypeassert // wrapped saw it
}

// wrapped is the response with the abilities of the server's.
func (r *response) wrapped() http.ResponseWriter {
	_, canFlush := r.ResponseWriter.(http.Flusher)
	_, canHijack := r.ResponseWriter.(http.Hijacker)
	_, canRead := r.ResponseWriter.(io.ReaderFrom)
	_, canPush := r.ResponseWriter.(http.Pusher)
	f, h, rf, p := flusher{r}, hijacker{r}, readerFrom{r}, pusher{r}
	switch {
	case canFlush && canHijack && canRead: // HTTP/1
		return struct {
			*response
			flusher
			hijacker
			readerFrom
		}{r, f, h, rf}
	case canFlush && canPush: // HTTP/2
		return struct {
			*response
			flusher
			pusher
		}{r, f, p}
	case canFlush && canHijack:
		return struct {
			*response
			flusher
			hijacker
		}{r, f, h}
	case canFlush && canRead:
		return struct {
			*response
			flusher
			readerFrom
		}{r, f, rf}
	case canFlush:
		return struct {
			*response
			flusher
		}{r, f}
	case canHijack:
		return struct {
			*response
			hijacker
		}{r, h}
	}
	return r
}
