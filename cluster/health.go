package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"
	"weak"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/health"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// The values that stand for zero fields of a [HealthCheck]. Envoy has no defaults.
const (
	DefaultHealthTimeout      = time.Second
	DefaultHealthInterval     = 10 * time.Second
	DefaultUnhealthyThreshold = 3
	DefaultHealthyThreshold   = 1
)

// HealthCheck asks each host at intervals whether it is well: a host that is not gets no calls,
// but in panic. Exactly one of HTTP, TCP and GRPC is set. A host is taken for failed until its first
// check, which decides alone. Mirrors Envoy's HealthCheck.
type HealthCheck struct {
	// HTTP, TCP or GRPC says what is asked.
	HTTP *HTTPHealthCheck `json:"http_health_check,omitempty"`
	TCP  *TCPHealthCheck  `json:"tcp_health_check,omitempty"`
	GRPC *GRPCHealthCheck `json:"grpc_health_check,omitempty"`

	// Timeout limits a check. Zero means 1s.
	Timeout time.Duration `json:"timeout,omitempty"`

	// Interval is the time from the end of a check to the next. Zero means 10s.
	Interval time.Duration `json:"interval,omitempty"`

	// UnhealthyThreshold is how many failures of the network, timeouts or retriable statuses in a
	// row make a healthy host fail. Any other failure does so immediately. Zero means 3.
	UnhealthyThreshold int `json:"unhealthy_threshold,omitempty"`

	// HealthyThreshold is how many passed checks in a row make a failed host healthy. Zero means 1.
	HealthyThreshold int `json:"healthy_threshold,omitempty"`

	// InitialJitter delays the first check by a random time below it. Zero means none.
	InitialJitter time.Duration `json:"initial_jitter,omitempty"`

	// IntervalJitter adds a random time below it to each Interval, and IntervalJitterPercent a
	// share of Interval. Zero means none.
	IntervalJitter        time.Duration `json:"interval_jitter,omitempty"`
	IntervalJitterPercent int           `json:"interval_jitter_percent,omitempty"`

	// NoTrafficInterval is the interval until the first call has connected. Zero means 60s.
	NoTrafficInterval time.Duration `json:"no_traffic_interval,omitempty"`

	// UnhealthyInterval is the interval after a failure, UnhealthyEdgeInterval that after a failure
	// of a host that is still healthy, and HealthyEdgeInterval that after a passed check of one that
	// is still failed. Zero means Interval, or UnhealthyInterval for UnhealthyEdgeInterval.
	UnhealthyInterval     time.Duration `json:"unhealthy_interval,omitempty"`
	UnhealthyEdgeInterval time.Duration `json:"unhealthy_edge_interval,omitempty"`
	HealthyEdgeInterval   time.Duration `json:"healthy_edge_interval,omitempty"`
}

// StatusRange is a half-open range of HTTP statuses: End is not in it. Mirrors Envoy's Int64Range.
type StatusRange struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// HTTPHealthCheck checks hosts with HTTP requests. Mirrors Envoy's HttpHealthCheck.
type HTTPHealthCheck struct {
	// Path is the path and query, such as "/healthz". It is required.
	Path string `json:"path"`

	// Host is the Host header. Empty means the host's Hostname, or its address.
	Host string `json:"host,omitempty"`

	// Method is the method. Empty means GET.
	Method string `json:"method,omitempty"`

	// Header is added to each request. Mirrors request_headers_to_add.
	Header http.Header `json:"request_headers,omitempty"`

	// Receive are texts that the body must hold, in this order. Nil means any body.
	Receive []string `json:"receive,omitempty"`

	// ExpectedStatuses are those of a healthy host. Nil means 200 alone. RetriableStatuses count
	// toward UnhealthyThreshold; others fail the host immediately.
	ExpectedStatuses  []StatusRange `json:"expected_statuses,omitempty"`
	RetriableStatuses []StatusRange `json:"retriable_statuses,omitempty"`
}

// TCPHealthCheck checks hosts with connections. Mirrors Envoy's TcpHealthCheck.
type TCPHealthCheck struct {
	// Send is sent after the connect, Receive are texts that must be received, in this order.
	// Without Receive a connect is enough, and nothing is sent.
	Send    string   `json:"send,omitempty"`
	Receive []string `json:"receive,omitempty"`
}

