package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/pillion-go/pillion/cluster/internal/balance"
)

// DefaultMinClusterSize stands for a zero MinClusterSize of [ZoneAware]. It is Envoy's.
const DefaultMinClusterSize = 6

// LocalityBasis is how [ZoneAware] measures localities. Mirrors Envoy's
// ZoneAwareLbConfig.LocalityBasis.
type LocalityBasis string

// The measures of a locality.
const (
	// HealthyHostsNum is the number of healthy hosts. It is the default.
	HealthyHostsNum LocalityBasis = "HEALTHY_HOSTS_NUM"
	// HealthyHostsWeight is the sum of the weights of healthy hosts.
	HealthyHostsWeight LocalityBasis = "HEALTHY_HOSTS_WEIGHT"
)

// ZoneAware has the hosts of priority 0 that are in the program's own locality ([Config.Locality])
// preferred, so far as the load of all hosts stays even: if the share of the hosts that are here is
// that of the callers that are here, or more, all calls stay here. Else some cross over, to localities
// that have more hosts than callers. Hash policies cannot use it. Mirrors zone_aware_lb_config.
type ZoneAware struct {
	// RoutingEnabled is the share of the calls, in per cent, that honor localities. Zero means 100,
	// the constant Zero means 0.
	RoutingEnabled float64 `json:"routing_enabled,omitempty"`

	// MinClusterSize is the least number of healthy hosts of priority 0 for localities to be honored.
	// Zero means 6, the constant Zero means no minimum.
	MinClusterSize int `json:"min_cluster_size,omitempty"`

	// FailTrafficOnPanic refuses calls in panic, that of the local cluster included, in place of
	// using all hosts.
	FailTrafficOnPanic bool `json:"fail_traffic_on_panic,omitempty"`

	// ForceLocalZone has all calls stay here, whatever the share of the hosts. Nil means that they do
	// not.
	ForceLocalZone *ForceLocalZone `json:"force_local_zone,omitempty"`

	// LocalityBasis is how localities are measured. Empty means HealthyHostsNum.
	LocalityBasis LocalityBasis `json:"locality_basis,omitempty"`

	// LocalCluster is the callers, this program among them: their localities and health count.
	// [Cluster.UpdateLocalCluster] replaces them. Empty means that the callers are spread evenly over
	// Config.Locality and the localities of the hosts; in Envoy localities do not matter then.
	// Mirrors the hosts of cluster_manager.local_cluster_name.
	LocalCluster []Endpoint `json:"local_cluster,omitempty"`
}

// ForceLocalZone mirrors force_local_zone of Envoy's ZoneAwareLbConfig.
type ForceLocalZone struct {
	// MinSize is the least number of healthy hosts here. Zero means 1; negative is an error.
	MinSize int `json:"min_size,omitempty"`
}

// LocalityWeighted has localities chosen by their weights ([Endpoint.LocalityWeight]), which count in
// full as long as enough of their hosts are healthy for the overprovisioning factor, and less below.
// If no locality has a weight, localities do not matter; with [RingHash] and [Maglev] calls are refused
// then. Mirrors locality_weighted_lb_config.
type LocalityWeighted struct{}

//nolint:gochecknoglobals // a table that nothing writes
var localityBases = map[LocalityBasis]bool{"": false, HealthyHostsNum: false, HealthyHostsWeight: true}

// checkLocalities finds what is wrong with ZoneAware.
func (c *Config) checkLocalities() (bad []error) {
	z := c.ZoneAware
	if z == nil {
		return nil
	}
	if c.Locality == (Locality{}) {
		bad = append(bad, invalid("Locality", "empty; ZoneAware needs to know where the program runs, as in Locality{Zone: \"a\"}"))
	}
	if c.LBPolicy == RingHash || c.LBPolicy == Maglev {
		bad = append(bad, invalid("ZoneAware", "%s cannot use it; leave one of the two out", c.LBPolicy))
	}
	if z.MinClusterSize < Zero {
		bad = append(bad, invalid("ZoneAware.MinClusterSize", "%d is negative; leave it 0 for the default, or write Zero for no minimum", z.MinClusterSize))
	}
	if f := z.ForceLocalZone; f != nil && (f.MinSize < 0 || int64(f.MinSize) > maxNumber) {
		bad = append(bad, invalid("ZoneAware.ForceLocalZone.MinSize", "%d is not within 0 and %d; 0 means 1", f.MinSize, maxNumber))
	}
	if _, ok := localityBases[z.LocalityBasis]; !ok {
		bad = append(bad, invalid("ZoneAware.LocalityBasis", "%q is unknown; write one of %s", z.LocalityBasis, known(localityBases)))
	}
	return append(bad, checkEndpoints("ZoneAware.LocalCluster", z.LocalCluster)...)
}

// balance returns the configuration of the balancer, nil for none.
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

// group returns what hosts that share a locality's weight have in common.
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

// membership returns hosts as the balancer has them. The caller holds mu.
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

// evenly returns a caller for each locality of the hosts of priority 0, and for that of the program.
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

// UpdateLocalCluster replaces the callers that [ZoneAware] takes into account, as
// [ZoneAware.LocalCluster] says. If the endpoints are wrong, the error says all that is, and the old
// ones stay. Without any the callers are spread evenly.
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

// suspiciousLocalities returns why the configuration of localities has no effect, if it has none.
func (c *Cluster) suspiciousLocalities() (all []string) {
	level := &c.balancer.Snapshot().Levels[0]
	if z := c.cfg.ZoneAware.balance(); z != nil {
		if least := cmp.Or(z.MinClusterSize, DefaultMinClusterSize); uint64(len(level.Healthy)) < least {
			all = append(all, fmt.Sprintf("cluster: Config.ZoneAware: localities do not matter: there are %d healthy hosts of priority 0, and MinClusterSize is %d; "+
				"set a smaller one", len(level.Healthy), least))
		}
	}
	weighs := func(l balance.LocalityHosts) bool { return l.Weight > 0 }
	if c.cfg.LocalityWeighted != nil && !slices.ContainsFunc(level.Localities, weighs) {
		all = append(all, "cluster: Config.LocalityWeighted: no endpoint of priority 0 has a LocalityWeight; set it")
	}
	return all
}
