package tracing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
)

// Never is a sampling rate of zero. It is needed because zero means the default.
const Never = -1

// request is the part of a request that sampling rules use. It is empty for traces that do
// not begin with a request.
type request struct{ host, method, path string }

// decide reports whether a trace that begins here is recorded, and by which rule of the
// SDK.
func (t *Tracer) decide(name string, r request) (sampled bool, rule string) {
	if t.strategy == nil {
		return rand.Float64() < t.rate, "" //nolint:gosec // it only selects which traces are kept
	}
	d := t.strategy.ShouldTrace(&sampling.Request{Host: r.host, Method: r.method, URL: r.path, ServiceName: name})
	if d == nil {
		t.emitter.report(fmt.Errorf("tracing: Config.Sampling: %T returned no decision", t.strategy))
		return rand.Float64() < t.rate, "" //nolint:gosec // as above
	}
	if d.Rule != nil {
		rule = *d.Rule
	}
	return d.Sample, rule
}

// checkRate returns the effective rate.
func checkRate(rate float64) (float64, error) {
	switch {
	case rate == 0:
		return 1, nil
	case rate == Never:
		return 0, nil
	case math.IsNaN(rate) || rate < 0 || rate > 1:
		return 0, fmt.Errorf("%v is not between 0 and 1; write 0.05 for 5%%, Never for none", rate)
	}
	return rate, nil
}

// checkStrategy reports a nil pointer, which would panic at the first request.
func checkStrategy(s sampling.Strategy) error {
	if v := reflect.ValueOf(s); v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Errorf("it is a nil %T; write nil, or a strategy", s)
	}
	return nil
}
