package outlier

import (
	"sync"
	"sync/atomic"
	"time"
)

// Detector detects outliers among the hosts of one cluster. K identifies a host, such as a
// pointer to it. A host that is removed and added again has no history. The methods are safe for
// concurrent use.
type Detector[K comparable] struct {
	config Config
	random func() uint64
	stats  *Stats

	mu     sync.Mutex
	hosts  map[K]*host[K] // guarded by mu
	order  []*host[K]     // the same, in the order of their arrival; guarded by mu
	events []Event[K]     // of the step under way; guarded by mu
	due    time.Time      // the time of the next tick; guarded by mu
	awake  bool           // a tick at due was requested; guarded by mu
	mean   Average        // of external results; guarded by mu
	local  Average        // of local origin results; guarded by mu
}

// New returns a Detector without hosts, whose first interval begins at now. random returns
// uniform random numbers, such as [math/rand/v2.Uint64]; it is called with the detector's lock
// held. The error is that of [Config.Check].
func New[K comparable](c Config, random func() uint64, now time.Time) (*Detector[K], error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &Detector[K]{
		config: c, random: random, stats: &Stats{},
		hosts: map[K]*host[K]{}, due: now.Add(c.Interval),
		mean: Average{none, none}, local: Average{none, none},
	}, nil
}

// Update adds and removes hosts. It ignores added hosts that exist and removed hosts that do not.
// Other hosts keep their state. If an ejected host is removed, another one can be ejected.
func (d *Detector[K]) Update(added, removed []K) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(removed)
	for _, key := range added {
		if d.hosts[key] == nil {
			h := &host[K]{key: key, external: rate{shown: none}, local: rate{shown: none}}
			d.hosts[key] = h
			d.order = append(d.order, h)
		}
	}
}

func (d *Detector[K]) remove(keys []K) {
	before := len(d.hosts)
	for _, key := range keys {
		h := d.hosts[key]
		if h == nil {
			continue
		}
		if h.ejection.on {
			d.activate(-1)
		}
		h.removed = true
		delete(d.hosts, key)
	}
	if len(d.hosts) == before {
		return
	}
	kept := make([]*host[K], 0, len(d.hosts))
	for _, h := range d.order {
		if !h.removed {
			kept = append(kept, h)
		}
	}
	d.order = kept
}

// Report counts a result of a host at now. It ignores a host that was not added or was removed.
// Report allocates only if it returns an event.
func (d *Detector[K]) Report(key K, r Result, now time.Time) Step[K] {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[key]
	if h == nil || !d.put(h, r, now) {
		return Step[K]{}
	}
	return d.step(d.wake(now))
}

// put counts r. It returns false if r is to be ignored.
func (d *Detector[K]) put(h *host[K], r Result, now time.Time) bool {
	if r.Outcome == RequestDegraded && d.config.DetectDegradedHosts {
		d.degrade(h, now)
	}
	if !d.config.SplitExternalLocalOriginErrors {
		code, ok := r.merged()
		if ok {
			d.putCode(h, code, now)
		}
		return ok
	}
	if success, ok := r.local(); ok {
		d.putLocal(h, success, now)
	} else {
		d.putCode(h, r.external(), now)
	}
	return true
}

func (d *Detector[K]) putCode(h *host[K], code int, now time.Time) {
	failed := is5xx(code)
	h.external.add(!failed)
	if !failed {
		h.failures, h.gateway = 0, 0
		return
	}
	if !isGatewayFailure(code) {
		h.gateway = 0
	} else if h.gateway.fail(d.config.ConsecutiveGatewayFailure) {
		d.detectRun(h, &h.gateway, ConsecutiveGatewayFailure, now)
	}
	if h.failures.fail(d.config.Consecutive5xx) {
		d.detectRun(h, &h.failures, Consecutive5xx, now)
	}
}

func (d *Detector[K]) putLocal(h *host[K], success bool, now time.Time) {
	h.local.add(success)
	if success {
		h.locals = 0
		return
	}
	if h.locals.fail(d.config.ConsecutiveLocalOriginFailure) {
		d.detectRun(h, &h.locals, ConsecutiveLocalOriginFailure, now)
	}
}

