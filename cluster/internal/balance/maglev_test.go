package balance

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// slowMaglev is the table as listing 1 of the paper has it, with weights.
func slowMaglev(w *weighted, size uint64) []int32 {
	order := make([]int, len(w.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if w.keys[a] < w.keys[b] {
			return -1
		}
		if w.keys[a] > w.keys[b] {
			return 1
		}
		return 0
	})
	permutation := make([][]uint64, len(w.keys))
	for i, key := range w.keys {
		for j := range size {
			permutation[i] = append(permutation[i], (Hash(key)%size+j*(xxHash64(key, 1)%(size-1)+1))%size)
		}
	}
	table, filled := make([]int32, size), uint64(0)
	for i := range table {
		table[i] = -1
	}
	largest := slices.Max(w.weights)
	target := make([]float64, len(w.keys))
	for iteration := 1; ; iteration++ {
		for _, i := range order {
			if float64(iteration)*w.weights[i] < target[i] {
				continue
			}
			target[i] += largest
			for _, c := range permutation[i] {
				if table[c] < 0 {
					table[c] = int32(i)
					break
				}
			}
			if filled++; filled == size {
				return table
			}
		}
	}
}

func TestMaglevModel(t *testing.T) {
	for seed := range uint64(80) {
		r := random(seed)
		w := weigh(r, 1+r.IntN(12))
		if r.IntN(5) == 0 {
			w.keys[r.IntN(len(w.keys))] = w.keys[0]
		}
		size := []uint64{2, 3, 5, 101, 251}[r.IntN(5)]
		m, want := newMaglev(w, size), slowMaglev(w, size)
		if diff := cmp.Diff(want, m.entries); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
		counts := make([]uint64, len(w.keys))
		for _, i := range want {
			counts[i]++
		}
		if got := (MaglevStats{slices.Min(counts), slices.Max(counts)}); got != m.stats {
			t.Fatalf("seed %d: got %+v, want %+v", seed, m.stats, got)
		}
	}
}

func TestMaglevFind(t *testing.T) {
	m := newMaglev(weigh(random(1), 9), 251)
	for _, hash := range []uint64{0, 1, 250, 251, math.MaxUint64, 1 << 40} {
		if got := m.find(hash, 0); got != int(m.entries[hash%251]) {
			t.Errorf("hash %d: got host %d, want %d", hash, got, m.entries[hash%251])
		}
		for attempt := uint64(1); attempt < 5; attempt++ {
			if got, want := m.find(hash, attempt), int(m.entries[(hash^(math.MaxUint64-attempt+1))%251]); got != want {
				t.Errorf("hash %d, attempt %d: got host %d, want %d", hash, attempt, got, want)
			}
		}
	}
}

// TestMaglevShares pins that the hosts receive their shares of the default table.
func TestMaglevShares(t *testing.T) {
	w := weigh(random(3), 40)
	m := newMaglev(w, defaultTable)
	counts := make([]float64, 40)
	for _, i := range m.entries {
		counts[i]++
	}
	for i, n := range counts {
		if want := w.weights[i] * defaultTable; math.Abs(n-want) > 40 {
			t.Errorf("host %d: got %v entries, want about %v", i, n, want)
		}
	}
}
