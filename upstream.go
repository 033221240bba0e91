package pillion

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/pillion-go/pillion/policy"
)

// Upstream is a service that is called: its name, and the policies for its calls, with their state.
// One Upstream serves HTTP, gRPC and plain functions, with the same breaker and the same
// statistics. It is safe for concurrent use.
//
// In a testing/synctest bubble, use an Upstream that was made in that bubble.
type Upstream struct {
	chain        *policy.Chain
	options      Options
	patientDrain bool      // Options.DrainTime was set: it applies even before a short back-off
	calls        sync.Pool // of *httpCall
	traces       sync.Pool // of *wireTrace
	base         func() http.RoundTripper
	carrier      Carrier // nil for none
}

// TransportOwner is a [Policy] that may replace the transport that [Upstream.Transport] creates for
// a nil base. OwnTransport is called once, before the first request, with the upstream's name;
// inner policies come before outer ones.
type TransportOwner interface {
	OwnTransport(upstream string, t *http.Transport) *http.Transport
}

// New makes an upstream. The policies are given from the outside in: the first sees a call first
// and its outcome last. A nil policy is skipped, and a nil pointer to a configuration stands for
// its defaults. The error joins everything that is wrong: each bad field of each configuration, and
// each order of two policies that makes no sense.
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

// optionsOf returns p if it is an Options.
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

// Name returns the upstream's name.
func (u *Upstream) Name() string { return u.chain.Name() }

// Chain returns the policies of the upstream, for adapters.
func (u *Upstream) Chain() *policy.Chain { return u.chain }

// Options returns the upstream's Options, with defaults filled in.
func (u *Upstream) Options() Options { return u.options }

// Target describes a call to a [Resolver]: the request, and its header.
type Target struct {
	policy.Request
	Header func(name string) string // returns the value of a request header, "" if it is absent; never nil
}

// Resolver finds the upstream of a call. An [*Upstream] resolves to itself; a mesh uses routes. A
// Resolver must be safe for concurrent use. An error means that there is no upstream, and is the
// result of the call.
type Resolver interface {
	Resolve(ctx context.Context, t Target) (*Upstream, error)
}

// Resolve returns u, whatever the target.
func (u *Upstream) Resolve(context.Context, Target) (*Upstream, error) { return u, nil }
