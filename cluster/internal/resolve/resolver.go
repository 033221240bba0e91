package resolve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed is the error of [Resolver.WaitReady] after [Resolver.Close].
var ErrClosed = errors.New("resolve: closed")

// ErrNoHosts is wrapped by the error of [Resolver.WaitReady] if no name has a host.
var ErrNoHosts = errors.New("resolve: no hosts")

// Stats counts lookups. The fields are named after Envoy's cluster statistics.
type Stats struct {
	// UpdateAttempt counts lookups that began.
	UpdateAttempt uint64
	// UpdateSuccess counts lookups that succeeded, including those that found no address.
	UpdateSuccess uint64
	// UpdateFailure counts lookups that failed.
	UpdateFailure uint64
	// UpdateEmpty counts lookups that found no address, so that the previous hosts remain. It
	// does not count lookups of a target without hosts.
	UpdateEmpty uint64
	// UpdateNoRebuild counts lookups that succeeded and changed no hosts.
	UpdateNoRebuild uint64
}

// Resolver keeps the hosts of names up to date. It is safe for concurrent use.
type Resolver struct {
	cfg     Config
	targets []*target

	ready chan struct{} // closed when each first lookup has ended, or by Close
	some  chan struct{} // closed when a host was found
	done  chan struct{} // closed by Close

	starting, closing, filled sync.Once
	cancel                    context.CancelFunc // set by starting
	running                   sync.WaitGroup

	// publishing is full while OnUpdate is being called. It is not a mutex, because a goroutine
	// of a testing/synctest bubble that waits for a mutex is not durably blocked.
	publishing chan struct{}

	mu      sync.Mutex
	stats   Stats // guarded by mu
	pending int   // the number of targets whose first lookup has not ended; guarded by mu
}

// target is a target with its state.
type target struct {
	index  int
	lookup lookup
	known  known // guarded by Resolver.mu
	looked bool  // a lookup has ended; guarded by Resolver.mu
	err    error // of the last lookup; guarded by Resolver.mu
}

// New returns a resolver, which does nothing before Start. The error joins the errors of all fields
// of config.
func New(config Config) (*Resolver, error) {
	c, err := config.normal()
	if err != nil {
		return nil, err
	}
	r := &Resolver{cfg: c, pending: len(c.Targets), publishing: make(chan struct{}, 1)}
	r.ready, r.some, r.done = make(chan struct{}), make(chan struct{}), make(chan struct{})
	for i, t := range c.Targets {
		r.targets = append(r.targets, &target{index: i, lookup: lookup{cfg: &r.cfg, name: t.Name}})
	}
	if len(c.Targets) == 0 {
		close(r.ready)
	}
	return r, nil
}

// Start starts the lookups. Later calls, and a call after Close, do nothing.
func (r *Resolver) Start() {
	r.starting.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		for _, t := range r.targets {
			r.running.Go(func() { r.follow(ctx, t) })
		}
	})
}

// Close ends the lookups and waits for the resolver's goroutines, including a running OnUpdate. Only
// a lookup of the system's resolver can continue for a time; its result is ignored. After Close,
// Hosts still returns the last hosts. Later calls do nothing.
func (r *Resolver) Close() {
	r.closing.Do(func() {
		close(r.done)
		r.starting.Do(func() {}) // a later Start does nothing
		if r.cancel != nil {
			r.cancel()
		}
		r.running.Wait()
		r.looked(len(r.targets))
	})
}

// follow looks up t repeatedly until ctx ends.
func (r *Resolver) follow(ctx context.Context, t *target) {
	for wait := time.Duration(0); sleep(ctx, wait); {
		r.mu.Lock()
		r.stats.UpdateAttempt++
		r.mu.Unlock()
		found := t.lookup.do(ctx)
		if ctx.Err() != nil {
			return
		}
		wait = r.settle(t, found)
	}
}

