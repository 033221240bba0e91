package balance

// zones is the distribution of the picks of priority 0 over its localities. It mirrors
// PerPriorityState of Envoy's ZoneAwareLoadBalancerBase.
type zones struct {
	direct bool // all picks use the local locality
	// toLocal is the number of picks of 10,000 that use the local locality.
	toLocal uint64
	// residual holds, for each locality, the free capacity of all localities up to it.
	residual []uint64
	// localPanic is set if too few hosts of the local cluster are available.
	localPanic bool
}

// share is a locality's share of all hosts, of 10,000.
type share struct{ local, upstream uint64 }

// newZones returns the distribution of the picks of the level, or nil if localities have no
// effect.
func newZones(l *Level, local *Level, c *Config, counters *counters) *zones {
	counters.recalculateZoneStructures.Add(1)
	if skipZones(l, local, c.ZoneAware, counters) {
		return nil
	}
	z := &zones{localPanic: inPanic(len(local.All)-len(local.Excluded), len(local.Healthy), len(local.Degraded), c.panicThreshold())}
	shares := localityShares(l, local, c.ZoneAware.ByWeight)
	if l.HasLocal {
		first, force := shares[0], c.ZoneAware.ForceLocalZone
		z.direct = first.upstream > 0 && first.upstream >= first.local || force > 0 && len(l.Localities[0].Healthy) >= int(force)
		if z.direct {
			return z
		}
		if first.local > 0 {
			z.toLocal = first.upstream * 10000 / first.local
		}
	}
	z.residual = make([]uint64, len(shares))
	total := uint64(0)
	for i, s := range shares {
		if (i > 0 || !l.HasLocal) && s.upstream > s.local {
			total += s.upstream - s.local
		}
		z.residual[i] = total
	}
	return z
}

// skipZones reports whether localities have no effect. It mirrors
// earlyExitNonLocalityRouting.
func skipZones(l *Level, local *Level, c *ZoneAware, counters *counters) bool {
	switch {
	case len(l.Localities) < 2, c.ForceLocalZone == 0 && len(local.Localities) < 2:
		return true
	case !local.HasLocal:
		counters.localClusterNotOK.Add(1)
		return true
	case uint64(len(l.Healthy)) < c.MinClusterSize:
		counters.zoneClusterTooSmall.Add(1)
		return true
	}
	return false
}

// localityShares returns, for each locality of the level, its share of the healthy hosts of
// the level and of the local cluster. It mirrors calculateLocalityPercentages.
func localityShares(l, local *Level, byWeight bool) []share {
	size := func(hosts []*Host) uint64 { return uint64(len(hosts)) }
	if byWeight {
		size = totalWeight
	}
	callers := map[Locality]uint64{}
	totalCallers, total := uint64(0), uint64(0)
	for i := range local.Localities {
		n := size(local.Localities[i].Healthy)
		callers[local.Localities[i].Locality] = n
		totalCallers += n
	}
	for i := range l.Localities {
		total += size(l.Localities[i].Healthy)
	}
	shares := make([]share, len(l.Localities))
	for i := range l.Localities {
		if hosts := l.Localities[i].Healthy; len(hosts) > 0 {
			shares[i].upstream = size(hosts) * 10000 / total
			if totalCallers > 0 {
				shares[i].local = callers[l.Localities[i].Locality] * 10000 / totalCallers
			}
		}
	}
	return shares
}

// choose returns the locality of a pick. It mirrors tryChooseLocalLocalityHosts.
func (z *zones) choose(rand func() uint64, counters *counters) int {
	switch {
	case z.direct:
		counters.zoneRoutingAllDirectly.Add(1)
		return 0
	case rand()%10000 < z.toLocal:
		counters.zoneRoutingSampled.Add(1)
		return 0
	}
	counters.zoneRoutingCrossZone.Add(1)
	capacity := z.residual[len(z.residual)-1]
	if capacity == 0 {
		counters.zoneNoCapacityLeft.Add(1)
		return below(rand(), len(z.residual))
	}
	drawn, i := rand()%capacity, 0
	for drawn >= z.residual[i] {
		i++
	}
	return i
}
