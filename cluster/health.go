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

// The defaults of a [HealthCheck]. Envoy has none: there the fields are required.
const (
	DefaultHealthTimeout      = time.Second
	DefaultHealthInterval     = 10 * time.Second
	DefaultUnhealthyThreshold = 3
	DefaultHealthyThreshold   = 1
)

// HealthCheck configures health checks: the cluster checks each host at intervals. A host that fails
// receives calls only in panic. A new host counts as failed until its first check, whose result
// applies immediately, whatever the thresholds. Exactly one of HTTP, TCP and GRPC must be set. A
// negative duration is an error. Mirrors Envoy's HealthCheck.
type HealthCheck struct {
	// HTTP, TCP and GRPC select the kind of check and configure it.
	HTTP *HTTPHealthCheck `json:"http_health_check,omitempty"`
	TCP  *TCPHealthCheck  `json:"tcp_health_check,omitempty"`
	GRPC *GRPCHealthCheck `json:"grpc_health_check,omitempty"`

	// Timeout limits the time of a check. Zero means 1s. Mirrors timeout.
	Timeout time.Duration `json:"timeout,omitempty"`

	// Interval is the time from the end of a check to the next one. Zero means 10s. Mirrors interval.
	Interval time.Duration `json:"interval,omitempty"`

	// UnhealthyThreshold is the number of consecutive network failures, timeouts or retriable
	// statuses after which a healthy host fails. After any other failure it fails immediately. Zero
	// means 3; a negative value is an error. Mirrors unhealthy_threshold.
	UnhealthyThreshold int `json:"unhealthy_threshold,omitempty"`

	// HealthyThreshold is the number of consecutive passed checks after which a failed host is
	// healthy. Zero means 1; a negative value is an error. Mirrors healthy_threshold.
	HealthyThreshold int `json:"healthy_threshold,omitempty"`

	// InitialJitter is the upper bound of a random delay of the first check. Zero means no delay.
	// Mirrors initial_jitter.
	InitialJitter time.Duration `json:"initial_jitter,omitempty"`

	// IntervalJitter is the upper bound of a random time that is added to each interval.
	// IntervalJitterPercent is another one, in percent of the interval. Zero means none. Mirrors
	// interval_jitter and interval_jitter_percent.
	IntervalJitter        time.Duration `json:"interval_jitter,omitempty"`
	IntervalJitterPercent int           `json:"interval_jitter_percent,omitempty"`

	// NoTrafficInterval is the interval until a call of the cluster has made a connection. Zero means
	// 60s. Mirrors no_traffic_interval.
	NoTrafficInterval time.Duration `json:"no_traffic_interval,omitempty"`

	// UnhealthyInterval is the interval after a failed check of a failed host. Zero means Interval.
	// Mirrors unhealthy_interval.
	UnhealthyInterval time.Duration `json:"unhealthy_interval,omitempty"`

	// UnhealthyEdgeInterval is the interval after a failed check of a host that is still healthy. Zero
	// means UnhealthyInterval. Mirrors unhealthy_edge_interval.
	UnhealthyEdgeInterval time.Duration `json:"unhealthy_edge_interval,omitempty"`

	// HealthyEdgeInterval is the interval after a passed check of a host that is still failed. Zero
	// means Interval. Mirrors healthy_edge_interval.
	HealthyEdgeInterval time.Duration `json:"healthy_edge_interval,omitempty"`
}

