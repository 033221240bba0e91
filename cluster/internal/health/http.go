package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// The response headers that Envoy reads.
const (
	headerDegraded      = "X-Envoy-Degraded"
	headerImmediateFail = "X-Envoy-Immediate-Health-Check-Fail"
	headerCluster       = "X-Envoy-Upstream-Healthchecked-Cluster"
)

// defaultUserAgent is the User-Agent of Envoy, which servers can exclude from their logs.
const defaultUserAgent = "Envoy/HC"

// defaultBufferSize is the number of bytes of a body that are compared with HTTPConfig.Receive.
const defaultBufferSize = 1024

// HTTPConfig describes an HTTP check. It mirrors Envoy's message HttpHealthCheck.
type HTTPConfig struct {
	// Host is the Host header. Empty means the host of the URL. Envoy's default, which the caller
	// must set, is the hostname of the endpoint, or else the name of the cluster.
	Host string

	// Path is the path, and query, of the request, such as "/healthz". It is required.
	Path string

	// Method is the method. Empty means GET.
	Method string

	// Header is set on each request. It replaces default headers, such as the User-Agent
	// "Envoy/HC".
	Header http.Header

	// RemoveHeaders are header names that are removed from each request.
	RemoveHeaders []string

	// Send is the body of the request. It needs a method with a body: POST, PUT, PATCH or OPTIONS.
	Send []byte

	// Receive lists the segments that the body of the response must contain, in this order, with
	// any bytes in between.
	Receive [][]byte

	// ResponseBufferSize is the number of bytes of the body that are searched for Receive. Zero
	// means 1024; a negative value means all.
	ResponseBufferSize int64

	// ExpectedStatuses are the statuses of a healthy host. Empty means 200 only.
	ExpectedStatuses []StatusRange

	// RetriableStatuses are statuses that count toward UnhealthyThreshold. Any other unexpected
	// status fails the host immediately.
	RetriableStatuses []StatusRange

	// ServiceName, if not nil, must accept the response header
	// x-envoy-upstream-healthchecked-cluster, or "" if there is none. It mirrors
	// service_name_matcher.
	ServiceName func(name string) bool

	// CloseConnections makes a new connection for each check. Envoy's field is
	// reuse_connection, with the opposite meaning.
	CloseConnections bool
}

// StatusRange is a range of HTTP statuses from Start to End, without End.
type StatusRange struct{ Start, End int }

func (r StatusRange) holds(status int) bool { return status >= r.Start && status < r.End }

func anyHolds(ranges []StatusRange, status int) bool {
	return slices.ContainsFunc(ranges, func(r StatusRange) bool { return r.holds(status) })
}

// Check returns the joined errors of all invalid fields, or nil.
func (c HTTPConfig) Check() error {
	_, pathErr := url.ParseRequestURI(c.Path)
	if pathErr == nil && !strings.HasPrefix(c.Path, "/") {
		pathErr = fmt.Errorf("%q does not start with a slash; write a path such as /healthz", c.Path)
	}
	if pathErr != nil {
		pathErr = invalid("HTTPConfig", "Path", "%w", pathErr)
	}
	errs := []error{
		pathErr, checkRanges("ExpectedStatuses", c.ExpectedStatuses), checkRanges("RetriableStatuses", c.RetriableStatuses),
		payload(c.Receive).check("HTTPConfig"),
	}
	withBody := []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodOptions}
	without := []string{http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodTrace}
	switch method := c.method(); {
	case slices.Contains(without, method) && len(c.Send) > 0:
		errs = append(errs, invalid("HTTPConfig", "Send", "method %s has no body; use %s", method, strings.Join(withBody, ", ")))
	case !slices.Contains(without, method) && !slices.Contains(withBody, method):
		errs = append(errs, invalid("HTTPConfig", "Method", "%q is unknown; use %s", method, strings.Join(append(without, withBody...), ", ")))
	}
	if size, limit := payload(c.Receive).size(), c.bufferSize(); limit >= 0 && int64(size) > limit {
		errs = append(errs, invalid("HTTPConfig", "Receive", "%d bytes are more than ResponseBufferSize, %d", size, limit))
	}
	return errors.Join(errs...)
}

