package pilliongrpc

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// targets holds the call options through which a caller receives the response's metadata.
type targets struct {
	headers  []*metadata.MD
	trailers []*metadata.MD
	peers    []*peer.Peer
	finish   []func(error)
	rest     []grpc.CallOption // all others
}

// split separates the targets from a call's other options.
func split(options []grpc.CallOption) targets {
	t := targets{rest: options}
	if !hasTargets(options) {
		return t
	}
	t.rest = nil
	for _, o := range options {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			t.headers = append(t.headers, o.HeaderAddr)
		case grpc.TrailerCallOption:
			t.trailers = append(t.trailers, o.TrailerAddr)
		case grpc.PeerCallOption:
			t.peers = append(t.peers, o.PeerAddr)
		case grpc.OnFinishCallOption:
			t.finish = append(t.finish, o.OnFinish)
		default:
			t.rest = append(t.rest, o)
		}
	}
	return t
}

func hasTargets(options []grpc.CallOption) bool {
	for _, o := range options {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			return true
		}
	}
	return false
}

// unaryOptions returns the options of an attempt of a unary call, with separate targets, which gRPC
// writes before the call returns.
func (a *attempt) unaryOptions(t *targets, watched bool) []grpc.CallOption {
	options := append(append(a.options[:0], t.rest...), grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	if watched || len(t.peers) != 0 {
		options = append(options, grpc.Peer(&a.peer))
	}
	return options
}

// streamOptions returns the options of an attempt of a stream. They have no targets, because gRPC
// would write those from another goroutine when the context of a stream ends.
func (a *attempt) streamOptions(t *targets, onFinish func(error)) []grpc.CallOption {
	return append(append(a.options[:0], t.rest...), grpc.OnFinish(onFinish))
}

// deliver writes the metadata of a response to the caller's targets.
func (t *targets) deliver(r response, from func() peer.Peer) {
	for _, to := range t.headers {
		*to = r.header
	}
	for _, to := range t.trailers {
		*to = r.trailer
	}
	for _, to := range t.peers {
		*to = from()
	}
}

// finished calls the caller's OnFinish functions.
func (t *targets) finished(err error) {
	for _, f := range t.finish {
		f(err)
	}
}
