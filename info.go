package pillion

import (
	"context"
	"sync"

	"github.com/pillion-go/pillion/envoy"
)

// Info tells a caller what happened to its call: attempts, response flags,
// details, endpoint. Its methods may be called at any time and from any goroutine;
// after the response's head they tell what is known so far, and after the end of its
// body all of it. An Info is for one call: when several use it, it tells of the one
// that it heard of last.
type Info struct {
	mu   sync.Mutex
	seen callReport // guarded by mu
}

// callReport is what an Info knows.
type callReport struct {
	upstream string
	endpoint string
	attempts int
	overflow bool // of a retry
	outcome  Outcome
	done     bool
}

type infoKey struct{}

// WithInfo gives a context for one call, and the Info that will tell of it.
//
//	ctx, info := pillion.WithInfo(ctx)
//	resp, err := client.Do(req.WithContext(ctx))
//	log.Print(info.Attempts(), info.Flags())
func WithInfo(ctx context.Context) (context.Context, *Info) {
	info := &Info{}
	return context.WithValue(ctx, infoKey{}, info), info
}

func infoFrom(ctx context.Context) *Info {
	info, _ := ctx.Value(infoKey{}).(*Info)
	return info
}

// Upstream is the name of the upstream that served the call, "" before the head.
func (i *Info) Upstream() string { return i.get().upstream }

// Endpoint is the address that the last attempt went to, "" when none was chosen.
func (i *Info) Endpoint() string { return i.get().endpoint }

// Attempts is how many attempts were made, refused ones included.
func (i *Info) Attempts() int { return i.get().attempts }

// Code is the HTTP status or gRPC code of the upstream's answer, 0 when there was
// none, though a local reply may have stood in.
func (i *Info) Code() int { return i.get().outcome.Code }

// Flags are Envoy's response flags of the call.
func (i *Info) Flags() envoy.Flags { return i.get().outcome.Flags }

// RetryOverflow reports whether the call needed a retry that was not made, because the
// budget or a limit of retries was used up. It has the flag UO then, as a call has that a breaker
// or a limit refused, which for this is false.
func (i *Info) RetryOverflow() bool { return i.get().overflow }

// Detail tells how the call ended, in Envoy's response code details.
func (i *Info) Detail() *envoy.Detail { return i.get().outcome.Detail }

// Err is why there was no answer, or why it broke off; nil for a good call.
func (i *Info) Err() error { return i.get().outcome.Err }

// Done reports whether the call, its body included, has ended.
func (i *Info) Done() bool { return i.get().done }

func (i *Info) get() callReport {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen
}

// tell takes down what is known of the call, at its head or at its end.
func (i *Info) tell(f *flight, o *Outcome, done bool) {
	seen := callReport{upstream: f.upstream.name, attempts: f.begun(), overflow: f.overflowed.Load(), outcome: *o, done: done}
	seen.outcome.open, seen.outcome.Value = nil, nil // keep nothing alive
	if c := f.latest.Load(); c != nil {
		seen.endpoint = c.Endpoint()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen = seen
}
