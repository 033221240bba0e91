package cluster

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/outlier"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Outlier detects hosts that fail more than they may, and ejects them for a while: picks avoid
// them, unless the cluster is in panic. All percentages and numbers whose zero value means a
// default can be set to 0 with the constant Zero. It mirrors Envoy's OutlierDetection, with its
// defaults.
//
// A host goes only if the ejected ones, itself included, are within MaxEjectionPercent of all
// hosts: with its default of 10, none of fewer than ten hosts ever does, unless AlwaysEjectOneHost
// is set.
type Outlier struct {
	// Consecutive5xx is how many results 5xx in a row are detected. Zero means 5, the constant
	// Zero detects none. A failed connect counts as a 503 and a timeout as a 504, unless
	// SplitExternalLocalOriginErrors is set.
	Consecutive5xx int `json:"consecutive_5xx,omitempty"`

	// EnforcingConsecutive5xx is the chance, in per cent, that a detected run ejects. Zero means
	// 100.
	EnforcingConsecutive5xx int `json:"enforcing_consecutive_5xx,omitempty"`

	// ConsecutiveGatewayFailure is how many results 502, 503 and 504 in a row are detected. Zero
	// means 5, the constant Zero detects none.
	ConsecutiveGatewayFailure int `json:"consecutive_gateway_failure,omitempty"`

	// EnforcingConsecutiveGatewayFailure is the chance, in per cent, that such a run ejects. Zero
	// means 0.
	EnforcingConsecutiveGatewayFailure int `json:"enforcing_consecutive_gateway_failure,omitempty"`

	// SplitExternalLocalOriginErrors counts failed connects, resets and timeouts apart from what
	// hosts respond.
	SplitExternalLocalOriginErrors bool `json:"split_external_local_origin_errors,omitempty"`

	// ConsecutiveLocalOriginFailure is how many of these in a row are detected. Zero means 5, the
	// constant Zero detects none.
	ConsecutiveLocalOriginFailure int `json:"consecutive_local_origin_failure,omitempty"`

	// EnforcingConsecutiveLocalOriginFailure is the chance, in per cent, that such a run ejects.
	// Zero means 100.
	EnforcingConsecutiveLocalOriginFailure int `json:"enforcing_consecutive_local_origin_failure,omitempty"`

	// Interval is the time between two looks at success rates and ejected hosts. Zero means 10s.
	Interval time.Duration `json:"interval,omitempty"`

	// BaseEjectionTime is how long the first ejection of a host lasts; the nth in a row lasts n
	// times as long. Zero means 30s.
	BaseEjectionTime time.Duration `json:"base_ejection_time,omitempty"`

	// MaxEjectionTime bounds that. Zero means 300s, or BaseEjectionTime if that is longer.
	MaxEjectionTime time.Duration `json:"max_ejection_time,omitempty"`

	// MaxEjectionTimeJitter bounds a random time that is added to each ejection. Zero means none.
	MaxEjectionTimeJitter time.Duration `json:"max_ejection_time_jitter,omitempty"`

	// MaxEjectionPercent is the share of the hosts, in per cent, that may be ejected. Zero means
	// 10.
	MaxEjectionPercent int `json:"max_ejection_percent,omitempty"`

	// AlwaysEjectOneHost allows one ejected host whatever MaxEjectionPercent says.
	AlwaysEjectOneHost bool `json:"always_eject_one_host,omitempty"`

	// SuccessRateMinimumHosts is how many hosts must have SuccessRateRequestVolume results in one
	// Interval for success rates to be judged. Zero means 5 and 100.
	SuccessRateMinimumHosts  int `json:"success_rate_minimum_hosts,omitempty"`
	SuccessRateRequestVolume int `json:"success_rate_request_volume,omitempty"`

	// SuccessRateStdevFactor is how far below the mean a success rate may be, in thousandths of the
	// standard deviation. Zero means 1900.
	SuccessRateStdevFactor int `json:"success_rate_stdev_factor,omitempty"`

	// EnforcingSuccessRate is the chance, in per cent, that a success rate that is too low ejects;
	// EnforcingLocalOriginSuccessRate is that for failures of local origin. Zero means 100.
	EnforcingSuccessRate            int `json:"enforcing_success_rate,omitempty"`
	EnforcingLocalOriginSuccessRate int `json:"enforcing_local_origin_success_rate,omitempty"`

	// FailurePercentageThreshold is the share of failures, in per cent, from which on a host is
	// detected. Zero means 85.
	FailurePercentageThreshold int `json:"failure_percentage_threshold,omitempty"`

	// FailurePercentageMinimumHosts is how many hosts must have FailurePercentageRequestVolume
	// results in one Interval for shares to be judged. Zero means 5 and 50.
	FailurePercentageMinimumHosts  int `json:"failure_percentage_minimum_hosts,omitempty"`
	FailurePercentageRequestVolume int `json:"failure_percentage_request_volume,omitempty"`

	// EnforcingFailurePercentage is the chance, in per cent, that a share that is too high ejects;
	// EnforcingFailurePercentageLocalOrigin is that for failures of local origin. Zero means 0.
	EnforcingFailurePercentage            int `json:"enforcing_failure_percentage,omitempty"`
	EnforcingFailurePercentageLocalOrigin int `json:"enforcing_failure_percentage_local_origin,omitempty"`

	// KeepEjectedHealthyHosts has a successful active health check not end an ejection. Envoy's
	// field is successful_active_health_check_uneject_host, with the opposite meaning.
	KeepEjectedHealthyHosts bool `json:"keep_ejected_healthy_hosts,omitempty"`

	// DetectDegradedHosts takes hosts that respond with x-envoy-degraded for degraded.
	DetectDegradedHosts bool `json:"detect_degraded_hosts,omitempty"`
}

