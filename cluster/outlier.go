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

// Outlier configures outlier detection: it detects hosts that fail too often, and ejects them for a
// time. An ejected host receives calls only in panic. The zero value has Envoy's defaults. Each field
// mirrors the field of Envoy's OutlierDetection that its JSON name shows; the constant Zero is the
// number 0 in fields whose zero value means a default. A negative duration is an error.
//
// A host is ejected only if the ejected hosts, including this one, are at most MaxEjectionPercent of
// all hosts. With the default of 10, no host of a cluster with fewer than ten hosts is ever ejected,
// unless AlwaysEjectOneHost is set.
type Outlier struct {
	// Consecutive5xx is the number of consecutive 5xx results that are detected. Zero means 5, and the
	// constant Zero detects none. A failed connect counts as 503 and a timeout as 504, unless
	// SplitExternalLocalOriginErrors is set.
	Consecutive5xx int `json:"consecutive_5xx,omitempty"`

	// EnforcingConsecutive5xx is the probability that the detection of consecutive 5xx results ejects
	// the host, in percent. Zero means 100.
	EnforcingConsecutive5xx int `json:"enforcing_consecutive_5xx,omitempty"`

	// ConsecutiveGatewayFailure is the number of consecutive results 502, 503 and 504 that are
	// detected. Zero means 5, and the constant Zero detects none.
	ConsecutiveGatewayFailure int `json:"consecutive_gateway_failure,omitempty"`

	// EnforcingConsecutiveGatewayFailure is the probability that the detection of consecutive gateway
	// failures ejects the host, in percent. Zero means 0.
	EnforcingConsecutiveGatewayFailure int `json:"enforcing_consecutive_gateway_failure,omitempty"`

	// SplitExternalLocalOriginErrors counts failures of local origin, which are failed connects,
	// resets and timeouts, separately from the responses of the hosts.
	SplitExternalLocalOriginErrors bool `json:"split_external_local_origin_errors,omitempty"`

	// ConsecutiveLocalOriginFailure is the number of consecutive failures of local origin that are
	// detected. It needs SplitExternalLocalOriginErrors. Zero means 5, and the constant Zero detects
	// none.
	ConsecutiveLocalOriginFailure int `json:"consecutive_local_origin_failure,omitempty"`

	// EnforcingConsecutiveLocalOriginFailure is the probability that the detection of consecutive
	// failures of local origin ejects the host, in percent. Zero means 100.
	EnforcingConsecutiveLocalOriginFailure int `json:"enforcing_consecutive_local_origin_failure,omitempty"`

	// Interval is the time between two evaluations of success rates, failure percentages and the ends
	// of ejections. Zero means 10s.
	Interval time.Duration `json:"interval,omitempty"`

	// BaseEjectionTime is the duration of the first ejection of a host. The nth ejection in a row
	// lasts n times as long. Zero means 30s.
	BaseEjectionTime time.Duration `json:"base_ejection_time,omitempty"`

	// MaxEjectionTime is the maximum duration of an ejection. Zero means 300s, or BaseEjectionTime if
	// that is longer. A value below BaseEjectionTime is an error.
	MaxEjectionTime time.Duration `json:"max_ejection_time,omitempty"`

	// MaxEjectionTimeJitter is the maximum random time that is added to each ejection. Zero means
	// none.
	MaxEjectionTimeJitter time.Duration `json:"max_ejection_time_jitter,omitempty"`

	// MaxEjectionPercent is the maximum share of ejected hosts, in percent. Zero means 10.
	MaxEjectionPercent int `json:"max_ejection_percent,omitempty"`

	// AlwaysEjectOneHost allows one ejected host, whatever MaxEjectionPercent is.
	AlwaysEjectOneHost bool `json:"always_eject_one_host,omitempty"`

	// SuccessRateMinimumHosts is the minimum number of hosts with SuccessRateRequestVolume results in
	// an Interval; with fewer hosts, success rates are not evaluated. Zero means 5.
	SuccessRateMinimumHosts int `json:"success_rate_minimum_hosts,omitempty"`

	// SuccessRateRequestVolume is the minimum number of results of a host in an Interval; with fewer
	// results, its success rate is not evaluated. Zero means 100.
	SuccessRateRequestVolume int `json:"success_rate_request_volume,omitempty"`

	// SuccessRateStdevFactor determines the minimum success rate: it is the mean of the hosts less
	// this factor, in thousandths, multiplied by their standard deviation. Zero means 1900.
	SuccessRateStdevFactor int `json:"success_rate_stdev_factor,omitempty"`

	// EnforcingSuccessRate is the probability that a success rate below the minimum ejects the host,
	// in percent. EnforcingLocalOriginSuccessRate is that probability for the success rate of local
	// origin. Zero means 100.
	EnforcingSuccessRate            int `json:"enforcing_success_rate,omitempty"`
	EnforcingLocalOriginSuccessRate int `json:"enforcing_local_origin_success_rate,omitempty"`

	// FailurePercentageThreshold is the share of failures from which a host is detected, in percent.
	// Zero means 85.
	FailurePercentageThreshold int `json:"failure_percentage_threshold,omitempty"`

	// FailurePercentageMinimumHosts is the minimum number of hosts with
	// FailurePercentageRequestVolume results in an Interval; with fewer hosts, failure percentages
	// are not evaluated. Zero means 5.
	FailurePercentageMinimumHosts int `json:"failure_percentage_minimum_hosts,omitempty"`

	// FailurePercentageRequestVolume is the minimum number of results of a host in an Interval; with
	// fewer results, its failure percentage is not evaluated. Zero means 50.
	FailurePercentageRequestVolume int `json:"failure_percentage_request_volume,omitempty"`

	// EnforcingFailurePercentage is the probability that a detected failure percentage ejects the
	// host, in percent. EnforcingFailurePercentageLocalOrigin is that probability for failures of
	// local origin. Zero means 0.
	EnforcingFailurePercentage            int `json:"enforcing_failure_percentage,omitempty"`
	EnforcingFailurePercentageLocalOrigin int `json:"enforcing_failure_percentage_local_origin,omitempty"`

	// KeepEjectedHealthyHosts keeps a host ejected if one of its health checks passes. By default a
	// passed check ends the ejection. Mirrors successful_active_health_check_uneject_host, with the
	// opposite meaning.
	KeepEjectedHealthyHosts bool `json:"keep_ejected_healthy_hosts,omitempty"`

	// DetectDegradedHosts marks hosts as degraded whose responses have the header x-envoy-degraded.
	DetectDegradedHosts bool `json:"detect_degraded_hosts,omitempty"`
}

