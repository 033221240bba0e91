package tracing

import (
	"context"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Server is a policy that records each served call as a segment. It is for upstreams that
// stand for the service itself, in gRPC servers with pilliongrpc.ServerOptions; for HTTP
// there is [Tracer.Handler]. It belongs outside of limits and breaker, so that calls that
// they refuse are recorded too.
//
//	front, err := pillion.New("front", tracing.Server{Tracer: tracer}, limits.Config{})
//
// The segment continues the trace of x-amzn-trace-id in the request's metadata, or begins a
// new trace. It is in the handler's context. It records POST and the URL of the method. A
// gRPC status that stands for a 4xx is an error, RESOURCE_EXHAUSTED is also a throttle, and
// a status that stands for a 5xx is a fault with its cause. A panic and [runtime.Goexit]
// are faults; a canceled call is not. The header is trusted from any caller, as in
// [Tracer.Handler].
type Server struct {
	// Tracer sends the segments. Nil is an error.
	Tracer *Tracer `json:"-"`

	// Name names the segments. Empty means the tracer's name.
	Name string `json:"name,omitempty"`
}

// Place is outside of retry and hedge: inside, the policy would record attempts as calls.
func (Server) Place() policy.Place { return place() }

// Wrap records the calls that are served.
func (s Server) Wrap(site *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := s.Tracer.check("Server.Tracer"); err != nil {
		return nil, err
	}
	if s.Tracer.off {
		return next, nil
	}
	slot := site.Slot()
	end := func(c *policy.Call, end *policy.Outcome) {
		if seg, ok := c.State(slot).V.(*Segment); ok {
			seg.served(c, end)
		}
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		ctx, seg := s.Tracer.Continue(ctx, s.Name, s.inbound(c))
		r := c.Request()
		seg.SetRequest(Request{Method: "POST", URL: urlOf("http", r.Authority, r.Path), UserAgent: c.RequestHeader("User-Agent")})
		c.State(slot).V = seg
		returned := false
		defer seg.unwound(&returned)
		o := next(ctx, c)
		o.OnEnd(c, end)
		returned = true
		return o
	}, nil
}

// inbound returns the trace header of the call.
func (s Server) inbound(c *policy.Call) Header {
	h := ParseHeader(c.RequestHeader(HeaderName))
	if s.Tracer.w3c && h.Root == "" {
		if w3c, ok := ParseTraceParent(c.RequestHeader(TraceParentName), c.RequestHeader(TraceStateName)); ok {
			w3c.Fields = h.Fields
			h = w3c
		}
	}
	return s.Tracer.withDecision(h)
}

// served ends the segment at the end of the call.
func (s *Segment) served(c *policy.Call, end *policy.Outcome) {
	switch {
	case end.Err == nil, end.Has(policy.Cancelled):
	case end.Detail == envoy.ViaUpstream && c.Request().Protocol == policy.ProtocolGRPC:
		s.setGRPC(end)
	default:
		s.SetError(end.Err)
	}
	if end.Flags != 0 {
		s.Annotate("response_flags", end.Flags.String())
	}
	if end.Has(policy.Refused) {
		s.Annotate("refused", true)
	}
	s.finish()
}

// setGRPC sets flags by a gRPC status, as the X-Ray SDK's interceptors do.
func (s *Segment) setGRPC(end *policy.Outcome) {
	s.Annotate("grpc_status", end.Code)
	if end.Has(policy.Failed) {
		s.SetError(end.Err)
		return
	}
	s.SetFlags(true, end.Has(policy.GRPCResourceExhausted) || end.Code == 8, false)
}
