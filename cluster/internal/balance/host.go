package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Metadata is the metadata of an endpoint, by filter name and key, as in Envoy's
// config.core.v3.Metadata.filter_metadata.
type Metadata map[string]map[string]any

// Endpoint is the configuration of a host. It mirrors Envoy's
// config.endpoint.v3.LbEndpoint and the LocalityLbEndpoints around it.
type Endpoint struct {
	// Address is where the host listens, such as "10.0.0.1:80". Consistent hashing
	// hashes it as it is written.
	Address string
	// Hostname is the name that led to the address, if any.
	Hostname string
	// Weight is the share of the requests, relative to the other hosts. Zero means 1.
	Weight uint32
	// Priority is 0 for the hosts used first; at most 128.
	Priority int
	// Locality is where the host runs.
	Locality Locality
	// Metadata must not change after the Endpoint was handed over.
	Metadata Metadata
	// Status is the health that the configuration states.
	Status Status
}

// weight returns the weight that counts.
func (e *Endpoint) weight() uint32 { return max(e.Weight, 1) }

// hashKey returns what consistent hashing hashes for the endpoint: the key
// "hash_key" of the metadata of "envoy.lb", else the hostname or the address.
func (e *Endpoint) hashKey(useHostname bool) string {
	if key, ok := e.Metadata["envoy.lb"]["hash_key"].(string); ok && key != "" {
		return key
	}
	if useHostname && e.Hostname != "" {
		return e.Hostname
	}
	return e.Address
}

// Host is one upstream host with its state. The same Host must stand for the same
// host in all updates, so that counts and health outlive them. All methods are safe
// for concurrent use. Use [NewHost] to make one.
type Host struct {
	// Data is the caller's, to be set before the Host is first used.
	Data any

	endpoint atomic.Pointer[Endpoint]
	flags    atomic.Uint32
	active   atomic.Int64
	since    atomic.Int64 // the instant from which slow start counts, or notSince
	latency  peak
	mu       sync.Mutex // held while endpoint and the static flags change
}

const notSince = math.MinInt64

// NewHost returns a host without requests, whose health is that of e.Status.
func NewHost(e Endpoint) *Host {
	h := &Host{}
	h.since.Store(notSince)
	h.SetEndpoint(e)
	return h
}

// Endpoint returns the configuration of the host. It must not be modified.
func (h *Host) Endpoint() *Endpoint { return h.endpoint.Load() }

// SetEndpoint replaces the configuration of the host and the flags that stand for
// its Status. Picks honor it after the next [Balancer.Update] or
// [Balancer.Refresh].
func (h *Host) SetEndpoint(e Endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endpoint.Store(&e)
	h.swapFlags(staticFlags, e.Status.flags())
}

// Flags returns why the host is not healthy.
func (h *Host) Flags() Flags { return Flags(h.flags.Load()) }

// SetFlags sets the given flags and reports whether that changed anything. Picks
// honor it after the next [Balancer.Update] or [Balancer.Refresh].
func (h *Host) SetFlags(f Flags) bool { return h.swapFlags(0, f) }

// ClearFlags clears the given flags and reports whether that changed anything.
// Picks honor it after the next [Balancer.Update] or [Balancer.Refresh].
func (h *Host) ClearFlags(f Flags) bool { return h.swapFlags(f, 0) }

// swapFlags clears the flags off, sets the flags on, and reports whether any changed.
func (h *Host) swapFlags(off, on Flags) bool {
	for {
		old := h.flags.Load()
		changed := old&^uint32(off) | uint32(on)
		if h.flags.CompareAndSwap(old, changed) {
			return old != changed
		}
	}
}

// Health returns the current health of the host.
func (h *Host) Health() Health { return h.Flags().Health() }

// AddActive changes the number of active requests by delta and returns the new
// number. As in Envoy a request is active from the moment it is attached to a
// connection; a pick alone does not count.
func (h *Host) AddActive(delta int64) int64 { return h.active.Add(delta) }

// Active returns the number of active requests.
func (h *Host) Active() int64 { return h.active.Load() }

// SetHealthySince starts the slow start window of the host at now. An active health
// check calls it when the host turns healthy; [Balancer.Update] calls it for hosts
// without such an instant. It mirrors Envoy's Host::setLastHcPassTime.
func (h *Host) SetHealthySince(now time.Duration) { h.since.Store(int64(now)) }

// HealthySince returns the start of the slow start window, and false if there is
// none yet.
func (h *Host) HealthySince() (time.Duration, bool) {
	since := h.since.Load()
	return time.Duration(since), since != notSince
}

// Latency returns the peak EWMA of the host as of the last response, and false
// before the first one.
func (h *Host) Latency() (time.Duration, bool) { return h.latency.last() }
