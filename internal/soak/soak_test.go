package soak

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/tracing"
)

// patience bounds each wait of a round. It is long because the machine may be busy; no check
// depends on how long a wait took.
const patience = 30 * time.Second

// TestMain silences the reports of the panics that the soaks cause. It makes the transports of
// upstreams resolve names without a name server.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	http.DefaultTransport.(*http.Transport).DialContext = dial
	os.Exit(m.Run())
}

// soak runs rounds until the time has passed or a round has failed.
func soak(t *testing.T, storm func(r *round)) {
	t.Helper()
	seed, end := firstSeed(t), time.Now().Add(testtime.Soak(t, 2*time.Second))
	first, calls := seed, 0
	for ok := true; ok && (seed == first || time.Now().Before(end)); seed++ {
		ok = t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := newRound(t, seed)
			storm(r)
			calls += len(r.ledger.all())
		})
	}
	t.Logf("%d calls in %d rounds from seed %d on", calls, seed-first, first)
}

// firstSeed returns the seed of the first round: PILLION_SOAK_SEED, or a random one.
func firstSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("PILLION_SOAK_SEED")
	if text == "" {
		return uint64(rand.Uint32())
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("PILLION_SOAK_SEED: %v", err)
	}
	return seed
}

// dice makes random choices, which follow from the numbers of newDice. Each goroutine has its
// own.
type dice struct{ *rand.Rand }

func newDice(numbers ...uint64) dice {
	seed := uint64(14695981039346656037)
	for _, n := range numbers {
		seed = (seed ^ n) * 1099511628211
		seed ^= seed >> 29
	}
	return dice{rand.New(rand.NewPCG(seed, seed))}
}

// once reports true one time in n.
func (d dice) once(n int) bool { return d.IntN(n) == 0 }

// upTo returns a duration from 0 to below limit.
func (d dice) upTo(limit time.Duration) time.Duration { return time.Duration(d.Int64N(int64(limit))) }

// between returns a duration from low to below high.
func (d dice) between(low, high time.Duration) time.Duration { return low + d.upTo(high-low) }

// headers sets about one in n of the headers that are named with a value each.
func (d dice) headers(n int, set func(name, value string), named ...string) {
	for _, one := range named {
		if name, value, _ := strings.Cut(one, "|"); d.once(n) {
			set(name, value)
		}
	}
}

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

// round is one round of a soak.
type round struct {
	*testing.T
	dice
	seed     uint64
	ctx      context.Context // ends with the storm
	end      context.CancelFunc
	setup    []string // the choices for the whole round
	ledger   *ledger
	registry *metrics.Registry
	tracer   *tracing.Tracer
	hedges   sync.WaitGroup // goroutines of hedging policies

	mu    sync.Mutex
	later []func() // what callers do at the end of the storm; guarded by mu
	over  bool     // the end of the storm has begun; guarded by mu
}

func newRound(t *testing.T, seed uint64) *round {
	t.Helper()
	before := goleak.IgnoreCurrent()
	r := &round{T: t, dice: newDice(seed), seed: seed, ledger: newLedger(seed)}
	t.Cleanup(func() {
		wantNoGoroutines(t, before)
		if t.Failed() {
			t.Log(strings.Join(r.setup, "\n"))
		}
	})
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := tracing.New(tracing.Config{Name: "soak", Daemon: tracing.NoDaemon})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracer.Close(context.Background()) })
	r.registry, r.tracer = registry, tracer
	r.ctx, r.end = context.WithCancel(t.Context())
	t.Cleanup(r.end)
	return r
}

// wantNoGoroutines waits for the end of all goroutines that did not run before.
func wantNoGoroutines(t *testing.T, before goleak.Option) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = goleak.Find(before); err == nil {
			return
		}
	}
	t.Errorf("goroutines are left: %v", err)
}

// leave postpones a function to the end of the storm, such as closing a body.
func (r *round) leave(what func()) {
	r.mu.Lock()
	over := r.over
	if !over {
		r.later = append(r.later, what)
	}
	r.mu.Unlock()
	if over {
		what()
	}
}

// left begins the end of the storm, and returns what was postponed.
func (r *round) left() []func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.later
}

// storm makes calls, width of them concurrently, each in its own goroutine, which the call
// may end, or in which it may panic. Then it does what was postponed, and ends the calls that
// still run.
func (r *round) storm(calls, width int, call func(n uint64, d dice)) {
	r.Helper()
	var running sync.WaitGroup
	slots := make(chan struct{}, width)
	for n := range uint64(calls) {
		slots <- struct{}{}
		running.Go(func() {
			defer func() {
				_ = recover() // the call's record contains it
				<-slots
			}()
			call(n, newDice(r.seed, n))
		})
	}
	time.Sleep(r.between(0, 100*time.Millisecond)) // some calls are still under way
	for _, what := range r.left() {
		r.await("what callers postponed", func() {
			defer func() { _ = recover() }() // a body may panic
			what()
		})
	}
	r.end()
	r.await("the callers", running.Wait)
	r.await("hedging policies", r.hedges.Wait)
}

// await fails the round if what takes too long.
func (r *round) await(name string, what func()) {
	r.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		what()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		r.report([]string{name + ": not done after " + patience.String()})
	}
}

// settle waits until no check fails. A check returns what is wrong.
func (r *round) settle(checks ...func() []string) {
	r.Helper()
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		left = nil
		for _, check := range checks {
			left = append(left, check()...)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	r.report(left)
}

// report ends the round. It prints the complaints, the records of calls that went wrong, and
// the stacks of goroutines if something hangs.
func (r *round) report(complaints []string) {
	r.Helper()
	var stacks strings.Builder
	if len(r.ledger.complaints()) != 0 {
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	}
	r.Fatalf("%s\n%s\n%s", strings.Join(complaints, "\n"), r.ledger.unsettled(), stacks.String())
}
