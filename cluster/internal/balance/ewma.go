package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// peak is the latency of a host, as in Finagle's PeakEwma: an exponentially weighted
// moving average over unevenly spaced observations, which follows a rise immediately and a
// fall slowly.
//
// In Finagle each read decays the average, so that an observation is compared with the
// value that the pick of its request read. Here an observation computes that value, and
// reads change nothing.
//
// Reads take no lock. A read concurrent with an observation can combine the old average
// with the new time, or the reverse; the error is at most that observation.
type peak struct {
	mu    sync.Mutex    // held by observe
	cost  atomic.Uint64 // bits of a float64, in nanoseconds; 0 before the first observation
	stamp atomic.Int64  // the time of the last observation
}

// observe adds the latency of a request that ended at now.
func (p *peak) observe(latency, now, decay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	latency = max(latency, 1)
	sample, stamp, picked := float64(latency), time.Duration(p.stamp.Load()), now-latency
	cost := float64(p.load() * kept(picked-stamp, decay))
	if stamp = max(stamp, picked); sample < cost {
		share := kept(now-stamp, decay)
		sample = float64(sample*(1-share)) + float64(cost*share)
	}
	p.stamp.Store(int64(max(now, stamp)))
	p.cost.Store(math.Float64bits(sample))
}

// kept returns the share of an average that remains after some time.
func kept(age, decay time.Duration) float64 {
	return math.Exp(-float64(max(age, 0)) / float64(decay))
}

// read returns the average as of the last observation, 0 before the first, and its
// age. Since then it has decayed to average·exp(-age/decay).
func (p *peak) read(now time.Duration) (average float64, age time.Duration) {
	return p.load(), max(now-time.Duration(p.stamp.Load()), 0)
}

// last returns the average as of the last observation.
func (p *peak) last() (time.Duration, bool) {
	cost := p.load()
	return time.Duration(cost), cost != 0
}

func (p *peak) load() float64 { return math.Float64frombits(p.cost.Load()) }
