package outlier

import "time"

// Step is what a call of [Detector.Report], [Detector.Tick] or [Detector.HealthCheckPassed]
// led to.
//
// Steps of concurrent calls can reach their callers in any order. A caller that keeps a copy
// of the hosts' state therefore takes an event as a sign that the state changed, and reads it
// with [Detector.Ejected] or [Detector.Status] under the lock of the copy.
type Step[K comparable] struct {
	// Events are the changes, oldest first. Most steps have none.
	Events []Event[K]

	// Next, unless zero, is an instant at which the caller must call [Detector.Tick].
	Next time.Time
}

// Action is what happened to a host.
type Action uint8

// The actions, as in Envoy's outlier detection log.
const (
	// Eject: the host was detected. See Enforced.
	Eject Action = iota
	// Uneject: the host is no longer ejected, or no longer degraded.
	Uneject
)

// String returns the name that Envoy's outlier detection log uses.
func (a Action) String() string {
	if a == Uneject {
		return "UNEJECT"
	}
	return "EJECT"
}

// Event is one line of Envoy's outlier detection log. A detection that MaxEjectionPercent
// keeps from ejecting makes no event, as in Envoy.
type Event[K comparable] struct {
	// Host is the host.
	Host K

	// Action is what happened to it.
	Action Action

	// Kind is what the host was detected by. An Uneject repeats the Kind of its Eject.
	Kind Kind

	// Enforced reports whether an Eject has an effect. It is false if only the enforcing
	// percentage kept the host from being ejected, and true for every Uneject.
	Enforced bool

	// Count is how often the host has been ejected, this time included; for [Degraded],
	// how often it has been degraded.
	Count uint32

	// SinceLast is the time since the opposite action, or negative if there was none.
	SinceLast time.Duration

	// SuccessRate is the host's, in percent. It is set for the four kinds that a tick detects,
	// and -1 for the others.
	SuccessRate float64

	// Cluster is what SuccessRate was compared with. It is set for the two kinds of success
	// rate.
	Cluster Average
}

// Average is the success rate of a whole cluster.
type Average struct {
	// Mean is the mean of the hosts' success rates, in percent, or -1 if there are too few.
	Mean float64

	// Threshold is the success rate below which a host is detected, in percent, or -1. It can
	// be negative by itself, if rates differ widely.
	Threshold float64
}

// Status describes one host.
type Status struct {
	// Ejected reports whether the host is ejected.
	Ejected bool

	// Kind is what the host was ejected by the last time, if Ejections is not 0.
	Kind Kind

	// Degraded reports whether the host is marked as degraded.
	Degraded bool

	// Ejections and Degradations are how often the host was ejected or marked.
	Ejections, Degradations uint32

	// SuccessRate and LocalOriginSuccessRate are those of the last interval, in percent,
	// or -1 if the host had too few results.
	SuccessRate, LocalOriginSuccessRate float64

	// EjectedAt and UnejectedAt are the instants of the last ejection and of its end. They are
	// zero if there was none.
	EjectedAt, UnejectedAt time.Time

	// Until is the instant from which on the next tick ends the ejection. It is zero unless
	// Ejected.
	Until time.Time
}