// number is a numeric field of an Outlier, with the field of the detector that it sets.
type number struct {
	name string
	from int
	to   *uint32
}

// numbers returns the numeric fields.
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

// core returns the configuration of the detector, and the errors of o.
func (o *Outlier) core() (outlier.Config, error) {
	c := outlier.Defaults()
	var bad []error
	for _, f := range o.numbers(&c) {
		switch {
		case f.from == Zero:
			*f.to = 0
		case f.from < 0 || int64(f.from) > maxNumber:
			bad = append(bad, invalid("Outlier."+f.name, "%d is out of range; write 1 to %d, 0 for the default, or Zero for the number 0", f.from, maxNumber))
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

// startDetector makes the detector, if Outlier is set.
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

// responded reports the result of the attempt to the detector, at the response headers.
func (r *route) responded(c *policy.Call, p *pick, o *policy.Outcome) {
	d := r.cluster.detector
	if d == nil {
		return
	}
	result, ok := r.result(c, p, o)
	if !ok {
		return
	}
	p.reported = !o.Has(policy.NoResponse) // else its end reports nothing more
	r.cluster.took(d.Report(p.host, result, time.Now()))
}

// result returns the result of an attempt. ok is false if the result does not show the state of the
// host: the attempt was refused or canceled, exceeded the limit of a stream, or timed out without a
// connection.
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

// grpcResult returns the result of a gRPC response: of a unary call at its end, of a stream at its
// headers.
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

// response returns the result of an HTTP response.
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

// reset reports to the detector that a response was incomplete.
func (r *route) reset(p *pick, end *policy.Outcome) {
	if !p.reported || r.cluster.detector == nil {
		return
	}
	if end.Err != nil && end.Value != nil && end.Has(policy.NoResponse) && !end.Has(policy.Timeout|policy.Cancelled) && !end.Detail.Unrouted() {
		r.cluster.took(r.cluster.detector.Report(p.host, outlier.Result{Outcome: outlier.ConnectFailed}, time.Now()))
	}
}

// took applies a step of the detector. The next tick is scheduled first: Rand may panic in eject.
func (c *Cluster) took(step outlier.Step[*host]) {
	c.schedule(step.Next)
	if len(step.Events) != 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.eject(step.Events)
	}
}

// schedule calls the detector at the time next, unless next is zero.
func (c *Cluster) schedule(next time.Time) {
	if !next.IsZero() {
		later(c, time.Until(next), (*Cluster).tick)
	}
}

// tick runs the interval of the detector. If Rand panics, the tick is repeated later.
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

// eject applies the detector's state of hosts. The caller holds mu.
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

// set sets or clears a flag of the host. It reports whether the flag changed.
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
