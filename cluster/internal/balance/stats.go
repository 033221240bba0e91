package balance

import "sync/atomic"

// Stats mirrors Envoy's statistics cluster.<name>.lb_*, ring_hash_lb.* and
// maglev_lb.*.
type Stats struct {
	HealthyPanic              uint64 // lb_healthy_panic
	LocalClusterNotOK         uint64 // lb_local_cluster_not_ok
	RecalculateZoneStructures uint64 // lb_recalculate_zone_structures
	ZoneClusterTooSmall       uint64 // lb_zone_cluster_too_small
	ZoneNoCapacityLeft        uint64 // lb_zone_no_capacity_left
	ZoneRoutingAllDirectly    uint64 // lb_zone_routing_all_directly
	ZoneRoutingCrossZone      uint64 // lb_zone_routing_cross_zone
	ZoneRoutingSampled        uint64 // lb_zone_routing_sampled

	Ring   RingStats   // of the last priority that has hosts to use
	Maglev MaglevStats // of the last priority that has hosts to use
}

// counters holds the counts of Stats.
type counters struct {
	healthyPanic, localClusterNotOK, recalculateZoneStructures, zoneClusterTooSmall,
	zoneNoCapacityLeft, zoneRoutingAllDirectly, zoneRoutingCrossZone, zoneRoutingSampled atomic.Uint64
}

// read returns the current counts.
func (c *counters) read() Stats {
	return Stats{
		HealthyPanic:              c.healthyPanic.Load(),
		LocalClusterNotOK:         c.localClusterNotOK.Load(),
		RecalculateZoneStructures: c.recalculateZoneStructures.Load(),
		ZoneClusterTooSmall:       c.zoneClusterTooSmall.Load(),
		ZoneNoCapacityLeft:        c.zoneNoCapacityLeft.Load(),
		ZoneRoutingAllDirectly:    c.zoneRoutingAllDirectly.Load(),
		ZoneRoutingCrossZone:      c.zoneRoutingCrossZone.Load(),
		ZoneRoutingSampled:        c.zoneRoutingSampled.Load(),
	}
}
