package pillion

import (
	"context"
	"sync"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Info reports what happened to a call: attempts, response flags, details, endpoint. Its methods
// are safe for concurrent use and may be called at any time. After the response headers they report
// what is known so far, after the end of the body everything. An Info is for one call; if several
// calls use it, it reports the one that changed last.
type Info struct {
	mu   sync.Mutex
	seen policy.Report // guarded by mu
}

// infoObserver is an Info as the engine sees it.
type infoObserver Info

// Observe stores the report.
func (i *infoObserver) Observe(r policy.Report) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen = r
}

// WithInfo returns a context for one call, and the Info that reports it.
//
//	ctx, info := pillion.WithInfo(ctx)
//	resp, err := client.Do(req.WithContext(ctx))
//	log.Print(info.Attempts(), info.Flags())
func WithInfo(ctx context.Context) (context.Context, *Info) {
	info := &Info{}
	return policy.WithObserver(ctx, (*infoObserver)(info)), info
}

// Upstream returns the name of the upstream that served the call, "" before the response headers.
func (i *Info) Upstream() string { return i.get().Upstream }

// Endpoint returns the address of the last attempt, "" if none was chosen.
func (i *Info) Endpoint() string { return i.get().Endpoint }

// Attempts returns how many attempts were made, refused ones included.
func (i *Info) Attempts() int { return i.get().Attempts }

// Code returns the HTTP status or gRPC code of the upstream's response. It is 0 if there was none,
// even if a local reply took its place.
func (i *Info) Code() int { return i.get().Outcome.Code }

// Flags returns Envoy's response flags of the call.
func (i *Info) Flags() envoy.Flags { return i.get().Outcome.Flags }

// RetryOverflow reports whether the call needed a retry that was not made because the budget or the
// limit of concurrent retries was used up. The call then has the flag UO. A call that a breaker or
// a limit refused has that flag too, but RetryOverflow is false for it.
func (i *Info) RetryOverflow() bool { return i.get().RetryOverflow }

// Detail returns how the call ended, as Envoy's response code details.
func (i *Info) Detail() *envoy.Detail { return i.get().Outcome.Detail }

// Err returns why there was no response or why it broke off, nil if it was complete.
func (i *Info) Err() error { return i.get().Outcome.Err }

// Done reports whether the call, its body included, has ended.
func (i *Info) Done() bool { return i.get().Done }

func (i *Info) get() policy.Report {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen
}
