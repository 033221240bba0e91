package pool

// A Kind is one of the limits of Envoy's circuit breakers.
type Kind uint8

// The kinds of slots.
const (
	// Connection is max_connections: connections being made or open.
	Connection Kind = iota
	// Pending is max_pending_requests: requests that wait for a connection.
	Pending
	// Request is max_requests: requests attached to a connection.
	Request
)

// String returns Envoy's name of the limit.
func (k Kind) String() string {
	switch k {
	case Connection:
		return "max_connections"
	case Pending:
		return "max_pending_requests"
	case Request:
		return "max_requests"
	default:
		return "unknown"
	}
}

// Slots lends slots for connections and requests. The pools of all hosts of a cluster
// share one Slots per priority. Its methods are called with the pool locked: they must not
// block, must be safe for concurrent use, and must not call the pool.
type Slots interface {
	// TryAcquire acquires a slot of the kind. It returns false if none is free.
	TryAcquire(Kind) bool
	// Release releases a slot.
	Release(Kind)
}

// ForceSlots is a Slots that can exceed its limit. A pool without a connection makes one even if
// max_connections refuses it, and Envoy counts that connection. If Slots has no Acquire, such a
// connection has no slot.
type ForceSlots interface {
	Slots
	// Acquire acquires a slot of the kind, even beyond the limit.
	Acquire(Kind)
}

// unlimited is the Slots of a pool without limits.
type unlimited struct{}

func (unlimited) TryAcquire(Kind) bool { return true }
func (unlimited) Release(Kind)         {}
