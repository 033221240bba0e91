package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"
)

// phase is what the server is going through. It misbehaves by the number of the
// request, so that every run, and every client, meets the same.
type phase struct {
	name   string
	share  float64 // of all calls
	answer func(n int64, w http.ResponseWriter, r *http.Request)
}

// phases are the life of the server.
func phases() []phase {
	return []phase{
		{"healthy", 0.15, healthy},
		{"every third answer is a 503", 0.25, oneIn(3, fail)},
		{"every fifteenth answer stalls", 0.20, oneIn(15, stall)},
		{"every fifth connection is reset", 0.20, oneIn(5, reset)},
		{"down", 0.10, fail},
		{"recovered", 0.10, healthy},
	}
}

func healthy(_ int64, w http.ResponseWriter, _ *http.Request) {
	time.Sleep(time.Millisecond) // some work
	_, _ = io.WriteString(w, "a recipe for braised leeks\n")
}

func fail(_ int64, w http.ResponseWriter, _ *http.Request) {
	time.Sleep(3 * time.Millisecond)
	http.Error(w, "the database is away", http.StatusServiceUnavailable)
}

// stall keeps the caller waiting for longer than anybody has patience.
func stall(_ int64, _ http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(5 * time.Second):
	}
}

// reset cuts the connection without an answer.
func reset(_ int64, w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // RST in place of FIN
	}
	_ = conn.Close()
}

func oneIn(every int64, bad func(int64, http.ResponseWriter, *http.Request)) func(int64, http.ResponseWriter, *http.Request) {
	return func(n int64, w http.ResponseWriter, r *http.Request) {
		if n%every == 0 {
			bad(n, w, r)
			return
		}
		healthy(n, w, r)
	}
}

// server is a real server on a loopback port, which counts its requests.
type server struct {
	*httptest.Server
	requests atomic.Int64
	phase    atomic.Pointer[phase]
}

func newServer() *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.phase.Load().answer(s.requests.Add(1), w, r)
	}))
	return s
}
