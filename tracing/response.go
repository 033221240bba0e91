package tracing

import (
	"net"
	"net/http"

	"github.com/pillion-go/pillion/internal/respwriter"
)

// response observes the status and the size of a response, and adds the trace header to it.
type response struct {
	w       respwriter.Writer
	trace   string // the trace header
	written int64
}

func newResponse(w http.ResponseWriter, trace string) *response {
	r := &response{trace: trace}
	r.w = respwriter.Make(w, r)
	return r
}

// Begin adds the trace header.
func (r *response) Begin(int) {
	if h := r.header(); h != nil { // a writer may have no header
		h[HeaderName] = []string{r.trace}
	}
}

// Enter does nothing: the handler's blocking calls are not recorded.
func (r *response) Enter() {}

// Leave counts the bytes of the body.
func (r *response) Leave(written int64, _ error) { r.written += written }

// Hijacked does nothing: writes to the connection are not observed.
func (r *response) Hijacked(net.Conn) {}

func (r *response) header() http.Header { return r.w.Wrapped().Header() }

// size returns the length of the body: the one of the header, or else the number of bytes
// written.
func (r *response) size() int64 {
	if n := contentLength(r.header().Get("Content-Length")); n >= 0 {
		return n
	}
	return r.written
}
