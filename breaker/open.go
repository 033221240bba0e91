package breaker

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// ErrOpen matches every [*OpenError].
var ErrOpen = errors.New("breaker: circuit open")

// CircuitOpen is the detail of a call that an open breaker refused. Envoy has no such breaker;
// the local reply is the one Envoy sends when a limit is reached.
//
//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var CircuitOpen = envoy.NewDetail(envoy.DetailSpec{
	Text: "circuit_breaker_open", Flags: envoy.UO, Status: 503,
	Body: "overflow", Reset: true, Overloaded: true, Counter: "upstream_rq_breaker_open",
})

// OpenError is the error of a call that a circuit refused. It reports why the circuit opened
// and until when it refuses calls. All calls that an opening refuses share one OpenError:
// treat it as read-only.
type OpenError struct {
	Name   string
	Until  time.Time // the first call after it is admitted as a trial
	Status Status    // the counters when it opened
	Last   []Failed  // up to three last failures between the last closing and the opening, newest first
	Err    error     // the error of a gobreaker engine, else nil
}

// Failed describes a failure that led to an opening.
type Failed struct {
	At     time.Time
	Result Result // Failure or Timeout
	Code   int    // the HTTP status or gRPC code, 0 if none
	Err    error  // nil if the failure was a status
}

func (e *OpenError) Error() string {
	text := "breaker: circuit open"
	if e.Name != "" {
		text = "breaker: " + e.Name + ": circuit open"
	}
	if e.Err != nil {
		return text + ": " + e.Err.Error()
	}
	text += fmt.Sprintf(" until %s: %d failures and %d timeouts beside %d successes",
		e.Until.Format("15:04:05.000"), e.Status.Failure, e.Status.Timeout, e.Status.Success)
	if len(e.Last) == 0 {
		return text
	}
	return text + "; last: " + strings.Join(texts(e.Last), "; ")
}

// String describes the failure without its time.
func (f Failed) String() string {
	switch {
	case f.Err != nil:
		return f.Err.Error()
	case f.Code != 0:
		return fmt.Sprintf("status %d", f.Code)
	}
	return f.Result.String()
}

// Is reports whether target is [ErrOpen].
func (e *OpenError) Is(target error) bool { return target == ErrOpen }

// Unwrap returns the error of a gobreaker engine, if any. It does not return the failures that
// led to the opening: they belong to other calls.
func (e *OpenError) Unwrap() error { return e.Err }

// texts describes failures. It describes equal ones that follow each other once.
func texts(failures []Failed) []string {
	var found []string
	for i := 0; i < len(failures); {
		text, n := failures[i].String(), 1
		for i+n < len(failures) && failures[i+n].String() == text {
			n++
		}
		if i += n; n > 1 {
			text = fmt.Sprintf("%d times %s", n, text)
		}
		found = append(found, text)
	}
	return found
}
