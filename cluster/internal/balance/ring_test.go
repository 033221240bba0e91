package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// weigh returns hosts with weights whose sum is 1.
func weigh(r *rand.Rand, n int) *weighted {
	w, total := &weighted{}, 0.0
	for i := range n {
		w.hosts = append(w.hosts, host(i, Endpoint{}))
		w.weights = append(w.weights, float64(1+r.IntN(9)))
		w.keys = append(w.keys, w.hosts[i].Endpoint().Address)
		total += w.weights[i]
	}
	for i := range w.weights {
		w.weights[i] /= total
	}
	return w
}

// slowRing is the ring as its definition says.
func slowRing(w *weighted, c *RingHashConfig) (entries []ringEntry, size float64) {
	least := slices.Min(w.weights)
	size = min(math.Ceil(least*float64(c.MinSize))/least, float64(c.MaxSize))
	target := 0.0
	for i, key := range w.keys {
		target += size * w.weights[i]
		for n := 0; float64(len(entries)) < target; n++ {
			hash := Hash(fmt.Sprintf("%s_%d", key, n))
			if c.Function == MurmurHash2 {
				hash = murmurHash2(fmt.Appendf(nil, "%s_%d", key, n))
			}
			entries = append(entries, ringEntry{hash, int32(i)})
		}
	}
	return entries, size
}

// TestRingModel compares the ring and what is found in it with a list that is
// searched from end to end.
func TestRingModel(t *testing.T) {
	for seed := range uint64(60) {
		r := random(seed)
		c := &RingHashConfig{MinSize: uint64(1 + r.IntN(300)), Function: HashFunction(r.IntN(2))}
		c.MaxSize = c.MinSize + uint64(r.IntN(300))
		w := weigh(r, 1+r.IntN(30))
		ring := newRing(w, c)
		entries, size := slowRing(w, c)
		counts := make([]uint64, len(w.hosts))
		for _, e := range entries {
			counts[e.host]++
		}
		want := RingStats{uint64(math.Ceil(size)), min(slices.Min(counts), uint64(math.Ceil(size))), slices.Max(counts)}
		if diff := cmp.Diff(want, ring.stats); diff != "" || len(ring.hashes) != len(entries) {
			t.Fatalf("seed %d: got %d entries, want %d (-want +got):\n%s", seed, len(ring.hashes), len(entries), diff)
		}
		next := func(hash uint64) (at ringEntry) { // the first not less than hash, else the first of all
			found := false
			for _, e := range entries {
				if e.hash >= hash && (!found || e.hash < at.hash) {
					at, found = e, true
				}
			}
			if !found {
				at.hash = math.MaxUint64
				for _, e := range entries {
					if e.hash <= at.hash {
						at = e
					}
				}
			}
			return at
		}
		hashes := []uint64{0, 1, math.MaxUint64, ring.hashes[0], ring.hashes[0] + 1, ring.hashes[len(ring.hashes)-1], ring.hashes[len(ring.hashes)-1] + 1}
		for range 100 {
			hashes = append(hashes, r.Uint64(), entries[r.IntN(len(entries))].hash)
		}
		for _, hash := range hashes {
			at := next(hash)
			for attempt := range uint64(4) {
				if got := ring.find(hash, attempt); got != int(at.host) {
					t.Fatalf("seed %d, hash %d, attempt %d: got host %d, want %d", seed, hash, attempt, got, at.host)
				}
				at = next(at.hash + 1)
			}
		}
		if got := ring.find(hashes[8], math.MaxUint32); got < 0 || got >= len(w.hosts) {
			t.Fatalf("seed %d: got host %d of %d", seed, got, len(w.hosts))
		}
	}
}

// TestRingCollisions pins that hosts with the same key, and so the same hashes, leave
// the picks to the first of them.
func TestRingCollisions(t *testing.T) {
	w := weigh(random(1), 50)
	for i := range w.keys {
		w.keys[i], w.weights[i] = "same", 0.02
	}
	ring := newRing(w, &RingHashConfig{MinSize: 1024, MaxSize: maxRing})
	r := random(2)
	for range 1000 {
		if got := ring.find(r.Uint64(), 0); got != 0 {
			t.Fatalf("got host %d, want 0", got)
		}
	}
}

// TestRingStable pins what consistent hashing is for: when a host leaves, only its
// own keys go elsewhere, but for few: the fewer hosts, the more hashes each has, and
// in Maglev's table the hosts get in each other's way.
func TestRingStable(t *testing.T) {
	all := hosts(20)
	for _, test := range []struct {
		config Config
		limit  int
	}{
		{Config{Policy: RingHash}, 300}, {Config{Policy: RingHash, RingHash: RingHashConfig{MinSize: 1}}, 0}, {Config{Policy: Maglev}, 100},
	} {
		p := test.config.Policy
		b := balancer(t, test.config, Membership{Hosts: all})
		var before []*Host
		for key := range 5000 {
			h, _ := b.Pick(Request{Hash: Hash(strconv.Itoa(key)), HasHash: true})
			before = append(before, h)
		}
		gone := all[7]
		gone.SetFlags(FailedOutlierCheck)
		if err := b.Refresh(0); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for key, was := range before {
			h, _ := b.Pick(Request{Hash: Hash(strconv.Itoa(key)), HasHash: true})
			if h == gone {
				t.Fatalf("%v: key %d has the host that is out", p, key)
			}
			if h != was && was != gone {
				moved++
			}
		}
		if moved > test.limit {
			t.Errorf("%v: %d of 5000 keys of other hosts moved, want at most %d", p, moved, test.limit)
		}
		gone.ClearFlags(FailedOutlierCheck)
		if err := b.Refresh(0); err != nil {
			t.Fatal(err)
		}
		for key, was := range before {
			if h, _ := b.Pick(Request{Hash: Hash(strconv.Itoa(key)), HasHash: true}); h != was {
				t.Fatalf("%v: key %d did not come back", p, key)
			}
		}
	}
}
