package metrics

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean replaces the characters of a name that would break a line in any format: control
// characters, Unicode line ends and invalid UTF-8 become underscores.
func clean(name string) string {
	fine := utf8.ValidString(name) && !strings.ContainsFunc(name, breaksLines)
	if fine {
		return name
	}
	return strings.Map(func(r rune) rune {
		if breaksLines(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
}

func breaksLines(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
}

//nolint:gochecknoglobals // read-only table
var colons = strings.NewReplacer("://", "_", ":/", "_", ":", "_")

// clusterName returns a cluster's name as Envoy shows it.
func clusterName(name string) string { return colons.Replace(clean(name)) }

// metricName returns a valid Prometheus name: each byte that is no letter, digit or underscore
// becomes an underscore.
func metricName(name string) string { return "envoy_" + underscored(name) }

func underscored(name string) string {
	b := []byte(name)
	for i, c := range b {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			b[i] = '_'
		}
	}
	return string(b)
}

// labelName returns the label name of a tag. A label name must not begin with a digit.
func labelName(tag string) string {
	name := underscored(tag)
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		return "_" + name
	}
	return name
}

// reserved reports whether Prometheus reserves a label.
func reserved(label string) bool {
	return label == "le" || label == "quantile" || strings.HasPrefix(label, "__")
}

// tag is a compiled Tag.
type tag struct {
	label string
	value string
	re    *regexp.Regexp // nil for a fixed value
}

// label is a tag with its value in one statistic.
type label struct{ name, value string }

// labels holds the labels of a statistic, in Envoy's order, and their text.
type labels struct {
	list []label
	text string // name="value",name="value"
}

func newLabels(list []label) *labels {
	size := 0
	for _, l := range list {
		size += len(l.name) + len(l.value) + len(`="",`)
	}
	var b strings.Builder
	b.Grow(size)
	for i, l := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(l.name)
		b.WriteString(`="`)
		_, _ = escapes.WriteString(&b, l.value) // a Builder has no errors
		b.WriteByte('"')
	}
	return &labels{list, b.String()}
}

//nolint:gochecknoglobals // read-only table
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// tagger extracts the tags from names. It caches results during one layout of a page.
type tagger struct {
	tags   []tag
	plain  bool
	regex  bool
	lossy  bool // two names may result in the same name and labels
	labels map[tagValues]*labels
	names  map[string]string // results of withoutCode
}

// tagValues holds the values of Envoy's own tags in a statistic; "" means none.
type tagValues struct {
	code, method, service, cluster string
	virtualCluster, virtualHost    string
	virtual                        bool // of a virtual cluster
}

func newTagger(tags []tag, plain bool) *tagger {
	regex := slices.ContainsFunc(tags, func(t tag) bool { return t.re != nil })
	return &tagger{
		tags: tags, plain: plain, labels: map[tagValues]*labels{}, names: map[string]string{}, regex: regex,
		lossy: regex || slices.ContainsFunc(tags, func(t tag) bool { return strings.HasPrefix(t.label, "envoy_") }),
	}
}

// extract extracts the tags from the name of a cluster's statistic. It returns the rest of the
// name, with its dots, and the labels in Envoy's order: the code, the fixed tags, gRPC's method and
// service, the cluster, then the tags of regular expressions.
func (t *tagger) extract(c *ClusterStats, stat string) (string, *labels) {
	switch {
	case t.regex:
		return t.match(c.prefix + stat)
	case t.plain:
		return c.prefix + stat, t.fixed()
	case c.isVirtual():
		return t.extractVirtual(c.prefix + stat)
	}
	name, rest, dotted := strings.Cut(c.name, ".")
	if dotted {
		stat = rest + "." + stat
	}
	var v tagValues
	v.cluster = name
	stat, v.service, v.method = t.withoutMethod(stat)
	stat, v.code = t.withoutCode(stat)
	return stat, t.labelsOf(v)
}

