package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// TestRun_json checks what the table is to show, with wide margins, and no times.
func TestRun_json(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-json", "-calls", "400", "-seed", "7"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for d := json.NewDecoder(&out); d.More(); {
		var r row
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Calls != 400 || r.P50 <= 0 || r.P99 < r.P50 || r.Share < 0 || r.Share > 1 || r.Group == "" || r.Measure == "" {
			t.Errorf("got %+v, want 400 calls, both percentiles and a share", r)
		}
		rows[r.Policy] = r
	}
	if len(rows) != lines {
		t.Fatalf("got %d lines, want %d", len(rows), lines)
	}
	share := func(policy string) float64 { return rows[policy].Share }
	failed := func(policy string) float64 { return rows[policy].Failed }
	for _, test := range []struct {
		name      string
		more      float64
		factor    float64
		less      float64
		moreAbove float64
	}{
		{"round robin ignores load", share("ROUND_ROBIN"), 1.2, share("LEAST_REQUEST"), 0.15},
		{"round robin ignores latency", share("ROUND_ROBIN"), 2, share("PEAK_EWMA"), 0.15},
		{"failures without ejections", failed("all hosts are used"), 2, failed("outlier detection"), 0.1},
		{"failures when a retry uses the same host", failed("the same host, as in Envoy"), 4, failed("another host"), 0.1},
		{"calls at a cold host", share("its whole share immediately"), 1.9, share("slow start"), 0.03},
		{"cross-zone calls", share("8 hosts here"), 4, share("8 hosts here, zone-aware"), 0.5},
		{"cross-zone calls, few hosts here", share("4 hosts here, zone-aware"), 4, share("8 hosts here, zone-aware"), 0.25},
		{"calls at new replicas", share("max_connection_duration"), 4, share("connections without end"), 0.1},
	} {
		if test.more <= test.factor*test.less || test.more < test.moreAbove {
			t.Errorf("%s: got %.3f and %.3f, want %v times as many, and at least %v", test.name, test.more, test.less, test.factor, test.moreAbove)
		}
	}
	for policy, r := range rows {
		if fails := policy == "all hosts are used" || policy == "outlier detection" || policy == "the same host, as in Envoy"; !fails && r.Failed > 0.02 {
			t.Errorf("%s: got %v failed calls, want hardly any", policy, r.Failed)
		}
	}
}

// TestRun_text compares what the program prints, with N for each number.
func TestRun_text(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-calls", "40", "-rate", "400"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if untidy := page.Untidy(out.String()); len(untidy) > 0 {
		t.Errorf("lines that are too wide or untidy: %q", untidy)
	}
	got := out.String()
	for _, r := range []struct{ pattern, with string }{{`\d+(\.\d+)?(ms|s\b)?`, "N"}, {`  +`, " "}} {
		got = regexp.MustCompile(r.pattern).ReplaceAllString(got, r.with)
	}
	if diff := cmp.Diff(wantText, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

const wantText = `N hosts on this machine, N calls per second, N calls for each line:
about N s in all. Seed N says which hosts are slow or fail. A host serves
one request at a time, in N; slow ones take N.

 failed median N % share

N hosts are slow (N) at slow hosts
 ROUND_ROBIN N % N ms N ms N %
 LEAST_REQUEST N % N ms N ms N %
 PEAK_EWMA N % N ms N ms N %

N hosts fail, no retries (N) at failing hosts
 all hosts are used N % N ms N ms N %
 outlier detection N % N ms N ms N %

N hosts fail, MAGLEV, retries (N) calls retried
 the same host, as in Envoy N % N ms N ms N %
 another host N % N ms N ms N %

a cold host joins (N) at it, at first
 its whole share immediately N % N ms N ms N %
 slow start N % N ms N ms N %

N zones (N) cross-zone calls
 N hosts here N % N ms N ms N %
 N hosts here, zone-aware N % N ms N ms N %
 N hosts here, zone-aware N % N ms N ms N %

HTTP/N, N replicas are added (N) at new replicas
 connections without end N % N ms N ms N %
 max_connection_duration N % N ms N ms N %

(N) least request sees the queue of a slow host, peak EWMA its latency
(N) a host that has failed N times in a row gets no more calls for N
(N) by its hash a retry goes to the host that has failed, unless it avoids it
(N) with slow start a new host has a tenth of its share at first (of a quarter
 of the calls)
(N) calls stay in zone a as long as all hosts have the same load
(N) a connection to a load balancer stays at one replica, unless it has an age
`

func TestRun_badFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-calls 19": "-calls 19", "-rate 0": "-rate 0", "-rate NaN": "-rate NaN", "-nonsense": "see -h", "extra": `unexpected argument "extra"`,
	} {
		if err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); err != nil {
		t.Errorf("-h: got %v", err)
	}
}

func TestRun_interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v, want that it was interrupted", err)
	}
}

// TestFleet pins that a seed draws the same hosts each time, and another seed others.
func TestFleet(t *testing.T) {
	order := func(seed uint64) []int {
		f, err := startFleet(seed)
		if err != nil {
			t.Fatal(err)
		}
		defer f.close()
		return f.order
	}
	first := order(1)
	if diff := cmp.Diff(first, order(1)); diff != "" {
		t.Errorf("the same seed (-first +second):\n%s", diff)
	}
	if cmp.Equal(first, order(2)) {
		t.Error("another seed: got the same hosts")
	}
}
