package metrics

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file reads a file of testdata, or of the directory that an environment variable names.
func file(t *testing.T, variable, dir, name string) string {
	t.Helper()
	if other := os.Getenv(variable); other != "" {
		dir = other
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// feed counts the numbers of an Envoy's text page in a registry through the public API, as an
// adapter would. It skips sums. samples returns the values of a histogram.
func feed(t *testing.T, r *Registry, text string, gauges map[string]bool, samples func(name, value string) []uint64) {
	t.Helper()
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			t.Fatalf("got line %q, want a statistic", line)
		}
		cluster, stat := splitName(name)
		c := r.Cluster(cluster)
		before, last, _ := cutLast(stat)
		switch n, err := strconv.ParseUint(value, 10, 64); {
		case err != nil && last == "upstream_rq_time":
			if before != "" && !isSum(before) {
				for _, v := range samples(name, value) {
					c.Responses(before).Time(v)
				}
			}
		case err != nil:
			for _, v := range samples(name, value) {
				c.Histogram(stat).Record(v)
			}
			c.Histogram(stat)
		case gauges[name]:
			c.ReadGauge(stat, func() uint64 { return n })
		case codePattern.MatchString(last):
			if before != "" && !isSum(before) {
				feedCode(c.Responses(before), last, n)
			}
		case last == "upstream_rq_completed":
			if before == "" {
				c.Responses(Internal)
			}
		default:
			c.Counter(stat).Add(n)
		}
	}
}

var codePattern = regexp.MustCompile(`^upstream_rq_(\d\d\d|\dxx|unknown)$`)

// isSum reports whether a category is the sum of others, as alt is of alt.internal.
func isSum(category string) bool { return category == "alt" }

func feedCode(a *ResponseCounters, name string, n uint64) {
	code, err := strconv.Atoi(strings.TrimPrefix(name, "upstream_rq_"))
	if err != nil {
		code = 999
	}
	if strings.HasSuffix(name, "xx") {
		return // a sum
	}
	for range n {
		a.Count(code)
	}
}

// splitName splits off the cluster's name, which may contain dots.
func splitName(name string) (cluster, stat string) {
	rest := strings.TrimPrefix(name, "cluster.")
	if end := strings.Index(rest, `\.`); end >= 0 {
		return rest[:end+1], rest[end+2:]
	}
	cluster, stat, _ = strings.Cut(rest, ".")
	return cluster, stat
}

// TestGoldenPages counts an Envoy's numbers in a registry, and compares every format of the page
// with that Envoy's pages, byte by byte.
func TestGoldenPages(t *testing.T) {
	const dir, variable = "testdata/pages", "PILLION_GOLDEN_PAGES"
	r := registry(t, Settings{Tags: []Tag{
		{Name: "service.cluster", Value: "shop"},
		{Name: "service.node", Value: `n"1`},
	}})
	gauges := map[string]bool{}
	for line := range strings.Lines(file(t, variable, dir, "gauges.txt")) {
		name, _, _ := strings.Cut(line, ": ")
		gauges[name] = true
	}
	bins := binsOf(t, file(t, variable, dir, "detailed.txt"))
	feed(t, r, file(t, variable, dir, "plain.txt"), gauges, func(name, _ string) []uint64 { return bins[name] })

	cases := []struct{ file, url string }{
		{"plain.txt", "/stats"},
		{"counters.txt", "/stats?type=Counters"},
		{"gauges.txt", "/stats?type=Gauges"},
		{"histograms.txt", "/stats?type=Histograms"},
		{"cumulative.txt", "/stats?histogram_buckets=cumulative"},
		{"disjoint.txt", "/stats?histogram_buckets=disjoint"},
		{"detailed.txt", "/stats?histogram_buckets=detailed"},
		{"plain.json", "/stats?format=json"},
		{"cumulative.json", "/stats?format=json&histogram_buckets=cumulative"},
		{"disjoint.json", "/stats?format=json&histogram_buckets=disjoint"},
		{"detailed.json", "/stats?format=json&histogram_buckets=detailed"},
		{"prometheus.txt", "/stats/prometheus"},
		{"prometheus.txt", "/stats?format=prometheus"},
	}
	same := 0
	for _, tc := range cases {
		t.Run(tc.url, func(t *testing.T) {
			if diff := cmp.Diff(file(t, variable, dir, tc.file), page(t, r, tc.url)); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", tc.url, diff)
			}
			same++
		})
	}
	closing(t, "pages", len(cases), same, 0)
}

