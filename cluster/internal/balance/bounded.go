package balance

import (
	"math"
	"slices"
	"sync"
)

// bounded limits the active requests of each host to a share of the average. If the host
// of a request is overloaded, the request uses the first host that is not, in an order
// that its hash determines, or the least loaded host. It mirrors Envoy's
// BoundedLoadHashingLoadBalancer.
type bounded struct {
	table

	weighted *weighted
	config   *ConsistentHashingConfig
	scratch  *sync.Pool // of *shuffle
}

func newBounded(t table, w *weighted, c *ConsistentHashingConfig) *bounded {
	return &bounded{table: t, weighted: w, config: c, scratch: &sync.Pool{New: func() any { return &shuffle{} }}}
}

// find returns the host of the table, or another one if that is overloaded.
func (b *bounded) find(hash, attempt uint64) int {
	found := b.table.find(hash, attempt)
	least, load := found, b.load(found)
	if load <= 1 {
		return found
	}
	order, _ := b.scratch.Get().(*shuffle)
	defer b.scratch.Put(order)
	order.start(lower(hash), len(b.weighted.hosts))
	for range b.weighted.hosts {
		other := order.next()
		switch its := b.load(other); {
		case its <= 1:
			return other
		case its < load:
			least, load = other, its
		}
	}
	return least
}

// load returns the active requests of a host relative to its limit.
func (b *bounded) load(i int) float64 {
	slots := ((b.config.Active.Load()+1)*int64(b.config.BalanceFactor) + 99) / 100
	allowed := max(math.Ceil(float64(slots)*b.weighted.weights[i]), 1)
	return float64(b.weighted.hosts[i].Active()) / allowed
}

// shuffle returns the numbers from 0 in an order that a seed determines.
type shuffle struct {
	twister mersenne
	numbers []int32
	taken   int
}

// start begins a new order of n numbers.
func (s *shuffle) start(seed uint32, n int) {
	s.twister.seed(seed)
	s.taken = 0
	s.numbers = slices.Grow(s.numbers[:0], n)[:n]
	for i := range s.numbers {
		s.numbers[i] = int32(i)
	}
}

// next returns the next number.
func (s *shuffle) next() int {
	rest := s.numbers[s.taken:]
	j := s.twister.below(uint64(len(rest)))
	rest[0], rest[j] = rest[j], rest[0]
	s.taken++
	return int(rest[0])
}

// mersenne is the 32-bit Mersenne Twister, std::mt19937. Its words are computed when
// they are needed, since a shuffle needs few.
type mersenne struct {
	state [mersenneSize]uint32
	next  int
}

const (
	mersenneSize  = 624
	mersenneShift = 397
)

func (m *mersenne) seed(seed uint32) {
	m.next = 0
	m.state[0] = seed
	for i := uint32(1); i < mersenneSize; i++ {
		before := m.state[i-1]
		m.state[i] = 1812433253*(before^before>>30) + i
	}
}

// word returns the next 32 random bits.
func (m *mersenne) word() uint32 {
	i := m.next
	m.next = (i + 1) % mersenneSize
	y := m.state[i]&0x80000000 | m.state[m.next]&0x7fffffff
	m.state[i] = m.state[(i+mersenneShift)%mersenneSize] ^ y>>1 ^ (y&1)*0x9908b0df
	y = m.state[i]
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// below returns a random number less than n.
func (m *mersenne) below(n uint64) uint64 {
	for {
		if x := uint64(m.word()) / (1 << 32 / n); x < n {
			return x
		}
	}
}