// number is a field of an Outlier, and that of the detector which it sets.
type number struct {
	name string
	from int
	to   *uint32
}

// numbers are the fields that are numbers.
func (o *Outlier) numbers(c *outlier.Config) []number {
	return []number{
		{"Consecutive5xx", o.Consecutive5xx, &c.Consecutive5xx},
		{"EnforcingConsecutive5xx", o.EnforcingConsecutive5xx, &c.EnforcingConsecutive5xx},
		{"ConsecutiveGatewayFailure", o.ConsecutiveGatewayFailure, &c.ConsecutiveGatewayFailure},
		{"EnforcingConsecutiveGatewayFailure", o.EnforcingConsecutiveGatewayFailure, &c.EnforcingConsecutiveGatewayFailure},
		{"ConsecutiveLocalOriginFailure", o.ConsecutiveLocalOriginFailure, &c.ConsecutiveLocalOriginFailure},
		{"EnforcingConsecutiveLocalOriginFailure", o.EnforcingConsecutiveLocalOriginFailure, &c.EnforcingConsecutiveLocalOriginFailure},
		{"MaxEjectionPercent", o.MaxEjectionPercent, &c.MaxEjectionPercent},
		{"SuccessRateMinimumHosts", o.SuccessRateMinimumHosts, &c.SuccessRateMinimumHosts},
		{"SuccessRateRequestVolume", o.SuccessRateRequestVolume, &c.SuccessRateRequestVolume},
		{"SuccessRateStdevFactor", o.SuccessRateStdevFactor, &c.SuccessRateStdevFactor},
		{"EnforcingSuccessRate", o.EnforcingSuccessRate, &c.EnforcingSuccessRate},
		{"EnforcingLocalOriginSuccessRate", o.EnforcingLocalOriginSuccessRate, &c.EnforcingLocalOriginSuccessRate},
		{"FailurePercentageThreshold", o.FailurePercentageThreshold, &c.FailurePercentageThreshold},
		{"FailurePercentageMinimumHosts", o.FailurePercentageMinimumHosts, &c.FailurePercentageMinimumHosts},
		{"FailurePercentageRequestVolume", o.FailurePercentageRequestVolume, &c.FailurePercentageRequestVolume},
		{"EnforcingFailurePercentage", o.EnforcingFailurePercentage, &c.EnforcingFailurePercentage},
		{"EnforcingFailurePercentageLocalOrigin", o.EnforcingFailurePercentageLocalOrigin, &c.EnforcingFailurePercentageLocalOrigin},
	}
}

