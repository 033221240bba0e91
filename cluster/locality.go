package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/pillion-go/pillion/cluster/internal/balance"
)

// DefaultMinClusterSize is the default of MinClusterSize of [ZoneAware], as in Envoy.
const DefaultMinClusterSize = 6

// LocalityBasis is the measure of a locality's share of the hosts for [ZoneAware]. The zero value
// means HealthyHostsNum. Mirrors Envoy's ZoneAwareLbConfig.LocalityBasis.
type LocalityBasis string

// The measures of a locality.
const (
	// HealthyHostsNum is the number of healthy hosts.
	HealthyHostsNum LocalityBasis = "HEALTHY_HOSTS_NUM"
	// HealthyHostsWeight is the sum of the weights of healthy hosts.
	HealthyHostsWeight LocalityBasis = "HEALTHY_HOSTS_WEIGHT"
)

// ZoneAware prefers hosts of the program's own locality ([Config.Locality]), as long as the load of
// all hosts stays even. It compares the locality's share of the healthy hosts of priority 0 with its
// share of the callers. If the share of the hosts is equal or greater, all calls stay in the
// locality. Otherwise some calls go to localities whose share of the hosts is greater than their
// share of the callers. The zero value is valid. ZoneAware with [RingHash] or [Maglev] is an error.
// Mirrors zone_aware_lb_config.
type ZoneAware struct {
	// RoutingEnabled is the share of the calls that prefer the locality, in percent. Zero means 100,
	// and the constant Zero means 0. Mirrors routing_enabled.
	RoutingEnabled float64 `json:"routing_enabled,omitempty"`

	// MinClusterSize is a number of healthy hosts of priority 0: if there are fewer, there is no
	// preference. Zero means 6, and the constant Zero means no minimum. Mirrors min_cluster_size.
	MinClusterSize int `json:"min_cluster_size,omitempty"`

	// FailTrafficOnPanic refuses calls if priority 0 or the local cluster is in panic, instead of
	// using all hosts. Mirrors fail_traffic_on_panic.
	FailTrafficOnPanic bool `json:"fail_traffic_on_panic,omitempty"`

	// ForceLocalZone keeps all calls in the locality, whatever its share of the hosts. Nil means that
	// it does not. Mirrors force_local_zone.
	ForceLocalZone *ForceLocalZone `json:"force_local_zone,omitempty"`

	// LocalityBasis is the measure of the shares. Empty means HealthyHostsNum. Mirrors
	// locality_basis.
	LocalityBasis LocalityBasis `json:"locality_basis,omitempty"`

	// LocalCluster lists the callers, including this program. Their localities and health are used.
	// [Cluster.UpdateLocalCluster] replaces the list. Empty means callers that are spread evenly over
	// Config.Locality and the localities of the hosts; in Envoy it means no preference. Mirrors the
	// hosts of cluster_manager.local_cluster_name.
	LocalCluster []Endpoint `json:"local_cluster,omitempty"`
}

// ForceLocalZone configures how [ZoneAware] keeps all calls in the program's locality. Mirrors
// force_local_zone of Envoy's ZoneAwareLbConfig.
type ForceLocalZone struct {
	// MinSize is the number of healthy hosts that the locality must have. Zero means 1; a negative
	// value is an error. Mirrors min_size.
	MinSize int `json:"min_size,omitempty"`
}

// LocalityWeighted selects localities by their weights ([Endpoint.LocalityWeight]). If too few hosts
// of a locality are healthy, its weight is reduced; the overprovisioning factor determines how many
// are enough. If no locality has a weight, [RingHash] and [Maglev] refuse calls, and other load
// balancing policies ignore localities. Mirrors locality_weighted_lb_config.
type LocalityWeighted struct{}

//nolint:gochecknoglobals // a table that nothing writes
var localityBases = map[LocalityBasis]bool{"": false, HealthyHostsNum: false, HealthyHostsWeight: true}

// checkLocalities returns the errors of ZoneAware.
func (c *Config) checkLocalities() (bad []error) {
	z := c.ZoneAware
	if z == nil {
		return nil
	}
	if c.Locality == (Locality{}) {
		bad = append(bad, invalid("Locality", "empty; write where the program runs, such as Locality{Zone: \"a\"}, or remove ZoneAware"))
	}
	if c.LBPolicy == RingHash || c.LBPolicy == Maglev {
		bad = append(bad, invalid("ZoneAware", "has no effect with %s; remove it, or write another LBPolicy", c.LBPolicy))
	}
	if z.MinClusterSize < Zero {
		bad = append(bad, invalid("ZoneAware.MinClusterSize", "%d is negative; write 1 or more, 0 for 6, or Zero for no minimum", z.MinClusterSize))
	}
	if f := z.ForceLocalZone; f != nil && (f.MinSize < 0 || int64(f.MinSize) > maxNumber) {
		bad = append(bad, invalid("ZoneAware.ForceLocalZone.MinSize", "%d is out of range; write 1 to %d, or 0 for 1", f.MinSize, maxNumber))
	}
	if _, ok := localityBases[z.LocalityBasis]; !ok {
		bad = append(bad, invalid("ZoneAware.LocalityBasis", "%q is unknown; write one of %s", z.LocalityBasis, known(localityBases)))
	}
	return append(bad, checkEndpoints("ZoneAware.LocalCluster", z.LocalCluster)...)
}

