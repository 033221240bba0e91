package balance

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// ring is a ring of hashes. A request uses the host of the first hash that is not less than
// its own. It mirrors Envoy's RingHashLoadBalancer::Ring.
type ring struct {
	hashes []uint64 // sorted
	hosts  []int32  // the host of each hash
	// starts holds, for each value of the highest bits, the index of the first hash with
	// these bits, so that a search compares few hashes, whatever the size of the ring.
	starts []uint32
	shift  int

	stats RingStats
}

// RingStats mirrors Envoy's gauges ring_hash_lb.*.
type RingStats struct {
	Size             uint64 // ring_hash_lb.size
	MinHashesPerHost uint64 // ring_hash_lb.min_hashes_per_host
	MaxHashesPerHost uint64 // ring_hash_lb.max_hashes_per_host
}

type ringEntry struct {
	hash uint64
	host int32
}

// newRing returns the ring of the hosts. There must be at least one.
//
// The host with the smallest weight has a whole number of entries. The ring has at least
// MinSize entries, and at most MaxSize.
func newRing(w *weighted, c *RingHashConfig) *ring {
	least := slices.Min(w.weights)
	scale := min(math.Ceil(float64(least*float64(c.MinSize)))/least, float64(c.MaxSize))
	r := &ring{stats: RingStats{Size: uint64(math.Ceil(scale)), MinHashesPerHost: uint64(math.Ceil(scale))}}
	entries := make([]ringEntry, 0, r.stats.Size)
	count, target := 0.0, 0.0
	var key []byte
	for i, text := range w.keys {
		key = append(append(key[:0], text...), '_')
		prefix := len(key)
		target += float64(scale * w.weights[i])
		n := uint64(0)
		for ; count < target; count++ {
			key = strconv.AppendUint(key[:prefix], n, 10)
			entries = append(entries, ringEntry{c.Function.sum(key), int32(i)})
			n++
		}
		r.stats.MinHashesPerHost = min(r.stats.MinHashesPerHost, n)
		r.stats.MaxHashesPerHost = max(r.stats.MaxHashesPerHost, n)
	}
	slices.SortFunc(entries, func(a, b ringEntry) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.host, b.host)) })
	r.index(entries)
	return r
}

func (f HashFunction) sum(key []byte) uint64 {
	if f == MurmurHash2 {
		return murmurHash2(key)
	}
	return xxhash.Sum64(key)
}

// index prepares the sorted entries for find. There are two to four times as many starts as
// entries, so that most searches compare one hash.
func (r *ring) index(entries []ringEntry) {
	width := bits.Len(uint(len(entries))) + 1
	r.hashes, r.hosts = make([]uint64, len(entries)), make([]int32, len(entries))
	r.starts, r.shift = make([]uint32, 1<<width+1), 64-width
	for i, e := range entries {
		r.hashes[i], r.hosts[i] = e.hash, e.host
		r.starts[e.hash>>r.shift+1] = uint32(i + 1)
	}
	for i := range r.starts[1:] {
		r.starts[i+1] = max(r.starts[i+1], r.starts[i])
	}
}

// find returns the host of the first entry whose hash is not less than the given one. For
// later attempts it returns the hosts of the entries after it.
func (r *ring) find(hash, attempt uint64) int {
	from, to := uint64(r.starts[hash>>r.shift]), uint64(r.starts[hash>>r.shift+1])
	for from < to {
		middle := (from + to) / 2
		if r.hashes[middle] < hash {
			from = middle + 1
		} else {
			to = middle
		}
	}
	size := uint64(len(r.hashes))
	if from == size {
		from = 0
	}
	if attempt > 0 {
		from = (from + attempt) % size
	}
	return int(r.hosts[from])
}
