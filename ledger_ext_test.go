package pillion_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
)

// ledger counts the events of an upstream's calls, next to a breaker and Envoy's gauge.
type ledger struct {
	registry *metrics.Registry
	breaker  *breaker.Breaker

	mu       sync.Mutex
	kinds    map[policy.EventKind]int // guarded by mu
	attempts []attemptSeen            // the ended ones; guarded by mu
	changed  chan struct{}            // closed and replaced at each event; guarded by mu
}

// attemptSeen is what a listener receives at the end of an attempt.
type attemptSeen struct {
	policy.Outcome
	unconnected bool
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := breaker.New(breaker.Config{Name: "recipes", Threshold: breaker.Never})
	if err != nil {
		t.Fatal(err)
	}
	return &ledger{registry: registry, breaker: b, kinds: map[policy.EventKind]int{}, changed: make(chan struct{})}
}

// upstream makes an upstream with policies between the ledger's own: metrics and the listener
// outside, the breaker inside.
func (l *ledger) upstream(t *testing.T, policies ...pillion.Policy) *pillion.Upstream {
	t.Helper()
	outside := []pillion.Policy{metrics.Config{Registry: l.registry}, pillion.Listener(l.listen)}
	return newUpstream(t, slices.Concat(outside, policies, []pillion.Policy{l.breaker})...)
}

func (l *ledger) listen(_ context.Context, e policy.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[e.Kind]++
	if e.Kind == policy.EventAttemptEnd {
		l.attempts = append(l.attempts, attemptSeen{*e.Outcome, e.Call.Unconnected()})
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *ledger) count(kind policy.EventKind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kinds[kind]
}

// last returns the end of the last attempt.
func (l *ledger) last(t *testing.T) attemptSeen {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.attempts) == 0 {
		t.Fatal("got no end of an attempt")
	}
	return l.attempts[len(l.attempts)-1]
}

// wantBalanced fails the test unless that many attempts and calls have begun and ended, and none is
// running.
func (l *ledger) wantBalanced(t *testing.T, calls, attempts int) {
	t.Helper()
	begun, ended, ends := l.count(policy.EventAttempt), l.count(policy.EventAttemptEnd), l.count(policy.EventEnd)
	if begun != attempts || ended != attempts || ends != calls {
		t.Errorf("got %d attempts, %d ends of attempts and %d of calls, want %d, %d and %d", begun, ended, ends, attempts, attempts, calls)
	}
	if active := l.registry.Cluster("recipes").Gauge("upstream_rq_active").Value(); active != 0 {
		t.Errorf("upstream_rq_active: got %d, want 0", active)
	}
}

// await waits until that many calls have ended.
func (l *ledger) await(t *testing.T, calls int) {
	t.Helper()
	for deadline := time.After(patience); ; {
		l.mu.Lock()
		ends, changed := l.kinds[policy.EventEnd], l.changed
		l.mu.Unlock()
		if ends >= calls {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("got %d ends of calls within %v, want %d", ends, patience, calls)
		}
	}
}

// wantCounted fails the test unless the breaker has these counts.
func (l *ledger) wantCounted(t *testing.T, want breaker.Status) {
	t.Helper()
	if got := l.breaker.Status(); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// goexit runs f in a goroutine that f ends.
func goexit(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
		t.Error("the goroutine went on, want it to have ended")
	}()
	wantSoon(t, done, "the end of the goroutine")
}

// leave ends the goroutine.
func leave() { runtime.Goexit() }
