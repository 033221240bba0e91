package metrics

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// TestLimitsGauges shows the gauges of limits inside, while a slot is taken and afterwards.
func TestLimitsGauges(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r}, limits.Config{MaxRequests: 1})
	const url = "/stats?filter=default.rq_open"
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
		if got := page(t, r, url); got != "cluster.recipes.circuit_breakers.default.rq_open: 1\n" {
			t.Errorf("while the slot is taken: got %q", got)
		}
		return 0, nil
	})
	if got := page(t, r, url); err != nil || got != "cluster.recipes.circuit_breakers.default.rq_open: 0\n" {
		t.Errorf("afterwards: got %q and %v", got, err)
	}
}

// offering is a policy with a gauge.
type offering struct {
	name string
	read func() uint64
}

func (o offering) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Stat(policy.Stat{Kind: policy.Gauge, Name: o.name, Read: o.read})
	return next, nil
}

// logged collects the output of slog.Default during a test.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

// TestGauge_panics checks that each format of the page and the collector omit and report a gauge
// whose function panics, and keep all other statistics.
func TestGauge_panics(t *testing.T) {
	broken := true
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r},
		offering{"a.broken", func() uint64 {
			if broken {
				panic("soup")
			}
			return 5
		}},
		offering{"a.good", func() uint64 { return 7 }})
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	to := prometheus.NewPedanticRegistry()
	to.MustRegister(Collector(r))
	gather := func() string {
		list, err := to.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, f := range list {
			b.WriteString(f.String())
		}
		return b.String()
	}
	for name, show := range map[string]func() string{
		"text":       func() string { return page(t, r, "/stats") },
		"used":       func() string { return page(t, r, "/stats?usedonly") },
		"JSON":       func() string { return page(t, r, "/stats?format=json") },
		"gauges":     func() string { return page(t, r, "/stats?format=json&type=Gauges") },
		"Prometheus": func() string { return page(t, r, "/stats/prometheus") },
		"collector":  gather,
	} {
		log := logged(t)
		broken = true
		text := show()
		if strings.Contains(text, "broken") || !strings.Contains(text, "good") {
			t.Errorf("%s: got %s, want it without the broken gauge", name, text)
		}
		if name == "JSON" || name == "gauges" {
			validJSON(t, text)
		}
		if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "the function of the gauge cluster.recipes.a.broken") {
			t.Errorf("%s: got log %q, want the panic", name, log)
		}
		broken = false
		if text := show(); !strings.Contains(text, "broken") {
			t.Errorf("%s: got %s, want the gauge again", name, text)
		}
	}
}

// TestGauge_offers checks that New reports gauges that cannot be shown.
func TestGauge_offers(t *testing.T) {
	zero := func() uint64 { return 0 }
	for want, o := range map[string]offering{
		"metrics: the gauge cluster.recipes.a has no function":             {"a", nil},
		"metrics: cluster.recipes.upstream_rq_total already is a counter":  {"upstream_rq_total", zero},
		"metrics: cluster.recipes.upstream_rq_active already is a gauge":   {"upstream_rq_active", zero},
		"metrics: cluster.recipes.upstream_rq_2xx already is a counter":    {"upstream_rq_2xx", zero},
		"metrics: cluster.recipes.upstream_rq_time already is a histogram": {"upstream_rq_time", zero},
	} {
		r := registry(t, Settings{})
		r.Cluster("recipes").Responses(Internal).Count(200)
		r.Cluster("recipes").Responses(Internal).Time(1)
		_, err := pillion.New("recipes", Config{Registry: r}, o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
		page(t, r, "/stats")
	}
	defer func() {
		if got, want := recover(), "metrics: the gauge cluster.recipes.x has no function"; got != want {
			t.Errorf("got panic %v, want %q", got, want)
		}
	}()
	registry(t, Settings{}).Cluster("recipes").ReadGauge("x", nil)
}
