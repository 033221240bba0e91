package balance

import (
	"fmt"
	"testing"
	"time"
)

// policiesToMeasure returns a configuration and hosts for each kind of pick.
func policiesToMeasure(n int) map[string]struct {
	Config
	Membership
} {
	type both = struct {
		Config
		Membership
	}
	weights := make([]uint32, n)
	for i := range weights {
		weights[i] = uint32(1 + i%7)
	}
	equal, different := Membership{Hosts: hosts(n)}, Membership{Hosts: weightedHosts(weights...)}
	all := map[string]both{
		"round robin/EDF":   {Config{}, different},
		"least request/EDF": {Config{Policy: LeastRequest}, different},
		"maglev/weights":    {Config{Policy: Maglev}, different},
		"ring hash/weights": {Config{Policy: RingHash}, different},
	}
	for name, p := range map[string]Policy{
		"round robin": RoundRobin, "least request": LeastRequest, "random": Random, "ring hash": RingHash, "maglev": Maglev, "peak EWMA": PeakEWMA,
	} {
		all[name] = both{Config{Policy: p}, equal}
	}
	priorities := Membership{}
	for i := range n {
		e := Endpoint{Priority: i % 2}
		if i%2 == 0 && i%8 < 6 {
			e.Status = StatusUnhealthy
		}
		priorities.Hosts = append(priorities.Hosts, host(i, e))
	}
	zoned := Membership{LocalityWeights: map[PriorityLocality]uint32{}}
	for i := range n {
		l := Locality{Zone: string(rune('a' + i%3))}
		zoned.LocalityWeights[PriorityLocality{0, l}] = uint32(1 + i%3)
		zoned.Hosts = append(zoned.Hosts, host(i, Endpoint{Locality: l}))
	}
	zoned.Local = zoned.Hosts[:min(n, 7)]
	all["zones"] = both{Config{Locality: Locality{Zone: "b"}, ZoneAware: &ZoneAware{}}, zoned}
	all["crossing zones"] = both{Config{Locality: Locality{Zone: "a"}, ZoneAware: &ZoneAware{}}, zoned}
	all["locality weights"] = both{Config{LocalityWeighted: true}, zoned}
	all["slow start"] = both{Config{SlowStart: SlowStart{Window: time.Hour}}, equal}
	all["two priorities"] = both{Config{PanicThreshold: Zero}, priorities}
	return all
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 10, 1000, 10000} {
		for name, p := range policiesToMeasure(n) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				lb := balancer(b, p.Config, p.Membership)
				for i, h := range p.Hosts {
					lb.Observe(h, time.Duration(1+i%10)*time.Millisecond, 0)
				}
				b.ReportAllocs()
				r := Request{HasHash: true, Now: time.Second}
				for b.Loop() {
					r.Hash = r.Hash*6364136223846793005 + 1442695040888963407
					lb.Pick(r)
				}
			})
		}
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for name, p := range policiesToMeasure(1000) {
		b.Run(name, func(b *testing.B) {
			lb := balancer(b, p.Config, p.Membership)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := Request{HasHash: true}
				for pb.Next() {
					r.Hash = r.Hash*6364136223846793005 + 1442695040888963407
					lb.Pick(r)
				}
			})
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		for name, p := range policiesToMeasure(n) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				lb := balancer(b, p.Config, p.Membership)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if i%2 == 0 { // no table is kept
						p.Hosts[0].SetFlags(FailedOutlierCheck)
					} else {
						p.Hosts[0].ClearFlags(FailedOutlierCheck)
					}
					if err := lb.Refresh(0); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
