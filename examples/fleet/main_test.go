package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// pipes is a network in memory, so that the fleet can run in a bubble.
type pipes struct {
	mu        sync.Mutex
	listeners map[string]*handed // guarded by mu
}

func (p *pipes) listen() (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addr := &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(1+len(p.listeners))), Port: 80}
	l := newHanded(addr)
	p.listeners[addr.String()] = l
	return l, nil
}

func (p *pipes) dial(_ context.Context, _, address string) (net.Conn, error) {
	p.mu.Lock()
	l := p.listeners[address]
	p.mu.Unlock()
	client, server := net.Pipe()
	l.take(server)
	return client, nil
}

// TestCompare checks the results with wide margins, in a bubble, where the speed of the machine has no
// effect.
func TestCompare(t *testing.T) {
	for seed := range uint64(2) {
		var groups []group
		synctest.Test(t, func(t *testing.T) {
			p := &pipes{listeners: map[string]*handed{}}
			f, err := startFleet(network{p.listen, p.dial}, seed)
			if err != nil {
				t.Fatal(err)
			}
			defer f.close()
			groups, err = compare(t.Context(), f, load{calls: 720, rate: 600}, func(string, string) {})
			if err != nil {
				t.Fatal(err)
			}
		})
		rows := map[string]row{}
		for _, g := range groups {
			for _, r := range g.rows {
				rows[r.Policy] = r
			}
		}
		checkRows(t, rows)
	}
}

// checkRows checks that some policies have better results than others, and by which factor.
func checkRows(t *testing.T, rows map[string]row) {
	t.Helper()
	share := func(policy string) float64 { return rows[policy].Share }
	failed := func(policy string) float64 { return rows[policy].Failed }
	p99 := func(policy string) float64 { return float64(rows[policy].P99) }
	for _, test := range []struct {
		name   string
		more   float64
		factor float64
		less   float64
		least  float64 // of more
	}{
		{"calls at slow hosts, least request", share("ROUND_ROBIN"), 1.5, share("LEAST_REQUEST"), 0.19},
		{"calls at slow hosts, peak EWMA", share("LEAST_REQUEST"), 2, share("PEAK_EWMA"), 0.04},
		{"times of calls, least request", p99("ROUND_ROBIN"), 3, p99("LEAST_REQUEST"), 100},
		{"times of calls, peak EWMA", p99("ROUND_ROBIN"), 3, p99("PEAK_EWMA"), 100},
		{"failures without ejections", failed("all hosts are used"), 5, failed("outlier detection"), 0.14},
		{"failures when a retry uses the same host", failed("the same host, as in Envoy"), 10, failed("another host"), 0.1},
		{"calls at a cold host", share("full share immediately"), 3, share("slow start"), 0.049},
		{"times of calls with a cold host", p99("full share immediately"), 2, p99("slow start"), 50},
		{"cross-zone calls", share("8 hosts here"), 10, share("8 hosts here, zone-aware"), 0.59},
		{"cross-zone calls, few hosts here", share("4 hosts here, zone-aware"), 10, share("8 hosts here, zone-aware"), 0.3},
		{"calls at new replicas", share("max_connection_duration"), 10, share("no maximum age"), 0.4},
	} {
		if test.more <= test.factor*test.less || test.more < test.least {
			t.Errorf("%s: got %.3f and %.3f, want %v times as many, and at least %v", test.name, test.more, test.less, test.factor, test.least)
		}
	}
	for policy, r := range rows {
		if fails := policy == "all hosts are used" || policy == "outlier detection" || policy == "the same host, as in Envoy"; !fails && r.Failed > 0.01 {
			t.Errorf("%s: got %v failed calls, want hardly any", policy, r.Failed)
		}
	}
}

// TestRun_json runs the program on real sockets, and checks results that do not depend on the load of
// the machine.
func TestRun_json(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-json", "-calls", "200", "-rate", "400", "-seed", "7"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for d := json.NewDecoder(&out); d.More(); {
		var r row
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Calls != 200 || r.P50 <= 0 || r.P99 < r.P50 || r.Share < 0 || r.Share > 1 || r.Group == "" || r.Measure == "" {
			t.Errorf("got %+v, want 200 calls, both percentiles and a share", r)
		}
		rows[r.Policy] = r
	}
	if len(rows) != lines {
		t.Fatalf("got %d lines, want %d", len(rows), lines)
	}
	for _, test := range []struct {
		name       string
		more, less float64
	}{
		{"failures when a retry uses the same host", rows["the same host, as in Envoy"].Failed, rows["another host"].Failed},
		{"cross-zone calls", rows["8 hosts here"].Share, rows["8 hosts here, zone-aware"].Share},
	} {
		if test.more <= 2*test.less {
			t.Errorf("%s: got %.3f and %.3f, want more than twice as many", test.name, test.more, test.less)
		}
	}
}

// TestRun_text compares the printed text, with N for each number.
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
about N s in total. Seed N selects the hosts that are slow or fail.
A host serves one request at a time, in N; a slow host needs N.

 failed median N % share

N hosts are slow (N) to slow hosts
 ROUND_ROBIN N % N ms N ms N %
 LEAST_REQUEST N % N ms N ms N %
 PEAK_EWMA N % N ms N ms N %

N hosts fail, no retries (N) to failing hosts
 all hosts are used N % N ms N ms N %
 outlier detection N % N ms N ms N %

N hosts fail, MAGLEV, retries (N) calls retried
 the same host, as in Envoy N % N ms N ms N %
 another host N % N ms N ms N %

a cold host is added (N) to it, at first
 full share immediately N % N ms N ms N %
 slow start N % N ms N ms N %

N zones (N) cross-zone calls
 N hosts here N % N ms N ms N %
 N hosts here, zone-aware N % N ms N ms N %
 N hosts here, zone-aware N % N ms N ms N %

HTTP/N, N replicas are added (N) to new replicas
 no maximum age N % N ms N ms N %
 max_connection_duration N % N ms N ms N %

(N) least request avoids hosts with a queue, peak EWMA also those with a high
 latency
(N) a host that fails N times in a row receives no calls for N
(N) a retry has the same hash, and so the same host, unless it avoids that host
(N) with slow start a new host first receives a tenth of its share; the share
 is that of the first quarter of the calls
(N) calls stay in zone a as long as all hosts have the same load
(N) a connection to a load balancer stays at one replica; with a maximum age,
 new connections reach the new replicas
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

// TestFleet pins that a seed selects the same hosts each time, and another seed other hosts.
func TestFleet(t *testing.T) {
	order := func(seed uint64) []int {
		f, err := startFleet(loopback, seed)
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
