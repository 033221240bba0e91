package parity

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/metrics"
)

// library is the library as a Side.
type library struct {
	addresses Addresses
	routes    []libraryRoute
	registry  *metrics.Registry
	base      http.RoundTripper

	mu    sync.Mutex
	infos map[string]*pillion.Info // by case; guarded by mu
}

// libraryRoute is an upstream for some of the paths.
type libraryRoute struct {
	prefix   string
	rt       http.RoundTripper
	upstream *pillion.Upstream
}

// NewLibrary configures the library for a scenario. It is a [StartFunc].
func NewLibrary(_ context.Context, s *Scenario, addresses Addresses) (Side, error) {
	c, err := configure(s)
	if err != nil {
		return nil, err
	}
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		return nil, err
	}
	l := &library{addresses: addresses, registry: registry, base: newBase(s, c, addresses[0]), infos: map[string]*pillion.Info{}}
	c.metrics.Registry = registry
	for _, r := range c.routes {
		policies := append(slices.Clone(c.filters.policies), r.http, c.metrics, r.timeout, r.stream)
		if c.maintenance != nil {
			policies = append(policies, c.maintenance)
		}
		if c.filters.grpcStats {
			policies = append(policies, metrics.GRPC{Registry: registry})
		}
		if r.retry != nil {
			policies = append(policies, r.retry)
		}
		if c.limits != nil {
			policies = append(policies, c.limits)
		}
		u, err := pillion.New(clusterName, policies...)
		if err != nil {
			return nil, err
		}
		l.routes = append(l.routes, libraryRoute{r.prefix, u.Transport(l.base), u})
	}
	if all, _ := speaksGRPC(s); all {
		return newGRPC(l, c)
	}
	return l, nil
}

// newBase returns the transport below the policies. It does not resend requests by itself,
// as net/http does on a connection that turns out to be dead and for a refused stream,
// because no policy sees these attempts.
func newBase(s *Scenario, c *settings, address string) http.RoundTripper {
	dialer := &net.Dialer{Timeout: c.connectTimeout}
	base := &http.Transport{
		DialContext: dialer.DialContext, DisableCompression: true, MaxIdleConnsPerHost: 100,
		DisableKeepAlives: breaksConnections(s.Upstream),
	}
	if s.Upstream.Protocol != "h2" {
		return base
	}
	base.DisableKeepAlives = false
	base.Protocols = &http.Protocols{}
	base.Protocols.SetUnencryptedHTTP2(true)
	return &oneConnection{base: base, address: address}
}

// breaksConnections reports whether the upstream ends connections on which a request was
// sent.
func breaksConnections(u UpstreamScript) bool {
	scripts := append(slices.Collect(maps.Values(u.ByPath)), u.Script)
	for _, h := range u.Hosts {
		scripts = append(scripts, h.Script)
	}
	return slices.ContainsFunc(slices.Concat(scripts...), func(s Step) bool {
		switch s.Action {
		case "reset", "fin", "garbage", "reset_after_headers":
			return true
		}
		return false
	})
}

// oneConnection sends all requests over one HTTP/2 connection, and opens a new one when it
// has ended.
type oneConnection struct {
	base    *http.Transport
	address string

	mu   sync.Mutex
	dial *dialing // the latest; guarded by mu
}

// dialing is a connection attempt that all waiting requests share.
type dialing struct {
	done chan struct{}
	conn *http.ClientConn
	err  error
}

// RoundTrip sends a request once.
func (o *oneConnection) RoundTrip(req *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(req.Context())
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(o.address)
	}
	conn, err := o.connection(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // best effort
		}
		return nil, err
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Reused: true})
	}
	return conn.RoundTrip(req)
}

// connection waits for a connection.
func (o *oneConnection) connection(ctx context.Context) (*http.ClientConn, error) {
	d := o.latest(ctx)
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// latest returns the current connection, or a new one.
func (o *oneConnection) latest(ctx context.Context) *dialing {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dial.serves() {
		return o.dial
	}
	d := &dialing{done: make(chan struct{})}
	o.dial = d
	go func() {
		defer close(d.done)
		d.conn, d.err = o.base.NewClientConn(context.WithoutCancel(ctx), "http", o.address)
	}()
	return d
}

// serves reports whether there is a usable connection, or one that is being made.
func (d *dialing) serves() bool {
	if d == nil {
		return false
	}
	select {
	case <-d.done:
		return d.err == nil && d.conn.Err() == nil
	default:
		return true
	}
}

// CloseIdleConnections closes the connection.
func (o *oneConnection) CloseIdleConnections() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dial == nil {
		return
	}
	<-o.dial.done // the dialer has a timeout
	if o.dial.err == nil {
		_ = o.dial.conn.Close() // best effort
	}
}

// Send makes a call.
func (l *library) Send(req *http.Request) (*http.Response, error) {
	ctx, info := pillion.WithInfo(req.Context())
	l.mu.Lock()
	l.infos[req.Header.Get(caseHeader)] = info
	l.mu.Unlock()
	req = req.WithContext(ctx)
	req.URL.Host = l.addresses[0]
	for _, r := range l.routes {
		if strings.HasPrefix(req.URL.Path, r.prefix) {
			return r.rt.RoundTrip(req)
		}
	}
	return nil, errors.New("no route")
}

// Log returns the lines that Envoy would have logged.
func (l *library) Log(_ context.Context, answers []Answer) ([]Logged, error) {
	var log []Logged
	for _, a := range answers {
		l.mu.Lock()
		info := l.infos[a.Case]
		l.mu.Unlock()
		if !info.Done() {
			return nil, fmt.Errorf("%s: the call has not ended", a.Case)
		}
		log = append(log, Logged{
			Case: a.Case, Code: a.Status, Details: info.Detail().String(), Flags: info.Flags().String(),
			LongFlags: info.Flags().Long(), Cluster: info.Upstream(), Host: info.Endpoint(), Attempts: info.Attempts(),
		})
	}
	return log, nil
}

// Stats reads the statistics from the HTTP pages.
func (l *library) Stats(ctx context.Context) (numbers, histograms map[string]uint64, err error) {
	page := func(target string) string {
		w := httptest.NewRecorder()
		metrics.Handler(l.registry).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil))
		return w.Body.String()
	}
	return readNumbers(page("/stats")), readCounts(page("/stats/prometheus")), nil
}

// Close closes the remaining connections.
func (l *library) Close() {
	l.base.(interface{ CloseIdleConnections() }).CloseIdleConnections() //nolint:forcetypeassert // both types have it
}

// readNumbers parses the counters and gauges of /stats.
func readNumbers(page string) map[string]uint64 {
	numbers := map[string]uint64{}
	lines := bufio.NewScanner(strings.NewReader(page))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			numbers[name] = n
		}
	}
	return numbers
}

// readCounts parses the number of values of the histograms of /stats/prometheus.
func readCounts(page string) map[string]uint64 {
	counts := map[string]uint64{}
	lines := bufio.NewScanner(strings.NewReader(page))
	for lines.Scan() {
		name, labels, ok := strings.Cut(lines.Text(), "_count{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			counts[name+"{"+labels+"}"] = n
		}
	}
	return counts
}
