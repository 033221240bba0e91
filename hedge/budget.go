package hedge

import "sync/atomic"

// budget is a [Budget] at work. It is safe for concurrent use.
type budget struct {
	left atomic.Int64 // in millionths of a hedge
	each int64        // what a call adds
	most int64
}

const whole = 1_000_000

// start makes the state of one upstream, nil for no budget.
func (b *Budget) start() *budget {
	if b == nil {
		b = &Budget{}
	}
	if b.Disabled {
		return nil
	}
	percent := orDefault(b.Percent, DefaultBudgetPercent)
	if percent == Zero {
		percent = 0
	}
	s := &budget{each: int64(percent / 100 * whole), most: int64(orDefault(b.Burst, DefaultBudgetBurst)) * whole}
	s.left.Store(s.most)
	return s
}

// deposit counts a call.
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

// withdraw takes a hedge, if there may be one.
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
