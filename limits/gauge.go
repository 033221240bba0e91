package limits

import "github.com/pillion-go/pillion/policy"

// offer registers Envoy's circuit breaker gauges: rq_open and rq_retry_open are 1 while all slots
// are taken, remaining_rq and remaining_retries are the numbers of free slots.
func (l *limiter) offer(s *policy.Builder, c Config) {
	const prefix = "circuit_breakers.default."
	s.Stat(policy.Stat{Kind: policy.Gauge, Name: prefix + "rq_open", Read: func() uint64 { return flag(l.max > 0 && l.requests.Load() >= l.max) }})
	s.Stat(policy.Stat{Kind: policy.Gauge, Name: prefix + "rq_retry_open", Read: func() uint64 { return flag(l.retriesOpen()) }})
	if !c.TrackRemaining {
		return
	}
	s.Stat(policy.Stat{Kind: policy.Gauge, Name: prefix + "remaining_rq", Read: func() uint64 { return remaining(l.max, l.requests.Load()) }})
	if !c.limitsRetries() {
		return
	}
	s.Stat(policy.Stat{Kind: policy.Gauge, Name: prefix + "remaining_retries", Read: func() uint64 {
		if c.RetryBudget != nil {
			return 0
		}
		return remaining(l.most, l.retries.Load())
	}})
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
