package pillion

// tail is the end of one attempt: the hooks that wait for it. While policies
// handle the attempt's head only their goroutine touches it; from then on, only who
// ends the attempt does.
type tail struct {
	phase phase
	count uint32
	first [4]waiter
	more  *[]waiter
}

type phase uint8

const (
	phaseTry   phase = iota // no answer yet, or none to come
	phaseOpen               // the answer's head is there
	phaseEnded              // hooks run, or have run
)

// waiter is a hook and the Call of the policy that registered it.
type waiter struct {
	call *Call
	hook Hook
}

// add registers a hook for the end of this attempt, to be called with of.
func (t *tail) add(of *Call, hook Hook) {
	switch {
	case int(t.count) < len(t.first):
		t.first[t.count] = waiter{of, hook}
	case t.more == nil:
		t.more = &[]waiter{{of, hook}}
	default:
		*t.more = append(*t.more, waiter{of, hook})
	}
	t.count++
}

// at gives hook i.
func (t *tail) at(i uint32) waiter {
	if int(i) < len(t.first) {
		return t.first[i]
	}
	return (*t.more)[int(i)-len(t.first)]
}

// conclude ends an open attempt and runs its hooks. change makes of the outcome
// at the head, which the caller may still be looking at, the one at the end; nil leaves
// it as it was.
func (c *Call) conclude(change func(c *Call, end *Outcome)) *Outcome {
	if c.tail.phase != phaseOpen {
		return &c.outcome
	}
	c.tail.phase = phaseEnded
	end := &c.outcome
	if change != nil {
		changed := c.outcome
		change(c, &changed)
		end = &changed
	}
	c.runHooks(0, end)
	return end
}

// runHooks calls the hooks from number i on, one after the other. When one
// panics the others still run, and then the panic goes on.
func (c *Call) runHooks(i uint32, end *Outcome) {
	defer func() {
		if i < c.tail.count {
			c.runHooks(i, end)
		}
	}()
	for i < c.tail.count {
		w := c.tail.at(i)
		i++
		w.hook(w.call, end)
	}
}
