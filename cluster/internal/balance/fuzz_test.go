package balance

import (
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// FuzzBalancer builds a cluster from bytes and makes picks. Nothing panics; the loads
// are 100 % in all; a host is of the priority and the health that the pick reports,
// and there is one unless the list to choose from is empty.
func FuzzBalancer(f *testing.F) {
	f.Add([]byte{0}, uint8(0), 50.0, uint64(1), uint64(7))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 128, 255}, uint8(1), -1.0, uint64(1), uint64(7))
	f.Add([]byte{200, 100, 50, 25, 12, 6, 3, 1}, uint8(3), 0.0, uint64(3), uint64(1<<63))
	f.Add([]byte{9, 9, 9, 9}, uint8(4), 100.0, uint64(251), uint64(9))
	f.Add([]byte{64, 65, 66, 67, 68}, uint8(0x95), 33.3, uint64(2), uint64(9))
	f.Fuzz(func(t *testing.T, bytes []byte, kind uint8, threshold float64, size, hash uint64) {
		if len(bytes) > 500 {
			return
		}
		c := Config{Policy: Policy(kind % 7), PanicThreshold: threshold, Rand: random(hash).Uint64}
		c.RingHash = RingHashConfig{MinSize: size % 5000, MaxSize: hash % 9000}
		c.Maglev.TableSize = size % 1000
		c.LocalityWeighted = kind&16 > 0
		if kind&32 > 0 {
			c.Locality, c.ZoneAware = Locality{Zone: "a"}, &ZoneAware{MinClusterSize: size % 9, ByWeight: kind&64 > 0, FailTrafficOnPanic: kind&128 > 0}
		}
		if kind&192 == 192 {
			c.ConsistentHashing = ConsistentHashingConfig{BalanceFactor: uint32(100 + size%100), Active: &atomic.Int64{}}
			c.SlowStart.Window = time.Duration(size % 1e10)
		}
		b, err := New(c)
		if err != nil {
			return
		}
		m := Membership{LocalityWeights: map[PriorityLocality]uint32{}}
		for i, v := range bytes {
			e := Endpoint{Weight: uint32(v % 5), Priority: int(v/5) % 3, Status: Status(v / 15 % 6), Locality: Locality{Zone: string(rune('a' + v%2))}}
			m.LocalityWeights[PriorityLocality{e.Priority, e.Locality}] = uint32(v % 3)
			m.Hosts = append(m.Hosts, host(i, e))
			if i%4 == 0 {
				m.Local = append(m.Local, m.Hosts[i])
			}
		}
		for round := range 2 {
			if err := b.Update(m, time.Duration(round)*time.Second); err != nil {
				t.Fatal(err)
			}
			s := b.Snapshot()
			if total := sum(s.load.healthy) + sum(s.load.degraded); total != 100 {
				t.Fatalf("the loads are %d %% in all", total)
			}
			for i := range 20 {
				checkPick(t, b, s, hash+uint64(i)<<59)
			}
		}
	})
}

// checkPick makes a pick and compares the host with what the pick reports.
func checkPick(t *testing.T, b *Balancer, s *Snapshot, hash uint64) {
	t.Helper()
	h, info := b.Pick(Request{Hash: hash, HasHash: true, MaxAttempts: 2, Reject: func(h *Host) bool { return h.Active()%2 == 0 }})
	l := &s.Levels[info.Priority]
	from := l.Healthy
	switch {
	case info.Panic:
		from = l.All
	case info.Degraded && !b.config.Policy.hashes():
		from = l.Degraded
	}
	if info.Panic != l.Panic || info.Picks < 1 || info.Picks > 3 {
		t.Fatalf("got %+v of a priority with panic %v", info, l.Panic)
	}
	if h == nil {
		if len(from) > 0 && !b.config.LocalityWeighted && b.config.ZoneAware == nil {
			t.Fatalf("got no host of %d, %+v", len(from), info)
		}
		return
	}
	if !slices.Contains(from, h) {
		t.Fatalf("got %+v, which is none of the %d hosts of %+v", *h.Endpoint(), len(from), info)
	}
	h.AddActive(1)
}

// FuzzEDF pins what a schedule promises: each entry is in it once, no deadline is
// before now, and none is later than that of an entry that was put back now.
func FuzzEDF(f *testing.F) {
	f.Add([]byte{1, 2, 5, 2}, uint32(0))
	f.Add([]byte{1, 1, 1, 1}, uint32(math.MaxUint32))
	f.Add([]byte{255, 1}, uint32(429496728))
	f.Add([]byte{25, 75}, uint32(23))
	f.Fuzz(func(t *testing.T, bytes []byte, picks uint32) {
		if len(bytes) == 0 || len(bytes) > 1000 {
			return
		}
		weights := make([]float64, len(bytes))
		for i, v := range bytes {
			weights[i] = 1 + float64(v)
		}
		e := newEDF(weights, picks)
		for range 50 {
			e.putBack(weights[e.next()])
			seen := make([]bool, len(weights))
			for i, entry := range e.heap {
				if seen[entry.index] {
					t.Fatalf("entry %d is there twice", entry.index)
				}
				seen[entry.index] = true
				if longest := 1 / weights[entry.index]; entry.deadline < e.now || entry.deadline > e.now+longest+1e-6*(1+e.now) {
					t.Fatalf("entry %d of weight %v has the deadline %v at %v", entry.index, weights[entry.index], entry.deadline, e.now)
				}
				if i > 0 && entry.before(&e.heap[(i-1)/heapArity]) {
					t.Fatalf("entry %d precedes its parent", i)
				}
			}
		}
	})
}
