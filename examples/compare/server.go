package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"
)

// server is the service that is called: an HTTP server, a gRPC server, and an address
// that refuses connections, all on loopback.
//
// The path says how the server responds: /503/2/17 is call 17, whose first two attempts
// get a 503; the first attempt of /hang/1/18 gets no response; /hold/0/19 gets its response
// when release is called. All others get theirs immediately.
type server struct {
	*httptest.Server

	grpc     string // the address at which gRPC is served
	stopGRPC func()
	refusing string
	free     func() // frees that address
	closing  context.CancelFunc

	mu       sync.Mutex
	attempts map[string]int // of calls that fail at first; guarded by mu
	holding  int            // guarded by mu
	gate     chan struct{}  // closed by release; guarded by mu
}

func newServer(ctx context.Context) (*server, error) {
	s := &server{attempts: map[string]int{}, gate: make(chan struct{})}
	ctx, s.closing = context.WithCancel(ctx)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Start()
	var err error
	if s.grpc, s.stopGRPC, err = serveHealth(); err != nil {
		s.close()
		return nil, err
	}
	if s.refusing, s.free, err = refusingAddress(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *server) close() {
	s.closing() // ends the calls that wait
	if s.stopGRPC != nil {
		s.stopGRPC()
	}
	if s.free != nil {
		s.free()
	}
	s.Close()
}

// refusingAddress returns an address that refuses connections until it is freed: the
// local address of a connection. The socket is bound to it explicitly, so that the system does
// not use it for another connection, which could connect to itself.
func refusingAddress() (address string, free func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	guard, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}).Dial("tcp", l.Addr().String())
	if err != nil {
		_ = l.Close()
		return "", nil, err
	}
	return guard.LocalAddr().String(), func() {
		_ = guard.Close()
		_ = l.Close() // not before: that would reset the connection
	}, nil
}

const soup = "Peel three leeks, and keep their green for the stock.\n"

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	word, rest, _ := strings.Cut(r.URL.Path[1:], "/")
	if word == "soup" { // most calls: they need no lock
		_, _ = io.WriteString(w, soup)
		return
	}
	failing, call, _ := strings.Cut(rest, "/")
	n, _ := strconv.Atoi(failing) // this program makes the paths
	switch bad := s.attempt(call) <= n; {
	case word == "hold" && !bad:
		s.hold(r.Context())
	case word == "hang" && bad:
		<-r.Context().Done()
		return
	case bad:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, soup)
}

// attempt counts the attempts of a call.
func (s *server) attempt(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts[call]++
	return s.attempts[call]
}

// hold waits until release is called.
func (s *server) hold(ctx context.Context) {
	s.mu.Lock()
	s.holding++
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
	case <-ctx.Done():
	}
}

// awaitHeld waits until n calls are held.
func (s *server) awaitHeld(ctx context.Context, n int) error {
	for s.held() < n {
		time.Sleep(time.Millisecond)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("compare: only %d of %d calls are under way: %w", s.held(), n, err)
		}
	}
	return nil
}

func (s *server) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holding
}

// release ends the waiting of all held calls.
func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
	s.gate, s.holding = make(chan struct{}), 0
}
