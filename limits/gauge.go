package limits

import "github.com/pillion-go/pillion/policy"

// offer offers Envoy's gauges of a circuit breaker: rq_open and rq_retry_open are 1
// while all slots are taken, the remaining ones are how many are free.
func (l *limiter) offer(s *policy.Builder) {
	s.Stat(
		l.gauge("rq_open", func() uint64 { return flag(l.max > 0 && l.requests.Load() >= l.max) }),
		l.gauge("rq_retry_open", func() uint64 { return flag(l.retriesOpen()) }),
	)
	if !l.cfg.TrackRemaining {
		return
	}
	s.Stat(l.gauge("remaining_rq", func() uint64 { return remaining(l.max, l.requests.Load()) }))
	if !l.cfg.limitsRetries() {
		return
	}
	s.Stat(l.gauge("remaining_retries", func() uint64 {
		if l.cfg.RetryBudget != nil {
			return 0
		}
		return remaining(l.most, l.retries.Load())
	}))
}

// gauge makes a statistic of the priority.
func (l *limiter) gauge(name string, read func() uint64) policy.Stat {
	return policy.Stat{Kind: policy.Gauge, Name: "circuit_breakers." + l.priority + "." + name, Read: read}
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

func remaining(places, taken int64) uint64 {
	return uint64(max(0, places-taken))
}

// retriesOpen reports whether MaxRetries is reached, whether or not there is a
// RetryBudget. Envoy looks only when a retry begins or ends: where MaxRetries forbids retries it
// finds the limit reached from the first one on that a budget allowed, and never before.
func (l *limiter) retriesOpen() bool {
	if l.most == 0 {
		return l.retried.Load()
	}
	return l.retries.Load() >= l.most
}
