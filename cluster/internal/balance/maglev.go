package balance

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// maglev is the table of Google's Maglev, section 3.4 of the paper, with weights. It
// mirrors Envoy's MaglevTable.
type maglev struct {
	entries []int32 // the host of each entry
	size    divisor // by the number of entries
	stats   MaglevStats
}

// MaglevStats mirrors Envoy's gauges maglev_lb.*.
type MaglevStats struct {
	MinEntriesPerHost uint64 // maglev_lb.min_entries_per_host
	MaxEntriesPerHost uint64 // maglev_lb.max_entries_per_host
}

// maglevHost is a host while the table is built. It visits the entries in its own
// permutation: next, next+skip, next+2·skip and so on.
type maglevHost struct {
	index      int32
	next, skip uint64
	weight     float64
	target     float64 // the weight times iterations at which it takes its next entry
	count      uint64
}

// newMaglev returns the table of the hosts. There must be at least one.
func newMaglev(w *weighted, size uint64) *maglev {
	hosts := make([]maglevHost, len(w.keys))
	for i, key := range w.keys {
		hosts[i] = maglevHost{
			index: int32(i), next: xxhash.Sum64String(key) % size, skip: xxHash64(key, 1)%(size-1) + 1, weight: w.weights[i],
		}
	}
	slices.SortStableFunc(hosts, func(a, b maglevHost) int { return cmp.Compare(w.keys[a.index], w.keys[b.index]) })
	m := &maglev{entries: make([]int32, size), size: newDivisor(size)}
	for i := range m.entries {
		m.entries[i] = -1
	}
	m.fill(hosts, slices.Max(w.weights))
	m.stats.MinEntriesPerHost = size
	for i := range hosts {
		m.stats.MinEntriesPerHost = min(m.stats.MinEntriesPerHost, hosts[i].count)
		m.stats.MaxEntriesPerHost = max(m.stats.MaxEntriesPerHost, hosts[i].count)
	}
	return m
}

// fill assigns free entries to the hosts in turn until none is left. The host with the
// largest weight takes one in each iteration, a host with a third of it in every third.
func (m *maglev) fill(hosts []maglevHost, largest float64) {
	left := len(m.entries)
	for iteration := 1.0; ; iteration++ {
		for i := range hosts {
			h := &hosts[i]
			if iteration*h.weight < h.target {
				continue
			}
			h.target += largest
			m.take(h)
			if left--; left == 0 {
				return
			}
		}
	}
}

// take takes the next free entry for the host.
func (m *maglev) take(h *maglevHost) {
	size := uint64(len(m.entries))
	for m.entries[h.next] >= 0 {
		h.advance(size)
	}
	m.entries[h.next] = h.index
	h.count++
	h.advance(size)
}

func (h *maglevHost) advance(size uint64) {
	if h.next += h.skip; h.next >= size {
		h.next -= size
	}
}

// find returns the host of the entry that the hash selects. For later attempts it changes
// most bits of the hash.
func (m *maglev) find(hash, attempt uint64) int {
	if attempt > 0 {
		hash ^= -attempt
	}
	return int(m.entries[m.size.rest(hash)])
}
