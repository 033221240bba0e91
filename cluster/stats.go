package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/health"
	"github.com/pillion-go/pillion/cluster/internal/outlier"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/policy"
)

// stats holds the statistics of one cluster. It does not refer to the cluster, so that a registry of
// statistics does not keep the cluster's hosts and connections alive.
type stats struct {
	events  [pool.NumEvents + 1]atomic.Int64 // also maxDurationReached
	lb      [balanceStats]atomic.Uint64
	picked  func() balance.Stats
	outlier *outlier.Stats  // nil without detection
	health  *health.Checker // nil without health checks

	perEndpoint bool                                 // hosts have their own statistics
	endpoints   atomic.Pointer[policy.EndpointStats] // of the current hosts

	mu         sync.Mutex
	histograms [pool.NumEvents]atomic.Pointer[[]func(uint64)] // written with mu held
}

// The statistics of the hosts.
const (
	membershipChange = iota
	membershipTotal
	membershipHealthy
	membershipDegraded
	membershipExcluded
	maxHostWeight
	ringSize
	ringMinHashes
	ringMaxHashes
	maglevMinEntries
	maglevMaxEntries
	balanceStats
)

//nolint:gochecknoglobals // a table that nothing writes
var balanceNames = [balanceStats]struct {
	name string
	kind policy.StatKind
}{
	membershipChange:   {"membership_change", policy.Counter},
	membershipTotal:    {"membership_total", policy.Gauge},
	membershipHealthy:  {"membership_healthy", policy.Gauge},
	membershipDegraded: {"membership_degraded", policy.Gauge},
	membershipExcluded: {"membership_excluded", policy.Gauge},
	maxHostWeight:      {"max_host_weight", policy.Gauge},
	ringSize:           {"ring_hash_lb.size", policy.Gauge},
	ringMinHashes:      {"ring_hash_lb.min_hashes_per_host", policy.Gauge},
	ringMaxHashes:      {"ring_hash_lb.max_hashes_per_host", policy.Gauge},
	maglevMinEntries:   {"maglev_lb.min_entries_per_host", policy.Gauge},
	maglevMaxEntries:   {"maglev_lb.max_entries_per_host", policy.Gauge},
}

// pickNames maps the names of the balancer's statistics to their values.
//
//nolint:gochecknoglobals // a table that nothing writes
var pickNames = map[string]func(balance.Stats) uint64{
	"lb_healthy_panic":               func(s balance.Stats) uint64 { return s.HealthyPanic },
	"lb_local_cluster_not_ok":        func(s balance.Stats) uint64 { return s.LocalClusterNotOK },
	"lb_recalculate_zone_structures": func(s balance.Stats) uint64 { return s.RecalculateZoneStructures },
	"lb_zone_cluster_too_small":      func(s balance.Stats) uint64 { return s.ZoneClusterTooSmall },
	"lb_zone_no_capacity_left":       func(s balance.Stats) uint64 { return s.ZoneNoCapacityLeft },
	"lb_zone_routing_all_directly":   func(s balance.Stats) uint64 { return s.ZoneRoutingAllDirectly },
	"lb_zone_routing_cross_zone":     func(s balance.Stats) uint64 { return s.ZoneRoutingCrossZone },
	"lb_zone_routing_sampled":        func(s balance.Stats) uint64 { return s.ZoneRoutingSampled },
}

// Observe counts an event of a pool.
func (s *stats) Observe(e pool.Event, n int64) {
	switch e {
	case pool.CxConnectTime, pool.CxLength:
		s.record(e, uint64(max(0, time.Duration(n).Milliseconds())))
	case pool.RqPerCx:
		s.record(e, uint64(max(0, n)))
	default:
		s.events[e].Add(n)
	}
}

// record passes a value to the functions that record the histogram.
func (s *stats) record(e pool.Event, value uint64) {
	if shown := s.histograms[e].Load(); shown != nil {
		for _, record := range *shown {
			record(value)
		}
	}
}

