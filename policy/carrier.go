package policy

import (
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Carrier sends the attempts of an upstream over its own connections. A policy registers one
// with [Builder.Carry]; the adapter of a protocol finds its own interface in it.
type Carrier interface {
	// Carries reports whether attempts of the protocol go over the carrier's connections.
	Carries(p Protocol) bool
}

// Carry registers the carrier of the upstream. It reports whether it is the first: there is one
// at most.
func (b *Builder) Carry(c Carrier) bool {
	if b.chain.carrier != nil {
		return false
	}
	b.chain.carrier = c
	return true
}

// Carrier returns the carrier that a policy inside this one registered, nil for none.
func (b *Builder) Carrier() Carrier { return b.chain.carrier }

// Carrier returns the carrier of the upstream, nil for none.
func (c *Chain) Carrier() Carrier { return c.carrier }

// Carried reports whether the call's attempts go over the connections of a [Carrier]. It then
// counts what becomes of connections and streams.
func (c *Call) Carried() bool {
	carrier := c.frame.chain.carrier
	return carrier != nil && carrier.Carries(c.Request().Protocol)
}

// Priority is the priority of an upstream's calls. Each has separate connections and limits.
// Mirrors Envoy's RoutingPriority.
type Priority uint8

// The priorities.
const (
	PriorityDefault Priority = iota
	PriorityHigh
)

// String returns Envoy's name of the priority.
func (p Priority) String() string {
	if p == PriorityHigh {
		return "HIGH"
	}
	return "DEFAULT"
}

// Resource is what a policy of limits bounds.
type Resource uint8

// The resources.
const (
	Connections     Resource = iota // connections that are open or being made
	PendingRequests                 // attempts that wait for a connection
	Requests                        // attempts that have one
)

// Slots holds the slots of a policy of limits. Its methods are safe for concurrent use, and
// do not block.
type Slots interface {
	// TryAcquire takes a slot, or returns false if none is free.
	TryAcquire(r Resource) bool
	// Acquire takes a slot beyond the limit, if necessary.
	Acquire(r Resource)
	// Release returns a slot.
	Release(r Resource)
}

// Lender is a policy of limits as a [Borrower] sees it.
type Lender interface {
	// Slots returns the slots of a priority. It returns equal ones for all upstreams that
	// share them.
	Slots(p Priority) Slots
	// Refusal returns the detail and the error of an attempt for which no slot is free.
	Refusal(r Resource) (*envoy.Detail, error)
}

// Borrower is a [Carrier] whose connection pool takes the slots of a policy of limits. Attempts
// that it carries hold no slot otherwise.
type Borrower interface {
	Carrier
	// Borrow has the pool take the slots of l. It returns an error if the pool takes those of
	// another one.
	Borrow(l Lender) error
	// Priority is the priority of the upstream's calls.
	Priority() Priority
}

// HostSelection says which hosts a retry avoids. The zero value avoids none.
type HostSelection struct {
	// AvoidPrevious avoids the hosts of the attempts before. Mirrors the retry host predicate
	// previous_hosts.
	AvoidPrevious bool

	// OmitMetadata avoids hosts whose metadata has all these values, by filter and key.
	// Mirrors the retry host predicate omit_host_metadata.
	OmitMetadata map[string]map[string]any

	// PreviousPriorities, if positive, is after how many attempts the priorities of the hosts
	// so far are avoided. Mirrors update_frequency of the retry priority previous_priorities.
	PreviousPriorities int

	// MaxAttempts is how many times a host that is to be avoided is picked again; then the last
	// one is used. Mirrors host_selection_retry_max_attempts.
	MaxAttempts int
}

// Selector is a [Carrier] that picks the host of each attempt.
type Selector interface {
	Carrier
	// Select sets which hosts retries avoid. The last call holds.
	Select(s HostSelection)
}

// Tried calls yield with the endpoints of the attempts before this one, the latest first, until
// it returns false. An attempt whose endpoint is not known is left out.
func (c *Call) Tried(yield func(endpoint string) bool) {
	for before := c.from; before != nil; before = before.from {
		if endpoint := before.Endpoint(); endpoint != "" && !yield(endpoint) {
			return
		}
	}
}

// Connector is a [Carrier] for protocols whose own client makes the connections. That client
// reports what becomes of connections and attempts; the carrier picks the hosts, counts, and limits.
type Connector interface {
	Carrier
	// Host returns the host of the attempt, nil for none. It is comparable.
	Host(c *Call) Host
	// Wait says that the attempt waits for a connection. If it may not, Wait adds why to o.
	Wait(c *Call, o *Outcome) (ok bool)
	// Attach says that the attempt has a connection: on. If it may not have one, Attach adds why
	// to o.
	Attach(c *Call, on HostConnection, o *Outcome) (ok bool)
	// Unconnected adds to o that the connection that the attempt waited for could not be made.
	Unconnected(c *Call, o *Outcome, err error)
	// ConnectTimeout limits the time to make a connection, 0 for no limit.
	ConnectTimeout() time.Duration
	// Priority is that of the upstream's calls.
	Priority() Priority
}

// Host is a host as a [Connector] picks it. Its methods are safe for concurrent use.
type Host interface {
	// Address is where the host listens, as host:port.
	Address() string
	// Connect says that a connection to the host begins to be made. drain is called, perhaps
	// several times, if the connection is to take no more attempts.
	Connect(p Priority, drain func()) HostConnection
}

// HostConnection receives what happens to a connection to a [Host]: first Ready or Failed, and after Ready
// Closed. Each is called once at most.
type HostConnection interface {
	Ready()
	Failed(err error)
	Closed(byHost bool)
}
