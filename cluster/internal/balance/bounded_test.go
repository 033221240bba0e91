package balance

import (
	"math"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestShuffle pins the order that a seed leads to, as the C++ original has it.
func TestShuffle(t *testing.T) {
	for seed, want := range map[uint32][]int{1: {4, 9, 7, 1, 0, 5, 2, 3, 8, 6}, 77: {9, 1, 7, 5, 8, 3, 6, 0, 4, 2}} {
		var s shuffle
		for range 2 { // it can be used again
			s.start(seed, 10)
			var got []int
			for range 10 {
				got = append(got, s.next())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("seed %d (-want +got):\n%s", seed, diff)
			}
		}
	}
}

// slowBounded is the host of a hash as its definition says: that of the table, else
// the first in the order of the hash that has a free slot, else the least loaded, of
// which the first stands.
func slowBounded(b *bounded, hash uint64) int {
	load := func(i int) float64 {
		slots := math.Ceil(math.Floor((float64(b.config.Active.Load()+1)*float64(b.config.BalanceFactor)+99)/100) * b.weighted.weights[i])
		return float64(b.weighted.hosts[i].Active()) / max(slots, 1)
	}
	order := []int{b.table.find(hash, 0)}
	var s shuffle
	s.start(lower(hash), len(b.weighted.hosts))
	for range b.weighted.hosts {
		if i := s.next(); i != order[0] {
			order = append(order, i)
		}
	}
	least := order[0]
	for _, i := range order {
		if load(i) <= 1 {
			return i
		}
		if load(i) < load(least) {
			least = i
		}
	}
	return least
}

// TestBoundedModel compares picks among hosts of which some, or all, are overloaded.
func TestBoundedModel(t *testing.T) {
	for seed := range uint64(300) {
		r := random(seed)
		c := ConsistentHashingConfig{BalanceFactor: 100 + r.Uint32N(60), Active: &atomic.Int64{}}
		w := weigh(r, 1+r.IntN(8))
		b := newBounded(newMaglev(w, 251), w, &c)
		for range 60 {
			c.Active.Store(r.Int64N(50))
			for _, h := range w.hosts {
				h.AddActive(r.Int64N(6)*r.Int64N(6) - h.Active())
			}
			hash := r.Uint64()
			if got, want := b.find(hash, 0), slowBounded(b, hash); got != want {
				t.Fatalf("seed %d, hash %d: got host %d, want %d", seed, hash, got, want)
			}
		}
	}
}

// TestBounded pins that no host has more than its share while others have fewer, and
// that the least loaded one is used when all have too many.
func TestBounded(t *testing.T) {
	const hosts = 7
	for seed := range uint64(100) {
		r := random(seed)
		active := &atomic.Int64{}
		c := Config{Policy: RingHash + Policy(seed%2), Maglev: MaglevConfig{TableSize: 251}, ConsistentHashing: ConsistentHashingConfig{BalanceFactor: 100 + r.Uint32N(100), Active: active}}
		weights := make([]uint32, hosts)
		total := uint32(0)
		for i := range weights {
			weights[i] = 1 + r.Uint32N(4)
			total += weights[i]
		}
		m := Membership{Hosts: weightedHosts(weights...)}
		b := balancer(t, c, m)
		for i := range 100 {
			key := strconv.Itoa(r.IntN(3))
			h, _ := b.Pick(Request{Hash: Hash(key), HasHash: true})
			share := float64(h.Endpoint().Weight) / float64(total)
			slots := math.Ceil(math.Floor((float64(active.Load()+1)*float64(c.ConsistentHashing.BalanceFactor)+99)/100) * share)
			if float64(h.Active()) > max(slots, 1) {
				t.Fatalf("seed %d, request %d: got a host with %d active, want at most %v of %d", seed, i, h.Active(), slots, active.Load())
			}
			h.AddActive(1)
			active.Add(1)
		}
		for i, h := range m.Hosts { // each may have one
			h.AddActive(int64(1000+i) - h.Active())
		}
		m.Hosts[3].AddActive(-500)
		active.Store(0)
		if h, _ := b.Pick(Request{}); h != m.Hosts[3] {
			t.Errorf("seed %d: all overloaded: got %s, want the least loaded", seed, h.Endpoint().Address)
		}
	}
}
