package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/metrics"
)

// metricsGroups measure counting and reading.
func metricsGroups() []group {
	return []group{
		countGroup("stub with a body", stub{200, body}),
		countGroup("stub with http.NoBody", stub{200, ""}),
		scrapeGroup(),
	}
}

// handles is a round tripper with three handles of Prometheus's client library, which
// are resolved beforehand: the least that a careful user writes by hand.
type handles struct {
	base     http.RoundTripper
	inFlight prometheus.Gauge
	ok       prometheus.Counter
	duration prometheus.Observer
}

func newHandles(base http.RoundTripper) handles {
	return handles{
		base:     base,
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "in_flight"}),
		ok:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "total"}, []string{"code"}).WithLabelValues("200"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "seconds"}),
	}
}

// RoundTrip counts until the response headers, as such wrappers do.
func (h handles) RoundTrip(req *http.Request) (*http.Response, error) {
	h.inFlight.Inc()
	defer h.inFlight.Dec()
	began := time.Now()
	resp, err := h.base.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusOK {
		h.ok.Inc()
	}
	h.duration.Observe(time.Since(began).Seconds())
	return resp, err
}

// toTheEnd counts like handles, but until the end of the response's body, as the
// library does.
type toTheEnd handles

// RoundTrip counts until the end of the body.
func (h toTheEnd) RoundTrip(req *http.Request) (*http.Response, error) {
	h.inFlight.Inc()
	began := time.Now()
	resp, err := h.base.RoundTrip(req)
	if err != nil || resp.Body == http.NoBody {
		h.end(began)
		return resp, err
	}
	if resp.StatusCode == http.StatusOK {
		h.ok.Inc()
	}
	resp.Body = &countedBody{ReadCloser: resp.Body, began: began, handles: h}
	return resp, nil
}

func (h toTheEnd) end(began time.Time) {
	h.inFlight.Dec()
	h.duration.Observe(time.Since(began).Seconds())
}

// countedBody ends the call at its first error, or when it is closed.
type countedBody struct {
	io.ReadCloser
	began   time.Time
	handles toTheEnd
	once    sync.Once
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(func() { b.handles.end(b.began) })
	}
	return n, err
}

func (b *countedBody) Close() error {
	b.once.Do(func() { b.handles.end(b.began) })
	return b.ReadCloser.Close()
}

// instrumented does the same with promhttp.
func instrumented(base http.RoundTripper) http.RoundTripper {
	labels := []string{"code", "method"}
	return promhttp.InstrumentRoundTripperInFlight(prometheus.NewGauge(prometheus.GaugeOpts{Name: "in_flight"}),
		promhttp.InstrumentRoundTripperCounter(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "total"}, labels),
			promhttp.InstrumentRoundTripperDuration(prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "seconds"}, labels), base)))
}

// registry makes a registry. Each candidate has its own.
func registry() *metrics.Registry {
	r, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		log.Fatal(err)
	}
	return r
}

// countGroup adds metrics to all other policies. The rivals are added to the same
// policies.
func countGroup(where string, base http.RoundTripper) group {
	ctx := context.Background()
	const url = "http://bench/"
	counted := upstream(append([]pillion.Policy{metrics.Config{Registry: registry()}}, all(false)...)...)
	return group{"metrics, added to all policies, " + where, []candidate{
		{"all policies, uncounted", get(ctx, upstream(all(false)...).Transport(base), url)},
		{"pillion", get(ctx, counted.Transport(base), url)},
		{"three handles of client_golang", get(ctx, newHandles(upstream(all(false)...).Transport(base)), url)},
		{"the same, until the end of the body", get(ctx, toTheEnd(newHandles(upstream(all(false)...).Transport(base))), url)},
		{"promhttp", get(ctx, instrumented(upstream(all(false)...).Transport(base)), url)},
	}, true} // fine: the difference is small
}

// scraped is a response writer that discards the page.
type scraped struct {
	header http.Header
	io.Writer
}

func (s scraped) Header() http.Header { return s.header }
func (s scraped) WriteHeader(int)     {}

// scrapeGroup measures the pages of a thousand clusters.
func scrapeGroup() group {
	r := registry()
	for i := range 1000 {
		c := r.Cluster("cluster-" + strconv.Itoa(i))
		u := upstream(metrics.Config{Registry: r, StatName: c.Name()})
		for _, code := range []int{200, 404, 503} {
			get(context.Background(), u.Transport(stub{code, body}), "http://bench/")()
		}
		c.Responses(metrics.Retry).Count(503)
	}
	scrape := func(url string) func() {
		h := metrics.Handler(r)
		req, err := http.NewRequest(http.MethodGet, url, http.NoBody)
		if err != nil {
			log.Fatal(err)
		}
		return func() { h.ServeHTTP(scraped{http.Header{}, io.Discard}, req) }
	}
	fresh := 0
	return group{"a scrape of 1,000 clusters", []candidate{
		{"nothing", func() {}},
		{"/stats", scrape("/stats")},
		{"/stats?format=json", scrape("/stats?format=json")},
		{"/stats/prometheus", scrape("/stats/prometheus")},
		{"/stats/prometheus, another cluster each time", func() {
			r.Remove(fmt.Sprint("fresh-", fresh))
			fresh++
			r.Cluster(fmt.Sprint("fresh-", fresh)).Counter("upstream_rq_total").Inc()
			scrape("/stats/prometheus")()
		}},
	}, false}
}

// metricsBounds say that metrics cost no more than what is written by hand for the same
// work, and allocate nothing. Without a body the work by hand ends with the response headers
// and does not include the engine's events.
func metricsBounds() []bound {
	return []bound{
		{"metrics, added to all policies, stub with a body", "pillion", "the same, until the end of the body", 1, 0},
		{"metrics, added to all policies, stub with a body", "pillion", "promhttp", 1, 0},
		{"metrics, added to all policies, stub with http.NoBody", "pillion", "three handles of client_golang", 1.5, 0},
	}
}

// scrapeLimit is the bound of a page of a thousand clusters.
const scrapeLimit = 50 * time.Millisecond

// checkScrapes compares each page with it.
func checkScrapes(tables []table) (bad []error) {
	for _, t := range tables {
		if !strings.HasPrefix(t.group.name, "a scrape of") {
			continue
		}
		for _, c := range t.group.candidates {
			if took := time.Duration(t.results[c.name].ns); took > scrapeLimit {
				bad = append(bad, fmt.Errorf("bench: %s: %s took %v, bound %v", t.group.name, c.name, took, scrapeLimit))
			}
		}
	}
	return bad
}
