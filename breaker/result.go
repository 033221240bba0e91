package breaker

import (
	"github.com/pillion-go/pillion/policy"
)

// Result is how a guarded call ended. The first six values are Expeditor's counters.
type Result uint8

// The results of a call.
const (
	Success    Result = iota
	Failure           // counts against the upstream
	Rejection         // refused by a limit or a full pool; not in the ratio
	Timeout           // counts against the upstream
	Break             // refused by a breaker; not in the ratio
	Dependency        // a dependency failed; not in the ratio

	resultCount // the number of counted results

	// Ignored is not counted: the call was canceled, or its request was invalid.
	Ignored = resultCount
)

// String returns the name of the result, as in Expeditor's status.
func (r Result) String() string {
	return [...]string{"success", "failure", "rejection", "timeout", "break", "dependency", "ignored"}[r]
}

// failing reports whether r counts against the upstream.
func (r Result) failing() bool { return r == Failure || r == Timeout }

// Classify is the default of [Config].Classify:
//   - A canceled call and an invalid request are Ignored.
//   - A refusal by another breaker inside this one is a Break, any other refusal a Rejection.
//   - Any timeout is a Timeout.
//   - A 5xx response, a connection that failed or broke, and a function's error are a Failure.
//   - Any other outcome is a Success, including 404 and 429.
func Classify(o *policy.Outcome) Result {
	switch {
	case o.Conditions == 0 || o.Conditions == policy.Discarded:
		return Success
	case o.Has(policy.Cancelled | policy.Invalid):
		return Ignored
	case o.Has(policy.Refused):
		if o.Detail == CircuitOpen {
			return Break
		}
		return Rejection
	case o.Has(policy.Timeout):
		return Timeout
	case o.Has(policy.Failure):
		return Failure
	}
	return Success
}

// Status is a snapshot of a breaker's counters over its period. Mirrors Expeditor::Status.
type Status struct {
	Success    int64 `json:"success"`
	Failure    int64 `json:"failure"`
	Rejection  int64 `json:"rejection"`
	Timeout    int64 `json:"timeout"`
	Break      int64 `json:"break"`
	Dependency int64 `json:"dependency"`
}

func (c counts) status() Status {
	return Status{
		Success: c[Success], Failure: c[Failure], Rejection: c[Rejection],
		Timeout: c[Timeout], Break: c[Break], Dependency: c[Dependency],
	}
}
