package hedge

import (
	"cmp"
	"sync/atomic"
)

// budget is the state of a [Budget] for one upstream. Its numbers are millionths of a hedge. It is
// safe for concurrent use. A nil budget allows every hedge.
type budget struct {
	left atomic.Int64 // what the budget holds
	each int64        // what a call adds
	most int64        // the maximum of left
}

// whole is one hedge.
const whole = 1_000_000

// start returns a full budget for one upstream, or nil if b is disabled.
func (b *Budget) start() *budget {
	if b == nil {
		b = &Budget{}
	}
	if b.Disabled {
		return nil
	}
	percent := max(cmp.Or(b.Percent, DefaultBudgetPercent), 0) // 0 for Zero
	s := &budget{each: int64(percent / 100 * whole), most: int64(cmp.Or(b.Burst, DefaultBudgetBurst)) * whole}
	s.left.Store(s.most)
	return s
}

// deposit adds what one call adds.
func (b *budget) deposit() {
	if b == nil {
		return
	}
	for {
		left := b.left.Load()
		if left >= b.most || b.left.CompareAndSwap(left, min(left+b.each, b.most)) {
			return
		}
	}
}

// withdraw takes one hedge. It returns false, and takes nothing, if the budget holds less.
func (b *budget) withdraw() bool {
	if b == nil {
		return true
	}
	for {
		left := b.left.Load()
		if left < whole {
			return false
		}
		if b.left.CompareAndSwap(left, left-whole) {
			return true
		}
	}
}
