package balance

import (
	"fmt"
	"math"
	"slices"
)

const (
	maxPriority             = 128
	defaultOverprovisioning = 140
)

// Membership holds the hosts of a cluster, which were configured or resolved.
type Membership struct {
	// Hosts are the hosts in the order of the configuration. Policies use that order,
	// within one priority.
	Hosts []*Host
	// LocalityWeights are the shares of the localities of each priority, for
	// Config.LocalityWeighted. A locality without a weight has weight 0.
	LocalityWeights map[PriorityLocality]uint32
	// OverprovisioningFactor, in percent, is how much load the available hosts of a priority
	// can take over from the others. Zero means 140, as in Envoy.
	OverprovisioningFactor uint32
	// WeightedPriorityHealth computes the health of a priority from the weights of its hosts
	// instead of their number.
	WeightedPriorityHealth bool
	// Local lists the hosts of the local cluster, which are the callers of this cluster, for
	// Config.ZoneAware. Their priorities are ignored. If it is empty, zones have no effect.
	Local []*Host
}

// priorities returns the priority of each host. It returns an error if Envoy would reject the
// load assignment.
func (m *Membership) priorities() ([]int, error) {
	all := make([]int, len(m.Hosts))
	for i, h := range m.Hosts {
		if h == nil {
			return nil, fmt.Errorf("balance: Membership.Hosts[%d]: nil", i)
		}
		e := h.Endpoint()
		if all[i] = e.Priority; all[i] < 0 || all[i] > maxPriority {
			return nil, fmt.Errorf("balance: Membership.Hosts[%d] (%s): Priority: %d is not between 0 and %d", i, e.Address, all[i], maxPriority)
		}
	}
	if i := slices.Index(m.Local, nil); i >= 0 {
		return nil, fmt.Errorf("balance: Membership.Local[%d]: nil", i)
	}
	return all, nil
}

// checkWeights reports sums of weights that Envoy rejects for hash policies.
func (m *Membership) checkWeights() error {
	hosts, localities := map[int]uint64{}, map[int]uint64{}
	for _, h := range m.Hosts {
		e := h.Endpoint()
		if hosts[e.Priority] += uint64(e.weight()); hosts[e.Priority] > math.MaxUint32 {
			return fmt.Errorf("balance: Membership.Hosts: the sum of the weights of priority %d exceeds %d", e.Priority, uint32(math.MaxUint32))
		}
	}
	for key, weight := range m.LocalityWeights {
		if localities[key.Priority] += uint64(weight); localities[key.Priority] > math.MaxUint32 {
			return fmt.Errorf("balance: Membership.LocalityWeights: the sum of priority %d exceeds %d", key.Priority, uint32(math.MaxUint32))
		}
	}
	return nil
}

// Snapshot holds the hosts of a cluster, partitioned by priority and health, and the load of
// each priority. It never changes; its slices must not be modified.
type Snapshot struct {
	// Levels lists the priorities from 0. There is at least one; each gap has a level without
	// hosts.
	Levels []Level

	load load
}

// Level holds the hosts of one priority.
type Level struct {
	All      []*Host // all hosts, in the order of Membership.Hosts
	Healthy  []*Host // the healthy hosts
	Degraded []*Host // the degraded hosts
	Excluded []*Host // the hosts that are excluded when the health of the priority is computed

	// Localities are the hosts by locality: the local one first, if it has hosts, the
	// others in order. They are nil unless Config.LocalityWeighted or Config.ZoneAware
	// is set.
	Localities []LocalityHosts
	// HasLocal reports whether the first of Localities is the local one.
	HasLocal bool

	HealthPercent       uint32 // share of healthy hosts times the overprovisioning factor, at most 100
	DegradedPercent     uint32 // share of degraded hosts times the overprovisioning factor
	LoadPercent         uint32 // share of the requests that its healthy hosts receive, or all hosts in panic
	DegradedLoadPercent uint32 // share of the requests that its degraded hosts receive
	Panic               bool   // all its hosts are used, whatever their health
}

// LocalityHosts holds the hosts of one locality within one priority.
type LocalityHosts struct {
	Locality Locality
	Weight   uint32 // from Membership.LocalityWeights
	All      []*Host
	Healthy  []*Host
	Degraded []*Host
	Excluded []*Host
}

// Counts returns the number of hosts, for Envoy's membership_total,
// membership_healthy, membership_degraded and membership_excluded.
func (s *Snapshot) Counts() (total, healthy, degraded, excluded int) {
	for i := range s.Levels {
		l := &s.Levels[i]
		total += len(l.All)
		healthy += len(l.Healthy)
		degraded += len(l.Degraded)
		excluded += len(l.Excluded)
	}
	return total, healthy, degraded, excluded
}

// newSnapshot partitions the hosts of m, which have the given priorities. It reads the flags
// of each host once.
func newSnapshot(m *Membership, priorities []int, c *Config) *Snapshot {
	sizes := make([]int, 1)
	for _, p := range priorities {
		for p >= len(sizes) {
			sizes = append(sizes, 0)
		}
		sizes[p]++
	}
	s := &Snapshot{Levels: make([]Level, len(sizes))}
	for p, size := range sizes {
		s.Levels[p].All = make([]*Host, 0, size)
	}
	for i, p := range priorities {
		s.Levels[p].All = append(s.Levels[p].All, m.Hosts[i])
	}
	byLocality := c.LocalityWeighted || c.ZoneAware != nil
	for p := range s.Levels {
		s.Levels[p].partition(p, m, c.Locality, byLocality)
	}
	s.distribute(m, c.panicThreshold())
	return s
}

// partition fills the lists of the level except All.
func (l *Level) partition(priority int, m *Membership, local Locality, byLocality bool) {
	index := map[Locality]int{}
	l.Healthy = make([]*Host, 0, len(l.All))
	for _, h := range l.All {
		flags := h.Flags()
		add(h, flags, &l.Healthy, &l.Degraded, &l.Excluded)
		if !byLocality {
			continue
		}
		where := h.Endpoint().Locality
		i, seen := index[where]
		if !seen {
			i = len(l.Localities)
			index[where] = i
			l.Localities = append(l.Localities, LocalityHosts{Locality: where, Weight: m.LocalityWeights[PriorityLocality{priority, where}]})
		}
		group := &l.Localities[i]
		group.All = append(group.All, h)
		add(h, flags, &group.Healthy, &group.Degraded, &group.Excluded)
	}
	slices.SortFunc(l.Localities, func(a, b LocalityHosts) int {
		if a.isLocal(local) != b.isLocal(local) {
			if a.isLocal(local) {
				return -1
			}
			return 1
		}
		return a.Locality.compare(b.Locality)
	})
	l.HasLocal = len(l.Localities) > 0 && l.Localities[0].isLocal(local)
}

func (g *LocalityHosts) isLocal(local Locality) bool {
	return local != Locality{} && g.Locality == local
}

// add appends the host to the lists that its flags select.
func add(h *Host, flags Flags, healthy, degraded, excluded *[]*Host) {
	switch flags.Health() {
	case Healthy:
		*healthy = append(*healthy, h)
	case Degraded:
		*degraded = append(*degraded, h)
	default:
	}
	if flags.Excluded() {
		*excluded = append(*excluded, h)
	}
}
