package balance

import "slices"

// weighted holds hosts with their normalized weights, whose sum is 1.
type weighted struct {
	hosts   []*Host
	weights []float64
	keys    []string // the hash key of each host
}

// table finds the host of a hash.
type table interface {
	// find returns the index of a host. Each attempt can return another host; the first
	// attempt is 0.
	find(hash, attempt uint64) int
}

// normalize returns the hosts of a table with weights whose sum is 1, or nil if there
// are none. It mirrors normalizeWeights in Envoy's thread_aware_lb_impl.cc.
func (b *Balancer) normalize(l *Level) *weighted {
	w := &weighted{}
	if !b.config.LocalityWeighted || len(l.Localities) == 0 {
		w.add(usable(l.All, l.Healthy, l.Panic), 1, &b.config.ConsistentHashing)
	} else {
		total := uint64(0)
		for i := range l.Localities {
			total += uint64(l.Localities[i].Weight)
		}
		for i := range l.Localities {
			if g := &l.Localities[i]; g.Weight > 0 {
				w.add(usable(g.All, g.Healthy, l.Panic), float64(g.Weight)/float64(total), &b.config.ConsistentHashing)
			}
		}
	}
	if len(w.hosts) == 0 {
		return nil
	}
	return w
}

func usable(all, healthy []*Host, inPanic bool) []*Host {
	if inPanic {
		return all
	}
	return healthy
}

// add appends hosts that together have the given share of the weight.
func (w *weighted) add(hosts []*Host, share float64, c *ConsistentHashingConfig) {
	total := float64(totalWeight(hosts))
	for _, h := range hosts {
		e := h.Endpoint()
		w.hosts = append(w.hosts, h)
		w.weights = append(w.weights, float64(float64(e.weight())*share)/total)
		w.keys = append(w.keys, e.hashKey(c.UseHostname))
	}
}

// same reports whether the tables of w and other are the same.
func (w *weighted) same(other *weighted) bool {
	return other != nil && slices.Equal(w.hosts, other.hosts) && slices.Equal(w.weights, other.weights) && slices.Equal(w.keys, other.keys)
}
