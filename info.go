package pillion

import (
	"context"
	"sync"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Info tells a caller what happened to its call: attempts, response flags,
// details, endpoint. Its methods may be called at any time and from any goroutine;
// after the response's head they tell what is known so far, and after the end of its
// body all of it. An Info is for one call: when several use it, it tells of the one
// that it heard of last.
type Info struct {
	mu   sync.Mutex
	seen policy.Report // guarded by mu
}

// infoObserver is an Info as the engine sees it.
type infoObserver Info

// Observe takes down what is known of the call.
func (i *infoObserver) Observe(r policy.Report) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen = r
}

// WithInfo gives a context for one call, and the Info that will tell of it.
//
//	ctx, info := pillion.WithInfo(ctx)
//	resp, err := client.Do(req.WithContext(ctx))
//	log.Print(info.Attempts(), info.Flags())
func WithInfo(ctx context.Context) (context.Context, *Info) {
	info := &Info{}
	return policy.WithObserver(ctx, (*infoObserver)(info)), info
}

// Upstream is the name of the upstream that served the call, "" before the head.
func (i *Info) Upstream() string { return i.get().Upstream }

// Endpoint is the address that the last attempt went to, "" when none was chosen.
func (i *Info) Endpoint() string { return i.get().Endpoint }

// Attempts is how many attempts were made, refused ones included.
func (i *Info) Attempts() int { return i.get().Attempts }

// Code is the HTTP status or gRPC code of the upstream's answer, 0 when there was
// none, though a local reply may have stood in.
func (i *Info) Code() int { return i.get().Outcome.Code }

// Flags are Envoy's response flags of the call.
func (i *Info) Flags() envoy.Flags { return i.get().Outcome.Flags }

// RetryOverflow reports whether the call needed a retry that was not made, because the
// budget or a limit of retries was used up. It has the flag UO then, as a call has that a breaker
// or a limit refused, which for this is false.
func (i *Info) RetryOverflow() bool { return i.get().RetryOverflow }

// Detail tells how the call ended, in Envoy's response code details.
func (i *Info) Detail() *envoy.Detail { return i.get().Outcome.Detail }

// Err is why there was no answer, or why it broke off; nil for a good call.
func (i *Info) Err() error { return i.get().Outcome.Err }

// Done reports whether the call, its body included, has ended.
func (i *Info) Done() bool { return i.get().Done }

func (i *Info) get() policy.Report {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen
}
