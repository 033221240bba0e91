package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-calls", "500", "-rate", "1000"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bare", "pillion", "successful calls", "calls that the server received", "cluster.recipes.grpc.grpc.health.v1.Health.Check.total: 500"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s\nwant %q in it", out.String(), want)
		}
	}
	if untidy := page.Untidy(out.String()); len(untidy) > 0 {
		t.Errorf("lines that are too wide or untidy: %q", untidy)
	}
	got, _, _ := strings.Cut(out.String(), "cluster.")
	for _, r := range []struct{ pattern, with string }{{`\d+(\.\d+)?(ms|s\b)?`, "N"}, {`  +`, " "}} {
		got = regexp.MustCompile(r.pattern).ReplaceAllString(got, r.with)
	}
	if diff := cmp.Diff(wantText, got); diff != "" {
		t.Errorf("output, N for each number (-want +got):\n%s", diff)
	}
}

const wantText = `N calls, N per second, to a misbehaving gRPC server on this machine,
first through a bare connection, then through pillion: about N s in all.

The bare connection has a deadline of N. pillion has these policies:

 timeout N for a call, N for each attempt
 retry at most N retries for a call, on unavailable,reset,connect-failure
 limits at most N attempts at the same time
 breaker opens for N if N % of the results of the last N are failures

The server accepts at most N calls at the same time, with pillion's limits.

successful calls while the server is ... calls possible bare pillion
healthy N N % N % N %
N % of responses UNAVAILABLE N N % N % N %
N % of responses take a second N N % N % N %
down: all responses UNAVAILABLE N N % N % N %
N % UNAVAILABLE, N % take a second N N % N % N %
all phases (N) N N % N % N %

 bare pillion
successful calls N % N %
median time of a call N ms N ms
Nth percentile N ms N ms
attempts (N) N N
calls that the server received N N
all calls took N N

pillion: N % of at most N % succeed. The bare connection: N %.

(N) While the server is down no call can succeed, whatever the client does.
(N) A retry is an attempt. So is one that the open breaker refuses, which does
 not reach the server.

The calls through pillion, counted as Envoy counts them:

`

func TestCompare(t *testing.T) {
	results, stats, err := compare(t.Context(), load{calls: 500, rate: 1000}, defaultPolicies())
	if err != nil {
		t.Fatal(err)
	}
	bare, guarded := results[0], results[1]
	// Which path has more successes in so short a life is up to when the breaker opens.
	if guarded.total().successes == 0 || guarded.total().successes > guarded.total().possible || bare.attempts != 500 || guarded.attempts <= 500 {
		t.Errorf("got %+v, want successes on both paths, and more attempts than calls with pillion", results)
	}
	if got := stats("upstream_rq_retry"); got == 0 {
		t.Error("got no retries")
	}
}

func TestRun_badFlags(t *testing.T) {
	for _, args := range [][]string{{"-calls", "0"}, {"-rate", "0"}, {"-rate", "NaN"}, {"-nonsense"}, {"extra"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: got no error", args)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); err != nil {
		t.Errorf("-h: got %v", err)
	}
}
