package tracing

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
)

// NeverSample is a sampling rate of zero, where zero means the default.
const NeverSample = -1

// request is what sampling rules look at; it is empty for traces that no request
// began.
type request struct{ host, method, path string }

// decide says whether a trace that begins here is recorded, and by which of the
// SDK's rules.
func (t *Tracer) decide(name string, r request) (sampled bool, rule string) {
	if t.strategy == nil {
		return rand.Float64() < t.rate, "" //nolint:gosec // nothing hangs on it but which traces are kept
	}
	d, err := t.ask(&sampling.Request{Host: r.host, Method: r.method, URL: r.path, ServiceName: name})
	if err != nil {
		t.emitter.report(err)
		return rand.Float64() < t.rate, "" //nolint:gosec // as above
	}
	if d.Rule != nil {
		rule = *d.Rule
	}
	return d.Sample, rule
}

// ask asks the strategy. One that panics has no opinion: the SDK's centralized one
// does so without a daemon's address.
func (t *Tracer) ask(r *sampling.Request) (d *sampling.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("tracing: Config.Sampling: %T panicked: %v", t.strategy, p)
		}
	}()
	if d = t.strategy.ShouldTrace(r); d == nil {
		return nil, fmt.Errorf("tracing: Config.Sampling: %T gave no decision", t.strategy)
	}
	return d, nil
}

// checkRate gives the rate that is meant.
func checkRate(rate float64) (float64, error) {
	switch {
	case rate == 0:
		return 1, nil
	case rate == NeverSample:
		return 0, nil
	case math.IsNaN(rate) || rate < 0 || rate > 1:
		return 0, fmt.Errorf("tracing: Config.SamplingRate: %v is not between 0 and 1", rate)
	}
	return rate, nil
}

var errNoName = errors.New("tracing: Config.Name: it is empty")
