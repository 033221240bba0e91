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

// server is the service that is called: a real one on loopback, one for gRPC, and an
// address beside them at which nobody listens.
//
// The path says what becomes of a call: /503/2/17 is call 17, whose first two attempts
// get a 503, /hang/1/18 one whose first attempt gets nothing, /hold/0/19 one that is
// answered when release is called. All else is answered at once.
type server struct {
	*httptest.Server

	grpc     string // the address at which gRPC is served
	stopGRPC func()
	refusing string
	free     func() // lets others take that address
	closing  context.CancelFunc

	mu       sync.Mutex
	attempts map[string]int // of calls that fail at first; guarded by mu
	holding  int            // guarded by mu
	gate     chan struct{}  // closed to release them; guarded by mu
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
	if s.refusing, s.free, err = nobodyListens(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *server) close() {
	s.closing() // those who are kept waiting
	if s.stopGRPC != nil {
		s.stopGRPC()
	}
	if s.free != nil {
		s.free()
	}
	s.Close()
}

// nobodyListens gives an address at which nobody listens, or can until it is freed: that
// of a connection's own end. It is bound by itself, so that the system gives it to no other
// connection either, not even to one that goes there and would find itself.
func nobodyListens() (address string, free func(), err error) {
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
	if word == "soup" { // most calls; they take no lock
		_, _ = io.WriteString(w, soup)
		return
	}
	failing, call, _ := strings.Cut(rest, "/")
	n, _ := strconv.Atoi(failing) // the paths are our own
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

// hold keeps a call waiting until all are released.
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

// awaitHeld returns when so many calls are held.
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

// release lets those who are held go.
func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
	s.gate, s.holding = make(chan struct{}), 0
}
