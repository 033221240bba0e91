package main

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/cluster"
)

// size is the number of hosts.
const size = 20

// network connects the program to the hosts.
type network struct {
	listen func() (net.Listener, error)
	dial   func(ctx context.Context, network, address string) (net.Conn, error) // nil means TCP
}

// loopback is the network of this machine.
var loopback = network{listen: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }}

// fleet holds the hosts, each of which is an HTTP server on a port, and a load balancer in front of
// them.
type fleet struct {
	network  network
	hosts    []*host
	order    []int // a random order of the hosts: the first ones are slow, fail or are added
	rand     *rand.Rand
	mu       sync.Mutex // held while rand is used
	balancer *balancer
	serving  sync.WaitGroup
}

// host is one server. It serves one request at a time; other requests wait.
type host struct {
	index   int
	address string
	server  *http.Server
	handed  *handed
	worker  chan struct{} // holds a value while the host serves
	is      atomic.Pointer[behavior]
}

// behavior is the behavior of a host.
type behavior struct {
	takes time.Duration // the time of a request
	cold  time.Duration // the time of a request before warm
	warm  time.Time
	fails bool // respond with status 503
}

const (
	usual = 4 * time.Millisecond
	slow  = 50 * time.Millisecond
)

// hostHeader is the response header with the number of the host.
const hostHeader = "Fleet-Host"

func startFleet(n network, seed uint64) (*fleet, error) {
	r := rand.New(rand.NewPCG(seed, size)) //nolint:gosec // a seed must give the same numbers each time
	f := &fleet{network: n, rand: r, order: r.Perm(size)}
	for i := range size {
		h, err := f.startHost(i)
		if err != nil {
			f.close()
			return nil, err
		}
		f.hosts = append(f.hosts, h)
	}
	var err error
	if f.balancer, err = f.startBalancer(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) startHost(i int) (*host, error) {
	listener, err := f.network.listen()
	if err != nil {
		return nil, err
	}
	h := &host{index: i, address: listener.Addr().String(), handed: newHanded(listener.Addr()), worker: make(chan struct{}, 1)}
	h.is.Store(&behavior{})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h.server = &http.Server{Handler: h, Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	for _, l := range []net.Listener{listener, h.handed} {
		f.serving.Go(func() { _ = h.server.Serve(l) }) // until close
	}
	return h, nil
}

// close closes all servers.
func (f *fleet) close() {
	if f.balancer != nil {
		_ = f.balancer.listener.Close()
	}
	for _, h := range f.hosts {
		_ = h.server.Close()
	}
	f.serving.Wait()
}

// ServeHTTP serves a request with the host's behavior.
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case h.worker <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	b := h.is.Load()
	takes := b.takes
	if b.cold > 0 && time.Now().Before(b.warm) {
		takes = b.cold
	}
	time.Sleep(takes)
	<-h.worker
	w.Header().Set(hostHeader, strconv.Itoa(h.index))
	if b.fails {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// behave sets the behavior of each host. The place of a host is its index in the random order.
func (f *fleet) behave(how func(place int) behavior) {
	for place, i := range f.order {
		b := how(place)
		f.hosts[i].is.Store(&b)
	}
}

// placeOf returns the place of a host, or -1 if there is no such host.
func (f *fleet) placeOf(index int) int {
	for place, i := range f.order {
		if i == index {
			return place
		}
	}
	return -1
}

// endpoints returns the endpoints of the hosts in the order of their places. zone, if not nil, returns
// their zones.
func (f *fleet) endpoints(zone func(place int) string) []cluster.Endpoint {
	all := make([]cluster.Endpoint, size)
	for place, i := range f.order {
		all[place].Address = f.hosts[i].address
		if zone != nil {
			all[place].Locality.Zone = zone(place)
		}
	}
	return all
}

// config returns c with the settings that all clusters share.
func (f *fleet) config(c cluster.Config) cluster.Config {
	c.Rand = f.random
	if f.network.dial != nil {
		c.Transport = &http.Transport{DialContext: f.network.dial}
	}
	return c
}

// random returns a random number. It is safe for concurrent use.
func (f *fleet) random() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rand.Uint64()
}

// balancer is a connection load balancer: a port that passes each connection to one of its replicas.
// It does not see requests.
type balancer struct {
	listener net.Listener

	mu       sync.Mutex
	replicas []*host // guarded by mu
}

func (f *fleet) startBalancer() (*balancer, error) {
	listener, err := f.network.listen()
	if err != nil {
		return nil, err
	}
	b := &balancer{listener: listener}
	f.serving.Go(func() { b.accept(f.random) })
	return b, nil
}

// accept passes connections to replicas until the port is closed.
func (b *balancer) accept(random func() uint64) {
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		h := b.replicas[random()%uint64(len(b.replicas))]
		b.mu.Unlock()
		h.handed.take(conn)
	}
}

// use replaces the replicas.
func (b *balancer) use(replicas []*host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replicas = replicas
}

// replicas returns the first n hosts in the random order.
func (f *fleet) replicas(n int) []*host {
	all := make([]*host, n)
	for place := range all {
		all[place] = f.hosts[f.order[place]]
	}
	return all
}

// handed is a host's listener of the connections that the balancer passes to it.
type handed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

func newHanded(addr net.Addr) *handed {
	return &handed{conns: make(chan net.Conn), closed: make(chan struct{}), addr: addr}
}

func (l *handed) take(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.closed:
		_ = conn.Close()
	}
}

// Accept waits for the next connection.
func (l *handed) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept return.
func (l *handed) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the address of the host.
func (l *handed) Addr() net.Addr { return l.addr }