// detectRun handles a run that is long enough. It ignores an ejected host, whose results come from
// calls that began before the ejection, or from panic mode.
func (d *Detector[K]) detectRun(h *host[K], r *run, k Kind, now time.Time) {
	if h.ejection.on {
		return
	}
	if k == Consecutive5xx {
		d.count(EjectionsConsecutive5xx)
	}
	d.detect(h, k, Event[K]{SuccessRate: none}, now)
	*r = 0
}

// detect counts a detection, and ejects the host if MaxEjectionPercent and the enforcing
// percentage allow it. e holds the rates of the event.
func (d *Detector[K]) detect(h *host[K], k Kind, e Event[K], now time.Time) {
	d.count(k.detected())
	if h.ejection.on { // by the success rate, at the same tick
		return
	}
	if !d.config.room(d.ejected(), len(d.hosts)) {
		d.count(EjectionsOverflow)
		return
	}
	if k.deprecatedTotal() {
		d.count(EjectionsTotal)
	}
	e.Enforced = d.chance(d.config.enforcing(k))
	if e.Enforced {
		jitter := d.jitter() // random may panic in it
		d.activate(1)
		d.count(EjectionsEnforcedTotal)
		d.count(k.enforced())
		h.ejection.begin(k, &d.config, jitter, now)
	}
	d.emit(h, &h.ejection, Eject, k, e, now)
}

// degrade marks a host as degraded, unless it is already.
func (d *Detector[K]) degrade(h *host[K], now time.Time) {
	if h.degraded.on {
		return
	}
	d.count(EjectionsDetectedDegradation)
	h.degraded.begin(Degraded, &d.config, d.jitter(), now)
	d.emit(h, &h.degraded, Eject, Degraded, Event[K]{Enforced: true, SuccessRate: none}, now)
}

// chance returns true with the probability percent. It uses no random number for 0 and 100.
func (d *Detector[K]) chance(percent uint32) bool {
	switch percent {
	case 0:
		return false
	case 100:
		return true
	}
	return d.random()%100 < uint64(percent)
}

// jitter returns the random time that is added to an ejection.
func (d *Detector[K]) jitter() time.Duration {
	most := uint64(d.config.MaxEjectionTimeJitter / time.Millisecond) //nolint:gosec // not negative
	if most == 0 {
		return 0
	}
	return time.Duration(d.random()%(most+1)) * time.Millisecond //nolint:gosec // at most most
}

// HealthCheckPassed reports that an active health check of a host passed at now, and that the
// host is healthy by its health checks. With [Config.SuccessfulActiveHealthCheckUnejectHost] it
// ends an ejection. It does not end a degradation.
func (d *Detector[K]) HealthCheckPassed(key K, now time.Time) Step[K] {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[key]
	if h == nil || !h.ejection.on || !d.config.SuccessfulActiveHealthCheckUnejectHost {
		return Step[K]{}
	}
	d.uneject(h, now)
	return d.step(time.Time{}) // an ejected host keeps the detector awake
}

// uneject ends an ejection. It resets all runs, so that a few more failures do not eject the host
// again.
func (d *Detector[K]) uneject(h *host[K], now time.Time) {
	d.activate(-1)
	h.failures, h.gateway, h.locals = 0, 0, 0
	d.release(h, &h.ejection, now)
}

func (d *Detector[K]) release(h *host[K], p *penalty, now time.Time) {
	p.end(now)
	d.emit(h, p, Uneject, p.kind, Event[K]{Enforced: true, SuccessRate: none}, now)
}

// emit completes e and adds it to the step.
func (d *Detector[K]) emit(h *host[K], p *penalty, a Action, k Kind, e Event[K], now time.Time) {
	opposite := p.ended
	if a == Uneject {
		opposite = p.began
	}
	e.Host, e.Action, e.Kind, e.Count, e.SinceLast = h.key, a, k, p.count, none
	if !opposite.IsZero() {
		e.SinceLast = now.Sub(opposite)
	}
	d.events = append(d.events, e)
}

