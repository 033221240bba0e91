package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-calls", "500", "-rate", "1000"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bare", "pillion", "succeeded", "calls the server got", "cluster.recipes.grpc.grpc.health.v1.Health.Check.total: 500"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s\nwant %q in it", out.String(), want)
		}
	}
}

func TestCompare(t *testing.T) {
	results, stats, err := compare(t.Context(), load{calls: 500, rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	bare, guarded := results[0], results[1]
	// Which path has more successes in so short a life is up to when the breaker opens.
	if guarded.successes == 0 || bare.attempts != 500 || guarded.attempts <= 500 {
		t.Errorf("got %+v, want successes on both paths, and more attempts than calls with pillion", results)
	}
	if got := stats.Counter("upstream_rq_retry").Value(); got == 0 {
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
