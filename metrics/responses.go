package metrics

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Envoy's categories of responses. An alternative stat name is also a category, as is a name below
// it such as "alt.internal".
const (
	Internal = "internal" // for calls from inside; part of the cluster's total
	External = "external" // for calls forwarded for external clients; part of the cluster's total
	Canary   = "canary"   // responses with x-envoy-upstream-canary: true
	Retry    = "retry"    // responses discarded for a retry
)

// ResponseCounters counts the responses of one category: upstream_rq_200, upstream_rq_2xx,
// upstream_rq_completed, and upstream_rq_time. It counts codes; classes and totals are summed on
// reading. Its methods are safe for concurrent use and count with one atomic addition.
type ResponseCounters struct {
	cluster *ClusterStats
	name    string // "internal.", with its dot; "" for the cluster's total
	whole   *ResponseCounters
	parts   []*ResponseCounters // the categories that this one sums up; guarded by the cluster's mu
	blocks  [5]atomic.Pointer[block]
	unknown atomic.Uint64 // codes outside 100 to 599
	time    Histogram
	timed   sync.Once
}

// block counts the codes of one class.
type block [100]atomic.Uint64

const (
	allCodes    = 0  // upstream_rq_completed
	unknownCode = -1 // upstream_rq_unknown
)

// Count counts a response. A code outside 100 to 599 counts as unknown, as in Envoy.
func (a *ResponseCounters) Count(code int) {
	if code < 100 || code > 599 {
		if a.unknown.Add(1) == 1 {
			a.show(unknownCode)
		}
		return
	}
	class := code/100 - 1
	b := a.blocks[class].Load()
	if b == nil {
		b = &block{}
		if !a.blocks[class].CompareAndSwap(nil, b) {
			b = a.blocks[class].Load()
		}
	}
	if b[code%100].Add(1) == 1 {
		a.show(code)
	}
}

// Time records the duration of a completed call, in milliseconds.
func (a *ResponseCounters) Time(ms uint64) { a.time.Record(ms) }

// show makes the rows of a code at its first use.
func (a *ResponseCounters) show(code int) {
	c := a.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := a; at != nil; at = at.whole {
		c.showCode(at, code)
		if code != unknownCode {
			c.showCode(at, code/100)
		}
		c.showCode(at, allCodes)
	}
}

// showTime makes the row upstream_rq_time.
func (a *ResponseCounters) showTime() {
	a.timed.Do(func() {
		c := a.cluster
		c.mu.Lock()
		defer c.mu.Unlock()
		for at := a; at != nil; at = at.whole {
			c.put(at.name+"upstream_rq_time", row{kind: histogramKind, bins: c.timesOf(at)})
		}
	})
}

// value returns the count of a code, of a class (1 to 5), or of all codes. The caller needs no
// lock: parts are only written before the rows that read them are made.
func (a *ResponseCounters) value(what int) uint64 {
	switch {
	case what == unknownCode:
		return a.unknown.Load()
	case what == allCodes:
		n := a.unknown.Load()
		for class := range a.blocks {
			n += a.classSum(class)
		}
		return n
	case what < 100:
		return a.classSum(what - 1)
	}
	if b := a.blocks[what/100-1].Load(); b != nil {
		return b[what%100].Load()
	}
	return 0
}

func (a *ResponseCounters) classSum(class int) uint64 {
	b := a.blocks[class].Load()
	if b == nil {
		return 0
	}
	var n uint64
	for i := range b {
		n += b[i].Load()
	}
	return n
}

// codeSum is the number of a row of codes: the sum over the parts.
type codeSum struct {
	parts []*ResponseCounters
	what  int
}

func (s codeSum) Value() uint64 {
	var n uint64
	for _, a := range s.parts {
		n += a.value(s.what)
	}
	return n
}

func (s codeSum) used() bool { return s.Value() != 0 }

// codeName returns the name of the row of a code, a class, or all codes.
func codeName(what int) string {
	switch {
	case what == unknownCode:
		return "upstream_rq_unknown"
	case what == allCodes:
		return "upstream_rq_completed"
	case what < 10:
		return "upstream_rq_" + strconv.Itoa(what) + "xx"
	}
	return "upstream_rq_" + strconv.Itoa(what)
}

// wholeOf returns the category that sums this one up: "" for "internal", "alt" for
// "alt.internal".
func wholeOf(category string) (whole string, ok bool) {
	before, last, found := cutLast(category)
	if !found {
		last = category
	}
	if last != Internal && last != External {
		return "", false
	}
	return before, true
}

func cutLast(s string) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}
