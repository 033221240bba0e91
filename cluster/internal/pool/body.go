package pool

import (
	"io"
	"net/http"
	"os"
	"reflect"
	"sync/atomic"
)

// upload is a request whose body is closed once. net/http closes the body only of a request
// that it begins to send; the pool closes it after any error.
type upload struct {
	req    http.Request
	body   io.ReadCloser
	closed atomic.Bool
}

// track returns a shallow copy of req with a body that can be closed twice.
func track(req *http.Request) *upload {
	u := &upload{req: *req, body: req.Body}
	u.req.Body = u
	return u
}

// Read reads from the body.
func (u *upload) Read(p []byte) (int, error) { return u.body.Read(p) }

// Close closes the body the first time.
func (u *upload) Close() error {
	if u.closed.Swap(true) {
		return nil
	}
	return u.body.Close()
}

// hasBody reports whether req has a body to close.
func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// closesTwice reports whether body can be closed twice, like files and bodies in memory.
// They are not wrapped, because net/http sends these types faster.
func closesTwice(body io.ReadCloser) bool {
	switch reflect.TypeOf(body) {
	case nopCloser, nopCloserWriterTo, file:
		return true
	default:
		return false
	}
}

//nolint:gochecknoglobals // types that never change
var (
	nopCloser         = reflect.TypeOf(io.NopCloser(nil))
	nopCloserWriterTo = reflect.TypeOf(io.NopCloser(struct {
		io.Reader
		io.WriterTo
	}{}))
	file = reflect.TypeFor[*os.File]()
)

// closeBody closes the body of a request that was not sent.
func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
