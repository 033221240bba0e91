package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"
)

// upstream contains the hosts of a scenario, on the loopback interface.
type upstream struct {
	*script
	addresses []string // of the hosts, in their order
	hosts     map[string]string
	stop      chan struct{}
	running   sync.WaitGroup

	mu        sync.Mutex
	closers   []io.Closer    // guarded by mu
	connected map[string]int // connections of each host; guarded by mu
}

// startUpstream starts the hosts.
func startUpstream(ctx context.Context, spec UpstreamScript) (*upstream, error) {
	u := &upstream{script: newScript(spec), hosts: map[string]string{}, stop: make(chan struct{}), connected: map[string]int{}}
	for _, h := range spec.Hosts {
		address, err := u.listen(ctx, h)
		if err != nil {
			u.close()
			return nil, fmt.Errorf("host %s: %w", h.ID, err)
		}
		u.addresses = append(u.addresses, address)
		u.hosts[address] = h.ID
	}
	return u, nil
}

// listen opens the address of a host.
func (u *upstream) listen(ctx context.Context, h Host) (address string, err error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	u.own(l)
	address = l.Addr().String()
	switch h.Listen {
	case "refuse":
		return u.refuse(ctx, l)
	case "blackhole":
		return address, u.swallow(ctx, l)
	}
	u.running.Go(func() { u.accept(l, h) })
	return address, nil
}

// own registers a closer for the end of the play.
func (u *upstream) own(c io.Closer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closers = append(u.closers, c)
}

// refuse returns an address at which nothing listens: that of a connection to l, which
// prevents other programs from using it.
func (u *upstream) refuse(ctx context.Context, l net.Listener) (address string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return "", err
	}
	u.own(conn)
	return conn.LocalAddr().String(), nil
}

// swallow makes l accept no connections: its queue is short, and is filled.
func (u *upstream) swallow(ctx context.Context, l net.Listener) error {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	var listening error
	if err := raw.Control(func(fd uintptr) { listening = syscall.Listen(int(fd), 0) }); err != nil {
		return err
	}
	if listening != nil {
		return listening
	}
	for range 16 {
		d := net.Dialer{Timeout: 100 * time.Millisecond}
		conn, err := d.DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil //nolint:nilerr // the queue is full, as intended
		}
		u.own(conn)
	}
	return errors.New("connections are accepted although the queue should be full")
}

// accept serves the connections of a host.
func (u *upstream) accept(l net.Listener, h Host) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		n := u.connect(conn, h)
		if h.Listen == "accept_reset" {
			reset(conn)
			continue
		}
		u.running.Go(func() {
			defer conn.Close() //nolint:errcheck // best effort
			if u.spec.Protocol == "h2" {
				u.serveHTTP2(conn, h, n)
			} else {
				u.serveHTTP1(conn, h, n)
			}
		})
	}
}

// connect counts a connection, and registers it to be closed at the end.
func (u *upstream) connect(conn net.Conn, h Host) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.connected[h.ID]++
	u.closers = append(u.closers, conn)
	return u.connected[h.ID]
}

// connections returns the number of connections of each host.
func (u *upstream) connections() map[string]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.connected)
}

// close ends all hosts and connections.
func (u *upstream) close() {
	close(u.stop)
	u.mu.Lock()
	for _, c := range u.closers {
		_ = c.Close() // best effort
	}
	u.mu.Unlock()
	u.running.Wait()
}

// reset ends a connection with RST.
func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0) // if this fails it ends with FIN, and a test fails
	_ = conn.Close()
}

// wait waits, until gone is closed or the play is over.
func (u *upstream) wait(d time.Duration, gone <-chan struct{}) bool {
	if d == 0 {
		return true
	}
	began := time.Now()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		u.was(began, d)
		return true
	case <-gone:
	case <-u.stop:
	}
	return false
}

// delivery is the time for data that was written before a reset to arrive: an RST discards
// data that was not read yet.
const delivery = 60 * time.Millisecond
