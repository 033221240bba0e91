package balance

// PreviousPriorities makes retries avoid the priorities of earlier attempts. It mirrors
// Envoy's retry priority envoy.retry_priorities.previous_priorities. It belongs to one
// request and is not safe for concurrent use. Its zero value is ready to use.
type PreviousPriorities struct {
	// UpdateFrequency is the number of attempts after which the priorities of all previous
	// attempts are excluded: with 2 the first retry uses the load of the first attempt. Less
	// than 1 means 1. An update of the hosts between the attempts also excludes them; Envoy
	// keeps the load of the old hosts.
	UpdateFrequency int

	attempted []*Host
	excluded  []bool
	adjusted  load
	of        *Snapshot // the snapshot of adjusted
}

// Attempted records the host of an attempt. The caller must call it after each pick whose
// host is used.
func (p *PreviousPriorities) Attempted(h *Host) { p.attempted = append(p.attempted, h) }

// load returns the load for the next pick.
func (p *PreviousPriorities) load(s *Snapshot) *load {
	frequency := max(p.UpdateFrequency, 1)
	if len(p.attempted) < frequency {
		return &s.load
	}
	if len(p.attempted)%frequency != 0 && p.of == s {
		return &p.adjusted
	}
	for len(p.excluded) < len(s.Levels) {
		p.excluded = append(p.excluded, false)
	}
	for _, h := range p.attempted {
		if priority := h.Endpoint().Priority; priority < len(p.excluded) {
			p.excluded[priority] = true
		}
	}
	if !p.adjust(s) {
		return &s.load
	}
	return &p.adjusted
}

// adjust recomputes the load without the excluded priorities. If none remains, it excludes
// none. It reports whether any host is available.
func (p *PreviousPriorities) adjust(s *Snapshot) bool {
	health, degraded, available := p.available(s)
	if available == 0 {
		clear(p.excluded)
		p.attempted = p.attempted[:0]
		health, degraded, available = p.available(s)
	}
	if available == 0 {
		return false
	}
	p.of = s
	p.adjusted = load{healthy: make([]uint32, len(health)), degraded: make([]uint32, len(health))}
	spread := func(shares, of []uint32, left uint32) uint32 {
		for i, share := range of {
			part := min(left, share*100/available)
			shares[i] += part
			left -= part
		}
		return left
	}
	for left := uint32(100); left > 0; {
		left = spread(p.adjusted.degraded, degraded, spread(p.adjusted.healthy, health, left))
	}
	p.adjusted.whole = p.adjusted.healthy[0] == 100
	return true
}

// available returns the availability of the priorities that are not excluded, and
// its sum, at most 100.
func (p *PreviousPriorities) available(s *Snapshot) (health, degraded []uint32, total uint32) {
	health, degraded = make([]uint32, len(s.Levels)), make([]uint32, len(s.Levels))
	for i := range s.Levels {
		if !p.excluded[i] {
			health[i], degraded[i] = s.Levels[i].HealthPercent, s.Levels[i].DegradedPercent
		}
	}
	return health, degraded, min(sum(health)+sum(degraded), 100)
}
