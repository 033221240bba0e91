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

// ErrNoHosts is wrapped by the error of [Resolver.WaitReady] when no name has a host.
var ErrNoHosts = errors.New("resolve: no hosts")

// Stats counts lookups of names, by the names of Envoy's cluster statistics.
type Stats struct {
	// UpdateAttempt counts the lookups that were begun.
	UpdateAttempt uint64
	// UpdateSuccess counts those that succeeded, also without an address.
	UpdateSuccess uint64
	// UpdateFailure counts those that failed.
	UpdateFailure uint64
	// UpdateEmpty counts those that succeeded without an address, after which the last hosts
	// stay. Those of a target that has no hosts do not count.
	UpdateEmpty uint64
	// UpdateNoRebuild counts those that succeeded and changed no hosts.
	UpdateNoRebuild uint64
}

// Resolver keeps the hosts of names up to date. Its methods may be called concurrently.
type Resolver struct {
	cfg     Config
	targets []*target

	ready chan struct{} // closed when each first lookup has ended, or by Close
	some  chan struct{} // closed when there is a host
	done  chan struct{} // closed by Close

	starting, closing, filled sync.Once
	cancel                    context.CancelFunc // set by starting
	running                   sync.WaitGroup

	// publishing is full while news are on their way to OnUpdate. A mutex would do but in
	// bubbles, where waiting for one is not idle.
	publishing chan struct{}

	mu      sync.Mutex
	stats   Stats // guarded by mu
	pending int   // how many targets wait for the end of their first lookup; guarded by mu
}

// target is a target with what is known of it.
type target struct {
	index  int
	lookup lookup
	known  known // guarded by Resolver.mu
	looked bool  // whether a lookup has ended; guarded by Resolver.mu
	err    error // of the last lookup; guarded by Resolver.mu
}

// New returns a resolver that does nothing until it is started. The error joins all that is
// wrong with config.
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

// Start begins to look the names up. Further calls do nothing, and so does a call after Close.
func (r *Resolver) Start() {
	r.starting.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		for _, t := range r.targets {
			r.running.Go(func() { r.follow(ctx, t) })
		}
	})
}

// Close ends the lookups and waits for the resolver's goroutines, so for a running OnUpdate
// too. Only a lookup by the system's resolver may go on for a while, unseen. Hosts goes on to
// return the last hosts. Further calls do nothing.
func (r *Resolver) Close() {
	r.closing.Do(func() {
		close(r.done)
		r.starting.Do(func() {}) // no Start from now on
		if r.cancel != nil {
			r.cancel()
		}
		r.running.Wait()
		r.looked(len(r.targets))
	})
}

// follow looks t up until ctx ends.
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

// sleep waits for d. It reports false if ctx ended before.
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

// settle makes known what a lookup of t came to. It returns the time to the next one.
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

// news is what follows from a lookup.
type news struct {
	verdict
	first bool   // whether it was the first one of its target
	hosts []Host // all hosts, if some changed
	err   error  // why it failed, if it did
}

// learn takes note of what a lookup of t came to.
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

// announce lets go those that wait for n, of which OnUpdate knows by now.
func (r *Resolver) announce(n news) {
	if n.first {
		r.looked(1)
	}
	if len(n.hosts) > 0 {
		r.filled.Do(func() { close(r.some) })
	}
}

// failure returns err, or that there are no addresses, with the name of t.
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

// looked takes note that the first lookups of n targets have ended or will not take place.
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

// hosts returns the hosts of all targets. r.mu is held.
func (r *Resolver) hosts() []Host {
	var all []Host
	for _, t := range r.targets {
		all = append(all, r.cfg.hostsOf(t.index, t.known.addrs)...)
	}
	return all
}

// Hosts returns the hosts of all targets, those of the first target first.
func (r *Resolver) Hosts() []Host {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hosts()
}

// Stats returns what was counted so far.
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

// Ready returns a channel that is closed when the first lookup of every target has ended, with
// hosts or without, and OnUpdate has returned; or when the resolver is closed. Without targets
// it is closed from the start.
func (r *Resolver) Ready() <-chan struct{} { return r.ready }

// WaitReady waits until Ready is closed and there is a host. If ctx ends before, the error
// wraps the cause of that, ErrNoHosts if Ready is closed, and what the last lookups failed
// with. After Close it is ErrClosed.
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

// unready returns why there are no hosts, when waiting for them ended because of cause.
func (r *Resolver) unready(cause error) error {
	select {
	case <-r.ready:
		return fmt.Errorf("%w: %w", ErrNoHosts, errors.Join(cause, r.Err()))
	default:
		return fmt.Errorf("resolve: not ready: %w", errors.Join(cause, r.Err()))
	}
}
