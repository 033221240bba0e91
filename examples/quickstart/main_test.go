package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/metrics"
)

func TestRun_json(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-json", "-calls", "400", "-rate", "800"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	results := map[string]result{}
	for d := json.NewDecoder(&out); d.More(); {
		var r result
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		results[r.Path] = r
	}
	bare, guarded := results["bare"], results["pillion"]
	if guarded.Successes > guarded.Possible || guarded.Possible != 360 {
		t.Errorf("got %d successes of %d possible ones, want at most 360", guarded.Successes, guarded.Possible)
	}
	if len(results) != 2 || bare.Calls != 400 || guarded.Calls != 400 {
		t.Fatalf("got %+v, want two paths of 400 calls", results)
	}
	if bare.Attempts != 400 || guarded.Attempts <= 400 {
		t.Errorf("got %d and %d attempts, want 400 and more", bare.Attempts, guarded.Attempts)
	}
	for _, r := range results {
		if r.ServerRequests == nil || *r.ServerRequests == 0 || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("got %+v, want the server's count and both percentiles", r)
		}
	}
}

func TestRun_url(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-url", server.URL, "-calls", "20", "-rate", "1000"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bare", "pillion", "100.0 %", "requests that the server received"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s\nwant %q in it", out.String(), want)
		}
	}
}

func TestRun_urlUnreachable(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-url", server.URL, "-calls", "5", "-rate", "1000"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "the last failure of bare:\n"; !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "refused") {
		t.Errorf("got %s\nwant %q and why in it", out.String(), want)
	}
}

func TestRun_stats(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-calls", "40", "-rate", "1000"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cluster.recipes.upstream_rq_total: ", "cluster.recipes.internal.upstream_rq_2xx: ", "cluster.recipes.upstream_cx_total: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s\nwant %q in it", out.String(), want)
		}
	}
}

// TestRun_serve looks at the statistics while the program runs, and ends it.
func TestRun_serve(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, say := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-serve", "-json", "-calls", "5", "-rate", "1000"}, io.Discard, say)
		_ = say.Close()
	}()
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		_, rest, ok := strings.Cut(lines.Text(), "statistics at ")
		if !ok {
			continue
		}
		address, _, _ := strings.Cut(rest, " ")
		resp, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d, want 200", address, resp.StatusCode)
		}
		cancel()
	}
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want no error or that it was interrupted", err)
	}
}

// TestRun_text compares what the program prints, with N for each number.
func TestRun_text(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-calls", "100", "-rate", "1000"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if untidy := page.Untidy(out.String()); len(untidy) > 0 {
		t.Errorf("lines that are too wide or untidy: %q", untidy)
	}
	got, _, _ := strings.Cut(out.String(), "cluster.")
	for _, r := range []struct{ pattern, with string }{
		{`(once|N times|\d+ times), \d+ ms|never`, "N"}, {`\d+(\.\d+)?(ms|s\b)?`, "N"}, {`  +`, " "},
	} {
		got = regexp.MustCompile(r.pattern).ReplaceAllString(got, r.with)
	}
	want := `N calls, N per second, to a misbehaving server on this machine,
first through a bare http.Client, then through pillion: about N s in all.

The bare client has a timeout of N. pillion has these policies:

 timeout N for a call, N for each attempt
 retry at most N retries for a call, within the default budget
 limits at most N attempts at the same time
 breaker opens for N if N % of the results of the last N are failures

successful calls while the server is ... calls possible bare pillion
healthy N N % N % N %
every Nrd response is a N N N % N % N %
every Nth response is lost N N % N % N %
every Nth connection is reset N N % N % N %
down: each response is a N N N % N % N %
healthy again N N % N % N %
all phases (N) N N % N % N %

 bare pillion
successful calls N % N %
median time of a call N ms N ms
Nth percentile N ms N ms
attempts, retries included N N
calls that the open breaker refused (N) N N
breaker was open N N
requests that the server received (N) N N
all calls took N N

pillion: N % of at most N % succeed. The bare client: N %.

(N) While the server is down no call can succeed, whatever the client does.
(N) A call fails immediately while the breaker is open. This spares the server.
(N) net/http itself resends some requests on connections that were reset.

The same calls, counted as Envoy counts them (-serve shows all statistics):

`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// TestPhases adds up what is possible.
func TestPhases(t *testing.T) {
	calls, possible := map[string]int{}, 0
	for _, p := range sumPhases(make([]outcome, 4000)) {
		calls[p.Name] = p.Calls
		possible += p.Possible
	}
	want := map[string]int{
		"healthy": 600, "every 3rd response is a 503": 1000, "every 15th response is lost": 800,
		"every 5th connection is reset": 800, "down: each response is a 503": 400, "healthy again": 400,
	}
	if diff := cmp.Diff(want, calls); diff != "" || possible != 3600 {
		t.Errorf("got %d possible successes, want 3600; calls (-want +got):\n%s", possible, diff)
	}
}

// TestCompare runs the default load in a bubble, where the speed of the machine plays no part.
func TestCompare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		wire := memhttp.Serve(http.HandlerFunc(s.serve))
		defer wire.Close()
		stats, err := metrics.NewRegistry(metrics.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		l := load{url: "http://recipes/", calls: 2500, rate: 500, server: s, base: wire.Transport}
		results, err := compare(t.Context(), l, defaultPolicies(), stats, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		bare, guarded := results[0], results[1]
		if bare.Successes < 1900 || bare.Successes > 2050 {
			t.Errorf("got %d successes without pillion, want about 79 %% of 2500", bare.Successes)
		}
		if guarded.Successes < 2150 || guarded.Successes > guarded.Possible || guarded.Possible != 2250 {
			t.Errorf("got %d successes with pillion of %d possible ones, want nearly all of 2250", guarded.Successes, guarded.Possible)
		}
		if guarded.OpenPeriods == 0 || guarded.Refusals == 0 {
			t.Errorf("got %d open periods and %d refusals, want some", guarded.OpenPeriods, guarded.Refusals)
		}
		if guarded.P99 >= bare.P99 {
			t.Errorf("got a 99th percentile of %v ms with pillion and %v ms without, want less", guarded.P99, bare.P99)
		}
	})
}

// TestRun_interrupted ends long before all calls were made.
func TestRun_interrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := run(ctx, []string{"-calls", "100000", "-rate", "100"}, io.Discard, io.Discard)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want an interruption", err)
	}
}

func TestRun_help(t *testing.T) {
	if err := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestRun_badFlags(t *testing.T) {
	for _, args := range [][]string{{"-calls", "0"}, {"-rate", "0"}, {"-rate", "NaN"}, {"-nonsense"}, {"extra"}, {"-url", "notaurl"}, {"-url", "ftp://x/"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: got no error", args)
		}
	}
}
