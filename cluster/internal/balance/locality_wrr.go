package balance

import "sync"

// localitySchedule chooses the localities of a priority by their weights. It mirrors
// Envoy's LocalityWrr.
type localitySchedule struct {
	localities []int // the locality of each entry
	weights    []float64
	mu         sync.Mutex
	edf        *edf // guarded by mu
}

// newLocalitySchedule returns the schedule of the localities, or nil if none has a weight.
// eligible returns the usable hosts of a locality.
func newLocalitySchedule(l *Level, eligible func(*LocalityHosts) []*Host, overprovisioning, seed uint32) *localitySchedule {
	s := &localitySchedule{}
	for i := range l.Localities {
		if w := l.Localities[i].effectiveWeight(eligible, overprovisioning); w > 0 {
			s.localities, s.weights = append(s.localities, i), append(s.weights, w)
		}
	}
	if len(s.weights) == 0 {
		return nil
	}
	s.edf = newEDF(s.weights, seed)
	return s
}

// choose returns the next locality.
func (s *localitySchedule) choose() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.edf.next()
	s.edf.putBack(s.weights[i])
	return s.localities[i]
}

// effectiveWeight returns the weight of the locality times the share of its hosts
// that are eligible, with the overprovisioning factor.
func (g *LocalityHosts) effectiveWeight(eligible func(*LocalityHosts) []*Host, overprovisioning uint32) float64 {
	hosts := len(g.All) - len(g.Excluded)
	if hosts == 0 {
		return 0
	}
	available := float64(len(eligible(g))) / float64(hosts)
	return float64(g.Weight) * min(1, float64(float64(overprovisioning)/100*available))
}

func (g *LocalityHosts) healthy() []*Host { return g.Healthy }

func (g *LocalityHosts) degraded() []*Host { return g.Degraded }
