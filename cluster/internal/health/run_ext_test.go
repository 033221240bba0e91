package health_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/health"
)

// fakeProber is a Prober that does what a function says.
type fakeProber struct {
	probe  func(context.Context) health.Verdict
	closed bool
}

func (p *fakeProber) Probe(ctx context.Context) health.Verdict { return p.probe(ctx) }
func (p *fakeProber) Close()                                   { p.closed = true }

// TestRun: checks begin at the instants that the session says, and a check that does not end
// times out.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.NoTrafficInterval, c.UnhealthyEdgeInterval = 30*time.Second, 3*time.Second
		checker := newChecker(t, c)
		s := checker.Session(health.NewHost())
		begin := time.Now()
		var began, ended []time.Duration
		verdicts := []func(context.Context) health.Verdict{
			func(context.Context) health.Verdict { return passed },
			func(context.Context) health.Verdict { return network },
			func(ctx context.Context) health.Verdict { <-ctx.Done(); return passed }, // too late
			func(ctx context.Context) health.Verdict { <-ctx.Done(); return network },
		}
		p := &fakeProber{}
		p.probe = func(ctx context.Context) health.Verdict {
			began = append(began, time.Since(begin))
			verdict := verdicts[0]
			if len(verdicts) > 1 {
				verdicts = verdicts[1:]
			}
			return verdict(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var last health.Step
		done := make(chan struct{})
		go func() {
			defer close(done)
			health.Run(ctx, s, p, func(step health.Step) {
				checker.Traffic()
				last = step
				ended = append(ended, time.Since(begin))
			})
		}()
		time.Sleep(55 * time.Second)
		synctest.Wait()
		if got, want := last.Status.String(), "/failed_active_hc/active_hc_timeout"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		cancel()
		<-done
		if !p.closed {
			t.Error("got a prober that is open, want it closed")
		}
		sec := func(all []time.Duration) (seconds []int) {
			for _, d := range all {
				seconds = append(seconds, int(d/time.Second))
			}
			return seconds
		}
		// The first interval is that without traffic; then 3s, as a change is pending; then 10s.
		if got, want := sec(began), []int{0, 30, 33, 44, 55}; !equal(got, want) {
			t.Errorf("checks began at %v s, want %v", got, want)
		}
		if got, want := sec(ended), []int{0, 30, 34, 45}; !equal(got, want) {
			t.Errorf("checks ended at %v s, want %v", got, want)
		}
	})
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestRunEnds: Run returns when its context ends, before or during a check, and when the
// session was closed.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cancel context.CancelFunc, s *health.Session){
		"canceled":        func(cancel context.CancelFunc, _ *health.Session) { cancel() },
		"closed":          func(_ context.CancelFunc, s *health.Session) { s.Close() },
		"during a check":  func(cancel context.CancelFunc, _ *health.Session) { time.Sleep(60*time.Second + 1); cancel() },
		"closed while on": func(_ context.CancelFunc, s *health.Session) { time.Sleep(60*time.Second + 1); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				checker := newChecker(t, config())
				s := checker.Session(health.NewHost())
				checks, reports := 0, 0
				p := &fakeProber{probe: func(ctx context.Context) health.Verdict {
					if checks++; checks > 1 {
						<-ctx.Done()
					}
					return passed
				}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan struct{})
				go func() {
					defer close(done)
					health.Run(ctx, s, p, func(health.Step) { reports++ })
				}()
				synctest.Wait()
				end(cancel, s)
				<-done
				if reports != 1 {
					t.Errorf("got %d reports, want that of the first check alone", reports)
				}
				if !p.closed {
					t.Error("got a prober that is open, want it closed")
				}
			})
		})
	}
}
