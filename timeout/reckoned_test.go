package timeout

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/policy"
)

// plan is a random call. Its times differ in their last digit, so that no two events are
// simultaneous.
type plan struct {
	cfg    Config
	caller time.Duration
	server server
	pause  time.Duration
}

func draw(chance *rand.Rand) plan {
	some := func(digit int) time.Duration {
		if chance.IntN(3) == 0 {
			return never + time.Duration(digit)*ms
		}
		return time.Duration(1+chance.IntN(100))*10*ms + time.Duration(digit)*ms
	}
	p := plan{
		cfg:    Config{Total: some(1), PerTry: some(2), Idle: some(3)},
		caller: some(4),
		server: server{head: time.Duration(chance.IntN(60)) * 10 * ms},
		pause:  time.Duration(chance.IntN(4)) * 50 * ms,
	}
	for range chance.IntN(5) {
		p.server.gaps = append(p.server.gaps, time.Duration(chance.IntN(60))*10*ms)
	}
	return p
}

// expect returns how p must end, by a simple calculation.
func (p plan) expect() (scope policy.Scope, elapsed time.Duration) {
	first := func(limits map[policy.Scope]time.Duration) (scope policy.Scope, at time.Duration) {
		for s, d := range limits {
			if scope == 0 || d < at {
				scope, at = s, d
			}
		}
		return scope, at
	}
	whole := map[policy.Scope]time.Duration{Total: p.cfg.Total, Caller: p.caller}
	scope, at := first(map[policy.Scope]time.Duration{
		Total: p.cfg.Total, Caller: p.caller, PerTry: p.cfg.PerTry, Idle: p.cfg.Idle,
	})
	if at < p.server.head {
		return scope, at
	}
	now, arrival := p.server.head, p.server.head
	for i := range len(p.server.gaps) + 1 { // the last read returns EOF
		now += p.pause
		if scope, at := first(whole); at < now {
			return scope, now
		}
		if i == len(p.server.gaps) {
			break
		}
		arrival += p.server.gaps[i]
		scope, at := first(map[policy.Scope]time.Duration{Total: p.cfg.Total, Caller: p.caller, Idle: now + p.cfg.Idle})
		if at < arrival {
			return scope, at
		}
		now = max(now, arrival)
	}
	return 0, now
}

// TestLimitsAsReckoned makes many calls, concurrently and in sequence, so that timers are reused.
// It compares each with the simple calculation.
func TestLimitsAsReckoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var callers sync.WaitGroup
		for i := range uint64(8) {
			chance := rand.New(rand.NewPCG(i, 7))
			callers.Go(func() {
				for i := 0; i < 250 && !t.Failed(); i++ {
					p := draw(chance)
					// Each upstream has its own timeouts and its own pool of timers: a few calls for
					// each.
					u := upstream(t, apart(p.cfg)...)
					for range 3 {
						ctx, cancel := context.WithTimeout(t.Context(), p.caller)
						r := call(t, u, p.server, get(ctx), p.pause)
						cancel()
						wantScope, wantElapsed := p.expect()
						if scope, _ := scopeOf(r.err); scope != wantScope || r.elapsed != wantElapsed {
							t.Errorf("%+v: got %v after %v, want scope %v after %v", p, r.err, r.elapsed, wantScope, wantElapsed)
						}
					}
				}
			})
		}
		callers.Wait()
	})
}
