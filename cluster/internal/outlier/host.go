package outlier

import (
	"math"
	"time"
)

// host is the state of one host.
type host[K comparable] struct {
	key      K
	removed  bool
	failures run // 5xx
	gateway  run // 502, 503, 504
	locals   run // local origin failures
	external rate
	local    rate
	ejection penalty
	degraded penalty
}

// run is a number of consecutive failures.
type run uint32

// fail lengthens the run and reports whether it now has the length that is detected. The run of
// an ejected host can become longer. It does not overflow.
func (r *run) fail(length uint32) bool {
	if *r == math.MaxUint32 {
		return false
	}
	*r++
	return uint32(*r) == length
}

// bucket counts the results of one interval.
type bucket struct{ successes, total uint64 }

// rate is a success rate over the last full interval.
type rate struct {
	current bucket  // of the current interval
	last    bucket  // of the previous interval
	shown   float64 // in percent, or none
}

// none is the success rate of a host, or the mean of a cluster, that has too few results.
const none = -1

func (r *rate) add(success bool) {
	r.current.total++
	if success {
		r.current.successes++
	}
}

// flip ends the current interval.
func (r *rate) flip() {
	r.last, r.current = r.current, bucket{}
	r.shown = none
}

// percent returns the success rate of the last interval, which must have results.
func (r *rate) percent() float64 { return float64(r.last.successes) * 100 / float64(r.last.total) }

// penalty is an ejection or a degradation, with the backoff of earlier ones.
type penalty struct {
	on      bool
	kind    Kind
	count   uint32    // the number of penalties
	backoff uint32    // the duration in base times; it falls in good intervals
	began   time.Time // the last begin
	ended   time.Time // the last end
	jitter  time.Duration
}

// begin starts the penalty. It lasts longer than the previous one, up to the maximum.
func (p *penalty) begin(k Kind, c *Config, jitter time.Duration, now time.Time) {
	p.on, p.kind, p.began, p.jitter = true, k, now, jitter
	p.count++
	if limit := c.maxEjectionTime() + c.BaseEjectionTime; p.times(c.BaseEjectionTime, limit) < limit {
		p.backoff++
	}
}

// times returns backoff times base, at most limit.
func (p *penalty) times(base, limit time.Duration) time.Duration {
	if p.backoff != 0 && base > limit/time.Duration(p.backoff) {
		return limit
	}
	return base * time.Duration(p.backoff)
}

// lasts returns the minimum duration of the penalty.
func (p *penalty) lasts(c *Config) time.Duration {
	return p.times(c.BaseEjectionTime, c.maxEjectionTime()) + p.jitter
}

// over reports whether the duration of the penalty has passed.
func (p *penalty) over(c *Config, now time.Time) bool { return p.on && now.Sub(p.began) >= p.lasts(c) }

func (p *penalty) end(now time.Time) { p.on, p.ended = false, now }

// decay shortens the next penalty, if the host had none for a whole interval.
func (p *penalty) decay(c *Config, now time.Time) {
	if !p.on && p.backoff > 0 && now.Sub(p.ended) >= c.Interval {
		p.backoff--
	}
}

// pending reports whether ticks alone change the penalty.
func (p *penalty) pending() bool { return p.on || p.backoff > 0 }

// pending reports, at the end of a tick, whether the next tick can change the host even if no
// results arrive.
func (h *host[K]) pending() bool {
	return h.ejection.pending() || h.degraded.pending() || h.external.pending() || h.local.pending()
}

func (r *rate) pending() bool { return r.shown != none }