// step returns the events since the last step.
func (d *Detector[K]) step(next time.Time) Step[K] {
	s := Step[K]{Events: d.events, Next: next}
	d.events = nil
	return s
}

// Tick does the work of one interval: it ends ejections, evaluates the results of the interval,
// and shortens future ejections of good hosts. A call before the last [Step.Next] changes nothing
// and returns it again. A late call counts as one tick, and the next one is an interval later.
func (d *Detector[K]) Tick(now time.Time) Step[K] {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.awake {
		return Step[K]{}
	}
	if now.Before(d.due) {
		return Step[K]{Next: d.due}
	}
	for _, h := range d.order {
		d.endPenalties(h, now)
		h.external.flip()
		h.local.flip()
	}
	d.mean = d.judge(externalOrigin, now)
	d.local = d.judge(localOrigin, now)
	pending := false
	for _, h := range d.order {
		h.ejection.decay(&d.config, now)
		h.degraded.decay(&d.config, now)
		pending = pending || h.pending()
	}
	d.due, d.awake = now.Add(d.config.Interval), pending
	return d.step(d.next())
}

func (d *Detector[K]) endPenalties(h *host[K], now time.Time) {
	if h.ejection.over(&d.config, now) {
		d.uneject(h, now)
	}
	if h.degraded.over(&d.config, now) {
		d.release(h, &h.degraded, now)
	}
}

// Next returns the time of the next tick. It returns false if the detector is idle until the next
// result. Callers that use [Step.Next] do not need it.
func (d *Detector[K]) Next() (at time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next(), d.awake
}

func (d *Detector[K]) next() time.Time {
	if d.awake {
		return d.due
	}
	return time.Time{}
}

// wake returns the time of the next tick, or zero if it was requested before. It skips the ticks
// between the last one and now, which would have changed nothing.
func (d *Detector[K]) wake(now time.Time) time.Time {
	if d.awake {
		return time.Time{}
	}
	d.awake = true
	if missed := now.Sub(d.due); missed >= 0 {
		d.due = d.due.Add(missed - missed%d.config.Interval + d.config.Interval)
	}
	return d.due
}

// Ejected reports whether the host is ejected. It returns false for an unknown host.
func (d *Detector[K]) Ejected(key K) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[key]
	return h != nil && h.ejection.on
}

// Status returns the state of a host. It returns false for an unknown host.
func (d *Detector[K]) Status(key K) (s Status, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[key]
	if h == nil {
		return Status{}, false
	}
	s = Status{
		Ejected: h.ejection.on, Kind: h.ejection.kind, Degraded: h.degraded.on,
		Ejections: h.ejection.count, Degradations: h.degraded.count,
		SuccessRate: h.external.shown, LocalOriginSuccessRate: h.local.shown,
		EjectedAt: h.ejection.began, UnejectedAt: h.ejection.ended,
	}
	if s.Ejected {
		s.Until = h.ejection.began.Add(h.ejection.lasts(&d.config))
	}
	return s, true
}

// Averages returns the averages of the last tick, for external results and for results of local
// origin.
func (d *Detector[K]) Averages() (external, local Average) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mean, d.local
}

// Stat returns the value of a statistic. It takes no lock.
func (d *Detector[K]) Stat(s Stat) uint64 { return d.stats.Value(s) }

// Stats returns the statistics. They do not refer to the detector.
func (d *Detector[K]) Stats() *Stats { return d.stats }

// Stats holds the statistics of a Detector.
type Stats [StatCount]atomic.Uint64

// Value returns the value of a statistic.
func (s *Stats) Value(of Stat) uint64 { return s[of].Load() }

func (d *Detector[K]) count(s Stat) { d.stats[s].Add(1) }

// ejected returns the number of ejected hosts.
func (d *Detector[K]) ejected() int { return int(d.stats[EjectionsActive].Load()) } //nolint:gosec // at most the number of hosts

// activate changes the number of ejected hosts by 1 or -1.
func (d *Detector[K]) activate(by int) {
	d.stats[EjectionsActive].Add(uint64(by)) //nolint:gosec // -1 wraps around, see Add
}