// GRPCHealthCheck checks hosts with calls of grpc.health.v1.Health/Check. Mirrors Envoy's
// GrpcHealthCheck.
type GRPCHealthCheck struct {
	// ServiceName is the service to ask for. Empty means the whole server.
	ServiceName string `json:"service_name,omitempty"`

	// Authority is the :authority header. Empty means the host's Hostname, or its address.
	Authority string `json:"authority,omitempty"`
}

// core returns the configuration of the checker, and what is wrong with h.
func (h *HealthCheck) core() (health.Config, error) {
	var bad []error
	for field, value := range map[string]int{
		"UnhealthyThreshold": h.UnhealthyThreshold, "HealthyThreshold": h.HealthyThreshold, "IntervalJitterPercent": h.IntervalJitterPercent,
	} {
		if value < 0 || int64(value) > maxNumber {
			bad = append(bad, invalid("HealthCheck."+field, "%d is not within 0 and %d", value, maxNumber))
		}
	}
	kinds := 0
	for _, set := range []bool{h.HTTP != nil, h.TCP != nil, h.GRPC != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		bad = append(bad, invalid("HealthCheck", "%d of HTTP, TCP and GRPC are set; set one", kinds))
	}
	c := health.Config{
		Timeout: cmp.Or(h.Timeout, DefaultHealthTimeout), Interval: cmp.Or(h.Interval, DefaultHealthInterval),
		UnhealthyThreshold:    uint32(cmp.Or(h.UnhealthyThreshold, DefaultUnhealthyThreshold)), //nolint:gosec // checked
		HealthyThreshold:      uint32(cmp.Or(h.HealthyThreshold, DefaultHealthyThreshold)),     //nolint:gosec // checked
		InitialJitter:         h.InitialJitter,
		IntervalJitter:        h.IntervalJitter,
		IntervalJitterPercent: uint32(h.IntervalJitterPercent), //nolint:gosec // checked
		NoTrafficInterval:     h.NoTrafficInterval,
		UnhealthyInterval:     h.UnhealthyInterval, UnhealthyEdgeInterval: h.UnhealthyEdgeInterval, HealthyEdgeInterval: h.HealthyEdgeInterval,
	}
	return c, errors.Join(append(bad, renamed(c.Check(), "health: Config.", "HealthCheck."))...)
}

// startChecker makes the checker, if there is to be one.
func (c *Cluster) startChecker() error {
	cfg := c.cfg.HealthCheck
	if cfg == nil {
		return nil
	}
	core, err := cfg.core()
	if err != nil {
		return err
	}
	if _, err = cfg.prober(nil, "http", "127.0.0.1:80", ""); err != nil {
		return err
	}
	random := c.cfg.Rand
	if random == nil {
		random = rand.Uint64
	}
	checker, err := health.New(core, random)
	if err != nil {
		return err
	}
	c.checker, c.stats.health = checker, checker
	return nil
}

// prober returns what checks a host.
func (h *HealthCheck) prober(t *pool.Template, scheme, address, hostname string) (health.Prober, error) {
	switch {
	case h.HTTP != nil:
		return h.HTTP.prober(t, scheme, address, hostname)
	case h.TCP != nil:
		p, err := health.NewTCPProber(health.TCPConfig{Send: []byte(h.TCP.Send), Receive: segments(h.TCP.Receive)}, new(net.Dialer), "tcp", address)
		return p, renamed(err, "health: TCPConfig.", "HealthCheck.TCP.")
	default:
		authority := cmp.Or(h.GRPC.Authority, hostname, address)
		return health.NewGRPCProber(h.GRPC.ServiceName, newHealthClient(t, scheme, address, authority)), nil
	}
}

func segments(texts []string) (all [][]byte) {
	for _, text := range texts {
		all = append(all, []byte(text))
	}
	return all
}

func (h *HTTPHealthCheck) prober(t *pool.Template, scheme, address, hostname string) (health.Prober, error) {
	c := health.HTTPConfig{
		Host: cmp.Or(h.Host, hostname, address), Path: h.Path, Method: h.Method, Header: h.Header, Receive: segments(h.Receive),
	}
	for _, r := range h.ExpectedStatuses {
		c.ExpectedStatuses = append(c.ExpectedStatuses, health.StatusRange(r))
	}
	for _, r := range h.RetriableStatuses {
		c.RetriableStatuses = append(c.RetriableStatuses, health.StatusRange(r))
	}
	p, err := health.NewHTTPProber(c, probeTransport(t), scheme, address)
	if err != nil {
		return nil, renamed(err, "health: HTTPConfig.", "HealthCheck.HTTP.")
	}
	return p, nil
}

