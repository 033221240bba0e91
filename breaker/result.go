package breaker

import (
	"github.com/pillion-go/pillion/policy"
)

// Result says how a guarded call ended. The first six are Expeditor's counters.
type Result uint8

// How a call can end.
const (
	Success    Result = iota
	Failure           // counts against the upstream
	Rejection         // refused by a limit or a full pool; neither for nor against
	Timeout           // counts against the upstream
	Break             // refused by a breaker; neither for nor against
	Dependency        // what it depended on failed; neither for nor against

	resultCount // how many are counted

	// Ignored is counted nowhere: the caller went away, or the request was none.
	Ignored = resultCount
)

// String names the result as Expeditor's status does.
func (r Result) String() string {
	return [...]string{"success", "failure", "rejection", "timeout", "break", "dependency", "ignored"}[r]
}

// failing reports whether r counts against the upstream.
func (r Result) failing() bool { return r == Failure || r == Timeout }

// Classify is how a [Config] without a Classify of its own judges an outcome:
//   - a caller who went away and a request that cannot be sent are Ignored
//   - a refusal inside the breaker is a Rejection, one by another breaker a Break
//   - a time-out is a Timeout, whoever set the limit
//   - a 5xx answer, a connection that failed or broke, and a function's error are a Failure
//   - all else is a Success, a 404 or 429 too
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

// Status is a snapshot of a breaker's counters over its period. It does not
// change later. Mirrors Expeditor::Status.
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
