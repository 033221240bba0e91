package cluster_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster"
)

// TestCluster_updateRefused leaves the hosts as they are when an update is refused.
func TestCluster_updateRefused(t *testing.T) {
	c := made(t, cluster.Config{Endpoints: cluster.Addresses("127.0.0.1:1", "127.0.0.1:2"), LBPolicy: cluster.RingHash})
	before := c.Hosts()
	err := c.Update([]cluster.Endpoint{
		{Address: "127.0.0.1:1", Weight: math.MaxUint32, Hostname: "soup", Health: cluster.Draining},
		{Address: "127.0.0.1:2", Weight: math.MaxUint32},
		{Address: "127.0.0.1:3"},
	})
	if err == nil {
		t.Fatal("got no error, want one about the sum of the weights")
	}
	if diff := cmp.Diff(before, c.Hosts()); diff != "" {
		t.Errorf("the hosts changed (-before +after):\n%s", diff)
	}
}

// TestCluster_hostsUpdate gets back what Hosts returned when Update is called with it.
func TestCluster_hostsUpdate(t *testing.T) {
	c := made(t, cluster.Config{Endpoints: []cluster.Endpoint{
		{Address: "127.0.0.1:1", Health: cluster.Draining, Hostname: "soup", Weight: 3, Priority: 1, LocalityWeight: 2, Locality: cluster.Locality{Zone: "a"}},
		{Address: "127.0.0.1:2", Health: cluster.Degraded},
		{Address: "127.0.0.1:3", Health: cluster.TimedOut},
		{Address: "127.0.0.1:4"},
	}})
	before := c.Hosts()
	var endpoints []cluster.Endpoint
	for _, h := range before {
		endpoints = append(endpoints, h.Endpoint)
	}
	if err := c.Update(endpoints); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, c.Hosts()); diff != "" {
		t.Errorf("the hosts changed (-before +after):\n%s", diff)
	}
}

// TestMaxConnectionDuration_long keeps a connection whose age limit with its jitter exceeds any duration.
func TestMaxConnectionDuration_long(t *testing.T) {
	address, _ := server(t, "a")
	stat := stats{}
	u := upstream(t, stat, made(t, cluster.Config{
		Endpoints: cluster.Addresses(address), MaxConnectionDuration: math.MaxInt64 - 1, MaxConnectionDurationJitter: 100,
	}))
	for range 3 {
		if _, err := get(t, u); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got := stat["upstream_cx_total"](); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}
