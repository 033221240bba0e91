package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// drawnInTests is the number of seeds that tests draw.
const drawnInTests = 200

// TestDraw_repeatable checks that a seed always gives the same scenario, and other seeds others.
func TestDraw_repeatable(t *testing.T) {
	seen := map[string]uint64{}
	for seed := range uint64(drawnInTests) {
		s, again := Draw(seed), Draw(seed)
		if s.text() != again.text() {
			t.Fatalf("seed %d: got\n%s\nand then\n%s", seed, s.text(), again.text())
		}
		s.Name, s.Description = "", ""
		if before, ok := seen[s.text()]; ok {
			t.Errorf("the seeds %d and %d: got the same scenario", before, seed)
		}
		seen[s.text()] = seed
	}
}

// TestDraw_valid checks that the library and the format of files accept what is drawn.
func TestDraw_valid(t *testing.T) {
	for seed := range uint64(drawnInTests) {
		s := Draw(seed)
		if err := s.valid(t.Context()); err != nil {
			t.Errorf("seed %d: %v\n%s", seed, err, s.text())
		}
		read := &Scenario{}
		if err := strictBytes([]byte(s.text()), read); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		} else if read.text() != s.text() {
			t.Errorf("seed %d: got\n%s\nwant\n%s", seed, read.text(), s.text())
		}
	}
}

// TestDraw_envoy checks that Envoy accepts what is drawn.
func TestDraw_envoy(t *testing.T) {
	t.Parallel()
	binary := FindEnvoy()
	if binary == "" {
		t.Skip("no Envoy found: set PILLION_ENVOY or put envoy on PATH")
	}
	var cases []*Case
	for seed := range uint64(drawnInTests) {
		cases = append(cases, &Case{Scenario: *Draw(seed)})
	}
	for some := range slices.Chunk(cases, batchSize) {
		b, err := startBatch(t.Context(), binary, some)
		if err != nil {
			t.Fatal(err)
		}
		b.close()
	}
}

// TestDraw_varied checks that the features are drawn which the fuzzer is for.
func TestDraw_varied(t *testing.T) {
	var all strings.Builder
	for seed := range uint64(drawnInTests) {
		all.WriteString(Draw(seed).text())
	}
	for _, feature := range []string{
		"retry_on", "retriable_status_codes", "retriable_headers", "retriable_request_headers", "rate_limited_retry_back_off",
		`"timeout"`, "per_try_timeout", "per_try_idle_timeout", "max_connections", "max_pending_requests", "max_requests", "max_retries", "retry_budget",
		"filters.http.fault", "local_ratelimit", "outlier_detection", "lb_policy", "priorities", "hedge_on_per_try_timeout", "grpc_stats", "grpc-status",
		`"protocol": "http1"`, `"protocol": "h2"`, "x-envoy-retry-on", "external", "rst_stream", "client_timeout_ms", "refuse", "concurrent",
	} {
		if !strings.Contains(all.String(), feature) {
			t.Errorf("%s is never drawn", feature)
		}
	}
}

// TestDraw_addresses checks that no pick depends on the addresses of hosts, which differ in each play.
func TestDraw_addresses(t *testing.T) {
	for seed := range uint64(2000) {
		s := Draw(seed)
		f, err := readFragments(s.Envoy)
		if err != nil {
			t.Fatal(err)
		}
		again := f.route.RetryPolicy
		if f.cluster.LBPolicy != "" && again != nil && len(again.RetryHostPredicate) > 0 {
			t.Errorf("seed %d: retries avoid hosts, and a hash picks them", seed)
		}
	}
}

// TestGrids checks that no two instants of a grid are close, where attempts take multiples of the
// unit, or of half of it with hedging, and back-offs take a little.
func TestGrids(t *testing.T) {
	const apart, backOffs = 60, 6
	for name, g := range map[string]grid{"one by one": oneByOne, "concurrent": atOnce, "hedging": hedging} {
		every := g.unit
		switch name {
		case "concurrent":
			every = startEvery
		case "hedging":
			every = g.unit / 2
		}
		for _, limits := range [][]int{g.totals, g.leaves} {
			for _, limit := range limits {
				if after := limit % every; after-backOffs < apart || every-after < apart {
					t.Errorf("%s: the limit %d ms is close to a multiple of %d ms", name, limit, every)
				}
			}
		}
		for _, total := range g.totals {
			for _, leave := range g.leaves {
				if max(total, leave)-min(total, leave) < apart {
					t.Errorf("%s: %d ms and %d ms are close", name, total, leave)
				}
			}
		}
		for _, perTry := range g.perTry {
			for _, delay := range g.delays {
				if (perTry-delay)%(2*g.unit) == 0 {
					t.Errorf("%s: a response after %d ms meets the timeout of %d ms", name, delay, perTry)
				}
			}
		}
	}
}