// sleep waits for d. It returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// settle publishes the result of a lookup of t. It returns the time to the next lookup.
func (r *Resolver) settle(t *target, found result) time.Duration {
	r.publishing <- struct{}{}
	n := r.learn(t, found)
	if n.changed && r.cfg.OnUpdate != nil {
		r.cfg.OnUpdate(n.hosts)
	}
	r.announce(n)
	<-r.publishing
	if n.err != nil && r.cfg.OnFailure != nil {
		r.cfg.OnFailure(r.cfg.Targets[t.index], n.err)
	}
	return n.wait
}

// news is the effect of a lookup.
type news struct {
	verdict
	first bool   // it was the first lookup of its target
	hosts []Host // all hosts, if any changed
	err   error  // the error of the lookup
}

// learn records the result of a lookup of t.
func (r *Resolver) learn(t *target, found result) news {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := news{verdict: t.known.settle(&r.cfg, found), first: !t.looked}
	if n.failed {
		n.err = t.failure(&r.cfg, found.err)
	}
	if n.changed {
		n.hosts = r.hosts()
	}
	t.looked, t.err = true, n.err
	r.stats.count(n.verdict)
	return n
}

// announce releases the callers that wait for n, after OnUpdate has returned.
func (r *Resolver) announce(n news) {
	if n.first {
		r.looked(1)
	}
	if len(n.hosts) > 0 {
		r.filled.Do(func() { close(r.some) })
	}
}

// failure returns err with the name of t. If err is nil, there were no addresses.
func (t *target) failure(c *Config, err error) error {
	if err == nil {
		err = errors.New("no addresses")
	}
	return fmt.Errorf("resolve: %s: %w", c.Targets[t.index].Name, err)
}

func (s *Stats) count(v verdict) {
	if v.failed {
		s.UpdateFailure++
		return
	}
	s.UpdateSuccess++
	if v.empty {
		s.UpdateEmpty++
	}
	if !v.changed {
		s.UpdateNoRebuild++
	}
}

// looked records that the first lookups of n targets have ended or will not begin.
func (r *Resolver) looked(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == 0 {
		return
	}
	r.pending = max(0, r.pending-n)
	if r.pending == 0 {
		close(r.ready)
	}
}

// hosts returns the hosts of all targets. The caller holds r.mu.
func (r *Resolver) hosts() []Host {
	var all []Host
	for _, t := range r.targets {
		all = append(all, r.cfg.hostsOf(t.index, t.known.addrs)...)
	}
	return all
}

// Hosts returns the hosts of all targets, in the order of the targets.
func (r *Resolver) Hosts() []Host {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hosts()
}

// Stats returns the current counts.
func (r *Resolver) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Err joins the errors of the targets whose last lookup failed. It returns nil if none did.
func (r *Resolver) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var failures []error
	for _, t := range r.targets {
		failures = append(failures, t.err)
	}
	return errors.Join(failures...)
}

// Ready returns a channel that is closed when the first lookup of every target has ended, with or
// without hosts, and OnUpdate has returned. It is also closed by Close. Without targets it is closed
// from the start.
func (r *Resolver) Ready() <-chan struct{} { return r.ready }

// WaitReady waits until Ready is closed and there is a host. If ctx ends first, the error wraps the
// cause of ctx, ErrNoHosts if Ready is closed, and the errors of the last lookups. After Close the
// error is ErrClosed.
func (r *Resolver) WaitReady(ctx context.Context) error {
	for _, c := range []<-chan struct{}{r.ready, r.some} {
		select {
		case <-c:
		case <-r.done:
		case <-ctx.Done():
			return r.unready(context.Cause(ctx))
		}
	}
	select {
	case <-r.done:
		return ErrClosed
	default:
		return nil
	}
}

// unready returns the error of WaitReady if ctx ended because of cause.
func (r *Resolver) unready(cause error) error {
	select {
	case <-r.ready:
		return fmt.Errorf("%w: %w", ErrNoHosts, errors.Join(cause, r.Err()))
	default:
		return fmt.Errorf("resolve: not ready: %w", errors.Join(cause, r.Err()))
	}
}
