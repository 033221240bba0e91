package fault

import (
	"sync"
	"sync/atomic"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// The bounds on the values of x-envoy-downstream-service-cluster that are counted separately. Without
// them requests could fill the memory with names.
const (
	maxClusters    = 100 // values
	maxClusterName = 256 // bytes of a value
)

// counters are the statistics of one upstream.
type counters struct {
	delays, aborts, limited, overflow atomic.Uint64
	active                            atomic.Int64

	builder *policy.Builder

	mu       sync.RWMutex
	clusters map[string]*clusterCounters // by downstream cluster; guarded by mu
}

// clusterCounters are the statistics of one downstream cluster.
type clusterCounters struct{ delays, aborts atomic.Uint64 }

const prefix = "fault."

func newCounters(b *policy.Builder) *counters {
	n := &counters{builder: b, clusters: map[string]*clusterCounters{}}
	b.Stat(
		counter("aborts_injected", &n.aborts),
		counter("delays_injected", &n.delays),
		counter("response_rl_injected", &n.limited),
		counter("faults_overflow", &n.overflow),
		policy.Stat{Kind: policy.Gauge, Name: prefix + "active_faults", Read: func() uint64 { return uint64(max(0, n.active.Load())) }},
	)
	return n
}

func counter(name string, n *atomic.Uint64) policy.Stat {
	return policy.Stat{Kind: policy.Counter, Name: prefix + name, Read: n.Load}
}

// delayed counts a delay.
func (n *counters) delayed(c *policy.Call) {
	n.delays.Add(1)
	if of := n.clusterOf(c); of != nil {
		of.delays.Add(1)
	}
}

// aborted counts an abort.
func (n *counters) aborted(c *policy.Call) {
	n.aborts.Add(1)
	if of := n.clusterOf(c); of != nil {
		of.aborts.Add(1)
	}
}

// clusterOf returns the statistics of the request's downstream cluster, nil for none.
func (n *counters) clusterOf(c *policy.Call) *clusterCounters {
	name := c.RequestHeader(envoy.DownstreamClusterHeader)
	if name == "" || len(name) > maxClusterName {
		return nil
	}
	n.mu.RLock()
	of, full := n.clusters[name], len(n.clusters) >= maxClusters
	n.mu.RUnlock()
	if of != nil || full {
		return of
	}
	return n.add(name)
}

// add makes and returns the statistics of a cluster. It returns nil if there are maxClusters already.
func (n *counters) add(name string) *clusterCounters {
	n.mu.Lock()
	defer n.mu.Unlock()
	if of := n.clusters[name]; of != nil || len(n.clusters) >= maxClusters {
		return of
	}
	of := &clusterCounters{}
	n.clusters[name] = of
	n.builder.Stat(counter(name+".aborts_injected", &of.aborts), counter(name+".delays_injected", &of.delays))
	return of
}
