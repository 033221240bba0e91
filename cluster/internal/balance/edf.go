package balance

// edf is an earliest deadline first schedule: each pick takes the entry with the earliest
// deadline and puts it back at that deadline plus 1/weight. Entries with the same deadline
// are taken in the order in which they were put back. It mirrors Envoy's EdfScheduler,
// including the order of floating point operations, which determines the order of equal
// deadlines.
type edf struct {
	now   float64 // the deadline of the last pick
	order uint64  // the number of the next entry that is put back
	heap  []edfEntry
}

// edfEntry is an entry of the heap, in which each entry precedes its children.
type edfEntry struct {
	deadline float64
	order    uint64
	index    int32
}

func (e *edfEntry) before(other *edfEntry) bool {
	return e.deadline < other.deadline || e.deadline == other.deadline && e.order < other.order
}

const (
	heapArity = 4
	// epsilon is added to weights while picks are skipped, so that rounding does not
	// change the order of entries whose weights are multiples of each other.
	epsilon = 1e-13
	// maxSkipped bounds the number of skipped picks, as in Envoy.
	maxSkipped = 429496729
)

// newEDF returns the schedule of entries with the given weights, all more than zero,
// after the given number of picks.
//
// After P picks, entry i was picked at least P·w/sum times. These picks are skipped: the next
// deadline of the entry is (skipped+1)/w. The other picks, fewer than the number of entries,
// are made one by one.
func newEDF(weights []float64, picks uint32) *edf {
	e := &edf{order: uint64(len(weights)), heap: make([]edfEntry, len(weights))}
	if len(weights) == 0 {
		return e
	}
	picks %= maxSkipped
	total := 0.0
	for _, w := range weights {
		total += w + epsilon
	}
	done := uint32(0)
	for i, w := range weights {
		w += epsilon
		skipped := uint32(float64(w*float64(picks)) / total)
		if skipped > 0 && float64(skipped)/w >= float64(picks)/total {
			skipped-- // a whole number, possibly by rounding: the last pick is made below
		}
		e.heap[i] = edfEntry{deadline: float64(skipped+1) / w, order: uint64(i), index: int32(i)}
		done += skipped
	}
	for i := (len(e.heap) - 2) / heapArity; i >= 0; i-- {
		e.sink(i)
	}
	for ; done < picks; done++ {
		e.putBack(weights[e.next()])
	}
	return e
}

// next returns the index of the next entry. The caller must put it back.
func (e *edf) next() int {
	e.now = e.heap[0].deadline
	return int(e.heap[0].index)
}

// putBack puts back the entry that next returned, with its current weight.
func (e *edf) putBack(weight float64) {
	e.heap[0].deadline = e.now + 1/weight
	e.heap[0].order = e.order
	e.order++
	e.sink(0)
}

// sink moves the entry at i down until it precedes its children.
func (e *edf) sink(i int) {
	entry := e.heap[i]
	for {
		first := i*heapArity + 1
		if first >= len(e.heap) {
			break
		}
		least := first
		for child := first + 1; child < min(first+heapArity, len(e.heap)); child++ {
			if e.heap[child].before(&e.heap[least]) {
				least = child
			}
		}
		if !e.heap[least].before(&entry) {
			break
		}
		e.heap[i] = e.heap[least]
		i = least
	}
	e.heap[i] = entry
}