// core returns the configuration of the detector, and what is wrong with o.
func (o *Outlier) core() (outlier.Config, error) {
	c := outlier.Defaults()
	var bad []error
	for _, f := range o.numbers(&c) {
		switch {
		case f.from == Zero:
			*f.to = 0
		case f.from < 0 || int64(f.from) > maxNumber:
			bad = append(bad, invalid("Outlier."+f.name, "%d is not within 0 and %d; the constant Zero stands for 0", f.from, maxNumber))
		case f.from != 0:
			*f.to = uint32(f.from)
		}
	}
	c.SplitExternalLocalOriginErrors, c.AlwaysEjectOneHost = o.SplitExternalLocalOriginErrors, o.AlwaysEjectOneHost
	c.DetectDegradedHosts, c.SuccessfulActiveHealthCheckUnejectHost = o.DetectDegradedHosts, !o.KeepEjectedHealthyHosts
	c.MaxEjectionTime, c.MaxEjectionTimeJitter = o.MaxEjectionTime, o.MaxEjectionTimeJitter
	if o.Interval != 0 {
		c.Interval = o.Interval
	}
	if o.BaseEjectionTime != 0 {
		c.BaseEjectionTime = o.BaseEjectionTime
	}
	return c, errors.Join(append(bad, renamed(c.Check(), "outlier: Config.", "Outlier."))...)
}

// startDetector makes the detector, if there is to be one.
func (c *Cluster) startDetector() error {
	o := c.cfg.Outlier
	if o == nil {
		return nil
	}
	cfg, err := o.core()
	if err != nil {
		return err
	}
	random := c.cfg.Rand
	if random == nil {
		random = rand.Uint64
	}
	d, err := outlier.New[*host](cfg, random, time.Now())
	if err != nil {
		return err
	}
	c.detector, c.stats.outlier = d, d.Stats()
	return nil
}

// connected reports to the detector that the attempt has a connection.
func (r *route) connected(p *pick) {
	if d := r.cluster.detector; d != nil && r.cluster.cfg.Outlier.SplitExternalLocalOriginErrors {
		r.cluster.took(d.Report(p.host, outlier.Result{Outcome: outlier.ConnectSuccess}, time.Now()))
	}
}

// responded reports to the detector what the attempt came to, at its response headers.
func (r *route) responded(c *policy.Call, p *pick, o *policy.Outcome) {
	d := r.cluster.detector
	if d == nil {
		return
	}
	result, ok := r.result(c, p, o)
	if !ok {
		return
	}
	p.reported = true
	r.cluster.took(d.Report(p.host, result, time.Now()))
}

// result returns what an attempt says of its host. It is not ok if that is nothing: the attempt
// was refused or canceled, or was a stream whose time was over, or waited for a connection until then.
func (r *route) result(c *policy.Call, p *pick, o *policy.Outcome) (result outlier.Result, ok bool) {
	switch {
	case o.Has(policy.Refused | policy.Cancelled | policy.Invalid), o.Detail.Unrouted():
		return result, false
	case o.Has(policy.ConnectFailure):
		return outlier.Result{Outcome: outlier.ConnectFailed}, true
	case o.Has(policy.Timeout):
		return outlier.Result{Outcome: outlier.Timeout}, p.attached || p.on != nil
	case o.Has(policy.NoResponse):
		return outlier.Result{Outcome: outlier.ConnectFailed}, true
	case c.Request().Protocol == policy.ProtocolGRPC:
		return grpcResult(o)
	case o.Err != nil:
		return result, false
	}
	return r.response(c, o), true
}

