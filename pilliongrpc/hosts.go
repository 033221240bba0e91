package pilliongrpc

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// Clustered is a [pillion.Resolver] whose upstreams all have a cluster (package cluster), so that
// the calls of a connection go to their hosts, wherever it was dialed to. An [*pillion.Upstream] need
// not be one: it says itself whether it has a cluster.
type Clustered interface {
	pillion.Resolver
	Clustered() bool
}

// clustered reports whether calls go to the hosts of clusters.
func clustered(r pillion.Resolver) bool {
	if u, ok := r.(*pillion.Upstream); ok {
		return connectorOf(u) != nil
	}
	c, ok := r.(Clustered)
	return ok && c.Clustered()
}

// connectorOf returns what picks the hosts of an upstream, nil for none.
func connectorOf(u *pillion.Upstream) policy.Connector {
	c, ok := u.Chain().Carrier().(policy.Connector)
	if !ok || !c.Carries(policy.ProtocolGRPC) {
		return nil
	}
	return c
}

// hostOptions are the options of a connection whose calls go to the hosts of clusters: a resolver
// that finds nothing, for every target, and a balancer that honors the policies.
func hostOptions(r pillion.Resolver) []grpc.DialOption {
	registerHosts()
	connect := 20 * time.Second // gRPC's own
	if u, ok := r.(*pillion.Upstream); ok {
		if connect = connectorOf(u).ConnectTimeout(); connect == 0 {
			connect = time.Hour
		}
	}
	return []grpc.DialOption{
		grpc.WithResolvers(anywhere("passthrough"), anywhere("dns"), anywhere("pillion")),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connect, Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}}),
		grpc.WithNoProxy(),
	}
}

// hostsPolicy is the name of the balancer.
const hostsPolicy = "pillion_hosts"

//nolint:gochecknoglobals // gRPC finds balancers by their names
var registerHosts = sync.OnceFunc(func() { balancer.Register(hostsBuilder{}) })

// anywhere is a resolver for a scheme of targets, which all lead to the hosts that policies pick.
type anywhere string

// Scheme is that of the targets.
func (a anywhere) Scheme() string { return string(a) }

// Build says which balancer is used.
func (a anywhere) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	config := cc.ParseServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, hostsPolicy))
	return a, cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "cluster"}}, ServiceConfig: config})
}

// ResolveNow does nothing.
func (anywhere) ResolveNow(resolver.ResolveNowOptions) {}

// Close does nothing.
func (anywhere) Close() {}

type hostsBuilder struct{}

// Name is how a service configuration names the balancer.
func (hostsBuilder) Name() string { return hostsPolicy }

// Build makes the balancer of a connection.
func (hostsBuilder) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &hosts{cc: cc, conns: map[policy.Host]*hostConn{}}
}

// hosts is the balancer of a connection, and its picker: it has a SubConn for each host that a
// policy has picked. A SubConn that fails or loses its connection is not used again: gRPC would
// wait before it connects again.
type hosts struct {
	cc balancer.ClientConn

	mu     sync.Mutex
	conns  map[policy.Host]*hostConn // guarded by mu
	closed bool                      // guarded by mu
}

// hostConn is the connection to a host.
type hostConn struct {
	host  policy.Host
	stats policy.HostConnection
	sub   balancer.SubConn

	ready bool  // guarded by mu of hosts
	err   error // why it could not be made; guarded by mu of hosts
}

// ride is what an attempt that goes to the host of a cluster has to do with it.
type ride struct {
	to      policy.Connector // nil for none
	call    *policy.Call
	trying  bool           // Try runs
	waiting *hostConn      // that the attempt waits for; nil for none
	why     policy.Outcome // why there is no connection
}

// begin has the attempt's request go to the host that was picked.
func (r *ride) begin(u *pillion.Upstream, c *policy.Attempt) {
	if r.to = connectorOf(u); r.to != nil {
		r.call, r.trying = c.Call(), true
	}
}

// end ends that. It reports whether the attempt had no connection, and adds why to o.
func (r *ride) end(o *policy.Outcome) bool {
	r.trying = false
	if r.to == nil || r.why.Conditions == 0 {
		return false
	}
	o.Blame(r.why.Err, r.why.Conditions, r.why.Detail)
	return true
}

var (
	errNoCluster = status.Error(codes.Unavailable, "pilliongrpc: the call has no host: its upstream has no cluster")
	errRefused   = status.Error(codes.Unavailable, "pilliongrpc: the call has no connection")
	errClosing   = status.Error(codes.Unavailable, "pilliongrpc: the connection is closing")
)

