package pillion

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/pillion-go/pillion/policy"
)

// Upstream is a service that is called: its name, and the policies that its calls
// are put under, with their state. One Upstream serves HTTP, gRPC and plain
// functions, with the same breaker and the same statistics. It is safe for
// concurrent use.
//
// In a testing/synctest bubble, use an Upstream that was made in that bubble.
type Upstream struct {
	chain        *policy.Chain
	options      Options
	patientDrain bool      // Options.DrainTime was set: it holds also before a short back-off
	calls        sync.Pool // of *httpCall
	traces       sync.Pool // of *wireTrace
	base         func() http.RoundTripper
	carrier      Carrier // nil for none
}

// TransportOwner is a [Policy] that may replace the transport that [Upstream.Transport] makes if
// it is given none. OwnTransport is called once, before the first request, with the upstream's
// name; inner policies come before outer ones.
type TransportOwner interface {
	OwnTransport(upstream string, t *http.Transport) *http.Transport
}

// New makes an upstream. The policies are given from the outside in: the first
// sees a call first and its outcome last. A nil policy is skipped, and a nil pointer
// to a configuration stands for its defaults. The error joins all that is wrong: each
// bad field of each configuration, and each order of two policies that makes no sense.
func New(name string, policies ...Policy) (*Upstream, error) {
	if !slices.ContainsFunc(policies, isOptions) {
		policies = append(slices.Clip(policies), Options{})
	}
	chain, err := policy.NewChain(name, policies...)
	if err != nil {
		return nil, err
	}
	u := &Upstream{chain: chain}
	u.carrier, _ = chain.Carrier().(Carrier)
	for _, p := range chain.Policies() {
		if h, ok := optionsOf(p); ok {
			u.options, u.patientDrain = h.withDefaults(), h.DrainTime > 0
		}
	}
	u.base = sync.OnceValue(u.ownTransport)
	return u, nil
}

func isOptions(p Policy) bool {
	_, ok := optionsOf(p)
	return ok
}

// optionsOf returns the HTTP that p is.
func optionsOf(p Policy) (h Options, ok bool) {
	switch p := p.(type) {
	case Options:
		return p, true
	case *Options:
		if p == nil {
			return Options{}, true
		}
		return *p, true
	}
	return Options{}, false
}

// Name is the upstream's name.
func (u *Upstream) Name() string { return u.chain.Name() }

// Chain is the policies of the upstream, for adapters.
func (u *Upstream) Chain() *policy.Chain { return u.chain }

// HTTP is the configuration that the upstream was given, defaults filled in.
func (u *Upstream) Options() Options { return u.options }

// Target says where a call wants to go, for a [Resolver]: the request, and its
// header.
type Target struct {
	policy.Request
	Header func(name string) string // the value of a request header, "" for none; never nil
}

// Resolver finds the upstream that a call belongs to. An [*Upstream] is one that
// resolves to itself; a mesh goes by routes. It must be safe for concurrent use. An
// error means that there is none, and is the call's result.
type Resolver interface {
	Resolve(ctx context.Context, t Target) (*Upstream, error)
}

// Resolve returns u, whatever the target.
func (u *Upstream) Resolve(context.Context, Target) (*Upstream, error) { return u, nil }
