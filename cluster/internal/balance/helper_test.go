package balance

import (
	"fmt"
	"math/rand/v2"
)

// random returns a generator whose numbers depend on the seed alone.
func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// host returns a host with an address of its own.
func host(i int, e Endpoint) *Host {
	if e.Address == "" {
		e.Address = fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255)
	}
	return NewHost(e)
}

// hosts returns n hosts of weight 1.
func hosts(n int) []*Host {
	all := make([]*Host, n)
	for i := range all {
		all[i] = host(i, Endpoint{})
	}
	return all
}

// weightedHosts returns a host for each weight.
func weightedHosts(weights ...uint32) []*Host {
	all := make([]*Host, len(weights))
	for i, w := range weights {
		all[i] = host(i, Endpoint{Weight: w})
	}
	return all
}

// counted returns how often each number from -1 to n-1 occurs, -1 last.
func counted(picks []int, n int) []int {
	counts := make([]int, n+1)
	for _, p := range picks {
		counts[(p+n+1)%(n+1)]++
	}
	return counts
}
