package outlier_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

// clock drives a Detector as a caller does: it calls Tick when a step asked for it.
type clock struct {
	d      *outlier.Detector[string]
	now    time.Time
	next   time.Time
	events []outlier.Event[string]
	draws  []uint64 // the next random numbers; 0 when there are none left
}

var start = time.Unix(0, 0)

func newClock(t *testing.T, c outlier.Config, hosts ...string) *clock {
	t.Helper()
	k := &clock{now: start}
	d, err := outlier.New[string](c, k.draw, start)
	if err != nil {
		t.Fatal(err)
	}
	k.d = d
	d.Update(hosts, nil)
	return k
}

func (k *clock) draw() uint64 {
	if len(k.draws) == 0 {
		return 0
	}
	n := k.draws[0]
	k.draws = k.draws[1:]
	return n
}

func (k *clock) took(s outlier.Step[string]) {
	k.events = append(k.events, s.Events...)
	if !s.Next.IsZero() {
		k.next = s.Next
	}
}

func (k *clock) report(host string, results ...outlier.Result) {
	for _, r := range results {
		k.took(k.d.Report(host, r, k.now))
	}
}

func (k *clock) sleep(d time.Duration) {
	end := k.now.Add(d)
	for !k.next.IsZero() && !k.next.After(end) {
		k.now, k.next = k.next, time.Time{}
		k.took(k.d.Tick(k.now))
	}
	k.now = end
}

// take returns the events so far.
func (k *clock) take() []outlier.Event[string] {
	events := k.events
	k.events = nil
	return events
}

// responses returns one result for each code.
func responses(codes ...int) []outlier.Result {
	var results []outlier.Result
	for _, code := range codes {
		results = append(results, outlier.Response(code))
	}
	return results
}

// times returns n results with this code.
func times(n, code int) []outlier.Result {
	return slices.Repeat(responses(code), n)
}