// StatusRange is a range of HTTP statuses from Start to End, without End. Mirrors Envoy's Int64Range.
type StatusRange struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// HTTPHealthCheck checks hosts with HTTP requests. Mirrors Envoy's HttpHealthCheck.
type HTTPHealthCheck struct {
	// Path is the path and query of the request, such as "/healthz". It is required. Mirrors path.
	Path string `json:"path"`

	// Host is the Host header. Empty means the Hostname of the endpoint, or its address if it has
	// none. Mirrors host.
	Host string `json:"host,omitempty"`

	// Method is the method of the request. Empty means GET. Mirrors method.
	Method string `json:"method,omitempty"`

	// Header is added to the headers of each request. Mirrors request_headers_to_add.
	Header http.Header `json:"request_headers,omitempty"`

	// Receive lists texts that the body of the response must contain, in this order. Nil means any
	// body. Mirrors receive.
	Receive []string `json:"receive,omitempty"`

	// ExpectedStatuses lists the statuses of a healthy host. Nil means 200 only. Mirrors
	// expected_statuses.
	ExpectedStatuses []StatusRange `json:"expected_statuses,omitempty"`

	// RetriableStatuses lists statuses that count toward UnhealthyThreshold. After any other
	// unexpected status the host fails immediately. Mirrors retriable_statuses.
	RetriableStatuses []StatusRange `json:"retriable_statuses,omitempty"`
}

// TCPHealthCheck checks hosts with TCP connections. The zero value only connects. Mirrors Envoy's
// TcpHealthCheck.
type TCPHealthCheck struct {
	// Send is the text that is sent on the connection. Without Receive nothing is sent. Mirrors send.
	Send string `json:"send,omitempty"`

	// Receive lists texts that must be received, in this order. If it is empty, a connection is
	// enough. Mirrors receive.
	Receive []string `json:"receive,omitempty"`
}

// GRPCHealthCheck checks hosts with calls of grpc.health.v1.Health/Check. Mirrors Envoy's
// GrpcHealthCheck.
type GRPCHealthCheck struct {
	// ServiceName is the name of the service to check. Empty means the whole server. Mirrors
	// service_name.
	ServiceName string `json:"service_name,omitempty"`

	// Authority is the :authority header. Empty means the Hostname of the endpoint, or its address if
	// it has none. Mirrors authority.
	Authority string `json:"authority,omitempty"`
}

// core returns the configuration of the checker, and the errors of h.
func (h *HealthCheck) core() (health.Config, error) {
	var bad []error
	for field, value := range map[string]int{
		"UnhealthyThreshold": h.UnhealthyThreshold, "HealthyThreshold": h.HealthyThreshold, "IntervalJitterPercent": h.IntervalJitterPercent,
	} {
		if value < 0 || int64(value) > maxNumber {
			bad = append(bad, invalid("HealthCheck."+field, "%d is out of range; write 1 to %d, or 0 for the default", value, maxNumber))
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

// startChecker makes the checker, if HealthCheck is set.
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

// prober returns the prober of a host.
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

// probeTransport returns a new transport with the settings of the cluster's connections.
func probeTransport(t *pool.Template) *http.Transport {
	if t == nil {
		return &http.Transport{}
	}
	return t.Transport().Clone()
}

// begin marks new hosts as failed until their first check.
func (c *Cluster) begin(hosts []*host) {
	if c.checker == nil {
		return
	}
	for _, h := range hosts {
		h.session = c.checker.Session(health.NewHost())
		h.checked(h.session.Status())
	}
}

// check starts the checks of a host. The goroutine ends when the host leaves the cluster, or when the
// cluster is closed or no longer referenced. The caller holds mu.
func (c *Cluster) check(h *host) {
	if c.checker == nil {
		return
	}
	e := h.Endpoint()
	prober, err := c.cfg.HealthCheck.prober(c.template, c.scheme(), e.Address, e.Hostname)
	if err != nil {
		return // impossible: the configuration is valid
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

// healthStep applies the result of a check.
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

// healthTransition applies a change of the host's status. The caller holds mu.
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

// saidUnhealthy makes the host fail if the response has x-envoy-immediate-health-check-fail.
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

// offerHealth offers the statistics of the health checks.
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

// readied releases the callers that wait for the cluster, if it is ready. The caller holds mu.
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

// WaitReady waits until the first lookup of each DNS name has ended, and with health checks until each
// of the first hosts was checked once. It then returns nil, or [ErrNoHosts] if no host is healthy or
// degraded. If ctx ends first, the error wraps [context.Cause] of ctx. After Close the error is
// [ErrClosed].
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
