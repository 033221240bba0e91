package balance

import "cmp"

// load is the share of the requests, in percent, that each priority receives.
type load struct {
	healthy, degraded []uint32
	whole             bool // the healthy hosts of priority 0 receive all requests
}

// choose returns the priority for a hash or a random number, and whether to use its degraded
// hosts. It mirrors Envoy's LoadBalancerBase::choosePriority.
func (l *load) choose(hash uint64) (priority int, degraded bool) {
	left := uint32(hash%100) + 1
	for i, share := range l.healthy {
		if left <= share {
			return i, false
		}
		left -= share
	}
	for i, share := range l.degraded {
		if left <= share {
			return i, true
		}
		left -= share
	}
	return 0, false
}

// distribute computes the health, the load and the panic mode of each level. It
// mirrors recalculatePerPriorityState and recalculatePerPriorityPanic of Envoy's
// LoadBalancerBase.
func (s *Snapshot) distribute(m *Membership, panicThreshold uint32) {
	health, degraded := make([]uint32, len(s.Levels)), make([]uint32, len(s.Levels))
	for i := range s.Levels {
		l := &s.Levels[i]
		l.HealthPercent, l.DegradedPercent = l.availability(m)
		health[i], degraded[i] = l.HealthPercent, l.DegradedPercent
	}
	available := min(sum(health)+sum(degraded), 100)
	s.load = distributeLoad(health, degraded, available)
	switch {
	case available == 0 && panicThreshold == 0:
		s.load.healthy[0] = 100 // no host is available
	case available < 100 && s.findPanic(panicThreshold):
		s.distributeByNumber()
	}
	s.load.whole = s.load.healthy[0] == 100
	for i := range s.Levels {
		s.Levels[i].LoadPercent, s.Levels[i].DegradedLoadPercent = s.load.healthy[i], s.load.degraded[i]
	}
}

// availability returns the shares of healthy and degraded hosts, in percent, times
// the overprovisioning factor.
func (l *Level) availability(m *Membership) (healthy, degraded uint32) {
	count := func(hosts []*Host) uint64 { return uint64(len(hosts)) }
	if m.WeightedPriorityHealth {
		count = totalWeight
	}
	total := count(l.All) - count(l.Excluded)
	if len(l.All) == len(l.Excluded) || total == 0 {
		return 0, 0
	}
	factor := uint64(overprovisioning(m))
	return uint32(min(100, factor*count(l.Healthy)/total)), uint32(min(100, factor*count(l.Degraded)/total))
}

// overprovisioning returns the factor or its default, in percent.
func overprovisioning(m *Membership) uint32 {
	return cmp.Or(m.OverprovisioningFactor, defaultOverprovisioning)
}

func totalWeight(hosts []*Host) (total uint64) {
	for _, h := range hosts {
		total += uint64(h.Endpoint().weight())
	}
	return total
}

// distributeLoad distributes 100 % over the healthy hosts of the priorities, and the rest
// over the degraded ones. The first priority with hosts receives the rounding error.
func distributeLoad(health, degraded []uint32, available uint32) load {
	l := load{healthy: make([]uint32, len(health)), degraded: make([]uint32, len(health))}
	if available == 0 {
		return l
	}
	left := uint32(100)
	spread := func(shares, of []uint32) (first int) {
		first = -1
		for i, share := range of {
			if first < 0 && share > 0 {
				first = i
			}
			shares[i] = min(left, share*100/available)
			left -= shares[i]
		}
		return first
	}
	firstHealthy, firstDegraded := spread(l.healthy, health), spread(l.degraded, degraded)
	if firstHealthy >= 0 {
		l.healthy[firstHealthy] += left
	} else {
		l.degraded[firstDegraded] += left
	}
	return l
}

// findPanic sets which levels are in panic and reports whether all are.
func (s *Snapshot) findPanic(threshold uint32) bool {
	all := true
	for i := range s.Levels {
		l := &s.Levels[i]
		l.Panic = inPanic(len(l.All)-len(l.Excluded), len(l.Healthy), len(l.Degraded), threshold)
		all = all && l.Panic
	}
	return all
}

// inPanic reports whether too few of the hosts are available.
func inPanic(hosts, healthy, degraded int, threshold uint32) bool {
	if hosts == 0 {
		return threshold > 0
	}
	return 100*float64(healthy)/float64(hosts)+100*float64(degraded)/float64(hosts) < float64(threshold)
}

// distributeByNumber distributes the load by the number of hosts, whatever their
// health.
func (s *Snapshot) distributeByNumber() {
	total, first, left := uint64(0), -1, uint32(100)
	for i := range s.Levels {
		total += uint64(len(s.Levels[i].All))
		if first < 0 && total > 0 {
			first = i
		}
	}
	clear(s.load.degraded)
	clear(s.load.healthy)
	for i := range s.Levels {
		if total > 0 {
			s.load.healthy[i] = uint32(min(100, 100*uint64(len(s.Levels[i].All))/total))
			left -= s.load.healthy[i]
		}
	}
	s.load.healthy[max(first, 0)] += left
}

func sum(values []uint32) (total uint32) {
	for _, v := range values {
		total += v
	}
	return total
}
