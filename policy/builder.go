package policy

import (
	"log/slog"
	"net/textproto"
)

// Builder is passed to [Policy] Wrap. A policy uses it to reserve state, register listeners and
// statistics, and declare what it needs.
type Builder struct{ chain *Chain }

// Upstream returns the name of the upstream.
func (b *Builder) Upstream() string { return b.chain.name }

// Slot reserves room for the policy's state in every Call.
func (b *Builder) Slot() Slot {
	b.chain.slots++
	return Slot(b.chain.slots - 1)
}

// Listen registers a listener for the upstream's calls.
func (b *Builder) Listen(listener Listener) {
	b.chain.listeners = append(b.chain.listeners, listener)
}

// Prepare registers a function that runs before a client sends an attempt. It may add to the
// attempt's request header what the next hop must know.
func (b *Builder) Prepare(prepare func(a *Attempt)) {
	b.chain.preparers = append(b.chain.preparers, prepare)
}

// Announce registers a function that adds the remaining time to the request header of each attempt. It
// runs after the functions of Prepare, and only if a policy asks for that: see [Needs] AnnounceDeadline.
func (b *Builder) Announce(announce func(a *Attempt)) {
	b.chain.announcers = append(b.chain.announcers, announce)
}

// Claim reports whether key is new to the upstream. It reports false if a policy inside this one
// has claimed the same key, so that a policy can refuse to be used twice, whatever the order. The
// key must be comparable, and of a type of the policy's own package. See [Place] Once for a check
// that [AnyOrder] can turn off.
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

// Needs declares what a policy needs of each attempt. The zero value needs nothing.
type Needs struct {
	// Cancel asks for a context for each attempt, so that its response can be discarded without
	// waiting for a slow rest of it.
	Cancel bool

	// Headers asks adapters of streams to wait for the response headers, because the policy acts on
	// them. Policies that retry or hedge need not ask.
	Headers bool

	// Sizes asks adapters to measure each attempt: see [Call.Sizes].
	Sizes bool

	// AnnounceDeadline asks to send the remaining time of each attempt to the server, in
	// x-envoy-expected-rq-timeout-ms.
	AnnounceDeadline bool

	// Consume names request headers that the policy honors. They are not sent to the upstream.
	Consume []string

	// KeepBodies is the maximum number of bytes of a request body that adapters keep for a retry, if
	// the body cannot be read again. The outermost policy with a value other than 0 decides.
	KeepBodies int64
}

// Require adds n to the needs of the other policies.
func (b *Builder) Require(n Needs) {
	c := b.chain
	c.cancellable = c.cancellable || n.Cancel
	c.awaitsHead = c.awaitsHead || n.Headers
	c.measures = c.measures || n.Sizes
	c.announce = c.announce || n.AnnounceDeadline
	for _, name := range n.Consume {
		c.consumed = append(c.consumed, textproto.CanonicalMIMEHeaderKey(name))
	}
	if n.KeepBodies != 0 {
		c.keeps = n.KeepBodies
	}
}

// StatKind is the kind of a statistic.
type StatKind uint8

// The kinds of statistics.
const (
	Gauge     StatKind = iota // a value that can rise and fall
	Counter                   // a value that only rises
	Histogram                 // values in whole units, such as milliseconds, bytes or percent
	Endpoints                 // the statistics of the current endpoints, a set that can change
)

// Stat is a statistic that a policy offers.
type Stat struct {
	Kind StatKind

	// Name is Envoy's name after "cluster.<name>.", such as "upstream_cx_active".
	Name string

	// Of identifies the owner of the statistic, if several upstreams offer it. It must be
	// comparable. Statistics with the same Name and Of are shown once. Nil means no owner.
	Of any

	// Read returns the value of a Gauge or Counter. It is called each time statistics are shown, so it
	// must be fast and safe for concurrent use. It must be nil for other kinds.
	Read func() uint64

	// Record receives, for a Histogram, a function that the policy must call with each later value.
	// That function is safe for concurrent use. Record must be nil for other kinds.
	Record func(record func(value uint64))

	// Endpoints returns, for the kind Endpoints, the statistics of the current endpoints. It must
	// return the same pointer until the endpoints change; nil means none. It must be fast and safe for
	// concurrent use. It must be nil for other kinds.
	Endpoints func() *EndpointStats
}

// EndpointStats holds the statistics of all current endpoints. It must not be changed.
type EndpointStats struct{ List []EndpointStat }

// EndpointStat holds the statistics of one endpoint. Their names are those of Envoy:
// "endpoint.<address>.<name>" after "cluster.<name>.".
type EndpointStat struct {
	Address  string // host:port
	Hostname string // "" for none
	Stats    []Stat // gauges and counters
}

// Stat offers statistics, such as the number of free slots. A statistic that cannot be shown, for
// example because its name is in use, is an error of New. A policy may keep the Builder and offer more
// statistics after New: Stat is safe for concurrent use, and an error is then logged to
// [slog.Default].
func (b *Builder) Stat(stats ...Stat) {
	c := b.chain
	c.offering.Lock()
	defer c.offering.Unlock()
	c.stats = append(c.stats, stats...)
	for _, show := range c.shows {
		for _, s := range stats {
			c.noteStat(show(s))
		}
	}
}

// noteStat keeps the error of a statistic for New, or logs it if New has returned. The caller holds
// offering.
func (c *Chain) noteStat(err error) {
	switch {
	case err == nil:
	case c.built:
		slog.Error("pillion: a statistic is not shown", slog.String("upstream", c.name), slog.Any("error", err))
	default:
		c.unshown = append(c.unshown, err)
	}
}

// statErrors returns the errors of the statistics that were offered while the chain was built.
func (c *Chain) statErrors() []error {
	c.offering.Lock()
	defer c.offering.Unlock()
	c.built = true
	return c.unshown
}

// Stats calls show for each statistic that a policy of the upstream offers: immediately for the
// statistics that are already offered, and later for the others. It is for policies that show
// statistics. show must not offer statistics. It returns an error for a statistic that it cannot show.
func (b *Builder) Stats(show func(s Stat) error) {
	c := b.chain
	c.offering.Lock()
	defer c.offering.Unlock()
	for _, s := range c.stats {
		c.noteStat(show(s))
	}
	c.shows = append(c.shows, show)
}

// retryLimiter decides whether a retry may start.
type retryLimiter struct {
	acquire func(failed *Call) bool
	release func()
}

// LimitRetries registers a limit of concurrent retries. acquire is called before each retry, with
// the attempt that failed. release is called when the retry's response headers arrive. If several
// policies register limits, the outermost one decides; it replaces a retry policy's own budget.
func (b *Builder) LimitRetries(acquire func(failed *Call) bool, release func()) {
	b.chain.retries = retryLimiter{acquire, release}
}

// LimitsRetries reports whether a policy inside this one limits concurrent retries.
// [Call.RetriesLimited] reports it for all policies.
func (b *Builder) LimitsRetries() bool { return b.chain.retries.acquire != nil }