// grpcResult returns what a gRPC response says of its host: at the headers, or, of a unary call, at
// its end.
func grpcResult(o *policy.Outcome) (result outlier.Result, ok bool) {
	switch {
	case o.Detail != envoy.ViaUpstream:
		return result, false
	case o.Code >= 100: // a response in plain HTTP
		return outlier.Response(o.Code), true
	case o.Err == nil:
		return outlier.Response(http.StatusOK), true
	}
	return outlier.Response(outlier.GRPCCode(uint32(o.Code))), true //nolint:gosec // not negative
}

// response returns what a response says of its host.
func (r *route) response(c *policy.Call, o *policy.Outcome) outlier.Result {
	result := outlier.Response(o.Code)
	if status, ok := grpcStatus(c, o); ok {
		result = outlier.Response(outlier.GRPCCode(status))
	}
	if result.Outcome == outlier.RequestSuccess && r.cluster.cfg.Outlier.DetectDegradedHosts {
		if _, degraded := c.ResponseHeader(o, "X-Envoy-Degraded"); degraded {
			result.Outcome = outlier.RequestDegraded
		}
	}
	return result
}

// reset reports to the detector that a response broke off.
func (r *route) reset(p *pick, end *policy.Outcome) {
	if !p.reported || r.cluster.detector == nil {
		return
	}
	if end.Err != nil && end.Value != nil && end.Has(policy.NoResponse) && !end.Has(policy.Timeout|policy.Cancelled) && !end.Detail.Unrouted() {
		r.cluster.took(r.cluster.detector.Report(p.host, outlier.Result{Outcome: outlier.ConnectFailed}, time.Now()))
	}
}

// took does what the detector asks for. The next tick is scheduled first: Rand may panic in eject.
func (c *Cluster) took(step outlier.Step[*host]) {
	c.schedule(step.Next)
	if len(step.Events) != 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.eject(step.Events)
	}
}

// schedule has the detector called at an instant, if there is one.
func (c *Cluster) schedule(next time.Time) {
	if !next.IsZero() {
		later(c, time.Until(next), (*Cluster).tick)
	}
}

// tick does what the detector does once per interval. If Rand panics, the tick is repeated later.
func (c *Cluster) tick() {
	if c.isClosed() {
		return
	}
	ticked := false
	defer func() {
		if !ticked {
			c.schedule(time.Now().Add(cmp.Or(c.cfg.Outlier.Interval, outlier.Defaults().Interval)))
		}
	}()
	step := c.detector.Tick(time.Now())
	ticked = true
	c.took(step)
}

// eject makes the hosts what the detector says of them. The caller holds mu.
func (c *Cluster) eject(events []outlier.Event[*host]) {
	changed := false
	for _, e := range events {
		s, ok := c.detector.Status(e.Host)
		if !ok {
			continue
		}
		if e.Host.set(balance.FailedOutlierCheck, s.Ejected) {
			changed = true
			if s.Ejected {
				e.Host.drain()
			}
		}
		changed = e.Host.set(balance.DegradedOutlierDetection, s.Degraded) || changed
	}
	if changed {
		c.healthChanged()
	}
}

// set sets or clears a flag of the host. It reports whether that changed anything.
func (h *host) set(f balance.Flags, on bool) bool {
	if on {
		return h.SetFlags(f)
	}
	return h.ClearFlags(f)
}

// grpcStatus returns the gRPC status in the headers of a response.
func grpcStatus(c *policy.Call, o *policy.Outcome) (status uint32, ok bool) {
	value, ok := c.ResponseHeader(o, envoy.GRPCStatusHeader)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(value, 10, 32)
	return uint32(n), err == nil
}
