package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/pillion-go/pillion/metrics"
)

// servePage shows the statistics at /stats, as Envoy's admin page does.
func servePage(stats *metrics.Registry, errOut io.Writer) (io.Closer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("quickstart: -serve: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/stats", metrics.Handler(stats))
	mux.Handle("/stats/", metrics.Handler(stats))
	server := &http.Server{Handler: mux}       //nolint:gosec // it is on loopback
	go func() { _ = server.Serve(listener) }() // until Close
	_, err = fmt.Fprintf(errOut, "statistics at http://%s/stats and /stats/prometheus, until interrupted\n", listener.Addr())
	return server, err
}

// printStats prints what was counted of the library's calls, as Envoy would have.
func printStats(w io.Writer, stats *metrics.Registry) error {
	page := httptest.NewRecorder()
	metrics.Handler(stats).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/stats?usedonly&type=Counters", nil))
	_, err := fmt.Fprintf(w, "\nWhat Envoy would have counted:\n%s", page.Body)
	return err
}
