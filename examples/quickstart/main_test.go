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
	"strings"
	"testing"
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
	if len(results) != 2 || bare.Calls != 400 || guarded.Calls != 400 {
		t.Fatalf("got %+v, want two paths of 400 calls", results)
	}
	if guarded.Successes <= bare.Successes {
		t.Errorf("got %d successes with pillion and %d without, want more", guarded.Successes, bare.Successes)
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
	for _, want := range []string{"bare", "pillion", "100.0 %", "requests the server saw"} {
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
	if want := "the last failure of bare: "; !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "refused") {
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
