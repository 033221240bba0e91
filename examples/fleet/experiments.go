package main

import (
	"context"
	"net/http"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/examples/internal/pace"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// group holds the results of one situation with several policies.
type group struct {
	title   string
	measure string // the calls whose share is measured
	shows   string // the explanation of the results
	rows    []row
}

// row is the result of a situation with one policy.
type row struct {
	Group   string       `json:"group"`
	Policy  string       `json:"policy"`
	Calls   int          `json:"calls"`
	Failed  float64      `json:"failed_share"`
	P50     milliseconds `json:"p50_ms"`
	P99     milliseconds `json:"p99_ms"`
	Measure string       `json:"measure"`
	Share   float64      `json:"share"`
}

// bench measures situations.
type bench struct {
	fleet  *fleet
	load   load
	report func(title, policy string)
}

// compare measures all situations.
func compare(ctx context.Context, f *fleet, l load, report func(title, policy string)) ([]group, error) {
	b := &bench{f, l, report}
	var groups []group
	for _, measure := range []func(context.Context) (group, error){b.slowHosts, b.failingHosts, b.retries, b.coldHost, b.zones, b.connections} {
		g, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// upstream makes an upstream of a cluster and policies outside it.
func upstream(c pillion.Policy, outside ...pillion.Policy) (*pillion.Upstream, error) {
	policies := append([]pillion.Policy{timeout.Config{Total: 10 * time.Second}}, outside...)
	return pillion.New("recipes", append(policies, c)...)
}

// add runs the load with u and adds a row to g.
func (b *bench) add(ctx context.Context, g *group, policy string, u *pillion.Upstream, share func([]outcome) float64) {
	b.report(g.title, policy)
	client := &http.Client{Transport: u.Transport(nil)}
	defer client.CloseIdleConnections()
	outcomes := b.load.run(ctx, client)
	g.rows = append(g.rows, row{
		Group: g.title, Policy: policy, Calls: len(outcomes), Failed: shareOf(outcomes, func(o outcome) bool { return o.failed }),
		P50: percentile(outcomes, 0.5), P99: percentile(outcomes, 0.99), Measure: g.measure, Share: share(outcomes),
	})
}

// try makes an upstream of these policies, runs the load and adds a row to g.
func (b *bench) try(ctx context.Context, g *group, policy string, share func([]outcome) float64, c pillion.Policy, outside ...pillion.Policy) error {
	u, err := upstream(c, outside...)
	if err != nil {
		return err
	}
	b.add(ctx, g, policy, u, share)
	return nil
}

// at returns a function that returns the share of the calls that hosts of these places served.
func (b *bench) at(places func(place int) bool) func([]outcome) float64 {
	return func(outcomes []outcome) float64 {
		return shareOf(outcomes, func(o outcome) bool { return o.host >= 0 && places(b.fleet.placeOf(o.host)) })
	}
}

// below returns a function that reports whether a place is one of the first n.
func below(n int) func(place int) bool { return func(place int) bool { return place < n } }

const slowHosts, failingHosts = 4, 3

// slowHosts compares load balancing policies if some hosts are slow.
func (b *bench) slowHosts(ctx context.Context) (group, error) {
	g := group{
		title: "4 hosts are slow", measure: "to slow hosts",
		shows: "least request avoids hosts with a queue, peak EWMA also those with a high\n    latency",
	}
	b.fleet.behave(func(place int) behavior {
		if place < slowHosts {
			return behavior{takes: slow}
		}
		return behavior{takes: usual}
	})
	for _, p := range []cluster.LBPolicy{cluster.RoundRobin, cluster.LeastRequest, cluster.PeakEWMA} {
		c := b.fleet.config(cluster.Config{Endpoints: b.fleet.endpoints(nil), LBPolicy: p})
		if err := b.try(ctx, &g, string(p), b.at(below(slowHosts)), c); err != nil {
			return g, err
		}
	}
	return g, nil
}

// fail makes some hosts fail.
func (b *bench) fail() {
	b.fleet.behave(func(place int) behavior { return behavior{takes: usual, fails: place < failingHosts} })
}

// failingHosts compares calls with and without ejections.
func (b *bench) failingHosts(ctx context.Context) (group, error) {
	g := group{
		title: "3 hosts fail, no retries", measure: "to failing hosts",
		shows: "a host that fails 3 times in a row receives no calls for 30s",
	}
	b.fail()
	c := b.fleet.config(cluster.Config{
		Endpoints:   b.fleet.endpoints(nil),
		MergeWindow: -1, // each ejection takes effect immediately
	})
	if err := b.try(ctx, &g, "all hosts are used", b.at(below(failingHosts)), c); err != nil {
		return g, err
	}
	c.Outlier = &cluster.Outlier{Consecutive5xx: 3, MaxEjectionPercent: 50}
	return g, b.try(ctx, &g, "outlier detection", b.at(below(failingHosts)), c)
}

// retries compares the hosts of retries if the host is determined by a hash of the user.
func (b *bench) retries(ctx context.Context) (group, error) {
	g := group{
		title: "3 hosts fail, MAGLEV, retries", measure: "calls retried",
		shows: "a retry has the same hash, and so the same host, unless it avoids that host",
	}
	b.fail()
	retries := retry.Config{On: "5xx", NumRetries: 2, BaseInterval: time.Millisecond, Budget: &retry.Budget{Disabled: true}}
	retried := func(outcomes []outcome) float64 {
		return shareOf(outcomes, func(o outcome) bool { return o.retries > 0 })
	}
	for _, v := range []struct {
		name  string
		hosts *retry.Hosts
	}{{"the same host, as in Envoy", &retry.Hosts{}}, {"another host", nil}} {
		kitchens, err := cluster.New(b.fleet.config(cluster.Config{Endpoints: b.fleet.endpoints(nil), LBPolicy: cluster.Maglev})) //nolint:contextcheck // its health checks would outlive the call
		if err != nil {
			return g, err
		}
		retries.Hosts = v.hosts
		err = b.try(ctx, &g, v.name, retried, kitchens.Route(cluster.Route{HashPolicy: []cluster.HashPolicy{{Header: userHeader}}}), retries)
		kitchens.Close()
		if err != nil {
			return g, err
		}
	}
	return g, nil
}

// coldHost compares the calls to a new host that is slow at first.
func (b *bench) coldHost(ctx context.Context) (group, error) {
	g := group{
		title: "a cold host is added", measure: "to it, at first",
		shows: "with slow start a new host first receives a tenth of its share; the share\n    is that of the first quarter of the calls",
	}
	for _, v := range []struct {
		name   string
		window time.Duration
	}{{"full share immediately", 0}, {"slow start", b.load.length() * 3 / 2}} {
		if err := b.join(ctx, &g, v.name, v.window); err != nil {
			return g, err
		}
	}
	return g, nil
}

// join adds a cold host to the others after their slow start.
func (b *bench) join(ctx context.Context, g *group, name string, window time.Duration) error {
	all := b.fleet.endpoints(nil)
	kitchens, err := cluster.New(b.fleet.config(cluster.Config{Endpoints: all[1:], SlowStart: cluster.SlowStart{Window: window}})) //nolint:contextcheck // its health checks would outlive the call
	if err != nil {
		return err
	}
	defer kitchens.Close()
	u, err := upstream(kitchens)
	if err != nil {
		return err
	}
	pace.WaitUntil(ctx, time.Now().Add(window))
	b.fleet.behave(func(place int) behavior {
		if place == 0 {
			return behavior{takes: usual, cold: slow, warm: time.Now().Add(b.load.length() / 4)}
		}
		return behavior{takes: usual}
	})
	if err := kitchens.Update(all); err != nil { //nolint:contextcheck // its health checks would outlive the call
		return err
	}
	b.add(ctx, g, name, u, func(outcomes []outcome) float64 {
		return b.at(below(1))(outcomes[:len(outcomes)/4])
	})
	return nil
}

// zones compares the numbers of calls that leave the zone of the caller.
func (b *bench) zones(ctx context.Context) (group, error) {
	g := group{
		title: "3 zones", measure: "cross-zone calls",
		shows: "calls stay in zone a as long as all hosts have the same load",
	}
	for _, v := range []struct {
		name  string
		here  int // hosts in zone a
		aware *cluster.ZoneAware
	}{{"8 hosts here", 8, nil}, {"8 hosts here, zone-aware", 8, &cluster.ZoneAware{}}, {"4 hosts here, zone-aware", 4, &cluster.ZoneAware{}}} {
		zone := func(place int) string {
			switch {
			case place < v.here:
				return "a"
			case place%2 == 0:
				return "b"
			}
			return "c"
		}
		b.fleet.behave(func(place int) behavior {
			if zone(place) != "a" {
				return behavior{takes: usual + 3*time.Millisecond} // includes the network between zones
			}
			return behavior{takes: usual}
		})
		crosses := b.at(func(place int) bool { return zone(place) != "a" })
		c := b.fleet.config(cluster.Config{Endpoints: b.fleet.endpoints(zone), Locality: cluster.Locality{Zone: "a"}, ZoneAware: v.aware})
		if err := b.try(ctx, &g, v.name, crosses, c); err != nil {
			return g, err
		}
	}
	return g, nil
}

const replicasBefore = 4

// connections compares the numbers of HTTP/2 calls that reach replicas which are added behind a
// connection load balancer.
func (b *bench) connections(ctx context.Context) (group, error) {
	g := group{
		title: "HTTP/2, 16 replicas are added", measure: "to new replicas",
		shows: "a connection to a load balancer stays at one replica; with a maximum age,\n    new connections reach the new replicas",
	}
	b.fleet.behave(func(int) behavior { return behavior{} })
	for _, v := range []struct {
		name string
		age  time.Duration
	}{{"no maximum age", 0}, {"max_connection_duration", max(b.load.length()/12, time.Millisecond)}} {
		u, err := upstream(b.fleet.config(cluster.Config{
			Endpoints: cluster.Addresses(b.fleet.balancer.listener.Addr().String()), Protocol: cluster.HTTP2,
			MaxConnectionDuration: v.age, MaxConnectionDurationJitter: 50,
		}))
		if err != nil {
			return g, err
		}
		b.scaleOut(ctx, &g, v.name, u)
	}
	return g, nil
}

// scaleOut adds replicas after calls have made connections to the others.
func (b *bench) scaleOut(ctx context.Context, g *group, name string, u *pillion.Upstream) {
	b.fleet.balancer.use(b.fleet.replicas(replicasBefore))
	before := load{calls: b.load.calls / 6, rate: b.load.rate}
	before.run(ctx, &http.Client{Transport: u.Transport(nil)})
	b.fleet.balancer.use(b.fleet.replicas(size))
	b.add(ctx, g, name, u, b.at(func(place int) bool { return place >= replicasBefore }))
}
