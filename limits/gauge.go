package limits

import "github.com/pillion-go/pillion/policy"

// offer registers Envoy's circuit breaker gauges: rq_open and rq_retry_open are 1 while all slots
// are taken, remaining_rq and remaining_retries are the numbers of free slots.
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
		if l.budgeted.Load() { // Envoy clears it then, because it says nothing beside a budget
			return 0
		}
		return remaining(l.most, l.retries.Load())
	}))
}

// gauge returns a gauge of the priority.
func (l *limiter) gauge(name string, read func() uint64) policy.Stat {
	return policy.Stat{Kind: policy.Gauge, Name: "circuit_breakers." + l.priority + "." + name, Read: read}
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

func remaining(slots, taken int64) uint64 {
	return uint64(max(0, slots-taken))
}

// retriesOpen reports whether MaxRetries is reached, even if a RetryBudget replaces it. Envoy
// updates this only when a retry begins or ends. So a MaxRetries of 0 counts as reached only after
// the first retry that a budget allowed.
func (l *limiter) retriesOpen() bool {
	if l.most == 0 {
		return l.retried.Load()
	}
	return l.retries.Load() >= l.most
}
