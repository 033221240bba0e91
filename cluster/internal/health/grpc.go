package health

import (
	"context"
	"fmt"
)

// ServingStatus is grpc.health.v1.HealthCheckResponse.ServingStatus.
type ServingStatus int32

// The statuses.
const (
	ServingUnknown        ServingStatus = iota // UNKNOWN
	Serving                                    // SERVING
	NotServing                                 // NOT_SERVING
	ServingServiceUnknown                      // SERVICE_UNKNOWN, of Watch only
)

// String returns the name in the protocol.
func (s ServingStatus) String() string {
	switch s {
	case ServingUnknown:
		return "UNKNOWN"
	case Serving:
		return "SERVING"
	case NotServing:
		return "NOT_SERVING"
	case ServingServiceUnknown:
		return "SERVICE_UNKNOWN"
	default:
		return fmt.Sprintf("ServingStatus(%d)", int32(s))
	}
}

// GRPCReply is the result of a call of grpc.health.v1.Health/Check.
type GRPCReply struct {
	// Network reports that there is no reply: the connect failed, or the stream or connection
	// was reset. Code and Status are then ignored.
	Network bool

	// Code is the status code of the call.
	Code uint32

	// Status is the status in the response, or [ServingUnknown] if the response is missing or
	// empty.
	Status ServingStatus

	// Err is the error of the call, for logs.
	Err error
}

// Verdict returns Envoy's verdict on a reply: only SERVING with code 0 passes. Every other reply
// fails the host immediately, including UNIMPLEMENTED, the reply of a server without a health
// service.
func (r GRPCReply) Verdict() Verdict {
	switch {
	case r.Network:
		return Broken(r.Err, false)
	case r.Code == 0 && r.Status == Serving:
		return Verdict{Result: Passed}
	case r.Err != nil:
		return Verdict{Err: r.Err}
	case r.Code != 0:
		return Verdict{Err: fmt.Errorf("gRPC status %d", r.Code)}
	}
	return Verdict{Err: fmt.Errorf("service is %v", r.Status)}
}

// GRPCClient calls grpc.health.v1.Health/Check of one host. It sets grpc-timeout from ctx.
type GRPCClient interface {
	// Check calls Check for a service, or for the whole server if service is "".
	Check(ctx context.Context, service string) GRPCReply

	// Close closes the client's connection.
	Close()
}

// GRPCProber checks a host with gRPC calls.
type GRPCProber struct {
	service string
	client  GRPCClient
}

// NewGRPCProber returns a prober of a service.
func NewGRPCProber(service string, client GRPCClient) *GRPCProber {
	return &GRPCProber{service: service, client: client}
}

// Probe calls Check once.
func (p *GRPCProber) Probe(ctx context.Context) Verdict {
	v := p.client.Check(ctx, p.service).Verdict()
	if v.Result == Failed && ctx.Err() != nil {
		return broken(ctx, v.Err)
	}
	return v
}

// Close closes the client.
func (p *GRPCProber) Close() { p.client.Close() }