// shows adds a function that records a histogram.
func (s *stats) shows(e pool.Event, record func(uint64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []func(uint64)
	if shown := s.histograms[e].Load(); shown != nil {
		all = append(all, *shown...)
	}
	all = append(all, record)
	s.histograms[e].Store(&all)
}

// members counts the hosts and their current health. Picks may use that health later, after the merge
// window.
func (s *stats) members(hosts []*host) {
	var healthy, degraded, excluded, heaviest uint64
	for _, h := range hosts {
		flags := h.Flags()
		if h.own != nil {
			h.own.setHealth(flags.Health())
		}
		switch flags.Health() {
		case balance.Healthy:
			healthy++
		case balance.Degraded:
			degraded++
		default: // Unhealthy
		}
		if flags.Excluded() {
			excluded++
		}
		heaviest = max(heaviest, uint64(h.Endpoint().Weight), 1)
	}
	s.lb[membershipTotal].Store(uint64(len(hosts)))
	s.lb[membershipHealthy].Store(healthy)
	s.lb[membershipDegraded].Store(degraded)
	s.lb[membershipExcluded].Store(excluded)
	s.lb[maxHostWeight].Store(heaviest)
}

// tables counts the entries of the current lookup tables.
func (s *stats) tables(lb balance.Stats) {
	s.lb[ringSize].Store(lb.Ring.Size)
	s.lb[ringMinHashes].Store(lb.Ring.MinHashesPerHost)
	s.lb[ringMaxHashes].Store(lb.Ring.MaxHashesPerHost)
	s.lb[maglevMinEntries].Store(lb.Maglev.MinEntriesPerHost)
	s.lb[maglevMaxEntries].Store(lb.Maglev.MaxEntriesPerHost)
}

// offer offers the statistics of a cluster whose load balancing policy is p.
func (s *stats) offer(b *policy.Builder, p balance.Policy) {
	for e := range pool.Event(pool.NumEvents) {
		s.offerEvent(b, e)
	}
	b.Stat(policy.Stat{Kind: policy.Counter, Name: "upstream_rq_max_duration_reached", Of: s, Read: func() uint64 { return uint64(s.events[maxDurationReached].Load()) }}) //nolint:gosec // not negative
	for i, of := range balanceNames {
		if i >= ringSize && i <= ringMaxHashes && p != balance.RingHash || i >= maglevMinEntries && p != balance.Maglev {
			continue
		}
		b.Stat(policy.Stat{Kind: of.kind, Name: of.name, Of: s, Read: s.lb[i].Load})
	}
	if s.perEndpoint {
		b.Stat(policy.Stat{Kind: policy.Endpoints, Name: "endpoint", Of: s, Endpoints: s.endpoints.Load})
	}
	for name, of := range pickNames {
		b.Stat(policy.Stat{Kind: policy.Counter, Name: name, Of: s, Read: func() uint64 { return of(s.picked()) }})
	}
	if s.outlier != nil {
		s.offerOutlier(b)
	}
	if s.health != nil {
		s.offerHealth(b)
	}
}

// offerEvent offers the statistic of a pool event.
func (s *stats) offerEvent(b *policy.Builder, e pool.Event) {
	of := policy.Stat{Kind: policy.Counter, Name: e.String(), Of: s}
	switch e {
	case pool.RqActiveOverflow, pool.RqPendingOverflow: // the limits policy counts refusals
		return
	case pool.CxConnectTime, pool.CxLength, pool.RqPerCx:
		of.Kind, of.Record = policy.Histogram, func(record func(uint64)) { s.shows(e, record) }
	case pool.CxActive, pool.RqActive, pool.RqPendingActive:
		of.Kind = policy.Gauge
		fallthrough
	default:
		n := &s.events[e]
		of.Read = func() uint64 { return uint64(max(0, n.Load())) }
	}
	b.Stat(of)
}

// offerOutlier offers the statistics of the outlier detection.
func (s *stats) offerOutlier(b *policy.Builder) {
	for of := range outlier.Stat(outlier.StatCount) {
		kind := policy.Counter
		if of.Gauge() {
			kind = policy.Gauge
		}
		counted := s.outlier
		b.Stat(policy.Stat{
			Kind: kind, Name: "outlier_detection." + of.String(), Of: s,
			Read: func() uint64 { return counted.Value(of) },
		})
	}
}
