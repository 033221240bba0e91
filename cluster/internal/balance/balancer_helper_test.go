package balance

import "testing"

// balancer returns a Balancer that has the hosts since instant 0.
func balancer(tb testing.TB, c Config, m Membership) *Balancer {
	tb.Helper()
	b, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	if err := b.Update(m, 0); err != nil {
		tb.Fatal(err)
	}
	return b
}

// sequence returns the indices among all of n picks; -1 is none.
func sequence(b *Balancer, all []*Host, n int) []int {
	index := map[*Host]int{nil: -1}
	for i, h := range all {
		index[h] = i
	}
	picks := make([]int, n)
	for i := range picks {
		h, _ := b.Pick(Request{})
		picks[i] = index[h]
	}
	return picks
}

// fixed returns a source of one number.
func fixed(n uint64) func() uint64 { return func() uint64 { return n } }
