package policy

import (
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Carrier sends the attempts of an upstream over its own connections, in place of the transport of the
// protocol. Package cluster has one. A policy registers it with [Builder.Carry]. The adapter of each
// protocol requires additional methods: that of gRPC those of [Connector].
type Carrier interface {
	// Carries reports whether attempts of the protocol go over the carrier's connections.
	Carries(p Protocol) bool
}

// Carry registers c as the carrier of the upstream. An upstream has at most one carrier: if there is
// one, Carry returns false and changes nothing.
func (b *Builder) Carry(c Carrier) bool {
	if b.chain.carrier != nil {
		return false
	}
	b.chain.carrier = c
	return true
}

// Carrier returns the carrier that a policy inside this one registered, or nil.
func (b *Builder) Carrier() Carrier { return b.chain.carrier }

// Carrier returns the carrier of the upstream, or nil.
func (c *Chain) Carrier() Carrier { return c.carrier }

// Carried reports whether a [Carrier] sends the attempts of the call. The carrier then counts
// connections and streams.
func (c *Call) Carried() bool {
	carrier := c.frame.chain.carrier
	return carrier != nil && carrier.Carries(c.Request().Protocol)
}

// SetMultiplexed reports that the attempt is a stream of a connection that carries several, such as one
// of HTTP/2. A [Carrier] calls it when the attempt has a connection.
func (c *Call) SetMultiplexed() { c.multiplexed = true }

// Multiplexed reports whether a [Carrier] has called SetMultiplexed for the attempt.
func (c *Call) Multiplexed() bool { return c.multiplexed }

// Priority is the priority of an upstream's calls. Each priority has separate connections and limits.
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

// Resource is a kind of slot. Mirrors the limits of Envoy's circuit breakers.
type Resource uint8

// The resources.
const (
	Connections     Resource = iota // connections that are open or being made
	PendingRequests                 // attempts that wait for a connection
	Requests                        // attempts that have a connection
)

// Slots holds the slots of a limits policy. Its methods are safe for concurrent use, and do not
// block.
type Slots interface {
	// TryAcquire acquires a slot. It returns false if none is free.
	TryAcquire(r Resource) bool
	// Acquire acquires a slot, even beyond the limit.
	Acquire(r Resource)
	// Release releases a slot.
	Release(r Resource)
}

// Lender is a limits policy that lends its slots to a [Borrower].
type Lender interface {
	// Slots returns the slots of a priority. Upstreams that share slots receive equal values.
	Slots(p Priority) Slots
	// Refusal returns the detail and the error of an attempt that is refused because no slot of r is
	// free.
	Refusal(r Resource) (*envoy.Detail, error)
}

// Borrower is a [Carrier] whose connection pool acquires the slots of a limits policy. The policy
// itself acquires none for attempts that the Borrower carries.
type Borrower interface {
	Carrier
	// Borrow makes the pool acquire the slots of l. It returns an error if the pool already uses the
	// slots of another Lender.
	Borrow(l Lender) error
	// Priority returns the priority of the upstream's calls.
	Priority() Priority
}

// HostSelection determines which hosts a retry avoids. The zero value avoids none.
type HostSelection struct {
	// AvoidPrevious avoids the hosts of previous attempts. Mirrors the retry host predicate
	// previous_hosts.
	AvoidPrevious bool

	// OmitMetadata avoids hosts whose metadata has all these values, by filter and key.
	// Mirrors the retry host predicate omit_host_metadata.
	OmitMetadata map[string]map[string]any

	// PreviousPriorities, if positive, is the number of attempts after which the priorities of their
	// hosts are avoided. Zero avoids none. Mirrors update_frequency of the retry priority
	// previous_priorities.
	PreviousPriorities int

	// MaxAttempts is the maximum number of further picks if a picked host is to be avoided. After that
	// the last picked host is used. Mirrors host_selection_retry_max_attempts.
	MaxAttempts int
}

// Selector is a [Carrier] that picks the host of each attempt.
type Selector interface {
	Carrier
	// Select sets which hosts retries avoid. A later call replaces an earlier one.
	Select(s HostSelection)
}

// Tried calls yield with the endpoints of the attempts before this one, the latest first, until yield
// returns false. It skips attempts whose endpoint is not known.
func (c *Call) Tried(yield func(endpoint string) bool) {
	for before := c.from; before != nil; before = before.from {
		if endpoint := before.Endpoint(); endpoint != "" && !yield(endpoint) {
			return
		}
	}
}

// Connector is a [Carrier] for protocols whose own client makes the connections, such as gRPC. The
// client reports the states of connections and attempts; the carrier picks the hosts, counts, and
// limits.
type Connector interface {
	Carrier
	// Host returns the host of the attempt, or nil. Hosts are comparable.
	Host(c *Call) Host
	// Wait reports that the attempt waits for a connection. If a limit refuses the wait, Wait adds the
	// refusal to o and returns false.
	Wait(c *Call, o *Outcome) (ok bool)
	// Attach reports that the attempt uses the connection on. If a limit refuses the attempt, Attach
	// adds the refusal to o and returns false.
	Attach(c *Call, on HostConnection, o *Outcome) (ok bool)
	// Unconnected reports that the connect for which the attempt waited failed with err. It adds the
	// failure to o.
	Unconnected(c *Call, o *Outcome, err error)
	// ConnectTimeout returns the limit on the time to make a connection, 0 for no limit.
	ConnectTimeout() time.Duration
	// Priority returns the priority of the upstream's calls.
	Priority() Priority
}

// Host is a host of a [Connector]. Its methods are safe for concurrent use.
type Host interface {
	// Address returns the address of the host, as host:port.
	Address() string
	// Connect reports that the client starts to make a connection to the host. The host calls drain,
	// at any time and possibly several times, if the connection must take no more attempts.
	Connect(p Priority, drain func()) HostConnection
}

// HostConnection receives the changes of a connection to a [Host]: first Ready or Failed, and after
// Ready Closed. Each method is called at most once.
type HostConnection interface {
	// Ready reports that the connection is established.
	Ready()
	// Failed reports that the connection could not be made.
	Failed(err error)
	// Closed reports that the connection was closed, by the host or by the client.
	Closed(byHost bool)
}
