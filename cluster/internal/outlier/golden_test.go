package outlier_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

// recording is what a golden file says that matters here: what a real Envoy saw of its
// hosts, and what its outlier detection made of it.
type recording struct {
	Scenario struct {
		Name  string
		Envoy struct {
			Cluster struct {
				Detection map[string]any `json:"outlier_detection"`
				Common    struct {
					Window string `json:"update_merge_window"`
				} `json:"common_lb_config"`
			}
		}
		Upstream struct {
			Hosts []struct {
				ID     string
				Script []struct{ Status int }
			}
		}
		Downstream struct {
			Ops []struct {
				Op    string
				Name  string
				Count int
				GapMS int `json:"gap_ms"`
				MS    int
			}
		}
	}
	Observed struct {
		AccessLog []logLine `json:"access_log"`
		Summary   struct {
			Attempts map[string]int `json:"upstream_attempts"`
		}
		Stats     map[string]uint64            `json:"stats_nonzero"`
		Snapshots map[string]map[string]uint64 `json:"snapshots"`
		Health    []string                     `json:"admin_clusters_health"`
	}
	Timing []struct {
		Elapsed []float64 `json:"downstream_elapsed_ms"`
	} `json:"timing_runs"`
}

type logLine struct {
	Code    int    `json:"response_code"`
	Flags   string `json:"response_flags"`
	Details string `json:"response_code_details"`
	Host    string `json:"upstream_host"`
	GRPC    uint32 `json:"grpc_status_number"`
}

// TestGolden replays what a real Envoy reported of its hosts: the detector must come to the
// same statistics and health, and must never have ejected a host that Envoy then chose,
// unless so many were ejected that Envoy panicked.
func TestGolden(t *testing.T) {
	files := goldenFiles(t)
	failing := 0
	for _, file := range files {
		r := readRecording(t, file)
		if !t.Run(r.Scenario.Name, func(t *testing.T) { replay(t, r) }) {
			failing++
		}
	}
	t.Logf("golden outlier: %d cases, %d same, 0 documented differences, 0 not yet, %d failing", len(files), len(files)-failing, failing)
}

func goldenFiles(t *testing.T) []string {
	t.Helper()
	dir := os.Getenv("PILLION_GOLDEN_ENVOY")
	if dir == "" {
		dir = "../../../internal/parity/testdata/golden"
	}
	files, err := filepath.Glob(filepath.Join(dir, "outlier-*.json*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: got %d files (%v), want some", dir, len(files), err)
	}
	return files
}

func readRecording(t *testing.T, file string) recording {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	var r recording
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return r
}

// config makes a Config of Envoy's fields.
func (r recording) config(t *testing.T) outlier.Config {
	t.Helper()
	c := outlier.Defaults()
	fields := reflect.ValueOf(&c).Elem()
	for i := range fields.NumField() {
		value, ok := r.Scenario.Envoy.Cluster.Detection[snake(fields.Type().Field(i).Name)]
		if !ok {
			continue
		}
		delete(r.Scenario.Envoy.Cluster.Detection, snake(fields.Type().Field(i).Name))
		switch field := fields.Field(i).Addr().Interface().(type) {
		case *bool:
			*field = value.(bool)
		case *uint32:
			*field = uint32(value.(float64))
		case *time.Duration:
			d, err := time.ParseDuration(value.(string))
			if err != nil {
				t.Fatal(err)
			}
			*field = d
		}
	}
	if len(r.Scenario.Envoy.Cluster.Detection) > 0 {
		t.Fatalf("got fields that Config lacks: %v", slices.Collect(maps.Keys(r.Scenario.Envoy.Cluster.Detection)))
	}
	return c
}

func snake(name string) string {
	var b strings.Builder
	before := 'A'
	for _, c := range name {
		if unicode.IsUpper(c) && !unicode.IsUpper(before) || unicode.IsDigit(c) && !unicode.IsDigit(before) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
		before = c
	}
	return b.String()
}

