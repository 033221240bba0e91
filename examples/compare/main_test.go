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
)

// TestStatistics makes 3,000 mixed calls, and some for which there is no place, through
// the library and through a real Envoy: both count the same. net/http resends requests by
// itself only on kept-alive connections that turn out to be dead; none do here.
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
	p.Total, p.PerTry = 4*time.Second, time.Second // for the race detector, on a machine that does other things too
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
		case mark == "differs" && !strings.HasPrefix(stat.Name, "upstream_cx_"): // connections are the pool's own affair
			t.Errorf("%s: the library counted %d, the sidecar %d", stat.Name, *stat.Library, *stat.Sidecar)
		case mark == "library only":
			t.Errorf("%s: the library counted %d, the sidecar has none", stat.Name, *stat.Library)
		}
	}
	// 2,100 calls are good at once. Of 300 with 503, a third each is good after one retry,
	// after two, and never; so of the 300 that hang, but that a third runs out of all its time
	// at first; 300 are refused. 200 and 100 more calls are held, 20 find no place each time.
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
		t.Errorf("counted alike (-want +got):\n%s", diff)
	}
}

// TestRun_json measures as little as possible, without a sidecar or with the one that
// there is.
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
					t.Errorf("%s: got %d from a sidecar that there is not", s.Name, *s.Sidecar)
				}
			}
			if said := strings.Contains(errOut.String(), "there is no sidecar to compare with"); said != (envoy == "") {
				t.Errorf("got %q, want it said if there is no sidecar", errOut.String())
			}
			text := &bytes.Buffer{}
			if err := r.print(text); err != nil || !strings.Contains(text.String(), "upstream_rq_retry_success") {
				t.Errorf("got %v, %q, want the statistics", err, text)
			}
		})
	}
}

// checkRows wants a row with numbers for each protocol, path and number of callers.
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

// TestMixed counts how calls fail.
func TestMixed(t *testing.T) {
	got := map[string]int{}
	ids := map[string]bool{}
	for _, c := range mixed("library", 3000) {
		word, rest, _ := strings.Cut(c.path[1:], "/")
		got[word]++
		if word != "soup" && ids[rest] {
			t.Errorf("%s: there are two", c.path)
		}
		ids[rest] = true
	}
	if diff := cmp.Diff(map[string]int{"soup": 2100, "503": 300, "hang": 300, "refused": 300}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestOpenLoop has one slow answer keep a caller from making the calls that fall due
// meanwhile: they count from when they were due. A closed loop does not know of them.
func TestOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := 0
		p := &path{url: "http://recipes", cpu: func() time.Duration { return 0 }, client: &http.Client{Transport: roundTripper(
			func(*http.Request) (*http.Response, error) {
				if answers++; answers == 11 {
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
		answers = 0
		if r := p.closedLoop(t.Context(), 1, healthy("http", 100)); r.took[98] != 0 || r.took[99] != 500*time.Millisecond {
			t.Errorf("closed loop: the slowest took %v and %v, want 0 and 500ms", r.took[98], r.took[99])
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestOrder wants each path in each place equally often.
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
					t.Errorf("of %d: path %d stands in place %d: got %d times, want 2", n, path, place, got)
				}
			}
		}
	}
}

// TestMedianDifferences pairs rounds with each other: what slows both down is nothing that the
// one adds.
func TestMedianDifferences(t *testing.T) {
	bare := []sample{{10, 1, 1, 1}, {20, 1, 1, 1}, {90, 1, 1, 1}}
	library := []sample{{13, 4, 1, 0}, {22, 5, 1, 0}, {99, 7, 1, 0}}
	if got, want := medianDifferences(library, bare), (sample{3, 4, 0, -1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median: got %v, want 2.5", got)
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