// Pick finds the connection to the host that the policy has picked. gRPC asks again whenever a
// connection has changed.
func (h *hosts) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	a, ok := info.Ctx.Value(attemptKey{}).(*attempt)
	if !ok || a.ride.to == nil {
		return balancer.PickResult{}, errNoCluster
	}
	r := &a.ride
	if err := h.failure(r.waiting); err != nil && r.trying {
		r.to.Unconnected(r.call, &r.why, err)
		return balancer.PickResult{}, errRefused
	}
	host := r.to.Host(r.call)
	if host == nil {
		return balancer.PickResult{}, errNoCluster
	}
	conn, ready := h.find(host)
	switch {
	case !r.trying && ready: // gRPC sends a request again by itself
		return balancer.PickResult{SubConn: conn.sub}, nil
	case ready:
		if !r.to.Attach(r.call, conn.stats, &r.why) {
			return balancer.PickResult{}, errRefused
		}
		r.waiting = nil
		return balancer.PickResult{SubConn: conn.sub}, nil
	case r.trying && !r.to.Wait(r.call, &r.why): // so nothing is dialed
		return balancer.PickResult{}, errRefused
	}
	if conn == nil {
		conn = h.connect(host, r.to.Priority())
	}
	if conn == nil {
		return balancer.PickResult{}, errClosing
	}
	r.waiting = conn
	return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
}

// failure returns why a connection could not be made.
func (h *hosts) failure(c *hostConn) error {
	if c == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return c.err
}

// find returns the connection to a host, nil for none, and whether it is ready.
func (h *hosts) find(host policy.Host) (c *hostConn, ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c = h.conns[host]
	return c, c != nil && c.ready
}

// connect returns the connection to a host, which is begun if there is none. It is nil if h is
// closed.
func (h *hosts) connect(host policy.Host, p policy.Priority) *hostConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[host]; c != nil || h.closed {
		return c
	}
	c := &hostConn{host: host}
	sub, err := h.cc.NewSubConn([]resolver.Address{{Addr: host.Address()}}, balancer.NewSubConnOptions{ //nolint:staticcheck // one address is what stays allowed
		StateListener: func(s balancer.SubConnState) { h.changed(c, s) },
	})
	if err != nil {
		return nil // the connection is closing
	}
	c.sub, c.stats = sub, host.Connect(p, func() { h.drain(c) })
	h.conns[host] = c
	sub.Connect()
	return c
}

// changed does what the state of a connection asks for, and has gRPC pick again.
func (h *hosts) changed(c *hostConn, s balancer.SubConnState) {
	switch s.ConnectivityState {
	case connectivity.Ready:
		h.mu.Lock()
		c.ready = true
		h.mu.Unlock()
		c.stats.Ready()
	case connectivity.TransientFailure:
		h.remove(c, orUnknown(s.ConnectionError))
		c.stats.Failed(orUnknown(s.ConnectionError))
		c.sub.Shutdown()
	case connectivity.Idle: // the host closed it
		h.remove(c, nil)
		c.stats.Closed(true)
		c.sub.Shutdown()
	case connectivity.Shutdown:
		h.remove(c, nil)
		c.stats.Closed(false)
	case connectivity.Connecting:
		return
	}
	h.cc.UpdateState(balancer.State{ConnectivityState: connectivity.Ready, Picker: h})
}

var errUnknownFailure = errors.New("pilliongrpc: the connection failed")

func orUnknown(err error) error {
	if err == nil {
		return errUnknownFailure
	}
	return err
}

// remove has later attempts use another connection.
func (h *hosts) remove(c *hostConn, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.ready = false
	if c.err == nil {
		c.err = err
	}
	if h.conns[c.host] == c {
		delete(h.conns, c.host)
	}
}

// drain closes a connection when its last call has ended. Later attempts use another one.
func (h *hosts) drain(c *hostConn) {
	h.remove(c, nil)
	c.sub.Shutdown()
}

// UpdateClientConnState has picks begin.
func (h *hosts) UpdateClientConnState(balancer.ClientConnState) error {
	h.cc.UpdateState(balancer.State{ConnectivityState: connectivity.Ready, Picker: h})
	return nil
}

// ResolverError does nothing: the resolver has none.
func (*hosts) ResolverError(error) {}

// UpdateSubConnState does nothing: there are listeners.
func (*hosts) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle does nothing: connections are made when a call needs them.
func (*hosts) ExitIdle() {}

// Close closes all connections.
func (h *hosts) Close() {
	h.mu.Lock()
	h.closed = true
	all := h.conns
	h.conns = map[policy.Host]*hostConn{}
	h.mu.Unlock()
	for _, c := range all {
		c.stats.Closed(false)
		c.sub.Shutdown()
	}
}

// reachable reports whether the calls of an upstream go where they should: to the hosts of its
// cluster, if it has one, and then over a connection that leads to them.
func (x *client) reachable() error {
	if x.upstream == nil || connectorOf(x.upstream) == nil || x.hosted {
		return nil
	}
	return newError(x.upstream, codes.Unavailable, errNotDialed, 0, nil, false)
}

var errNotDialed = errors.New("pilliongrpc: the upstream has a cluster, but the connection does not lead to its hosts: " +
	"dial with DialOptions of the upstream, or of a Resolver that is Clustered")
