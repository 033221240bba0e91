package outlier_test

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

// driver calls Tick from a timer, as a caller does.
type driver struct {
	d       *outlier.Detector[string]
	mu      sync.Mutex
	pending int // ticks asked for; guarded by mu
	most    int // guarded by mu
	ticks   sync.WaitGroup
	balance map[string]int // ejections minus returns of each host; guarded by mu
}

func (d *driver) took(s outlier.Step[string]) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range s.Events {
		switch {
		case e.Kind == outlier.Degraded || !e.Enforced:
		case e.Action == outlier.Eject:
			d.balance[e.Host]++
		default:
			d.balance[e.Host]--
		}
	}
	if s.Next.IsZero() {
		return
	}
	d.pending++
	d.most = max(d.most, d.pending)
	d.ticks.Add(1)
	time.AfterFunc(time.Until(s.Next), func() {
		defer d.ticks.Done()
		d.mu.Lock()
		d.pending--
		d.mu.Unlock()
		d.took(d.d.Tick(time.Now()))
	})
}

// TestConcurrent has many goroutines report results while hosts come and go. In the end all
// hosts are back, the gauge is 0, and no tick is outstanding.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	c := runs()
	c.Interval, c.BaseEjectionTime, c.MaxEjectionTime = time.Millisecond, time.Millisecond, 5*time.Millisecond
	c.SuccessRateMinimumHosts, c.SuccessRateRequestVolume = 2, 5
	c.FailurePercentageMinimumHosts, c.FailurePercentageRequestVolume, c.EnforcingFailurePercentage = 2, 5, 50
	c.MaxEjectionPercent, c.DetectDegradedHosts, c.MaxEjectionTimeJitter = 80, true, 2*time.Millisecond
	detector, err := outlier.New[string](c, rand.Uint64, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{d: detector, balance: map[string]int{}}
	hosts := make([]string, 16)
	for i := range hosts {
		hosts[i] = strconv.Itoa(i)
	}
	detector.Update(hosts, nil)
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			choose := rand.New(rand.NewPCG(uint64(caller), 3))
			for range 3000 {
				host := hosts[choose.IntN(len(hosts))]
				switch choose.IntN(50) {
				case 0:
					d.took(detector.HealthCheckPassed(host, time.Now()))
				case 1:
					_, _ = detector.Status(host)
					_, _ = detector.Averages()
					_, _ = detector.Next()
					_ = detector.Stat(outlier.EjectionsActive)
				case 2: // the last host alone comes and goes
					detector.Update(nil, hosts[15:])
					detector.Update(hosts[15:], nil)
				case 3:
					d.took(detector.Report(host, outlier.Result{Outcome: outlier.RequestDegraded}, time.Now()))
				default:
					d.took(detector.Report(host, outlier.Response(200+300*choose.IntN(2)), time.Now()))
				}
			}
		})
	}
	callers.Wait()
	d.ticks.Wait() // the detector comes to rest
	if got := detector.Stat(outlier.EjectionsActive); got != 0 {
		t.Errorf("got %d ejected hosts, want 0", got)
	}
	if detector.Stat(outlier.EjectionsEnforcedTotal) == 0 {
		t.Error("got no ejection at all, want many")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.most != 1 || d.pending != 0 {
		t.Errorf("got %d ticks outstanding at a time and %d at the end, want 1 and 0", d.most, d.pending)
	}
	for _, host := range hosts[:15] {
		if d.balance[host] != 0 {
			t.Errorf("host %s: got %d more ejections than returns, want 0", host, d.balance[host])
		}
	}
}
