package pilliongrpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Domain is the domain of the [errdetails.ErrorInfo] in statuses that the library makes.
const Domain = "pillion"

// Error is the error of a call without a response from the upstream: a policy refused the call, a
// timeout fired, or the network failed. [status.FromError] returns its status, which has an
// ErrorInfo with the response flags. errors.Is and errors.As find the cause: breaker.ErrOpen,
// limits.ErrFull, a [*pillion.TimeoutError] and with it [context.DeadlineExceeded], a
// [*pillion.UpstreamError], or [context.Canceled].
//
// A status from the upstream is returned unchanged, and not as an Error.
type Error struct {
	Upstream string
	Flags    envoy.Flags
	Detail   *envoy.Detail
	Err      error // the cause
	status   *status.Status
}

// Error returns the text of the status, as gRPC formats it.
func (e *Error) Error() string { return e.GRPCStatus().Err().Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// GRPCStatus returns the status. gRPC uses this method to find it. An Error not made by the library
// has the code UNKNOWN.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.Newf(codes.Unknown, "%v", e.Err)
	}
	return e.status
}

// Timeout reports whether a timeout fired. It implements the method of [net.Error].
func (e *Error) Timeout() bool { return errors.Is(e.Err, context.DeadlineExceeded) }

// callError returns the error that the caller of a call with outcome o receives.
func callError(u *pillion.Upstream, o *policy.Outcome, retried bool) error {
	if o.Err == nil {
		return nil
	}
	code, sent := resultCode(u, o)
	if sent {
		return o.Err
	}
	return newError(u, code, o.Err, o.Flags, o.Detail, retried)
}

// resultCode returns the status code of an outcome with an error. sent reports whether the error
// itself has the code: the upstream sent it, and it is returned unchanged.
func resultCode(u *pillion.Upstream, o *policy.Outcome) (code codes.Code, sent bool) {
	if o.Detail == envoy.ViaUpstream || o.Detail == nil {
		if o.Has(policy.Refused) {
			return codes.Unavailable, false
		}
		if s, ok := status.FromError(o.Err); ok {
			return s.Code(), true
		}
	}
	return localCode(u, o), false
}

// ofError returns the error to show for an error that ended an open stream, if no outcome is known.
func ofError(u *pillion.Upstream, err error) error {
	var limit *pillion.TimeoutError
	var broken *pillion.UpstreamError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &limit):
		return newError(u, codes.DeadlineExceeded, err, limit.Scope.Detail().Flags(), limit.Scope.Detail(), false)
	case errors.As(err, &broken):
		return newError(u, ownCode(broken.Err), err, broken.Flags, broken.Detail, false)
	case errors.Is(err, context.Canceled):
		return newError(u, codes.Canceled, err, envoy.DC, envoy.CallerGone, false)
	case errors.Is(err, context.DeadlineExceeded) && ownCode(err) == codes.OK: // the engine does not watch the stream
		limit = &pillion.TimeoutError{Upstream: u.Name(), Scope: policy.ScopeCaller}
		return newError(u, codes.DeadlineExceeded, limit, envoy.UT, envoy.ResponseTimeout, false)
	}
	return callError(u, &policy.Outcome{Err: err}, false)
}

// serverError returns the error that a client receives for a call without a status from its
// handler: the code of the cause, and the text of Envoy's local reply. The text of the cause is only
// for policies and interceptors, because it may contain the errors of other clients' calls.
func serverError(u *pillion.Upstream, o *policy.Outcome) error {
	if _, ok := o.Err.(interface{ GRPCStatus() *status.Status }); ok { // a wrapped status is not meant for the client
		return o.Err // the status of a policy
	}
	code := localCode(u, o)
	_, text := o.Detail.LocalReply(false)
	switch {
	case text != "":
	case code == codes.Canceled:
		text = "the client canceled the call"
	case o.Has(policy.Refused):
		code, text = codes.Unavailable, http.StatusText(http.StatusServiceUnavailable)
	default:
		code, text = codes.Unknown, http.StatusText(http.StatusInternalServerError)
	}
	return &Error{Upstream: u.Name(), Flags: o.Flags, Detail: o.Detail, Err: o.Err, status: newStatus(u, code, text, o.Flags, o.Detail)}
}

// localCode returns the status code of a call without a response. It is Envoy's code, except for
// timeouts, for which gRPC has DEADLINE_EXCEEDED. With LocalReplies of [pillion.Options] it is
// Envoy's for timeouts, too.
func localCode(u *pillion.Upstream, o *policy.Outcome) codes.Code {
	own := ownCode(o.Err)
	if own != codes.OK && !o.Has(policy.Cancelled|policy.Timeout) && (o.Has(policy.Invalid) || o.Detail.LocalStatus() == 0) {
		return own
	}
	return codes.Code(o.GRPCStatus(u.Options().LocalReplies)) //nolint:gosec // a code
}

// ownCode returns the status code of err, or OK if it has none.
func ownCode(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return codes.OK
}

// newError adds a status to err.
func newError(u *pillion.Upstream, code codes.Code, err error, flags envoy.Flags, detail *envoy.Detail, retried bool) *Error {
	s := newStatus(u, code, text(u, err, detail, retried), flags, detail)
	return &Error{Upstream: u.Name(), Flags: flags, Detail: detail, Err: err, status: s}
}

// newStatus makes a status whose ErrorInfo has the response flags.
func newStatus(u *pillion.Upstream, code codes.Code, text string, flags envoy.Flags, detail *envoy.Detail) *status.Status {
	s := status.New(code, text)
	with, err := s.WithDetails(&errdetails.ErrorInfo{
		Reason: reason(flags), Domain: Domain,
		Metadata: map[string]string{
			"upstream_cluster": u.Name(), "response_flags": flags.String(), "response_code_details": detail.String(),
		},
	})
	if err != nil {
		return s
	}
	return with
}

// text returns the text of a status: Envoy's text with LocalReplies, else that of err.
func text(u *pillion.Upstream, err error, detail *envoy.Detail, retried bool) string {
	if status, local := detail.LocalReply(retried); u.Options().LocalReplies && status != 0 {
		return local
	}
	if broken, ok := errors.AsType[*pillion.UpstreamError](err); ok {
		if s, ok := status.FromError(broken.Err); ok {
			return fmt.Sprintf("pillion: %s: %v %v: %s", broken.Upstream, broken.Flags, broken.Detail, s.Message())
		}
	}
	return err.Error()
}

// reason returns the long name of the most important flag in the format of ErrorInfo:
// UPSTREAM_OVERFLOW.
func reason(flags envoy.Flags) string {
	flags &^= envoy.URX // retries are not the reason of the failure
	if flags == 0 {
		return "UPSTREAM_REQUEST_FAILED"
	}
	long, _, _ := strings.Cut(flags.Long(), ",")
	var b strings.Builder
	for i, r := range long {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// noResponse returns the error for a policy that returned neither an error nor a response of this
// package.
func noResponse(u *pillion.Upstream, o *policy.Outcome) error {
	err := fmt.Errorf("pillion: %s: a policy returned a %T in place of a response", u.Name(), o.Value)
	return newError(u, codes.Internal, err, o.Flags, o.Detail, false)
}