// lines returns the calls in their order. Scenarios of many calls say only how many went to
// each host: round robin takes turns.
func (r recording) lines(t *testing.T) []logLine {
	t.Helper()
	if len(r.Observed.AccessLog) > 0 {
		return r.Observed.AccessLog
	}
	var lines []logLine
	left := maps.Clone(r.Observed.Summary.Attempts)
	for len(left) > 0 {
		for _, key := range slices.Sorted(maps.Keys(left)) {
			var host, step string
			if _, err := fmt.Sscanf(key, "host=%s step=respond %s", &host, &step); err != nil {
				t.Fatalf("%q: %v", key, err)
			}
			code, err := strconv.Atoi(step)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, logLine{Code: code, Flags: "-", Details: "via_upstream", Host: "host:" + host})
			if left[key]--; left[key] == 0 {
				delete(left, key)
			}
		}
	}
	return lines
}

// results returns what Envoy's router reports of a call.
func (l logLine) results(t *testing.T) []outlier.Result {
	t.Helper()
	connected := outlier.Result{Outcome: outlier.ConnectSuccess}
	switch l.Flags {
	case "-":
		code := l.Code
		if l.GRPC != 0 {
			code = outlier.GRPCCode(l.GRPC)
		}
		return []outlier.Result{connected, outlier.Response(code)}
	case "UF":
		return []outlier.Result{{Outcome: outlier.ConnectFailed}}
	case "UC":
		return []outlier.Result{connected, {Outcome: outlier.ConnectFailed}}
	case "UT":
		return []outlier.Result{connected, {Outcome: outlier.Timeout, Code: l.Code}}
	case "UH":
		return nil
	}
	t.Fatalf("got flags %q, want known ones", l.Flags)
	return nil
}

// player plays a recording.
type player struct {
	*clock
	hosts []string
	lines []logLine
}

func replay(t *testing.T, r recording) {
	t.Helper()
	p := &player{clock: newClock(t, r.config(t)), lines: r.lines(t)}
	for _, h := range r.Scenario.Upstream.Hosts {
		p.hosts = append(p.hosts, "host:"+h.ID)
	}
	p.d.Update(p.hosts, nil)
	call := 0
	for _, op := range r.Scenario.Downstream.Ops {
		switch op.Op {
		case "request":
			for range op.Count {
				p.call(t, p.lines[call], r.Scenario.Envoy.Cluster.Common.Window == "0s")
				p.sleep(time.Duration(r.Timing[0].Elapsed[call]*float64(time.Millisecond)) + time.Duration(op.GapMS)*time.Millisecond)
				call++
			}
		case "sleep":
			p.sleep(time.Duration(op.MS) * time.Millisecond)
		case "snapshot":
			checkStats(t, op.Name, r.Observed.Snapshots[op.Name], p.d)
		default:
			t.Fatalf("got op %q, want a known one", op.Op)
		}
	}
	if call != len(p.lines) {
		t.Fatalf("got %d calls, want %d", call, len(p.lines))
	}
	checkStats(t, "the end", r.Observed.Stats, p.d)
	p.checkHealth(t, r.Observed.Health)
}

// call reports one call. If ejections act immediately, the host was not ejected, or no host
// was left that Envoy would rather have taken.
func (p *player) call(t *testing.T, l logLine, immediately bool) {
	t.Helper()
	ejected := p.d.Stat(outlier.EjectionsActive)
	if immediately && l.Host != "" && p.d.Ejected(l.Host) && 2*ejected <= uint64(len(p.hosts)) {
		t.Errorf("Envoy chose %s at %v: it is ejected", l.Host, p.now)
	}
	for _, result := range l.results(t) {
		p.report(l.Host, result)
	}
}

func checkStats(t *testing.T, when string, recorded map[string]uint64, d *outlier.Detector[string]) {
	t.Helper()
	want := map[string]uint64{}
	for name, value := range recorded {
		if _, stat, ok := strings.Cut(name, ".outlier_detection."); ok {
			want[stat] = value
		}
	}
	got := map[string]uint64{}
	for s := range outlier.Stat(outlier.StatCount) {
		if value := d.Stat(s); value != 0 {
			got[s.String()] = value
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: statistics (-Envoy +got):\n%s", when, diff)
	}
}

// checkHealth compares with lines such as "upstream::host:a::health_flags::/failed_outlier_check".
func (p *player) checkHealth(t *testing.T, recorded []string) {
	t.Helper()
	for _, line := range recorded {
		parts := strings.Split(line, "::")
		if parts[2] != "health_flags" {
			continue
		}
		if got, want := p.d.Ejected(parts[1]), parts[3] == "/failed_outlier_check"; got != want {
			t.Errorf("%s: got ejected %v, want %q", parts[1], got, parts[3])
		}
	}
}
