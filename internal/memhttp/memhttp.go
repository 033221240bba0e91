// Package memhttp serves HTTP without a network, so that tests with real clients
// and servers can run in a synctest bubble.
package memhttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
)

// Server is an HTTP server whose connections are pipes.
type Server struct {
	*http.Transport // connects to the server, whatever the host of the request

	server http.Server
	served sync.WaitGroup
	pipes  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Serve starts a server for handler. The caller must close it.
func Serve(handler http.Handler) *Server {
	s := &Server{pipes: make(chan net.Conn), closed: make(chan struct{})}
	s.server.Handler = handler
	s.Transport = &http.Transport{DialContext: s.dial}
	s.served.Go(func() { _ = s.server.Serve((*listener)(s)) }) // returns net.ErrClosed
	return s
}

// Close closes all connections and waits until the server's goroutines have ended.
func (s *Server) Close() {
	s.CloseIdleConnections()
	s.once.Do(func() { close(s.closed) })
	_ = s.server.Close()
	s.served.Wait()
}

func (s *Server) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case s.pipes <- server:
		return client, nil
	case <-s.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: errors.New("server closed")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listener is the [net.Listener] of a Server.
type listener Server

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.pipes:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and dials fail.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns an address whose network is pipe.
func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "pipe" }
