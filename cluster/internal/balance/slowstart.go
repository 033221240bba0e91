package balance

import (
	"math"
	"time"
)

// enters starts the window of healthy hosts without one. It returns the start of the newest
// window, or newest if that is later. It mirrors recalculateHostsInSlowStart of Envoy's
// EdfLoadBalancerBase.
func (s *SlowStart) enters(hosts []*Host, newest, now time.Duration) time.Duration {
	for _, h := range hosts {
		if h.Health() != Healthy {
			continue
		}
		since, ok := h.HealthySince()
		if !ok {
			since = now
			h.SetHealthySince(now)
		}
		if since > newest && (now-since).Milliseconds() <= s.Window.Milliseconds() {
			newest = since
		}
	}
	return newest
}

// running reports whether a window that started at newest can still be open.
func (s *SlowStart) running(newest, now time.Duration) bool {
	return s.Window > 0 && (now-newest).Milliseconds() <= s.Window.Milliseconds()
}

// factor returns the share of its weight that the host has at now.
func (s *SlowStart) factor(h *Host, now time.Duration) float64 {
	since, ok := h.HealthySince()
	age, window := (now - since).Milliseconds(), s.Window.Milliseconds()
	if !ok || age >= window || h.Health() != Healthy {
		return 1
	}
	share := float64(max(age, 1)) / float64(window)
	if s.Aggression != 1 {
		share = math.Pow(share, 1/s.Aggression)
	}
	return max(share, s.MinWeightPercent/100)
}
