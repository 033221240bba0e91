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
	// Address is the address of the host, such as "10.0.0.1:80". Consistent hashing hashes
	// this text.
	Address string
	// Hostname is the name whose lookup returned the address, if any.
	Hostname string
	// Weight is the share of the requests, relative to the other hosts. Zero means 1.
	Weight uint32
	// Priority is the priority, from 0, which is used first, to 128.
	Priority int
	// Locality is where the host runs.
	Locality Locality
	// Metadata must not change after the Endpoint was passed to a Host.
	Metadata Metadata
	// Status is the health according to the configuration.
	Status Status
}

// weight returns Weight or its default.
func (e *Endpoint) weight() uint32 { return max(e.Weight, 1) }

// hashKey returns the text of the endpoint that consistent hashing hashes: the key
// "hash_key" of the metadata of "envoy.lb", or else the hostname or the address.
func (e *Endpoint) hashKey(useHostname bool) string {
	if key, ok := e.Metadata["envoy.lb"]["hash_key"].(string); ok && key != "" {
		return key
	}
	if useHostname && e.Hostname != "" {
		return e.Hostname
	}
	return e.Address
}

// Host is one upstream host with its state. All updates must use the same Host for the
// same host, so that its counts and health remain. All methods are safe for concurrent
// use. Use [NewHost] to make one.
type Host struct {
	// Data is for the caller. It must be set before the Host is first used.
	Data any

	endpoint atomic.Pointer[Endpoint]
	flags    atomic.Uint32
	active   atomic.Int64
	since    atomic.Int64 // the start of slow start, or notSince
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

// SetEndpoint replaces the configuration of the host and the flags of its Status. It takes
// effect at the next [Balancer.Update] or [Balancer.Refresh].
func (h *Host) SetEndpoint(e Endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endpoint.Store(&e)
	h.swapFlags(staticFlags, e.Status.flags())
}

// Flags returns the reasons why the host is not healthy.
func (h *Host) Flags() Flags { return Flags(h.flags.Load()) }

// SetFlags sets the given flags and reports whether any flag changed. It takes effect at the
// next [Balancer.Update] or [Balancer.Refresh].
func (h *Host) SetFlags(f Flags) bool { return h.swapFlags(0, f) }

// ClearFlags clears the given flags and reports whether any flag changed. It takes effect at
// the next [Balancer.Update] or [Balancer.Refresh].
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
// number. As in Envoy, a request is active when it is attached to a connection, not when
// its host is picked.
func (h *Host) AddActive(delta int64) int64 { return h.active.Add(delta) }

// Active returns the number of active requests.
func (h *Host) Active() int64 { return h.active.Load() }

// SetHealthySince starts the slow start window of the host at now. Active health checks
// call it when the host becomes healthy; [Balancer.Update] calls it for hosts without a
// window. It mirrors Envoy's Host::setLastHcPassTime.
func (h *Host) SetHealthySince(now time.Duration) { h.since.Store(int64(now)) }

// HealthySince returns the start of the slow start window. It returns false if there is no
// window yet.
func (h *Host) HealthySince() (time.Duration, bool) {
	since := h.since.Load()
	return time.Duration(since), since != notSince
}

// Latency returns the peak EWMA of the host at its last response. It returns false before
// the first response.
func (h *Host) Latency() (time.Duration, bool) { return h.latency.last() }
