package tracing

import (
	"context"
	"errors"

	"github.com/pillion-go/pillion"
)

// Server is a policy that draws each call that an upstream serves as a segment, where
// the upstream stands for the service itself: it is for gRPC, behind
// pilliongrpc.ServerOptions; HTTP has [Tracer.Handler]. It stands outside of limits and
// breaker, so that what they refuse is drawn too.
//
//	front, err := pillion.New("front", tracing.Server{Tracer: tracer}, limits.Config{})
//
// The segment goes on with the trace of x-amzn-trace-id in the request's metadata, or
// begins one; it is in the handler's context. It says POST and the method's URL. A status
// that stands for a 4xx is an error, RESOURCE_EXHAUSTED a throttle, what stands for a 5xx a
// fault with its cause, and so is a panic; a client who left is none.
type Server struct {
	// Tracer sends the segments. Nil is an error.
	Tracer *Tracer `json:"-"`

	// Name names the segments. Empty means the tracer's name.
	Name string `json:"name,omitempty"`
}

// Role is that of a policy that draws.
func (Server) Role() pillion.Role { return pillion.RoleTracing }

// Wrap draws the calls that are served.
func (s Server) Wrap(site *pillion.Site, next pillion.Func) (pillion.Func, error) {
	if s.Tracer == nil {
		return nil, errors.New("tracing: Server.Tracer: it is nil")
	}
	if s.Tracer.off {
		return next, nil
	}
	slot := site.Slot()
	end := func(c *pillion.Call, end *pillion.Outcome) {
		if seg, ok := c.State(slot).V.(*Segment); ok {
			seg.served(c, end)
		}
	}
	return func(ctx context.Context, c *pillion.Call) *pillion.Outcome {
		ctx, seg := s.Tracer.Continue(ctx, s.Name, s.inbound(c))
		r := c.Request()
		seg.SetRequest(Request{Method: "POST", URL: urlOf("http", r.Authority, r.Path), UserAgent: c.RequestHeader("User-Agent")})
		c.State(slot).V = seg
		over := false
		defer func() {
			if !over { // a policy panicked
				seg.SetFlags(false, false, true)
				seg.End(nil)
			}
		}()
		o := next(ctx, c)
		over = true
		o.OnEnd(c, end)
		return o
	}, nil
}

// inbound reads what trace the call belongs to.
func (s Server) inbound(c *pillion.Call) Header {
	h := ParseHeader(c.RequestHeader(HeaderName))
	if s.Tracer.w3c && h.Root == "" {
		if w3c, ok := ParseTraceParent(c.RequestHeader(TraceParentName), c.RequestHeader(TraceStateName)); ok {
			w3c.Fields = h.Fields
			return w3c
		}
	}
	return h
}

// served ends the segment with the call.
func (s *Segment) served(c *pillion.Call, end *pillion.Outcome) {
	switch {
	case end.Err == nil, end.Is.Any(pillion.Cancelled):
	case end.Detail == pillion.ViaUpstream && c.Request().Protocol == "grpc":
		s.setGRPC(end)
	default:
		s.SetError(end.Err)
	}
	if end.Flags != 0 {
		s.Annotate("response_flags", end.Flags.String())
	}
	if end.Is.Any(pillion.Refused) {
		s.Annotate("refused", true)
	}
	s.finish()
}

// setGRPC judges a gRPC status, as the X-Ray SDK's interceptors do.
func (s *Segment) setGRPC(end *pillion.Outcome) {
	s.Annotate("grpc_status", end.Code)
	if end.Is.Any(pillion.Failed) {
		s.SetError(end.Err)
		return
	}
	s.SetFlags(true, end.Is.Any(pillion.GRPCResourceExhausted) || end.Code == 8, false)
}
