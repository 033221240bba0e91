package metrics

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// counting is a policy with a counter.
type counting struct{ n *atomic.Uint64 }

func (c counting) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stat(policy.Stat{Kind: policy.Counter, Name: "http.injected", Read: c.n.Load})
	return func(ctx context.Context, call *policy.Call) *policy.Outcome {
		c.n.Add(1)
		return next(ctx, call)
	}, nil
}

// TestStat_counter shows the counters of policies inside and outside: those of the same name are
// summed, also over upstreams.
func TestStat_counter(t *testing.T) {
	var inside, outside, other atomic.Uint64
	r := registry(t, Settings{})
	us := []*pillion.Upstream{
		upstream(t, counting{&outside}, Config{Registry: r}, counting{&inside}),
		upstream(t, Config{Registry: r}, counting{&other}),
	}
	for _, u := range us {
		if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if got := page(t, r, "/stats?filter=injected"); got != "cluster.recipes.http.injected: 3\n" {
		t.Errorf("got %q, want 3", got)
	}
	if got := page(t, r, "/stats/prometheus?filter=injected"); !strings.Contains(got, "# TYPE envoy_cluster_http_injected counter\n") {
		t.Errorf("got %q, want a counter", got)
	}
	p := prometheus.NewRegistry()
	if err := p.Register(Collector(r)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Gather(); err != nil {
		t.Error(err)
	}
}

// TestStat_bad checks the errors of a counter without a function and of a name that is taken.
func TestStat_bad(t *testing.T) {
	for name, s := range map[string]policy.Stat{
		"no function": {Kind: policy.Counter, Name: "x"},
		"taken":       {Kind: policy.Counter, Name: "upstream_rq_total", Read: func() uint64 { return 0 }},
		"a gauge":     {Kind: policy.Counter, Name: "upstream_rq_active", Read: func() uint64 { return 0 }},
	} {
		p := policyFunc(func(b *policy.Builder, next policy.Func) (policy.Func, error) {
			b.Stat(s)
			return next, nil
		})
		counts := Config{Registry: registry(t, Settings{})}
		for place, policies := range map[string][]policy.Policy{"inside": {counts, p}, "outside": {p, counts}} {
			if _, err := pillion.New("recipes", policies...); err == nil || strings.Count(err.Error(), "cluster.recipes."+s.Name+" ") != 1 {
				t.Errorf("%s, %s metrics: got %v, want an error that names it", name, place, err)
			}
		}
	}
}

// TestStat_later checks that a statistic that is offered after New is shown, or its error logged.
func TestStat_later(t *testing.T) {
	log := logged(t)
	var kept *policy.Builder
	r := registry(t, Settings{})
	upstream(t, policyFunc(func(b *policy.Builder, next policy.Func) (policy.Func, error) {
		kept = b
		return next, nil
	}), Config{Registry: r})
	three := func() uint64 { return 3 }
	kept.Stat(policy.Stat{Name: "late", Read: three}, policy.Stat{Name: "upstream_rq_total", Read: three}, policy.Stat{Name: "later", Read: three})
	if got := page(t, r, "/stats?filter=late"); got != "cluster.recipes.late: 3\ncluster.recipes.later: 3\n" {
		t.Errorf("got %q, want both gauges", got)
	}
	const want = `level=ERROR msg="pillion: a statistic is not shown" upstream=recipes error="metrics: cluster.recipes.upstream_rq_total already is a counter"`
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, want) {
		t.Errorf("got log %q, want %q", got, want)
	}
}

type policyFunc func(b *policy.Builder, next policy.Func) (policy.Func, error)

func (p policyFunc) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) { return p(b, next) }

// TestRefusal_counter checks that refusals count in the statistic that their detail names.
func TestRefusal_counter(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r}, policyFunc(func(*policy.Builder, policy.Func) (policy.Func, error) {
		return func(_ context.Context, c *policy.Call) *policy.Outcome { return c.Refuse(errRefused, refusedDetail) }, nil
	}))
	for range 2 {
		_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
	}
	if got := r.Cluster("recipes").Counter("rbac.denied").Value(); got != 2 {
		t.Errorf("got %d, want 2", got)
	}
}

var (
	errRefused    = errors.New("denied")
	refusedDetail = envoy.NewDetail(envoy.DetailSpec{Text: "rbac_access_denied", Status: 403, Body: "RBAC: access denied", Counter: "rbac.denied"})
)
