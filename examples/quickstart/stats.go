package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/pillion-go/pillion/metrics"
)

// servePage serves the statistics at /stats, as Envoy's admin page does.
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

// shown are the statistics that say most.
const shown = `\.upstream_(cx_total|rq_(total|2xx|5xx|completed|retry|retry_success|retry_limit_exceeded|` +
	`retry_overflow|per_try_timeout|breaker_open))$`

// printStats prints some of the statistics of pillion's calls, under Envoy's names.
func printStats(w io.Writer, stats *metrics.Registry) error {
	page := httptest.NewRecorder()
	query := url.Values{"usedonly": {""}, "type": {"Counters"}, "filter": {shown}}
	metrics.Handler(stats).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/stats?"+query.Encode(), nil))
	_, err := fmt.Fprintf(w, "\nThe same calls, counted as Envoy counts them (-serve shows all statistics):\n\n%s", page.Body)
	return err
}
