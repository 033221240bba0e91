package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"time"
)

// phase is how the server behaves for a share of the calls.
type phase struct {
	name    string
	share   float64 // of all calls
	down    bool    // no call can succeed
	respond func(n int64, w http.ResponseWriter, r *http.Request)
}

// phases are in the order of the calls. Most go by the number of the request, so
// that each client meets the same server.
var phases = []phase{
	{"healthy", 0.15, false, healthy},
	{"every 3rd response is a 503", 0.25, false, oneIn(3, fail)},
	{"every 15th response is lost", 0.20, false, oneIn(15, stall)},
	{"every 5th connection is reset", 0.20, false, oneIn(5, reset)},
	{"down: each response is a 503", 0.10, true, fail},
	{"healthy again", 0.10, false, healthy},
}

// phaseOf returns the index of the phase to which call n of all belongs.
func phaseOf(n, all int) int {
	share := (float64(n) + 0.5) / float64(all) // the middle of the call, so that rounding errors do not matter
	for i, p := range phases {
		if share -= p.share; share < 0 {
			return i
		}
	}
	return len(phases) - 1
}

func healthy(_ int64, w http.ResponseWriter, _ *http.Request) {
	time.Sleep(time.Millisecond) // some work
	_, _ = io.WriteString(w, "a recipe for braised leeks\n")
}

func fail(_ int64, w http.ResponseWriter, _ *http.Request) {
	time.Sleep(3 * time.Millisecond)
	http.Error(w, "the database does not respond", http.StatusServiceUnavailable)
}

// stall waits for longer than both clients do.
func stall(_ int64, _ http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
	case <-timer.C:
	}
}

// reset closes the connection without a response.
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

// server is an HTTP server on a loopback port. It counts its requests.
type server struct {
	*httptest.Server
	requests atomic.Int64
}

// phaseHeader holds the index of the phase in which the server handles a request. So
// a retry meets the same phase as the attempt before it.
const phaseHeader = "Quickstart-Phase"

func newServer() *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// serve responds as the phase of the request says.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	n := s.requests.Add(1)
	i, err := strconv.Atoi(r.Header.Get(phaseHeader))
	if err != nil || i < 0 || i >= len(phases) {
		http.Error(w, phaseHeader+" is missing", http.StatusBadRequest)
		return
	}
	phases[i].respond(n, w, r)
}
