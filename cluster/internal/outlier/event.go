package outlier

import "time"

// Step is the result of [Detector.Report], [Detector.Tick] or [Detector.HealthCheckPassed].
//
// Steps of concurrent calls can reach their callers in any order. A caller that keeps a copy
// of the hosts' state must therefore use an event only as a notification, and read the state
// with [Detector.Ejected] or [Detector.Status], holding the lock of the copy.
type Step[K comparable] struct {
	// Events lists the changes, oldest first. Most steps have none.
	Events []Event[K]

	// Next, unless zero, is the time at which the caller must call [Detector.Tick].
	Next time.Time
}

// Action is a change of a host.
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

// Event is one line of Envoy's outlier detection log. As in Envoy, there is no event if
// MaxEjectionPercent prevents an ejection.
type Event[K comparable] struct {
	// Host is the host.
	Host K

	// Action is the change of the host.
	Action Action

	// Kind is the kind of detection. An Uneject has the Kind of its Eject.
	Kind Kind

	// Enforced reports whether an Eject has an effect. It is false if the enforcing percentage
	// prevented the ejection, and true for every Uneject.
	Enforced bool

	// Count is the number of ejections of the host, including this one; for [Degraded], the
	// number of degradations.
	Count uint32

	// SinceLast is the time since the opposite action. It is negative if there was none.
	SinceLast time.Duration

	// SuccessRate is the success rate of the host, in percent. It is set for the four kinds that
	// a tick detects, and -1 for the others.
	SuccessRate float64

	// Cluster is the average with which SuccessRate was compared. It is set for the two kinds of
	// success rate.
	Cluster Average
}

// Average is the success rate of a whole cluster.
type Average struct {
	// Mean is the mean of the hosts' success rates, in percent, or -1 if there are too few.
	Mean float64

	// Threshold is the success rate below which a host is detected, in percent, or -1 if there
	// are too few. It can also be negative if rates differ widely.
	Threshold float64
}

// Status is the state of one host.
type Status struct {
	// Ejected reports whether the host is ejected.
	Ejected bool

	// Kind is the kind of the last ejection, if Ejections is not 0.
	Kind Kind

	// Degraded reports whether the host is marked as degraded.
	Degraded bool

	// Ejections and Degradations are the numbers of ejections and degradations.
	Ejections, Degradations uint32

	// SuccessRate and LocalOriginSuccessRate are those of the last interval, in percent,
	// or -1 if the host had too few results.
	SuccessRate, LocalOriginSuccessRate float64

	// EjectedAt and UnejectedAt are the times of the last ejection and of the last end of one.
	// They are zero if there was none.
	EjectedAt, UnejectedAt time.Time

	// Until is the end of the ejection time: the first tick from then on ends the ejection. It is
	// zero unless Ejected.
	Until time.Time
}
