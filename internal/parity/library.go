package parity

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
)

// library is the library as a Side.
type library struct {
	addresses Addresses
	routes    []libraryRoute
	registry  *metrics.Registry
	cluster   *cluster.Cluster

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
	l := &library{addresses: addresses, registry: registry, infos: map[string]*pillion.Info{}}
	c.metrics.Registry = registry
	inside, err := l.share(c) //nolint:contextcheck // health checks belong to the cluster
	if err != nil {
		return nil, err
	}
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
		u, err := pillion.New(clusterName, append(policies, inside(r)...)...)
		if err != nil {
			return nil, err
		}
		l.routes = append(l.routes, libraryRoute{r.prefix, u.Transport(nil), u})
	}
	if all, _ := speaksGRPC(s); all {
		return newGRPC(l, c)
	}
	return l, nil
}

// share makes what the routes share: the limits and the cluster.
func (l *library) share(c *settings) (inside func(r route) []pillion.Policy, err error) {
	shared, err := limits.New(*c.limits)
	if err != nil {
		return nil, err
	}
	if l.cluster, err = cluster.New(at(*c.cluster, l.addresses)); err != nil {
		return nil, err
	}
	return func(r route) []pillion.Policy { return []pillion.Policy{shared, l.cluster.Route(r.cluster)} }, nil
}

// Send makes a call.
func (l *library) Send(req *http.Request) (*http.Response, error) {
	ctx, info := pillion.WithInfo(req.Context())
	l.mu.Lock()
	l.infos[req.Header.Get(caseHeader)] = info
	l.mu.Unlock()
	req = req.WithContext(ctx)
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
	l.cluster.Close()
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
