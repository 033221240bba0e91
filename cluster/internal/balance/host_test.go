package balance

import (
	"sync"
	"testing"
	"time"
)

func TestHostFlags(t *testing.T) {
	h := NewHost(Endpoint{Address: "10.0.0.1:80"})
	steps := []struct {
		change func() bool
		want   bool
		flags  Flags
	}{
		{func() bool { return h.SetFlags(FailedOutlierCheck) }, true, FailedOutlierCheck},
		{func() bool { return h.SetFlags(FailedOutlierCheck) }, false, FailedOutlierCheck},
		{func() bool { h.SetEndpoint(Endpoint{Status: StatusDraining}); return true }, true, FailedOutlierCheck | EDSDraining},
		{func() bool { h.SetEndpoint(Endpoint{Status: StatusDegraded}); return true }, true, FailedOutlierCheck | DegradedEDSHealth},
		{func() bool { return h.ClearFlags(FailedActiveHC) }, false, FailedOutlierCheck | DegradedEDSHealth},
		{func() bool { return h.ClearFlags(FailedOutlierCheck | FailedActiveHC) }, true, DegradedEDSHealth},
		{func() bool { h.SetEndpoint(Endpoint{}); return true }, true, 0},
	}
	for i, step := range steps {
		if got := step.change(); got != step.want || h.Flags() != step.flags {
			t.Errorf("step %d: got %v, %v, want %v, %v", i, got, h.Flags(), step.want, step.flags)
		}
	}
}

func TestHostState(t *testing.T) {
	h := NewHost(Endpoint{Address: "10.0.0.1:80", Weight: 3})
	if e := h.Endpoint(); e.Address != "10.0.0.1:80" || e.weight() != 3 || (&Endpoint{}).weight() != 1 {
		t.Errorf("got %+v, want what was given", e)
	}
	if got := h.AddActive(2); got != 2 || h.AddActive(-1) != 1 || h.Active() != 1 {
		t.Errorf("got %d active requests, want 2 and then 1", got)
	}
	if _, ok := h.HealthySince(); ok {
		t.Error("got a start of slow start, want none")
	}
	h.SetHealthySince(0)
	if since, ok := h.HealthySince(); !ok || since != 0 {
		t.Errorf("got %v, %v, want 0s, true", since, ok)
	}
	if _, ok := h.Latency(); ok {
		t.Error("got a latency, want none")
	}
	h.latency.observe(time.Second, time.Minute, time.Second)
	if latency, ok := h.Latency(); !ok || latency != time.Second {
		t.Errorf("got %v, %v, want 1s, true", latency, ok)
	}
}

func TestHashKey(t *testing.T) {
	tests := []struct {
		name        string
		endpoint    Endpoint
		useHostname bool
		want        string
	}{
		{"address", Endpoint{Address: "a:1", Hostname: "h"}, false, "a:1"},
		{"hostname", Endpoint{Address: "a:1", Hostname: "h"}, true, "h"},
		{"no hostname", Endpoint{Address: "a:1"}, true, "a:1"},
		{"metadata", Endpoint{Address: "a:1", Metadata: Metadata{"envoy.lb": {"hash_key": "k"}}}, true, "k"},
		{"empty metadata", Endpoint{Address: "a:1", Metadata: Metadata{"envoy.lb": {"hash_key": ""}}}, false, "a:1"},
		{"metadata of another type", Endpoint{Address: "a:1", Metadata: Metadata{"envoy.lb": {"hash_key": 7}}}, false, "a:1"},
		{"other metadata", Endpoint{Address: "a:1", Metadata: Metadata{"envoy.other": {"hash_key": "k"}}}, false, "a:1"},
	}
	for _, test := range tests {
		if got := test.endpoint.hashKey(test.useHostname); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestHostConcurrently has all that changes a host change it at the same time: no
// change may be lost.
func TestHostConcurrently(t *testing.T) {
	const rounds = 2000
	h := NewHost(Endpoint{})
	var wait sync.WaitGroup
	each := func(do func(i int)) {
		wait.Go(func() {
			for i := range rounds {
				do(i)
			}
		})
	}
	each(func(int) { h.SetFlags(FailedOutlierCheck); h.ClearFlags(FailedOutlierCheck) })
	each(func(int) { h.SetFlags(FailedActiveHC); h.ClearFlags(FailedActiveHC) })
	each(func(i int) { h.SetEndpoint(Endpoint{Weight: uint32(i), Status: Status(i % 6)}) })
	each(func(int) { h.AddActive(1) })
	each(func(int) { h.AddActive(1) })
	each(func(i int) { h.latency.observe(time.Duration(i), time.Duration(i), time.Second) })
	each(func(i int) { h.SetHealthySince(time.Duration(i)); h.HealthySince(); h.Latency(); h.Health() })
	wait.Wait()
	if h.Active() != 2*rounds || h.Endpoint().Weight != rounds-1 || h.Flags() != Status((rounds-1)%6).flags() {
		t.Errorf("got %d active, weight %d, %v", h.Active(), h.Endpoint().Weight, h.Flags())
	}
}
