package metrics

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// BenchmarkCall measures the cost that the policy adds to a call through all other policies, over a
// stub.
func BenchmarkCall(b *testing.B) {
	for _, tc := range []struct {
		name string
		body string
	}{{"body", "soup"}, {"no body", ""}} {
		for _, counted := range []bool{false, true} {
			for _, parallel := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/counted=%v/parallel=%v", tc.name, counted, parallel), func(b *testing.B) {
					benchmarkCall(b, tc.body, counted, parallel)
				})
			}
		}
	}
}

func benchmarkCall(b *testing.B, body string, counted, parallel bool) {
	b.Helper()
	policies := []policy.Policy{timeout.Config{PerTry: time.Second}, retry.Config{}, limits.Config{}, breaker.Config{}}
	if counted {
		policies = append([]policy.Policy{Config{Registry: registry(b, Settings{})}}, policies...)
	}
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		b.Fatal(err)
	}
	rt := u.Transport(stub(body))
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://recipes/1", http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	call := func() {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	b.ReportAllocs()
	if !parallel {
		for b.Loop() {
			call()
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			call()
		}
	})
}

// stub responds with 200 and a body.
type stub string

func (s stub) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, Header: http.Header{}, Body: http.NoBody, Request: req}
	if s != "" {
		resp.Body = io.NopCloser(strings.NewReader(string(s)))
	}
	return resp, nil
}

// BenchmarkCount measures single statistics, and a histogram of Prometheus's client library for
// comparison.
func BenchmarkCount(b *testing.B) {
	c := registry(b, Settings{}).Cluster("recipes")
	counter, gauge, answers := c.Counter("upstream_rq_total"), c.Gauge("upstream_rq_active"), c.Responses(Internal)
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "upstream_rq_time", Help: "the same", Buckets: bounds[:]})
	for _, bc := range []struct {
		name string
		op   func()
	}{
		{"counter", counter.Inc},
		{"gauge", func() { gauge.Add(1) }},
		{"answer", func() { answers.Count(200) }},
		{"time", func() { answers.Time(44) }},
		{"prometheus histogram", func() { theirs.Observe(44) }},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bc.op()
			}
		})
		b.Run(bc.name+"/parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					bc.op()
				}
			})
		})
	}
}

// crowd makes a registry with n used clusters.
func crowd(tb testing.TB, n int) *Registry {
	tb.Helper()
	r := registry(tb, Settings{Tags: []Tag{{Name: "service.node", Value: "node-1"}}})
	for i := range n {
		rec := newRecorder(r.Cluster(fmt.Sprintf("cluster-%d", i)), Config{})
		for _, code := range []int{200, 404, 503} {
			rec.answers.Count(code)
			rec.answers.Time(uint64(code))
		}
		rec.again.Count(503)
		rec.sent.Add(4)
	}
	return r
}

// BenchmarkScrape reads pages of many clusters, with a cached layout and with a new one.
func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		r := crowd(b, n)
		for _, form := range []form{textForm, jsonForm, prometheusForm} {
			for _, cold := range []bool{false, true} {
				b.Run(fmt.Sprintf("%d/%s/cold=%v", n, [...]string{"text", "json", "prometheus"}[form], cold), func(b *testing.B) {
					b.ReportAllocs()
					var to discard
					q := query{form: form}
					if form == prometheusForm {
						q.buckets = cumulative
					}
					for b.Loop() {
						if cold {
							r.plan.Store(nil)
						}
						newWriter(context.Background(), &to).write(r.layout(), &q)
					}
					b.SetBytes(int64(to) / int64(b.N))
				})
			}
		}
	}
}

// discard counts the bytes written.
type discard int

func (d *discard) Write(p []byte) (int, error) {
	*d += discard(len(p))
	return len(p), nil
}
