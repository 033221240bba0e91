package pillion

import (
	"io"
	"net/http"
	"sync/atomic"

	"github.com/pillion-go/pillion/policy"
)

// sizes holds the sizes of an attempt. It is also the body of the response, whose bytes it counts.
type sizes struct {
	io.ReadCloser // the body of the response; nil for none

	fixed policy.Sizes // without the body of the response, and that of a request that is not in memory
	read  atomic.Int64 // of the response; its end may come while a Read runs
}

// sizesOf returns the sizes of a request that is about to be sent. The header fields that net/http
// adds are not counted, except the length of the body.
func (x *httpCall) sizesOf(req *http.Request) *sizes {
	s := &sizes{}
	authority := req.Host
	if u := req.URL; u != nil {
		if authority == "" {
			authority = u.Host
		}
		s.request(":scheme", u.Scheme)
		s.request(":path", u.RequestURI())
	}
	s.request(":authority", authority)
	s.request(":method", x.method())
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer": // net/http does not send them
		default:
			s.request(name, values...)
		}
	}
	if n := req.ContentLength; n > 0 && hasBody(req) {
		s.fixed.RequestHeaders++
		s.fixed.RequestHeaderBytes += uint64(len("content-length")) + digits(uint64(n))
	}
	if hasBody(req) {
		if left, ok := inMemory(req.Body); ok {
			s.fixed.RequestBodyBytes = uint64(left) //nolint:gosec // not negative
		}
	}
	return s
}

// request counts a field of the request's header.
func (s *sizes) request(name string, values ...string) {
	n, bytes := fields(name, values)
	s.fixed.RequestHeaders += n
	s.fixed.RequestHeaderBytes += bytes
}

// fields returns how many fields a header has with the name, and their bytes.
func fields(name string, values []string) (n, bytes uint64) {
	for _, value := range values {
		bytes += uint64(len(name) + len(value))
	}
	return uint64(len(values)), bytes
}

// digits returns how many decimal digits n has.
func digits(n uint64) uint64 {
	if n < 10 {
		return 1
	}
	return 1 + digits(n/10)
}

// respond counts the header of a response.
func (s *sizes) respond(resp *http.Response) {
	f := &s.fixed
	f.Responded = true
	f.ResponseHeaders, f.ResponseHeaderBytes = 1, uint64(len(":status200"))
	for name, values := range resp.Header {
		n, bytes := fields(name, values)
		f.ResponseHeaders += n
		f.ResponseHeaderBytes += bytes
	}
}

// measured returns the body of a response that is handed to the caller, counted if the attempt is
// measured. A body that is discarded is not counted, as in Envoy, which resets its stream.
func (a *httpAttempt) measured(body io.ReadCloser) io.ReadCloser {
	if a.sizes == nil {
		return body
	}
	a.sizes.ReadCloser = body
	return a.sizes
}

// Read counts what it reads.
func (s *sizes) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.read.Add(int64(n))
	return n, err
}

// Sizes returns the sizes of the attempt so far.
func (x *httpCall) Sizes(c *policy.Attempt) (policy.Sizes, bool) {
	a := attemptOf(c)
	if a.sizes == nil {
		return policy.Sizes{}, false
	}
	s := a.sizes.fixed
	switch {
	case a.source != nil:
		s.RequestBodyBytes = uint64(a.source.sent()) //nolint:gosec // not negative
	case c.Call().Unconnected():
		s.RequestBodyBytes = 0
	}
	s.ResponseBodyBytes = uint64(max(0, a.sizes.read.Load()))
	return s, true
}

// sent returns how much of the body was read.
func (s *source) sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}