// balance returns the configuration for the balancer, nil for none.
func (z *ZoneAware) balance() *balance.ZoneAware {
	if z == nil {
		return nil
	}
	made := &balance.ZoneAware{
		RoutingEnabled: z.RoutingEnabled, MinClusterSize: uint64(max(z.MinClusterSize, 0)),
		FailTrafficOnPanic: z.FailTrafficOnPanic, ByWeight: localityBases[z.LocalityBasis],
	}
	if z.MinClusterSize == Zero {
		made.MinClusterSize = 1
	}
	if z.ForceLocalZone != nil {
		made.ForceLocalZone = uint32(max(z.ForceLocalZone.MinSize, 1)) //nolint:gosec // checked
	}
	return made
}

// local returns the hosts of the local cluster.
func (z *ZoneAware) local() []*balance.Host {
	if z == nil {
		return nil
	}
	return localHosts(z.LocalCluster)
}

func localHosts(endpoints []Endpoint) (hosts []*balance.Host) {
	for i := range endpoints {
		hosts = append(hosts, balance.NewHost(endpoints[i].endpoint()))
	}
	return hosts
}

// group returns the key of the hosts that share a LocalityWeight.
func (e *Endpoint) group() balance.PriorityLocality {
	return balance.PriorityLocality{Priority: e.Priority, Locality: balance.Locality(e.Locality)}
}

// localityWeights returns the weights of the localities.
func localityWeights(endpoints []Endpoint) map[balance.PriorityLocality]uint32 {
	weights := map[balance.PriorityLocality]uint32{}
	for i := range endpoints {
		e := &endpoints[i]
		weights[e.group()] = cmp.Or(weights[e.group()], uint32(e.LocalityWeight)) //nolint:gosec // checked
	}
	return weights
}

// membership returns the hosts for the balancer. The caller holds mu.
func (c *Cluster) membership(hosts []*host) balance.Membership {
	m := balance.Membership{OverprovisioningFactor: uint32(c.cfg.OverprovisioningFactor), LocalityWeights: c.weights, Local: c.local} //nolint:gosec // checked
	for _, h := range hosts {
		m.Hosts = append(m.Hosts, h.Host)
	}
	if c.cfg.ZoneAware != nil && len(m.Local) == 0 {
		m.Local = c.evenly(m.Hosts)
	}
	return m
}

// evenly returns one caller for the program's locality and one for each locality of the hosts of
// priority 0.
func (c *Cluster) evenly(hosts []*balance.Host) (callers []*balance.Host) {
	localities := []balance.Locality{balance.Locality(c.cfg.Locality)}
	for _, h := range hosts {
		if e := h.Endpoint(); e.Priority == 0 && !slices.Contains(localities, e.Locality) {
			localities = append(localities, e.Locality)
		}
	}
	for _, l := range localities {
		callers = append(callers, balance.NewHost(balance.Endpoint{Locality: l}))
	}
	return callers
}

var errNoZones = errors.New("cluster: UpdateLocalCluster: Config.ZoneAware is nil; set it")

// UpdateLocalCluster replaces the callers of [ZoneAware]: see its field LocalCluster. Without
// endpoints the callers count as spread evenly.
//
// If endpoints are invalid, UpdateLocalCluster returns the errors of all of them and changes nothing.
// It returns an error if Config.ZoneAware is nil, and [ErrClosed] after Close.
func (c *Cluster) UpdateLocalCluster(endpoints []Endpoint) error {
	if c.cfg.ZoneAware == nil {
		return errNoZones
	}
	if err := errors.Join(checkEndpoints("ZoneAware.LocalCluster", endpoints)...); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.local = localHosts(endpoints)
	err := c.balancer.Update(c.membership(c.hosts), c.now())
	c.merge.published(c.now())
	return err
}

// suspiciousLocalities returns the reasons why the configuration of localities has no effect, if any.
func (c *Cluster) suspiciousLocalities() (all []string) {
	level := &c.balancer.Snapshot().Levels[0]
	if z := c.cfg.ZoneAware.balance(); z != nil {
		if least := cmp.Or(z.MinClusterSize, DefaultMinClusterSize); uint64(len(level.Healthy)) < least {
			all = append(all, fmt.Sprintf("cluster: Config.ZoneAware: localities have no effect: %d hosts of priority 0 are healthy, and MinClusterSize is %d; "+
				"write a smaller MinClusterSize", len(level.Healthy), least))
		}
	}
	weighs := func(l balance.LocalityHosts) bool { return l.Weight > 0 }
	if c.cfg.LocalityWeighted != nil && !slices.ContainsFunc(level.Localities, weighs) {
		all = append(all, "cluster: Config.LocalityWeighted: no endpoint of priority 0 has a LocalityWeight; set LocalityWeight")
	}
	return all
}
