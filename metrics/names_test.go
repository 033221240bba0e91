package metrics

import (
	"maps"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// pattern is one of Envoy's tag extractors for clusters, as in its source: $ is the tag, * a word,
// ** at the end one or more words.
type pattern struct{ label, words string }

var patterns = []pattern{
	{"envoy_grpc_bridge_method", "cluster.*.grpc.*.$.**"},
	{"envoy_grpc_bridge_service", "cluster.*.grpc.$.**"},
	{"envoy_cluster_name", "cluster.$.**"},
}

// find returns the index of the tag in words, -1 if they do not match.
func (p pattern) find(words []string) int {
	at := -1
	pattern := strings.Split(p.words, ".")
	for i, word := range pattern {
		switch {
		case i >= len(words):
			return -1
		case word == "**":
			return at
		case word == "$":
			at = i
		case word != "*" && word != words[i]:
			return -1
		}
	}
	return -1
}

var (
	codeTag  = regexp.MustCompile(`_rq(_(\d{3}))$`)
	classTag = regexp.MustCompile(`_rq_((\d))xx$`)
)

// slowExtract extracts tags as Envoy does. It marks each byte to cut. It omits empty tags, which do
// not exist in Prometheus.
func slowExtract(name string) (left string, tags map[string]string) {
	tags = map[string]string{}
	cut := make([]bool, len(name))
	mark := func(label, value string, from, to int) {
		if value != "" || label == "envoy_cluster_name" {
			tags[label] = value
		}
		for i := from; i < to; i++ {
			cut[i] = true
		}
	}
	if m := codeTag.FindStringSubmatchIndex(name); m != nil {
		mark("envoy_response_code", name[m[4]:m[5]], m[2], m[3])
	}
	if m := classTag.FindStringSubmatchIndex(name); m != nil {
		mark("envoy_response_code_class", name[m[4]:m[5]], m[2], m[3])
	}
	words := strings.Split(name, ".")
	for _, p := range patterns {
		at := p.find(words)
		if at < 0 {
			continue
		}
		from := len(strings.Join(words[:at], ".")) + 1
		mark(p.label, words[at], from, from+len(words[at])+1) // with the dot after it
	}
	var b strings.Builder
	for i := range len(name) {
		if !cut[i] {
			b.WriteByte(name[i])
		}
	}
	return b.String(), tags
}

// FuzzExtract compares the extraction of tags with Envoy's, for registries with and without a tag
// with a regular expression.
func FuzzExtract(f *testing.F) {
	for _, seed := range [][2]string{
		{"recipes", "upstream_rq_200"},
		{"recipes", "retry.upstream_rq_5xx"},
		{"recipes", "grpc.kitchen.v1.Cook.Get.0"},
		{"recipes", "grpc.Cook.Get.upstream_rq_time"},
		{"recipes", "grpc.0"},
		{"recipes", "grpc.a.0"},
		{"recipes", "grpc.a..0"},
		{"recipes", "grpc..a.0"},
		{"recipes", "grpc...._rq_200"},
		{"recipes", "grpc.a.b.x_rq_4xx"},
		{"a.grpc", "retry.upstream_rq_503"},
		{"a.grpc.b", "x_rq_200"},
		{"a.grpc", "grpc.a.b.0"},
		{"a.", "grpc.a.b.0"},
		{".", "grpc.a.b.0"},
		{"", ""},
		{"grpc", "grpc"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, cluster, stat string) {
		if cluster, stat = clusterName(cluster), clean(stat); !utf8.ValidString(cluster) || !utf8.ValidString(stat) {
			t.Fatalf("got invalid UTF-8: %q, %q", cluster, stat)
		}
		wantLeft, want := slowExtract("cluster." + cluster + "." + stat)
		for _, t2 := range []*tagger{
			newTagger(nil, false),
			newTagger([]tag{{label: "never", re: regexp.MustCompile(`(\z.)`)}}, false),
		} {
			left, labels := t2.extract(newCluster(nil, cluster), stat)
			got := map[string]string{}
			for _, l := range labels.list {
				got[l.name] = l.value
			}
			if left != wantLeft || !maps.Equal(got, want) {
				t.Errorf("%q, %q: got %q, want %q; labels (-want +got):\n%s", cluster, stat, left, wantLeft, cmp.Diff(want, got))
			}
		}
	})
}

// FuzzMethod compares the parsing of paths with Envoy's splitToken.
func FuzzMethod(f *testing.F) {
	for _, path := range []string{"/pkg.Svc/Method", "//a//b//", "/a/b/c", "/a", "", "/a/b?c/d", "/?/", "/a b/\xff"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		service, method, ok := serviceAndMethod(path)
		before, _, _ := strings.Cut(path, "?")
		var words []string
		for word := range strings.SplitSeq(before, "/") {
			if word != "" {
				words = append(words, word)
			}
		}
		if ok != (len(words) == 2) {
			t.Fatalf("%q: got %v, want two words of %q", path, ok, words)
		}
		if ok && (service != words[0] || method != words[1]) {
			t.Errorf("%q: got %q and %q, want %q", path, service, method, words)
		}
		r := registry(t, Settings{})
		m := &methods{cluster: r.Cluster("recipes"), most: 1}
		m.of(path).total.Inc()
		m.of("/another/one").total.Inc()
		validJSON(t, page(t, r, "/stats?format=json"))
		validPrometheus(t, page(t, r, "/stats/prometheus"))
		for name := range nonzero(r.Cluster("recipes")) {
			if len(name) > maxName+len("grpc..request_message_count") {
				t.Errorf("%.50q: got a statistic's name of %d bytes, want fewer", path, len(name))
			}
		}
	})
}
