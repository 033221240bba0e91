package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// source is a list of hosts to choose from, with the data of the policy. It mirrors a
// HostsSource of Envoy with its scheduler.
type source struct {
	hosts []*Host
	size  divisor // by the number of hosts
	turn  *turn

	// The fields below are used if the weights of the hosts differ.
	weights []float64 // nil if the weights are equal
	mu      sync.Mutex
	edf     *edf // guarded by mu
}

// turn counts the picks of a source. It remains when the hosts change, so that round robin
// continues at its position.
type turn struct {
	next atomic.Uint64
	_    [56]byte // prevents that turns of several sources share a cache line
}

// sourceKind selects the hosts of a priority.
type sourceKind uint8

const (
	allHosts sourceKind = iota
	healthyHosts
	degradedHosts
	healthyOfLocality
	degradedOfLocality
)

// sourceKey identifies a source across updates.
type sourceKey struct {
	priority int
	kind     sourceKind
	locality int
}

// newSource returns the source of the hosts. It mirrors refresh of Envoy's
// EdfLoadBalancerBase.
func (b *Balancer) newSource(key sourceKey, hosts []*Host, s *state) *source {
	t := b.turns[key]
	if t == nil {
		t = &turn{}
		t.next.Store(b.seed)
		b.turns[key] = t
	}
	src := &source{hosts: hosts, size: newDivisor(uint64(len(hosts))), turn: t}
	if !b.config.Policy.weighs() || len(hosts) < 2 {
		return src
	}
	weights, equal := weightsOf(hosts)
	if equal && !b.config.SlowStart.running(s.newest, s.built) {
		return src
	}
	src.weights = weights
	if b.config.Policy == PeakEWMA {
		return src
	}
	current := make([]float64, len(hosts))
	for i := range hosts {
		current[i] = b.weight(src, i, s, s.built)
	}
	picks := b.seed
	if b.config.ContinueSchedules {
		picks = t.next.Load()
	}
	src.edf = newEDF(current, lower(picks))
	return src
}

// weighs reports whether the policy uses the weights of a source.
func (p Policy) weighs() bool { return p == RoundRobin || p == LeastRequest || p == PeakEWMA }

// weightsOf returns the configured weights, and whether they are equal.
func weightsOf(hosts []*Host) (weights []float64, equal bool) {
	weights, equal = make([]float64, len(hosts)), true
	for i, h := range hosts {
		weights[i] = float64(h.Endpoint().weight())
		equal = equal && weights[i] == weights[0]
	}
	return weights, equal
}

// weight returns the weight of a host at now: the configured one, reduced by active
// requests and slow start.
func (b *Balancer) weight(src *source, i int, s *state, now time.Duration) float64 {
	w := src.weights[i]
	if bias := b.config.LeastRequest.ActiveRequestBias; b.config.Policy == LeastRequest && bias != 0 {
		active := float64(max(src.hosts[i].Active(), 0) + 1)
		if bias != 1 {
			active = math.Pow(active, bias)
		}
		w /= active
	}
	if b.config.SlowStart.running(s.newest, now) {
		w = float64(w * b.config.SlowStart.factor(src.hosts[i], now))
	}
	return w
}

// pick returns the host of the source that the policy chooses, or nil if there is none. The
// random number is the one that chose the priority.
func (b *Balancer) pick(src *source, s *state, random uint64, now time.Duration) *Host {
	switch {
	case len(src.hosts) == 0:
		return nil
	case src.edf != nil:
		return b.pickScheduled(src, s, now)
	}
	switch b.config.Policy {
	case LeastRequest:
		if b.config.LeastRequest.FullScan {
			return b.leastOfAll(src.hosts)
		}
		return b.leastOfDrawn(src.hosts)
	case Random:
		return src.hosts[src.size.rest(random)]
	case PeakEWMA:
		return b.fastestOfTwo(src, s, now)
	default:
		return src.hosts[src.size.rest(src.turn.next.Add(1)-1)]
	}
}

// pickScheduled returns the next host of the schedule.
func (b *Balancer) pickScheduled(src *source, s *state, now time.Duration) *Host {
	src.mu.Lock()
	i := src.edf.next()
	src.edf.putBack(b.weight(src, i, s, now))
	src.mu.Unlock()
	if b.config.ContinueSchedules {
		src.turn.next.Add(1)
	}
	return src.hosts[i]
}

// leastOfDrawn returns the host with the fewest active requests of ChoiceCount random hosts,
// the first one if several have the same number.
func (b *Balancer) leastOfDrawn(hosts []*Host) *Host {
	random := b.config.Rand()
	least, second := hosts[below(random, len(hosts))], hosts[below(random>>32, len(hosts))]
	if second.Active() < least.Active() {
		least = second
	}
	for range b.config.LeastRequest.ChoiceCount - 2 {
		if h := hosts[below(b.config.Rand(), len(hosts))]; h.Active() < least.Active() {
			least = h
		}
	}
	return least
}

// leastOfAll returns the host with the fewest active requests, a random one if several have
// the same number.
func (b *Balancer) leastOfAll(hosts []*Host) *Host {
	least, active, same := hosts[0], hosts[0].Active(), uint64(1)
	for _, h := range hosts[1:] {
		switch its := h.Active(); {
		case its < active:
			least, active, same = h, its, 1
		case its == active:
			if same++; b.config.Rand()%same == 0 {
				least = h
			}
		}
	}
	return least
}

// unknownCost is the cost of a host that has active requests and no latency yet. As in
// Finagle's PeakEwma, such a host receives no more requests until its first response.
const unknownCost = math.MaxInt64 >> 16

// fastestOfTwo returns the host with the lower cost of two different random hosts.
func (b *Balancer) fastestOfTwo(src *source, s *state, now time.Duration) *Host {
	if len(src.hosts) == 1 {
		return src.hosts[0]
	}
	random := b.config.Rand()
	i, j := below(random, len(src.hosts)), below(random>>32, len(src.hosts)-1)
	if j >= i {
		j++
	}
	first, firstAge := b.cost(src, i, s, now)
	second, secondAge := b.cost(src, j, s, now)
	if cheaper(second, secondAge, first, firstAge, b.config.PeakEWMA.Decay) {
		i = j
	}
	return src.hosts[i]
}

// cost returns the latency of a host times the active requests it would have, divided
// by its weight, and the age of the latency.
func (b *Balancer) cost(src *source, i int, s *state, now time.Duration) (cost float64, age time.Duration) {
	h := src.hosts[i]
	active := float64(max(h.Active(), 0))
	cost, age = h.latency.read(now)
	if cost == 0 && active > 0 {
		cost, age = unknownCost+active, 0
	} else {
		cost *= active + 1
	}
	if src.weights != nil {
		cost /= b.weight(src, i, s, now)
	}
	return cost, age
}

// cheaper reports whether a, after the decay for its age, is less than b. It computes the
// decay only if that can change the result.
func cheaper(a float64, aAge time.Duration, b float64, bAge, decay time.Duration) bool {
	switch {
	case a < b && aAge >= bAge:
		return true
	case a >= b && aAge <= bAge:
		return false
	}
	return a*math.Exp(float64(bAge-aAge)/float64(decay)) < b
}
