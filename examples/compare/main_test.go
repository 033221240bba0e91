package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// TestStatistics makes 3,000 mixed calls, and some that find no free slot, through the
// library and through a real Envoy: both count the same. net/http itself resends requests
// only on kept-alive connections that the server has closed; here it closes none.
func TestStatistics(t *testing.T) {
	envoy := findEnvoy()
	if envoy == "" {
		t.Skip("SKIPPED, NOTHING WAS COMPARED: there is no envoy on PATH and PILLION_ENVOY does not name one")
	}
	s, err := newServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	p := standardPolicy()
	p.Total, p.PerTry = 4*time.Second, time.Second // for the race detector on a busy machine
	all, closeAll, err := paths(t.Context(), p, s, envoy)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	r := &report{}
	if err := r.addMixed(t.Context(), all[1:], p, s, 3000, io.Discard); err != nil {
		t.Fatal(err)
	}
	same := map[string]uint64{}
	for _, stat := range r.Stats {
		switch mark := stat.mark(); {
		case mark == "":
			same[stat.Name] = *stat.Library
		case mark == "differs" && !strings.HasPrefix(stat.Name, "upstream_cx_"): // the two have different connection pools
			t.Errorf("%s: the library counted %d, the sidecar %d", stat.Name, *stat.Library, *stat.Sidecar)
		case mark == "library only":
			t.Errorf("%s: the library counted %d, the sidecar has none", stat.Name, *stat.Library)
		}
	}
	// 2,100 calls succeed immediately. Of 300 with 503, a third each succeeds after one
	// retry, after two, and never. So do the 300 that hang, but for a third whose total timeout
	// fires in the first attempt. 300 are refused. 200 and 100 more calls are held; each time 20
	// find no free slot.
	want := map[string]uint64{
		"upstream_rq_total":                2100 + (200 + 300 + 300) + (200 + 100 + 300) + 200 + 2*100 + 20,
		"upstream_rq_2xx":                  2100 + 200 + 100 + 200 + 100,
		"upstream_rq_5xx":                  100 + 200 + 300 + 2*20,
		"internal.upstream_rq_2xx":         2100 + 200 + 100 + 200 + 100,
		"internal.upstream_rq_5xx":         100 + 200 + 300 + 2*20,
		"upstream_rq_retry":                (100 + 200 + 200) + (100 + 200) + 600 + 100,
		"upstream_rq_retry_success":        200 + 100 + 100,
		"upstream_rq_retry_limit_exceeded": 100 + 100 + 300,
		"upstream_rq_retry_overflow":       20,
		"upstream_rq_active_overflow":      20,
		"upstream_rq_timeout":              100,
		"upstream_rq_per_try_timeout":      100 + 300,
		"upstream_rq_time (count)":         2100 + 300 + 100 + 200 + 100 + 20,
	}
	for name := range same {
		if _, ok := want[name]; !ok {
			delete(same, name)
		}
	}
	if diff := cmp.Diff(want, same); diff != "" {
		t.Errorf("equal statistics (-want +got):\n%s", diff)
	}
}

// TestRun_json measures as little as possible, without a sidecar and with one if there
// is an Envoy.
func TestRun_json(t *testing.T) {
	for name, envoy := range map[string]string{"no sidecar": "", "sidecar": findEnvoy()} {
		t.Run(name, func(t *testing.T) {
			if envoy == "" && name == "sidecar" {
				t.Skip("SKIPPED, NOTHING WAS COMPARED: there is no envoy on PATH and PILLION_ENVOY does not name one")
			}
			t.Setenv("PILLION_ENVOY", envoy)
			t.Setenv("PATH", "")
			var out, errOut bytes.Buffer
			if err := run(t.Context(), []string{"-json", "-short", "-calls", "60"}, &out, &errOut); err != nil {
				t.Fatal(err)
			}
			var r report
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			paths := []string{"bare", "library"}
			if envoy != "" {
				paths = append(paths, "sidecar")
			}
			checkRows(t, "rows", r.Rows, paths)
			checkRows(t, "open_loop", r.Open, paths)
			if len(r.Mixed) != len(paths) || len(r.Stats) == 0 {
				t.Errorf("got %d rows of mixed calls, %d statistics, want %d and some", len(r.Mixed), len(r.Stats), len(paths))
			}
			for _, s := range r.Stats {
				if envoy == "" && s.Sidecar != nil {
					t.Errorf("%s: got %d from a sidecar, which does not exist", s.Name, *s.Sidecar)
				}
			}
			if said := strings.Contains(errOut.String(), "there is no sidecar to compare with"); said != (envoy == "") {
				t.Errorf("got %q, want a message if there is no sidecar", errOut.String())
			}
			text := &bytes.Buffer{}
			if err := r.print(text); err != nil || !strings.Contains(text.String(), "upstream_rq_retry_success") {
				t.Errorf("got %v, %q, want the statistics", err, text)
			}
			checkText(t, text.String(), envoy != "")
		})
	}
}