// labelsOf returns the labels for values.
func (t *tagger) labelsOf(v tagValues) *labels {
	found := t.labels[v]
	if found == nil {
		found = newLabels(t.list(codeLabel(v.code), v.labels()...))
		t.labels[v] = found
	}
	return found
}

// extractVirtual extracts the tags from the whole name of a statistic of a virtual cluster.
func (t *tagger) extractVirtual(name string) (string, *labels) {
	v, cuts := virtualTags(name)
	if v.virtualHost == "" || v.virtualCluster == "" && len(cuts) > 1 { // cut, but no label
		t.lossy = true
	}
	if from, to := codeIn(name); from != to {
		v.code = strings.TrimPrefix(name[from:to], "_")
		cuts = append(cuts, [2]int{from, to})
	}
	return without(name, cuts), t.labelsOf(v)
}

// virtualTags extracts the virtual host and the virtual cluster from a whole name, as Envoy's
// patterns vhost.$.** and vhost.*.vcluster.$.** do. Each is the text between two dots, so that the
// virtual cluster is not found after a virtual host with dots.
func virtualTags(name string) (v tagValues, cuts [][2]int) {
	const start, middle = len(virtualPrefix), "vcluster."
	v.virtual = true
	host, rest, _ := strings.Cut(name[start:], ".")
	v.virtualHost = host
	cuts = append(cuts, [2]int{start, start + len(host) + 1})
	if after, ok := strings.CutPrefix(rest, middle); ok {
		at := len(name) - len(after)
		v.virtualCluster, _, _ = strings.Cut(after, ".")
		cuts = append(cuts, [2]int{at, at + len(v.virtualCluster) + 1})
	}
	return v, cuts
}

// labels returns the labels that follow the fixed tags.
func (v *tagValues) labels() []label {
	if v.virtual {
		return v.virtualLabels()
	}
	list := make([]label, 0, 3)
	if v.method != "" {
		list = append(list, label{"envoy_grpc_bridge_method", v.method})
	}
	if v.service != "" {
		list = append(list, label{"envoy_grpc_bridge_service", v.service})
	}
	return append(list, label{"envoy_cluster_name", v.cluster})
}

// virtualLabels returns those of a virtual cluster.
func (v *tagValues) virtualLabels() []label {
	host := label{"envoy_virtual_host", v.virtualHost}
	if v.virtualCluster == "" {
		return []label{host}
	}
	return []label{{"envoy_virtual_cluster", v.virtualCluster}, host}
}

// withoutMethod calls cutMethod. It sets lossy for an empty word, which is cut but becomes no label.
func (t *tagger) withoutMethod(stat string) (left, service, method string) {
	left, service, method = cutMethod(stat)
	if left != stat && (service == "" || method == "") {
		t.lossy = true
	}
	return left, service, method
}

// grpcPrefix begins the names of gRPC statistics, after "cluster.<name>.".
const grpcPrefix = "grpc."

// cutMethod extracts gRPC's service and method from the part of a name after "cluster.<name>.", as
// Envoy's patterns cluster.*.grpc.$.** and cluster.*.grpc.*.$.** do. Each is the text between two
// dots, so that a service with dots is split: for grpc.kitchen.v1.Cook.Get.0 the service is
// "kitchen", the method "v1", and the rest grpc.Cook.Get.0.
func cutMethod(stat string) (left, service, method string) {
	rest, ok := strings.CutPrefix(stat, grpcPrefix)
	if !ok {
		return stat, "", ""
	}
	if service, rest, ok = strings.Cut(rest, "."); !ok {
		return stat, "", ""
	}
	if word, after, ok := strings.Cut(rest, "."); ok {
		method, rest = word, after
	}
	return grpcPrefix + rest, service, method
}

// withoutCode returns "cluster." and the statistic's name without its code, and the code or the
// digit of its class: "200", "2", or "".
func (t *tagger) withoutCode(stat string) (left, code string) {
	from, to := codeIn(stat)
	code = strings.TrimPrefix(stat[from:to], "_")
	if left = t.names[stat]; left == "" {
		left = "cluster." + stat[:from] + stat[to:]
		t.names[stat] = left
	}
	return left, code
}

