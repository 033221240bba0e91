package tracing

import (
	"net"
	"net/http"

	"github.com/pillion-go/pillion/internal/respwriter"
)

// response observes status and size of a response, and adds the trace header to it.
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
	if h := r.header(); h != nil { // a writer may have none
		h[HeaderName] = []string{r.trace}
	}
}

// Enter does nothing: what the handler waits for is not recorded.
func (r *response) Enter() {}

// Leave counts the bytes of the body.
func (r *response) Leave(written int64, _ error) { r.written += written }

// Hijacked does nothing: what is written to the connection is not observed.
func (r *response) Hijacked(net.Conn) {}

func (r *response) header() http.Header { return r.w.Wrapped().Header() }

// size is the length of the body: what the header says of it, else what was written.
func (r *response) size() int64 {
	if n := contentLength(r.header().Get("Content-Length")); n >= 0 {
		return n
	}
	return r.written
}
