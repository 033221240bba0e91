package fault

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/pillion-go/pillion/envoy"
)

// ErrInjected matches every [*Error].
var ErrInjected = errors.New("fault: injected")

// Error is the error of a call that the policy aborted.
type Error struct {
	Upstream   string
	HTTPStatus int // the HTTP status of the abort; 200 if it has a gRPC status
	GRPCStatus int // the gRPC status of the abort, or the one that corresponds to HTTPStatus
}

func (e *Error) Error() string {
	if e.HTTPStatus == http.StatusOK {
		return fmt.Sprintf("fault: %s: aborted on purpose with gRPC status %d", e.Upstream, e.GRPCStatus)
	}
	return fmt.Sprintf("fault: %s: aborted on purpose with status %d", e.Upstream, e.HTTPStatus)
}

// Is reports whether target is [ErrInjected].
func (e *Error) Is(target error) bool { return target == ErrInjected }

// ending is the error and the detail of aborted calls with one status.
type ending struct {
	err    *Error
	detail *envoy.Detail
}

// newEnding returns the ending with an HTTP status and a gRPC status. A grpc of 0 means the gRPC
// status that corresponds to status.
func newEnding(upstream string, status, grpc int) *ending {
	d := envoy.NewDetail(envoy.DetailSpec{
		Text: "fault_filter_abort", Flags: envoy.FI, Status: status, GRPC: grpc, Body: "fault filter abort", Injected: true, Unrouted: true,
	})
	return &ending{&Error{Upstream: upstream, HTTPStatus: status, GRPCStatus: d.GRPCStatus()}, d}
}

// endings holds an ending for each status that a request can ask for, made when it is first used.
type endings struct {
	http [600]atomic.Pointer[ending]
	grpc [17]atomic.Pointer[ending]
}

// withHTTP returns the ending with an HTTP status.
func (e *endings) withHTTP(upstream string, status uint64) *ending {
	return once(&e.http[status], func() *ending { return newEnding(upstream, int(status), 0) }) //nolint:gosec // below 600
}

// withGRPC returns the ending with a gRPC status.
func (e *endings) withGRPC(upstream string, code uint64) *ending {
	return once(&e.grpc[code], func() *ending { return newEnding(upstream, http.StatusOK, int(code)) }) //nolint:gosec // at most 16
}

// once returns what at points to. If at is nil, it first stores the result of create.
func once(at *atomic.Pointer[ending], create func() *ending) *ending {
	if found := at.Load(); found != nil {
		return found
	}
	at.CompareAndSwap(nil, create())
	return at.Load()
}
