package policy

import "net/textproto"

// Builder is passed to [Policy] Wrap. A policy uses it to reserve state, register listeners and
// statistics, and declare what it needs.
type Builder struct{ chain *Chain }

// Upstream is the name of the upstream.
func (b *Builder) Upstream() string { return b.chain.name }

// Slot reserves room for the policy's own state in every Call.
func (b *Builder) Slot() Slot {
	b.chain.slots++
	return Slot(b.chain.slots - 1)
}

// Listen registers a listener for the upstream's calls.
func (b *Builder) Listen(listener Listener) {
	b.chain.listeners = append(b.chain.listeners, listener)
}

// Prepare has prepare called before each attempt of a client goes to the wire, to add to its
// request header what the next hop is told.
func (b *Builder) Prepare(prepare func(a *Attempt)) {
	b.chain.preparers = append(b.chain.preparers, prepare)
}

// Claim reports whether key is new to the upstream. It is false if a policy inside this one has
// claimed the same key, so that a policy can refuse to stand twice, whatever the order. The key is
// comparable, and of a type of the policy's own package. See [Place] Once for what [AnyOrder] may
// allow.
func (b *Builder) Claim(key any) bool {
	c := b.chain
	if _, taken := c.claims[key]; taken {
		return false
	}
	if c.claims == nil {
		c.claims = map[any]struct{}{}
	}
	c.claims[key] = struct{}{}
	return true
}

// Needs is what a policy needs of each attempt. The zero value needs nothing.
type Needs struct {
	// Cancel asks that each attempt have its own context, so that its response can be discarded
	// without waiting for a slow rest of it.
	Cancel bool

	// Headers asks that response headers be waited for also of a stream: the policy acts on them.
	// Policies that retry or hedge need not ask.
	Headers bool

	// AnnounceDeadline has each attempt tell the server how long it will be waited for, in
	// x-envoy-expected-rq-timeout-ms.
	AnnounceDeadline bool

	// Consume names request headers that the policy honors. They are not sent.
	Consume []string

	// KeepBodies is how many bytes of a request body that cannot be had again adapters keep for a
	// retry. The last policy to ask for some holds.
	KeepBodies int64
}

// Require declares what the policy needs, beside what other policies do.
func (b *Builder) Require(n Needs) {
	c := b.chain
	c.cancellable = c.cancellable || n.Cancel
	c.awaitsHead = c.awaitsHead || n.Headers
	c.announce = c.announce || n.AnnounceDeadline
	for _, name := range n.Consume {
		c.consumed = append(c.consumed, textproto.CanonicalMIMEHeaderKey(name))
	}
	if n.KeepBodies != 0 {
		c.keeps = n.KeepBodies
	}
}

// StatKind says how a statistic behaves.
type StatKind uint8

// The kinds of statistics.
const (
	Gauge     StatKind = iota // it goes up and down
	Counter                   // it only grows
	Histogram                 // values in whole units: milliseconds, bytes, per cent
)

// Stat is a statistic that a policy offers.
type Stat struct {
	Kind StatKind

	// Name is Envoy's, after "cluster.<name>.".
	Name string

	// Of is what the statistic belongs to, if several upstreams offer the same one. It is
	// comparable. Statistics of one name and one Of are shown once.
	Of any

	// Read returns the value. It is called whenever statistics are shown, so it must be fast and
	// safe for concurrent use. A Histogram has none.
	Read func() uint64

	// Record hands over the function that a Histogram is to call with each value from then on.
	// That function is safe for concurrent use. Other kinds have none.
	Record func(record func(value uint64))
}

// Stat offers statistics, such as how many slots are free.
func (b *Builder) Stat(stats ...Stat) {
	c := b.chain
	c.stats = append(c.stats, stats...)
	for _, show := range c.shows {
		for _, s := range stats {
			show(s)
		}
	}
}

// Stats calls show for each statistic that a policy of the upstream offers: now for those of the
// policies inside this one, and later for others. It is for policies that show statistics.
func (b *Builder) Stats(show func(s Stat)) {
	c := b.chain
	for _, s := range c.stats {
		show(s)
	}
	c.shows = append(c.shows, show)
}

// retryLimiter asks leave for retries.
type retryLimiter struct {
	acquire func(failed *Call) bool
	release func()
}

// LimitRetries registers a limit of concurrent retries: acquire is called before each retry, with
// the attempt that failed, and release when the retry's response headers arrive. The last policy
// to register limits, in place of a retry policy's own budget.
func (b *Builder) LimitRetries(acquire func(failed *Call) bool, release func()) {
	b.chain.retries = retryLimiter{acquire, release}
}

// LimitsRetries reports whether a policy inside this one limits concurrent retries. For a call,
// [Call.RetriesLimited] knows of all policies.
func (b *Builder) LimitsRetries() bool { return b.chain.retries.acquire != nil }
