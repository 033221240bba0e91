package pilliongrpc

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/stats"

	"github.com/pillion-go/pillion/policy"
)

// wire is a [stats.Handler] that records wire events in each attempt. Interceptors cannot see them:
// when response headers arrive, and whether the status came from the server in trailers or was made
// by gRPC's client.
type wire struct{}

// TagRPC returns ctx, which already has the attempt under [attemptKey].
func (wire) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC records s in the attempt of ctx.
func (wire) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin, *stats.OutHeader, *stats.InHeader, *stats.InTrailer:
		if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
			a.see(s)
		}
	}
}

// TagConn returns ctx.
func (wire) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (wire) HandleConn(context.Context, stats.ConnStats) {}

// attemptKey is the key of the attempt in the context of its request.
type attemptKey struct{}

// sentContext is the context of an attempt's request.
type sentContext struct {
	context.Context //nolint:containedctx // it is a context
	attempt         *attempt
}

// Value returns the attempt for attemptKey.
func (c *sentContext) Value(key any) any {
	if key == (attemptKey{}) {
		return c.attempt
	}
	return c.Context.Value(key)
}

// seen is a set of wire events of an attempt.
type seen uint32

const (
	seenBegin    seen = 1 << iota // gRPC's client began the request, and [wire] is installed
	seenSent                      // request headers were sent on a connection
	seenHeaders                   // response headers arrived
	seenTrailers                  // trailers arrived: the status is from the server
)

// sight holds the wire events of an attempt.
type sight struct {
	watched bool // record remote; set before the request is made
	bits    atomic.Uint32
	remote  atomic.Pointer[net.Addr]     // the address to which the request was sent
	finish  atomic.Pointer[streamFinish] // how gRPC ended the stream; nil before, and for unary calls

	mu   sync.Mutex
	call *policy.Attempt // receives HeadersReceived while Try runs; guarded by mu
}

// streamFinish is the error with which gRPC ended a stream.
type streamFinish struct{ err error }

// see records an event. A transparent retry of gRPC's client starts with Begin again.
func (s *sight) see(event stats.RPCStats) {
	switch event := event.(type) {
	case *stats.Begin:
		s.finish.Store(nil)
		s.bits.Store(uint32(seenBegin))
	case *stats.OutHeader:
		if s.watched && event.RemoteAddr != nil {
			s.remote.Store(&event.RemoteAddr)
		}
		s.bits.Or(uint32(seenSent))
	case *stats.InHeader:
		s.bits.Or(uint32(seenHeaders))
		s.headersReceived()
	case *stats.InTrailer:
		s.bits.Or(uint32(seenTrailers))
	}
}

// has reports whether all of bits were seen.
func (s *sight) has(bits seen) bool { return seen(s.bits.Load())&bits == bits }

// follow makes c receive HeadersReceived until unfollow.
func (s *sight) follow(c *policy.Attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call = c
}

func (s *sight) unfollow() { s.follow(nil) }

func (s *sight) headersReceived() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call != nil {
		s.call.HeadersReceived()
	}
}
