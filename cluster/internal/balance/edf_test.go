package balance

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// slowEDF is a schedule that looks at every entry for every pick.
type slowEDF struct {
	now      float64
	order    int
	deadline []float64
	put      []int
}

func newSlowEDF(weights []float64) *slowEDF {
	s := &slowEDF{}
	for _, w := range weights {
		s.deadline, s.put = append(s.deadline, 1/w), append(s.put, s.order)
		s.order++
	}
	return s
}

func (s *slowEDF) pick(weight func(i int) float64) int {
	best := 0
	for i := range s.deadline {
		if s.deadline[i] < s.deadline[best] || s.deadline[i] == s.deadline[best] && s.put[i] < s.put[best] {
			best = i
		}
	}
	s.now = s.deadline[best]
	s.deadline[best], s.put[best] = s.now+1/weight(best), s.order
	s.order++
	return best
}

// TestEDFModel compares each pick with a schedule that searches all entries, with
// weights that change between picks.
func TestEDFModel(t *testing.T) {
	for seed := range uint64(300) {
		r := random(seed)
		weights := make([]float64, 1+r.IntN(40))
		for i := range weights {
			weights[i] = float64(1 + r.IntN(6))
		}
		fast, slow := newEDF(weights, 0), newSlowEDF(weights)
		slow.deadline = slow.deadline[:0]
		for _, w := range weights {
			slow.deadline = append(slow.deadline, 1/(w+epsilon))
		}
		for pick := range 200 {
			i, want := fast.next(), slow.pick(func(i int) float64 { return weights[i] })
			if fast.putBack(weights[i]); i != want || fast.now != slow.now {
				t.Fatalf("seed %d, pick %d: got %d at %v, want %d at %v", seed, pick, i, fast.now, want, slow.now)
			}
			if pick%5 == 0 {
				weights[r.IntN(len(weights))] = float64(1 + r.IntN(6))
			}
		}
	}
}

// TestEDFSkips pins that skipping picks is the same as making them. The weights have
// no deadlines in common, so that rounding cannot change their order.
func TestEDFSkips(t *testing.T) {
	for seed := range uint64(200) {
		r := random(seed)
		weights := make([]float64, 1+r.IntN(20))
		for i := range weights {
			weights[i] = 1 + 10*r.Float64()
		}
		picks := r.IntN(3000)
		fast, slow := newEDF(weights, uint32(picks)), newSlowEDF(weights)
		for range picks {
			slow.pick(func(i int) float64 { return weights[i] })
		}
		for pick := range 100 {
			i, want := fast.next(), slow.pick(func(i int) float64 { return weights[i] })
			if fast.putBack(weights[i]); i != want {
				t.Fatalf("seed %d: pick %d after %d: got %d, want %d", seed, pick, picks, i, want)
			}
		}
	}
}

// TestEDFShares pins what the schedule is for: whole weights receive exactly their
// shares in each round, wherever the schedule starts.
func TestEDFShares(t *testing.T) {
	weights := []float64{1, 2, 5, 2}
	for _, picks := range []uint32{0, 1, 2, 9, 10, 11, 77, 429496728, 429496729, 429496730, math.MaxUint32} {
		e := newEDF(weights, picks)
		for round := range 3 {
			var got []int
			for range 10 {
				i := e.next()
				e.putBack(weights[i])
				got = append(got, i)
			}
			if diff := cmp.Diff([]int{1, 2, 5, 2, 0}, counted(got, 4)); diff != "" {
				t.Errorf("%d skipped, round %d: %v (-want +got):\n%s", picks, round, got, diff)
			}
		}
	}
}

// TestEDFWhole pins one schedule in full, as Envoy shows it for these weights.
func TestEDFWhole(t *testing.T) {
	weights := []float64{1, 2, 5, 2}
	e := newEDF(weights, 0)
	var got []int
	for range 20 {
		i := e.next()
		e.putBack(weights[i])
		got = append(got, i)
	}
	want := []int{2, 2, 1, 3, 2, 2, 0, 1, 3, 2}
	if diff := cmp.Diff(slices.Concat(want, want), got); diff != "" {
		t.Errorf("schedule (-want +got):\n%s", diff)
	}
}

// TestEDFWholeShares pins the schedule where the share of some entry is a whole number
// of picks: the last of them is made, not skipped, since others may come before it.
func TestEDFWholeShares(t *testing.T) {
	for _, test := range []struct {
		weights []float64
		picks   uint32
		want    []int
	}{
		{[]float64{3, 6, 4, 3}, 4, []int{1, 2, 1, 0, 3, 1, 2, 1, 0, 3, 2, 1}},
		{[]float64{5, 1, 4, 6}, 4, []int{0, 2, 3, 0, 3, 2, 0, 3, 1, 0, 2, 3}},
		{[]float64{2, 4, 5, 5, 4}, 5, []int{3, 0, 1, 4, 2, 3, 1, 4, 2, 3, 0, 2}},
	} {
		e := newEDF(test.weights, test.picks)
		var got []int
		for range test.want {
			i := e.next()
			e.putBack(test.weights[i])
			got = append(got, i)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("weights %v, %d skipped (-want +got):\n%s", test.weights, test.picks, diff)
		}
	}
}

func TestEDFExtremes(t *testing.T) {
	if e := newEDF(nil, 7); len(e.heap) != 0 {
		t.Errorf("got %d entries, want none", len(e.heap))
	}
	for _, weights := range [][]float64{
		{1}, {math.SmallestNonzeroFloat64, 1}, {math.MaxUint32, 1}, {1e-300, 1e300}, {math.MaxUint32, math.MaxUint32},
	} {
		e := newEDF(weights, 12345)
		for range 50 {
			i := e.next()
			if i < 0 || i >= len(weights) {
				t.Fatalf("%v: got entry %d", weights, i)
			}
			e.putBack(weights[i])
		}
	}
	e := newEDF([]float64{1, 1}, 0)
	for range 2 { // as with an endless active request bias: the order is that of the picks
		e.next()
		e.putBack(0)
	}
	var got []int
	for range 4 {
		got = append(got, e.next())
		e.putBack(0)
	}
	if diff := cmp.Diff([]int{0, 1, 0, 1}, got); diff != "" {
		t.Errorf("weights 0 (-want +got):\n%s", diff)
	}
}
