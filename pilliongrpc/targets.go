package pilliongrpc

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// targets are the call options by which a caller learns what came back.
type targets struct {
	headers  []*metadata.MD
	trailers []*metadata.MD
	peers    []*peer.Peer
	finish   []func(error)
	rest     []grpc.CallOption // all others
}

// split takes the targets out of a call's options.
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

// unaryOptions are the options of one attempt of a unary call, with its own targets. gRPC
// writes them before the call returns.
func (a *attempt) unaryOptions(t *targets, watched bool) []grpc.CallOption {
	options := append(append(a.options[:0], t.rest...), grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	if watched || len(t.peers) != 0 {
		options = append(options, grpc.Peer(&a.peer))
	}
	return options
}

// streamOptions are the options of one attempt of a stream. It has no targets, which gRPC
// writes from another goroutine when the context of a stream ends.
func (a *attempt) streamOptions(t *targets, onFinish func(error)) []grpc.CallOption {
	return append(append(a.options[:0], t.rest...), grpc.OnFinish(onFinish))
}

// deliver writes what an attempt brought to the caller's targets.
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
