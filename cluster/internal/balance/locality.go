package balance

import "cmp"

// Locality is where a host runs. It mirrors Envoy's config.core.v3.Locality. The
// zero value is an unknown locality.
type Locality struct {
	Region, Zone, SubZone string
}

// compare orders localities as Envoy does: by region, zone and sub zone.
func (l Locality) compare(other Locality) int {
	return cmp.Or(cmp.Compare(l.Region, other.Region), cmp.Compare(l.Zone, other.Zone), cmp.Compare(l.SubZone, other.SubZone))
}

// PriorityLocality identifies the hosts of one locality within one priority.
type PriorityLocality struct {
	Priority int
	Locality Locality
}