// checkRows expects a row with numbers for each protocol, path and number of callers.
func checkRows(t *testing.T, what string, rows []row, paths []string) {
	t.Helper()
	var got, want []string
	for _, r := range rows {
		got = append(got, fmt.Sprint(r.Protocol, r.Callers, r.Path))
		if !(r.P50 > 0 && r.P90 >= r.P50 && r.P99 >= r.P90) || r.Failed != 0 {
			t.Errorf("%s: got %+v, want numbers and no failure", what, r)
		}
	}
	for _, protocol := range []string{"http", "grpc"} {
		for _, callers := range []int{1, 8, 64} {
			for _, path := range paths {
				want = append(want, fmt.Sprint(protocol, callers, path))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestParse_errors(t *testing.T) {
	for _, args := range [][]string{{"-calls", "0"}, {"-rate", "0"}, {"-rate", "NaN"}, {"-what"}, {"-h"}} {
		_, err := parse(args, io.Discard)
		if err == nil || errors.Is(err, flag.ErrHelp) != (args[0] == "-h") {
			t.Errorf("%q: got %v, want an error", args, err)
		}
	}
}

// TestMixed counts how calls fail, and those that can succeed.
func TestMixed(t *testing.T) {
	got := map[string]int{}
	ids := map[string]bool{}
	for _, c := range mixed("library", 3000) {
		word, rest, _ := strings.Cut(c.path[1:], "/")
		got[word]++
		if word != "soup" && ids[rest] {
			t.Errorf("%s: used by two calls", c.path)
		}
		ids[rest] = true
	}
	if diff := cmp.Diff(map[string]int{"soup": 2100, "503": 300, "hang": 300, "refused": 300}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if got := possible(3000); got != 0.8 {
		t.Errorf("got %v possible, want 0.8: all good calls, 200 with 503 and 100 that hang", got)
	}
}

// TestOpenLoop has one slow response. Calls that are due meanwhile count from when they
// were due. In a closed loop there are no such calls.
func TestOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		responses := 0
		p := &path{url: "http://recipes", cpu: func() time.Duration { return 0 }, client: &http.Client{Transport: roundTripper(
			func(*http.Request) (*http.Response, error) {
				if responses++; responses == 11 {
					time.Sleep(500 * time.Millisecond)
				}
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
			},
		)}}
		r := p.openLoop(t.Context(), 1, healthy("http", 100), 100)
		slices.Reverse(r.took)
		for i, want := range []time.Duration{500 * time.Millisecond, 490 * time.Millisecond, 480 * time.Millisecond} {
			if r.took[i] != want {
				t.Errorf("open loop: call %d from the slowest took %v, want %v", i, r.took[i], want)
			}
		}
		if got := r.took[50]; got != 0 {
			t.Errorf("open loop: call 50 from the slowest took %v, want 0", got)
		}
		responses = 0
		if r := p.closedLoop(t.Context(), 1, healthy("http", 100)); r.took[98] != 0 || r.took[99] != 500*time.Millisecond {
			t.Errorf("closed loop: the slowest took %v and %v, want 0 and 500ms", r.took[98], r.took[99])
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestOrder expects each path in each position equally often.
func TestOrder(t *testing.T) {
	for _, n := range []int{2, 3} {
		places := map[[2]int]int{}
		for round := range 2 * n {
			for place, path := range order(n, round) {
				places[[2]int{path, place}]++
			}
		}
		for path := range n {
			for place := range n {
				if got := places[[2]int{path, place}]; got != 2 {
					t.Errorf("%d paths: path %d in position %d: got %d times, want 2", n, path, place, got)
				}
			}
		}
	}
}

// TestAddedTo compares rounds in pairs: what slows both paths down is not added by one.
func TestAddedTo(t *testing.T) {
	bare := []sample{{10, 1, 1, 1}, {20, 1, 1, 1}, {90, 1, 1, 1}}
	library := []sample{{13, 4, 1, 0}, {22, 5, 1, 0}, {99, 7, 1, 0}}
	want := added{3, 4, 0, -1, noise{true, true, true, true}} // three rounds prove nothing
	if diff := cmp.Diff(want, addedTo(bare, library)); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	many := func(rounds []sample) []sample { return slices.Concat(rounds, rounds, rounds, rounds) }
	want.Noise = noise{P99: true, CPU: true}
	if diff := cmp.Diff(want, addedTo(many(bare), many(library))); diff != "" {
		t.Errorf("added in 12 rounds (-want +got):\n%s", diff)
	}
}

// checkText expects the verdict first, and lines that fit a terminal.
func checkText(t *testing.T, text string, sidecar bool) {
	t.Helper()
	if untidy := page.Untidy(text); len(untidy) > 0 {
		t.Errorf("lines that are too wide or untidy: %q", untidy)
	}
	first := "No Envoy was found"
	if sidecar {
		first = "Added to the median time of a call"
	}
	if !strings.HasPrefix(text, first) {
		t.Errorf("got %s\nwant %q first", text, first)
	}
	if strings.Contains(text, "make envoy\n") == sidecar {
		t.Errorf("got %s\nwant it to say how to get an Envoy only if there is none", text)
	}
}

// TestPrint has the widest numbers, and differences below 0 and within the noise.
func TestPrint(t *testing.T) {
	r := &report{Stats: []stat{{Name: "upstream_rq_total", Library: new(uint64)}}}
	for _, protocol := range protocols {
		r.Rows = append(r.Rows,
			row{Protocol: protocol, Callers: 1, Path: "bare", P50: 99.94, P90: 99.95, P99: 99_999.4, CPU: 99_999.5},
			row{
				Protocol: protocol, Callers: 1, Path: "library", P50: 40, P90: 60.25, P99: 4_000_000, CPU: 1, Failed: 3,
				Added: added{2.34, -5, 99_999, 99_999_999, noise{P90: true}},
			},
			row{
				Protocol: protocol, Callers: 1, Path: "sidecar", P50: 1, P90: 1, P99: 1, CPU: 1,
				Added: added{215.5, 0, -1, 0, noise{P90: true, P99: true, CPU: true}},
			},
		)
	}
	r.Mixed = []mixedRow{{Path: "sidecar", Calls: 3000, Succeeded: 0.8, P50: 1234.5, P90: 99_999_999, P99: 99_999_999, CPU: 999_999}}
	var b strings.Builder
	if err := r.print(&b); err != nil {
		t.Fatal(err)
	}
	checkText(t, b.String(), true)
	want := []string{
		`Added to the median time of a call, for one caller:

        library  sidecar
  HTTP  +2.3 µs  +216 µs  the sidecar 92 times as much
  gRPC  +2.3 µs  +216 µs  the sidecar 92 times as much

`,
		`HTTP, closed loop
3 calls failed: 1 callers, library

callers     path   p50   p90     p99    CPU  added p50    p90     p99        CPU
1           bare  99.9   100   99999  100ms
1        library  40.0  60.2  4000ms    1.0       +2.3  noise  +99999  +100000ms
1        sidecar   1.0   1.0     1.0    1.0       +216  noise   noise      noise

`,
		`path     calls  succeeded  possible  p50       p90       p99      CPU
sidecar   3000     80.0 %    80.0 %  1.2  100000.0  100000.0  999.999
`,
	}
	for _, part := range want {
		if !strings.Contains(b.String(), part) {
			t.Errorf("got\n%s\nwant in it\n%s", b.String(), part)
		}
	}
}

// TestPolicy_envoy has an address that Envoy could not understand.
func TestPolicy_envoy(t *testing.T) {
	if _, err := standardPolicy().envoy("127.0.0.1:1", "nowhere", "127.0.0.1:1"); err == nil {
		t.Error("got no error for an address without a port")
	}
	config, err := standardPolicy().envoy("127.0.0.1:1", "127.0.0.1:3", "[::1]:2")
	if err != nil || !bytes.Contains(config, []byte("per_try_timeout: 0.5s")) || !bytes.Contains(config, []byte(`address: "::1", port_value: 2`)) {
		t.Errorf("got %v and\n%s", err, config)
	}
}