// codeIn returns the range that Envoy cuts out of a name: _200 if it ends in _rq_200, and 2 if it
// ends in _rq_2xx.
func codeIn(name string) (from, to int) {
	n := len(name)
	digit := func(i int) bool { return name[i] >= '0' && name[i] <= '9' }
	switch {
	case n < 7 || name[n-7:n-3] != "_rq_":
	case digit(n-3) && digit(n-2) && digit(n-1):
		return n - 4, n
	case digit(n-3) && name[n-2:] == "xx":
		return n - 3, n - 2
	}
	return n, n
}

// codeLabel returns the label of a code or a class, or a label without a name for "".
func codeLabel(code string) label {
	switch len(code) {
	case 0:
		return label{}
	case 1:
		return label{"envoy_response_code_class", code}
	}
	return label{"envoy_response_code", code}
}

// fixed returns only the fixed tags.
func (t *tagger) fixed() *labels {
	none := tagValues{}
	if t.labels[none] == nil {
		t.labels[none] = newLabels(t.list(label{}))
	}
	return t.labels[none]
}

// list returns the labels in Envoy's order. Of two labels with the same name it keeps the first.
func (t *tagger) list(code label, others ...label) []label {
	list := make([]label, 0, 1+len(t.tags)+len(others))
	add := func(l label) {
		taken := slices.ContainsFunc(list, func(k label) bool { return k.name == l.name })
		if l.name != "" && !taken {
			list = append(list, l)
		}
	}
	add(code)
	for _, tag := range t.tags {
		if tag.re == nil {
			add(label{tag.label, tag.value})
		}
	}
	for _, l := range others {
		add(l)
	}
	return list
}

// match extracts the tags from a whole name, also by regular expressions. Each expression matches
// the whole name; all cuts are removed at the end.
func (t *tagger) match(name string) (string, *labels) {
	var cuts [][2]int
	var code label
	var others []label
	if !t.plain {
		code, others, cuts = defaultTags(name)
	}
	for _, tag := range t.tags {
		if tag.re == nil {
			continue
		}
		m := tag.re.FindStringSubmatchIndex(name)
		if m == nil || m[2] < 0 {
			continue
		}
		value := name[m[2]:m[3]]
		if len(m) > 5 && m[4] >= 0 {
			value = name[m[4]:m[5]]
		}
		others = append(others, label{tag.label, value})
		cuts = append(cuts, [2]int{m[2], m[3]})
	}
	return without(name, cuts), newLabels(t.list(code, others...))
}

// defaultTags returns Envoy's own tags in a whole name, and the ranges to cut out.
func defaultTags(name string) (code label, others []label, cuts [][2]int) {
	if from, to := codeIn(name); from != to {
		code = codeLabel(strings.TrimPrefix(name[from:to], "_"))
		cuts = append(cuts, [2]int{from, to})
	}
	if strings.HasPrefix(name, virtualPrefix) {
		v, more := virtualTags(name)
		return code, v.virtualLabels(), append(cuts, more...)
	}
	var v tagValues
	const start = len(clusterPrefix)
	v.cluster, _, _ = strings.Cut(name[start:], ".")
	stat := name[start+len(v.cluster)+1:]
	left, service, method := cutMethod(stat)
	v.service, v.method = service, method
	if n := len(stat) - len(left); n != 0 {
		at := len(name) - len(stat) + len(grpcPrefix)
		cuts = append(cuts, [2]int{at, at + n})
	}
	return code, v.labels(), append(cuts, [2]int{start, start + len(v.cluster) + 1})
}

// without cuts ranges out of a name. They may overlap.
func without(name string, cuts [][2]int) string {
	slices.SortFunc(cuts, func(a, b [2]int) int { return a[0] - b[0] })
	var b strings.Builder
	at := 0
	for _, cut := range cuts {
		if cut[0] > at {
			b.WriteString(name[at:cut[0]])
		}
		at = max(at, cut[1])
	}
	b.WriteString(name[at:])
	return b.String()
}
