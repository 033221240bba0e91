package cluster_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster"
)

// unwell starts a host that responds with 503.
func unwell(t *testing.T) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// weighted is a cluster of three hosts that fail, whose updates draw random numbers.
func weighted(t *testing.T, rand func() uint64, window time.Duration) *cluster.Cluster {
	t.Helper()
	endpoints := cluster.Addresses(unwell(t), unwell(t), unwell(t))
	for i := range endpoints {
		endpoints[i].LocalityWeight = 1
	}
	return made(t, cluster.Config{
		Endpoints: endpoints, LocalityWeighted: &cluster.LocalityWeighted{}, Rand: rand, MergeWindow: window,
		Outlier: &cluster.Outlier{Consecutive5xx: 1, MaxEjectionPercent: 100}, PanicThreshold: cluster.Zero,
	})
}

// within fails the test if do takes too long.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not return", what)
	}
}

// TestRand_panicsInCall leaves the cluster usable after a panic of Rand in a call that ejects a host.
func TestRand_panicsInCall(t *testing.T) {
	var armed atomic.Bool
	c := weighted(t, func() uint64 {
		if armed.Load() {
			panic("soup")
		}
		return 0
	}, -1)
	u := upstream(t, c)
	armed.Store(true)
	within(t, "the call", func() {
		defer func() {
			if recover() == nil {
				t.Error("got no panic in the caller, want that of Rand")
			}
		}()
		get(t, u)
	})
	armed.Store(false)
	within(t, "Hosts", func() { c.Hosts() })
	within(t, "the next call", func() { get(t, u) })
}

// TestRand_panicsInTimer publishes later changes of health after a panic of Rand at the end of a merge
// window.
func TestRand_panicsInTimer(t *testing.T) {
	var armed atomic.Bool
	panicked := make(chan struct{}, 100)
	c := weighted(t, func() uint64 {
		if armed.Load() {
			panicked <- struct{}{}
			panic("soup")
		}
		return 0
	}, time.Second)
	u := upstream(t, c)
	get(t, u) // ejects a host immediately
	armed.Store(true)
	func() {
		defer func() { _ = recover() }() // on a slow machine the window has ended
		get(t, u)                        // ejects another one at the end of the window
	}()
	select {
	case <-panicked:
	case <-time.After(10 * time.Second):
		t.Fatal("got no panic at the end of the window")
	}
	armed.Store(false)
	deadline := time.Now().Add(10 * time.Second)
	for { // ejects the others
		if _, err := get(t, u); err != nil && strings.Contains(err.Error(), "no healthy upstream") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("picks do not honor the health of the hosts after the panic")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestTLS_reportPanics goes on to look at files after a panic of Report.
func TestTLS_reportPanics(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	write(good)
	reports := make(chan error, 100)
	made(t, cluster.Config{
		Endpoints: cluster.Addresses(strings.TrimPrefix(s.URL, "https://")),
		TLS: &cluster.TLS{CA: cluster.PEM{File: file}, ReloadInterval: 5 * time.Millisecond, Report: func(err error) {
			reports <- err
			panic("soup")
		}},
	})
	for _, text := range []string{"no certificate", good} {
		write(text)
		select {
		case err := <-reports:
			if (err == nil) != (text == good) {
				t.Errorf("got %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("got no report")
		}
	}
}