// closing logs a summary of the cases of a recording. There are no documented differences here.
func closing(t *testing.T, name string, cases, same, notYet int) {
	t.Helper()
	t.Logf("golden %s: %d cases, %d same, 0 documented differences, %d not yet, %d failing", name, cases, same, notYet, cases-same-notYet)
}

// TestGoldenUsed shows only used statistics. The feed knows only the values, so that a gauge that
// is back at 0 does not count as used; all else must be the same.
func TestGoldenUsed(t *testing.T) {
	const dir, variable = "testdata/pages", "PILLION_GOLDEN_PAGES"
	r := registry(t, Settings{})
	bins := binsOf(t, file(t, variable, dir, "detailed.txt"))
	feed(t, r, file(t, variable, dir, "plain.txt"), nil, func(name, _ string) []uint64 { return bins[name] })
	var want []string
	for line := range strings.Lines(file(t, variable, dir, "used.txt")) {
		if !strings.HasSuffix(line, "upstream_rq_active: 0\n") {
			want = append(want, line)
		}
	}
	if diff := cmp.Diff(strings.Join(want, ""), page(t, r, "/stats?usedonly")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// binsOf returns the values of all histograms of a detailed page. The lowest value of a bin
// represents all values in it.
func binsOf(t *testing.T, text string) map[string][]uint64 {
	t.Helper()
	values := map[string][]uint64{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if list, ok := strings.CutPrefix(line, "  totals="); ok {
			for item := range strings.SplitSeq(list, ", ") {
				var low, width float64
				var n int
				if _, err := fmt.Sscanf(item, "%g,%g:%d", &low, &width, &n); err != nil {
					t.Fatalf("%q: %v", item, err)
				}
				for range n {
					values[name] = append(values[name], uint64(low))
				}
			}
		}
		if !strings.HasPrefix(line, " ") {
			name = strings.TrimSuffix(line, ":")
		}
	}
	return values
}

// TestGoldenStats replays a larger recording: an Envoy with every option of a cluster enabled. All
// statistics of its clusters, including those that a client library cannot count, must have the
// same order and the same bytes.
func TestGoldenStats(t *testing.T) {
	const dir, variable = "testdata/stats", "PILLION_GOLDEN_STATS"
	var wanted []string
	missing := map[string]int{}
	for line := range strings.Lines(file(t, variable, dir, "stats.txt")) {
		switch {
		case !strings.HasPrefix(line, "cluster."):
			scope, _, _ := strings.Cut(line, ".")
			missing[scope+".: there is no such scope"]++
		case strings.Contains(line, ".endpoint."):
			missing["cluster.<name>.endpoint.: there is no list of endpoints"]++
		default:
			wanted = append(wanted, line)
		}
	}
	exposed := file(t, variable, dir, "prometheus.txt")
	r := registry(t, Settings{})
	feed(t, r, strings.Join(wanted, ""), gaugesIn(exposed), samplesFrom(t, exposed))

	// The recording lists one type after the other.
	got := page(t, r, "/stats?type=Counters") + page(t, r, "/stats?type=Gauges") + page(t, r, "/stats?type=Histograms")
	same := compareLines(t, wanted, got)
	wantFamilies := families(exposed, r)
	gotFamilies := page(t, r, "/stats/prometheus")
	if diff := cmp.Diff(wantFamilies, gotFamilies); diff != "" {
		t.Errorf("Prometheus (-want +got):\n%s", diff)
	}
	notYet := 0
	for what, n := range missing {
		t.Logf("not yet: %d of %s", n, what)
		notYet += n
	}
	closing(t, "stats", len(wanted)+notYet, same, notYet)
}

func compareLines(t *testing.T, want []string, got string) (same int) {
	t.Helper()
	lines := strings.SplitAfter(strings.TrimSuffix(got, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	if len(lines) != len(want) {
		t.Errorf("got %d lines, want %d", len(lines), len(want))
	}
	for i := range min(len(lines), len(want)) {
		if lines[i] == want[i] {
			same++
		} else {
			t.Errorf("line %d: got %s want %s", i+1, lines[i], want[i])
		}
	}
	return same
}

// gaugesIn returns the statistics that are gauges in a Prometheus page, by their names in the text
// page.
func gaugesIn(exposed string) map[string]bool {
	types := map[string]string{}
	gauges := map[string]bool{}
	for line := range strings.Lines(exposed) {
		if words := strings.Fields(line); len(words) == 4 && words[1] == "TYPE" {
			types[words[2]] = words[3]
			continue
		}
		name, rest, _ := strings.Cut(line, "{")
		if _, after, ok := strings.Cut(rest, `envoy_cluster_name="`); ok && types[name] == "gauge" {
			cluster, _, _ := strings.Cut(after, `"`)
			stat := strings.TrimPrefix(name, "envoy_cluster_")
			for _, dotted := range []string{"circuit_breakers_default_", "circuit_breakers_high_", "http2_", "health_check_", "outlier_detection_"} {
				if strings.HasPrefix(stat, dotted) {
					stat = strings.ReplaceAll(dotted[:len(dotted)-1], "s_", "s.") + "." + stat[len(dotted):]
				}
			}
			gauges["cluster."+cluster+"."+stat] = true
		}
	}
	return gauges
}

// samplesFrom returns the values of a histogram from the quantiles of a text page. There are at
// most five, so that each is a quantile. The Prometheus page has their number.
func samplesFrom(t *testing.T, exposed string) func(name, value string) []uint64 {
	t.Helper()
	return func(name, value string) []uint64 {
		if value == "No recorded values" {
			return nil
		}
		cluster, stat := splitName(name)
		series := regexp.MustCompile(`(?m)^envoy_cluster_` + strings.ReplaceAll(stat, ".", "_") +
			`_count\{envoy_cluster_name="` + cluster + `"\} (\d+)$`).FindStringSubmatch(exposed)
		if series == nil {
			t.Fatalf("%s has no count", name)
		}
		n, err := strconv.Atoi(series[1])
		if err != nil || n > 5 {
			t.Fatalf("%s: cannot distinguish %s values", name, series[1])
		}
		values := make([]uint64, n)
		for i, word := range strings.Fields(value) {
			var v float64
			if _, err := fmt.Sscanf(word[strings.Index(word, ",")+1:], "%g)", &v); err != nil {
				t.Fatalf("%s: %q: %v", name, word, err)
			}
			rank := min(max(1, int(math.Ceil(quantiles[i]*float64(n)))), n)
			values[rank-1] = uint64(v)
		}
		return values
	}
}

// families returns the parts of a Prometheus page for the clusters of r, without endpoints.
func families(exposed string, r *Registry) string {
	var b strings.Builder
	pending := ""
	for line := range strings.Lines(exposed) {
		if strings.HasPrefix(line, "#") {
			pending = line
			continue
		}
		_, after, _ := strings.Cut(line, `envoy_cluster_name="`)
		cluster, _, _ := strings.Cut(after, `"`)
		if r.clusters[cluster] == nil || strings.Contains(line, "envoy_endpoint_address") || !textKnows(line) {
			continue
		}
		b.WriteString(pending + line)
		pending = ""
	}
	return b.String()
}

// textKnows reports whether the recorded text page has the statistic, too. Some statistics are only
// in the Prometheus page.
func textKnows(line string) bool {
	return !strings.HasPrefix(line, "envoy_cluster_default_total_match_count") || strings.Contains(line, "count{")
}