func checkRanges(field string, ranges []StatusRange) error {
	for i, r := range ranges {
		if r.Start < 100 || r.End > 600 || r.Start >= r.End {
			return invalid("HTTPConfig", fmt.Sprintf("%s[%d]", field, i), "{%d, %d} is not a range; write 100 <= Start < End <= 600", r.Start, r.End)
		}
	}
	return nil
}

func (c HTTPConfig) method() string {
	if c.Method == "" {
		return http.MethodGet
	}
	return c.Method
}

// bufferSize returns the number of bytes of a body to keep, negative for all.
func (c HTTPConfig) bufferSize() int64 {
	if c.ResponseBufferSize == 0 {
		return defaultBufferSize
	}
	return c.ResponseBufferSize
}

// Judge returns the verdict on a complete response. body is the part of the body that is searched
// for Receive.
func (c HTTPConfig) Judge(status int, header http.Header, body []byte) Verdict {
	_, exclude := header[headerImmediateFail]
	_, degraded := header[headerDegraded]
	refused := Verdict{Code: status, Exclude: exclude}
	if !payload(c.Receive).in(body) {
		refused.Err = fmt.Errorf("the response does not contain the expected %d bytes", payload(c.Receive).size())
		return refused
	}
	if !c.expects(status) {
		refused.Err = fmt.Errorf("unexpected status %d", status)
		refused.Retriable = anyHolds(c.RetriableStatuses, status)
		return refused
	}
	v := Verdict{Result: Passed, Code: status}
	if degraded {
		v.Result = PassedDegraded
	}
	if c.ServiceName == nil {
		return v
	}
	v.Verified = true
	if name := header.Get(headerCluster); !c.ServiceName(name) {
		v.Result, v.Err = Failed, fmt.Errorf("unexpected service %q", name)
	}
	return v
}

func (c HTTPConfig) expects(status int) bool {
	if len(c.ExpectedStatuses) == 0 {
		return status == http.StatusOK
	}
	return anyHolds(c.ExpectedStatuses, status)
}

// HTTPProber checks a host with HTTP requests.
type HTTPProber struct {
	config    HTTPConfig
	transport http.RoundTripper
	template  *http.Request
}

// NewHTTPProber returns a prober that sends requests for scheme://address through transport.
// Each prober needs its own transport, since Close closes the transport's idle connections. The
// error is that of [HTTPConfig.Check], or reports an invalid address.
func NewHTTPProber(c HTTPConfig, transport http.RoundTripper, scheme, address string) (*HTTPProber, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	template, err := http.NewRequestWithContext(context.Background(), c.method(), scheme+"://"+address+c.Path, bytes.NewReader(c.Send))
	if err != nil {
		return nil, fmt.Errorf("health: address %q: %w", address, err)
	}
	template.Host, template.Close = c.Host, c.CloseConnections
	template.Header.Set("User-Agent", defaultUserAgent)
	for name, values := range c.Header {
		template.Header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	for _, name := range c.RemoveHeaders {
		template.Header.Del(name)
	}
	if len(template.Header["User-Agent"]) == 0 {
		template.Header["User-Agent"] = []string{""} // otherwise net/http adds its own
	}
	return &HTTPProber{config: c, transport: transport, template: template}, nil
}

// Probe sends one request and reads the whole response. An incomplete response is a network
// failure.
func (p *HTTPProber) Probe(ctx context.Context) Verdict {
	response, err := p.transport.RoundTrip(p.request(ctx))
	if err != nil {
		return broken(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := p.read(response.Body)
	if err != nil {
		return broken(ctx, err)
	}
	return p.config.Judge(response.StatusCode, response.Header, body)
}

func (p *HTTPProber) request(ctx context.Context) *http.Request {
	r := p.template.Clone(ctx)
	r.Body = http.NoBody
	if len(p.config.Send) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(p.config.Send))
	}
	return r
}

// read reads body to its end, and returns its beginning if Receive needs it.
func (p *HTTPProber) read(body io.Reader) ([]byte, error) {
	var kept bytes.Buffer
	if len(p.config.Receive) > 0 {
		in := body
		if limit := p.config.bufferSize(); limit >= 0 {
			in = io.LimitReader(body, limit)
		}
		if _, err := kept.ReadFrom(in); err != nil {
			return nil, err
		}
	}
	_, err := io.Copy(io.Discard, body)
	return kept.Bytes(), err
}

// Close closes the idle connections of the transport, if it can.
func (p *HTTPProber) Close() {
	if t, ok := p.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}