// TestGrids_connecting checks that a connection does not end near the end of an attempt that waits
// for it.
func TestGrids_connecting(t *testing.T) {
	const apart = 60
	for _, perTry := range oneByOne.perTry {
		if after := connecting % perTry; after < apart || perTry-after < apart {
			t.Errorf("a connection that ends after %d ms meets the timeout of %d ms", connecting, perTry)
		}
	}
}

// TestShrink checks that all that a failure does not need is removed.
func TestShrink(t *testing.T) {
	var s *Scenario
	for seed := uint64(0); s == nil; seed++ {
		if s = Draw(seed); !needed(s) {
			s = nil
		}
	}
	tested := 0
	first := func(candidates []*Scenario) int {
		tested += len(candidates)
		return slices.IndexFunc(candidates, needed)
	}
	small := shrink(t.Context(), s, first)
	const want = `{"retry_policy":{"retry_back_off":{"base_interval":"0.001s","max_interval":"0.002s"}}}`
	if got := string(small.Envoy["route"]); got != want {
		t.Errorf("route: got %s, want %s", got, want)
	}
	if len(small.Envoy) != 1 || len(small.Upstream.Hosts) != 1 || len(small.Upstream.Script) != 1 || len(small.requests()) != 1 {
		t.Errorf("got\n%s\nwant one section, host, step and call", small.text())
	}
	if first(smaller(t.Context(), small)) >= 0 {
		t.Errorf("got\n%s\nwant nothing smaller that fails", small.text())
	}
	t.Logf("tested %d scenarios", tested)
}

// needed is a failure: the route has a retry policy, and the script has a 503.
func needed(s *Scenario) bool {
	var route envoyRouteAction
	if err := json.Unmarshal(s.Envoy["route"], &route); err != nil || route.RetryPolicy == nil {
		return false
	}
	return slices.ContainsFunc(s.Upstream.Script, func(s Step) bool { return s.Status == 503 })
}

// TestShrink_zeros checks that shrinking keeps settings that are 0.
func TestShrink_zeros(t *testing.T) {
	s := &Scenario{Name: "zero", Envoy: map[string]json.RawMessage{"route": json.RawMessage(`{"retry_policy":{"num_retries":0,"retry_on":"5xx"}}`)}}
	if text := s.text(); !strings.Contains(text, `"num_retries": 0`) {
		t.Errorf("got\n%s\nwant num_retries", text)
	}
}

// TestFuzzer checks that what differs is reported as a case, and what does not is counted.
func TestFuzzer(t *testing.T) {
	t.Parallel()
	binary := FindEnvoy()
	if binary == "" {
		t.Skip("no Envoy found: set PILLION_ENVOY or put envoy on PATH")
	}
	var out bytes.Buffer
	f := &Fuzzer{Envoy: binary, Workers: 2, Dir: t.TempDir(), Out: &out, Shrink: time.Nanosecond, library: wrong}
	seeds := []uint64{simple(t)}
	if tally, err := f.Run(t.Context(), seeds); err != nil || tally != (Tally{Failing: 1}) {
		t.Errorf("a wrong library: got %+v, %v, want a failure", tally, err)
	}
	for _, want := range []string{"/stats_nonzero/cluster.upstream.upstream_rq_total: got \"999\"", "parity fuzz: 1 scenarios, 0 same, 0 documented differences, 1 failing\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant %s", out.String(), want)
		}
	}
	if cases, err := Load(f.Dir); err != nil || len(cases) != 1 || len(cases[0].Observed.Downstream) == 0 {
		t.Errorf("got %v, %v, want the case with Envoy's observations", cases, err)
	}
	files, err := filepath.Glob(filepath.Join(f.Dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v, %v, want a file", files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	f.library = NewLibrary
	if tally, err := f.Run(t.Context(), seeds); err != nil || tally.All() != 1 || tally.Failing != 0 {
		t.Errorf("got %+v, %v, want no failure", tally, err)
	}
}

// simple is a seed whose scenario is short.
func simple(t *testing.T) uint64 {
	t.Helper()
	for seed := range uint64(drawnInTests) {
		s := Draw(seed)
		if text := s.text(); len(s.requests()) == 1 && len(s.Upstream.Hosts) == 1 && !strings.Contains(text, "delay") && !strings.Contains(text, "hang") {
			return seed
		}
	}
	t.Fatal("no short scenario is drawn")
	return 0
}

// wrong is a library that counts too many requests.
func wrong(ctx context.Context, s *Scenario, addresses Addresses) (Side, error) {
	side, err := NewLibrary(ctx, s, addresses)
	return wrongSide{side}, err
}

type wrongSide struct{ Side }

// Stats returns a wrong number.
func (w wrongSide) Stats(ctx context.Context) (numbers, histograms map[string]uint64, err error) {
	numbers, histograms, err = w.Side.Stats(ctx)
	if err == nil {
		numbers["cluster.upstream.upstream_rq_total"] = 999
	}
	return numbers, histograms, err
}