// probeTransport returns a separate transport that connects as the cluster does.
func probeTransport(t *pool.Template) *http.Transport {
	if t == nil {
		return &http.Transport{}
	}
	return t.Transport().Clone()
}

// begin makes hosts, which nothing uses yet, such as wait for their first check.
func (c *Cluster) begin(hosts []*host) {
	if c.checker == nil {
		return
	}
	for _, h := range hosts {
		h.session = c.checker.Session(health.NewHost())
		h.checked(h.session.Status())
	}
}

// check begins to check a host. The goroutine ends when the host leaves the cluster, or when the
// cluster is closed or used no more. The caller holds mu.
func (c *Cluster) check(h *host) {
	if c.checker == nil {
		return
	}
	e := h.Endpoint()
	prober, err := c.cfg.HealthCheck.prober(c.template, c.scheme(), e.Address, e.Hostname)
	if err != nil {
		return // the configuration was checked
	}
	ctx, cancel := context.WithCancel(c.background)
	h.uncheck = cancel
	c.unchecked++
	ref := weak.Make(c)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				report.Panic("a health check of a cluster", p)
			}
		}()
		health.Run(ctx, h.session, prober, func(s health.Step) {
			if c := ref.Value(); c != nil {
				c.healthStep(h, s)
			}
		})
	}()
}

// healthStep does what the result of a check led to.
func (c *Cluster) healthStep(h *host, s health.Step) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if s.Transition == health.Changed {
		c.healthTransition(h)
	}
	if s.First {
		c.unchecked--
		c.readied()
	}
	if s.Healthy && !s.Status.Failed && c.detector != nil {
		step := c.detector.HealthCheckPassed(h, time.Now())
		c.eject(step.Events)
		c.schedule(step.Next)
	}
}

// healthTransition makes the host what its checks say. The caller holds mu.
func (c *Cluster) healthTransition(h *host) {
	failed := h.Flags().Has(balance.FailedActiveHC)
	status := h.session.Status()
	h.checked(status)
	switch {
	case !failed && status.Failed:
		h.drain()
	case failed && !status.Failed:
		h.SetHealthySince(c.now())
	}
	c.healthChanged()
}

// checked sets the flags of active health checks.
func (h *host) checked(s health.Status) {
	h.set(balance.FailedActiveHC, s.Failed)
	h.set(balance.DegradedActiveHC, s.Degraded)
	h.set(balance.PendingActiveHC, s.Pending)
	h.set(balance.ExcludedImmediateHCFail, s.Excluded)
	h.set(balance.ActiveHCTimeout, s.TimedOut)
}

// saidUnhealthy looks whether a response says that its host wants no more calls.
func (r *route) saidUnhealthy(c *policy.Call, p *pick, o *policy.Outcome) {
	if p.host.session == nil || o.Err != nil {
		return
	}
	if _, said := c.ResponseHeader(o, "X-Envoy-Immediate-Health-Check-Fail"); !said {
		return
	}
	if step, ok := p.host.session.Fail(); ok {
		r.cluster.healthStep(p.host, step)
	}
}

// offerHealth offers what the health checks count.
func (s *stats) offerHealth(b *policy.Builder) {
	checker := s.health
	for of := range health.Stat(health.StatCount) {
		kind := policy.Counter
		if of.Gauge() {
			kind = policy.Gauge
		}
		b.Stat(policy.Stat{
			Kind: kind, Name: "health_check." + of.String(), Of: s,
			Read: func() uint64 { return checker.Stat(of) },
		})
	}
}

// readied lets the callers continue that wait for the cluster, if it is ready. The caller holds mu.
func (c *Cluster) readied() {
	if c.unchecked > 0 || c.unresolved {
		return
	}
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
}

// WaitReady waits until the cluster knows its hosts, and with health checks until each of the
// first hosts was checked once. The error wraps the cause of ctx's end, [ErrNoHosts] if there is no
// host that would get calls, or [ErrClosed].
func (c *Cluster) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-c.background.Done():
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("cluster: not ready: %w", context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case !slices.ContainsFunc(c.hosts, func(h *host) bool { return h.Health() != balance.Unhealthy }):
		return ErrNoHosts
	}
	return nil
}
