package tracing

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// gem simulates the Ruby gem aws-xray 0.39.0 for a case. With rules, it follows the
// documented differences instead: differs is called with the name of a difference in
// docs/aws-xray.md wherever that difference applies. A rule therefore holds for any input.
type gem struct {
	c       *goldenCase
	rules   bool
	applied map[string]bool

	config  gemConfig
	context *gemContext // the context of the thread; nil if none
	bare    gemContext  // the data outside of any context
	ids     int

	documents []any
	log       []any
	wire      []any
	called    bool
	socket    bool // documents are written when they end, so that errors reach the application
}

// gemOutput returns the gem's output for a case, and the rules that changed it.
func gemOutput(c *goldenCase, rules bool) (output map[string]any, applied []string) {
	g := &gem{c: c, rules: rules, applied: map[string]bool{}, socket: true}
	run := map[string]func() map[string]any{
		"header": g.header, "annotation": g.annotation, "env": g.env, "sampling": g.sampling, "trace": g.trace, "rack": g.rack, "udp": g.udp,
	}[c.Kind]
	if run == nil {
		return nil, nil
	}
	return run(), slices.Sorted(maps.Keys(g.applied))
}

// differs reports whether the rule is applied. It is called where the rule changes the
// result.
func (g *gem) differs(rule string) bool {
	if g.rules {
		g.applied[rule] = true
	}
	return g.rules
}

func (g *gem) newID() string   { g.ids++; return fmt.Sprintf("<id:%d>", g.ids) }
func (g *gem) newRoot() string { g.ids++; return fmt.Sprintf("<root:%d>", g.ids) }

// rubyError is a Ruby exception.
type rubyError struct {
	message string
	frames  any // its stack
}

func raise(message string) { panic(&rubyError{message, "<below-cap>"}) }

// rescue runs f, and returns the exception that it raised.
func rescue(f func()) (raised *rubyError) {
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(*rubyError)
			if !ok {
				panic(p)
			}
			raised = e
		}
	}()
	f()
	return nil
}

// Headers.

// pair is a field of a trace header.
type pair struct{ key, value string }

// parse parses a trace header.
func (g *gem) parse(s string) []pair {
	var pairs []pair
	fields := strings.Split(strings.ReplaceAll(s, " ", ""), ";")
	for i, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		if strings.Contains(value, "=") && (key == "" || !g.differs("header-values-kept")) {
			value = strings.ReplaceAll(value, "=", "")
		}
		last := i == len(fields)-1
		if key == "" || (last && value == "" && !g.differs("header-values-kept")) {
			continue
		}
		at := slices.IndexFunc(pairs, func(p pair) bool { return p.key == key })
		next := slices.Clone(pairs)
		if at >= 0 {
			next[at].value = value
		} else {
			next = append(next, pair{key, value})
		}
		if isField(key) && !allowedFields(next, pair{key, value}) && g.differs("sendable-fields") {
			continue
		}
		pairs = next
	}
	return pairs
}

// isField reports whether a field of a header has no meaning in this package.
func isField(key string) bool { return key != "Root" && key != "Parent" && key != "Sampled" }

var printable = regexp.MustCompile(`^[ -~]*$`)

// allowedFields reports whether added may be sent, and whether there is room for it beside
// fields.
func allowedFields(all []pair, added pair) bool {
	fields, size := 0, 0
	for _, p := range all {
		if isField(p.key) {
			fields++
			size += len(p.key + "=" + p.value + ";")
		}
	}
	return printable.MatchString(added.key+added.value) && fields <= 32 && size <= 1024
}

// gemTrace is the content of a trace header.
type gemTrace struct {
	root      string
	parent    *string
	sampled   bool
	rest      []pair
	undecided bool // sampled was decided at random, at a rate between 0 and 1
}

var legalRoot, legalParent = regexp.MustCompile(`^1-[0-9A-Fa-f]{8}-[0-9A-Fa-f]{24}$`), regexp.MustCompile(`^[0-9A-Fa-f]{16}$`)

// readTrace makes a trace from a header.
func (g *gem) readTrace(header string, rate float64) gemTrace {
	t := g.generate(rate)
	generated := t.root
	for _, p := range g.parse(header) {
		switch p.key {
		case "Root":
			t.root = p.value
		case "Parent":
			t.parent = &p.value
		case "Sampled":
			if p.value == "0" || p.value == "1" {
				t.sampled, t.undecided = p.value == "1", false
			} else {
				t.sampled, t.undecided = draw(rate)
			}
		default:
			t.rest = append(t.rest, p)
		}
	}
	if t.root != generated && !matches(legalRoot, t.root) && g.differs("legal-root") {
		if t.root != "" {
			t.parent = nil
		}
		t.root = generated
	}
	if t.parent != nil && !matches(legalParent, *t.parent) && g.differs("legal-parent") {
		t.parent = nil
	}
	return t
}

// matches reports whether all of s matches, not only its first line.
func matches(re *regexp.Regexp, s string) bool { return re.FindString(s) == s && s != "" }

func (g *gem) generate(rate float64) gemTrace {
	t := gemTrace{root: g.newRoot()}
	t.sampled, t.undecided = draw(rate)
	return t
}

// draw decides at a rate. undecided reports that the decision is random.
func draw(rate float64) (sampled, undecided bool) { return rate >= 1, rate > 0 && rate < 1 }

func (t gemTrace) String() string {
	s := "Root=" + t.root + ";Sampled=0"
	if t.sampled {
		s = "Root=" + t.root + ";Sampled=1"
	}
	if t.parent != nil {
		s += ";Parent=" + *t.parent
	}
	return s + restOf(fieldsOfPairs(t.rest))
}

func fieldsOfPairs(pairs []pair) []Field {
	var fields []Field
	for _, p := range pairs {
		fields = append(fields, Field{p.key, p.value})
	}
	return fields
}

// child returns the trace as a callee receives it.
func (g *gem) child(t gemTrace, parent string) gemTrace {
	var rest []pair
	if sent := slices.DeleteFunc(slices.Clone(t.rest), func(p pair) bool { return p.key == "Self" }); len(sent) != 0 && g.differs("fields-go-on") {
		rest = sent
	}
	return gemTrace{root: t.root, parent: &parent, sampled: t.sampled, rest: rest}
}

func (g *gem) header() map[string]any {
	header := text(value(g.c.Input["header"]))
	pairs := []any{}
	for _, p := range g.parse(header) {
		if (p.key == "Root" && p.value == "" && g.differs("legal-root")) || (p.key == "Parent" && p.value == "" && g.differs("legal-parent")) {
			continue
		}
		pairs = append(pairs, []any{p.key, p.value})
	}
	out := map[string]any{"pairs": pairs}
	for rate, key := range map[float64]string{0: "at_rate_0", 1: "at_rate_1"} {
		t := g.readTrace(header, rate)
		at := map[string]any{
			"root": t.root, "parent": nil, "has_parent": t.parent != nil, "sampled": t.sampled,
			"to_header_value": t.String(), "child_header_value": g.child(t, "<child>").String(),
		}
		if t.parent != nil {
			at["parent"] = *t.parent
		}
		out[key] = at
	}
	return out
}

// Annotations.

// rubyText stands for a text that only Ruby can write.
func rubyText() any { return map[string]any{"<ruby>": true} }

var illegalInKeys = regexp.MustCompile(`[^A-Za-z0-9_]+`)

// normalise returns the legal form of an annotation. ok is false if it is dropped.
func (g *gem) normalise(key, v any) (k string, val any, ok bool) {
	k = illegalInKeys.ReplaceAllString(strings.ReplaceAll(text(key), "-", "_"), "")
	if len(k) > 500 && g.differs("legal-annotations") {
		k = k[:500]
	}
	if (k == "" || v == nil) && g.differs("legal-annotations") {
		return "", nil, false
	}
	switch v := v.(type) {
	case float64:
		if (math.IsNaN(v) || math.IsInf(v, 0)) && g.differs("legal-values") {
			return k, strconv.FormatFloat(v, 'g', -1, 64), true
		}
		return k, v, true
	case string:
		return k, g.annotationText(v), true
	case nil, bool, int, json.Number:
		return k, v, true
	default:
		if !g.differs("go-values") {
			return k, rubyText(), true
		}
		return k, g.annotationText(fmt.Sprint(v)), true
	}
}

func (g *gem) annotationText(s string) string {
	s = g.utf8(s)
	if utf8.RuneCountInString(s) > 1000 && g.differs("legal-annotations") {
		return string([]rune(s)[:1000])
	}
	return s
}

// utf8 removes bytes that are not UTF-8.
func (g *gem) utf8(s string) string {
	if !utf8.ValidString(s) && g.differs("legal-values") {
		return strings.ToValidUTF8(s, "")
	}
	return s
}

func (g *gem) annotation() map[string]any {
	m, pairs := map[string]any{}, []any{}
	for _, p := range hashOf(g.c.Input["pairs"]) {
		key, v, ok := g.normalise(value(p[0]), value(p[1]))
		if ok {
			m[key] = v
		}
	}
	for key, v := range m {
		if f, isFloat := v.(float64); isFloat && (math.IsNaN(f) || math.IsInf(f, 0)) {
			v = map[string]any{"float": rubyText()}
		}
		pairs = append(pairs, []any{key, v})
	}
	if !writable(m) {
		return map[string]any{"pairs": pairs, "json": map[string]any{"json_error": "JSON::GeneratorError"}}
	}
	return map[string]any{"pairs": pairs, "json": m}
}

// writable reports whether Ruby can write v as JSON.
func writable(v any) bool {
	switch v := v.(type) {
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	case string:
		return utf8.ValidString(v)
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !writable(e) })
	case map[string]any:
		for key, e := range v {
			if !writable(key) || !writable(e) {
				return false
			}
		}
	}
	return true
}

// The environment.

func (g *gem) env() map[string]any {
	env, _ := g.c.Input["env"].(map[string]any)
	get := func(name string) *string {
		v, ok := env[name].(string)
		if !ok || (v == "" && emptyMatters[name] && g.differs("empty-is-unset")) {
			return nil
		}
		return &v
	}
	out := map[string]any{"name": nil}
	if name := get("AWS_XRAY_NAME"); name != nil {
		out["name"] = *name
	}
	raised := rescue(func() {
		out["client"] = g.location(get("AWS_XRAY_LOCATION"))
		out["excluded_paths"] = g.paths(get("AWS_XRAY_EXCLUDED_PATHS"))
		out["sampling_rate"] = g.rate(get("AWS_XRAY_SAMPLING_RATE"))
		g.sdkVariables(get, out)
	})
	if raised != nil {
		return map[string]any{"raised": true}
	}
	return out
}

// emptyMatters are the variables that have a meaning in the gem when they are empty.
var emptyMatters = map[string]bool{"AWS_XRAY_NAME": true, "AWS_XRAY_SAMPLING_RATE": true}

// location is the address to which documents are sent.
func (g *gem) location(v *string) any {
	if v == nil || *v == "" {
		if g.differs("daemon-by-default") {
			return map[string]any{"host": "127.0.0.1", "port": 2000}
		}
		return map[string]any{"sock": "Aws::Xray::NullSocket"}
	}
	host, port, legal := hostPort(*v)
	parts := rubySplit(*v, ":")
	off := len(parts) < 2 || parts[0] == "" || parts[1] == ""
	var client any = map[string]any{"sock": "Aws::Xray::NullSocket"}
	if !off {
		n, err := rubyInteger(parts[1])
		if err != nil {
			raise(err.Error())
		}
		client = map[string]any{"host": parts[0], "port": n}
	}
	if !legal && g.differs("bad-values") {
		raise("not host:port")
	}
	if legal && (off || parts[0] != host) && g.differs("ipv6-location") {
		return map[string]any{"host": host, "port": json.Number(port)}
	}
	return client
}

var hostPortForm = regexp.MustCompile(`^(?:\[([^\]/\s]+)\]|([^:/\s\[\]]+)):([1-9][0-9]{0,4})$`)

// hostPort parses host:port, as package net does.
func hostPort(s string) (host, port string, ok bool) {
	m := hostPortForm.FindStringSubmatch(s)
	if m == nil || strings.ContainsAny(s, "\n") {
		return "", "", false
	}
	n, _ := strconv.Atoi(m[3])
	return m[1] + m[2], m[3], n < 1<<16
}

func (g *gem) paths(v *string) any {
	out := []any{}
	if v == nil {
		return out
	}
	for _, p := range rubySplit(*v, ",") {
		trimmed := strings.TrimSpace(p)
		if trimmed != p || trimmed == "" {
			if g.differs("paths-trimmed") {
				p = trimmed
			}
			if p == "" && g.rules {
				continue
			}
		}
		if !possiblePath(p) && g.differs("bad-values") {
			raise("not a path")
		}
		out = append(out, p)
	}
	return out
}

// possiblePath reports whether a request may have the path.
func possiblePath(p string) bool {
	return p == "*" || (strings.HasPrefix(p, "/") && !strings.ContainsAny(p, "?#"))
}

func (g *gem) rate(v *string) any {
	if v == nil {
		return 1.0
	}
	ruby, rubyErr := rubyFloat(*v)
	here, err := strconv.ParseFloat(strings.TrimSpace(*v), 64)
	legal := err == nil && here >= 0 && here <= 1
	if (rubyErr == nil) != legal && g.differs("bad-values") {
		rubyErr = nil
		if ruby = here; !legal {
			rubyErr = err
			raise("not a rate")
		}
	}
	if rubyErr != nil {
		raise(rubyErr.Error())
	}
	return ruby
}

// sdkVariables reads the variables that the gem does not read.
func (g *gem) sdkVariables(get func(string) *string, out map[string]any) {
	if v := get("AWS_XRAY_TRACING_NAME"); v != nil && *v != "" && g.differs("sdk-variables") {
		out["name"] = *v
	}
	if v := get("AWS_XRAY_DAEMON_ADDRESS"); v != nil && *v != "" && g.differs("sdk-variables") {
		address := *v
		if m := twoAddresses.FindStringSubmatch(address); m != nil {
			address = m[1] + m[4]
			if _, _, ok := hostPort(m[2] + m[3]); !ok {
				raise("not an address")
			}
		}
		host, port, ok := hostPort(address)
		if !ok {
			raise("not an address")
		}
		out["client"] = map[string]any{"host": host, "port": json.Number(port)}
	}
	for name, legal := range map[string]string{
		"AWS_XRAY_CONTEXT_MISSING": "^(LOG_ERROR|IGNORE_ERROR|RUNTIME_ERROR)$", "AWS_XRAY_SDK_DISABLED": "^(?i:true|false)$",
	} {
		if v := get(name); v != nil && *v != "" && !regexp.MustCompile(legal).MatchString(*v) && g.differs("sdk-variables") {
			raise("unknown")
		}
	}
}

var twoAddresses = regexp.MustCompile(`^(?:udp:(\S*) tcp:(\S*)|tcp:(\S*) udp:(\S*))$`)

// Sampling.

func (g *gem) sampling() map[string]any {
	rate := number(value(g.c.Input["rate"]))
	if !legalRate(rate) && g.differs("bad-values") {
		return map[string]any{"error": "rate"}
	}
	p := g.samplingShare()
	return map[string]any{"fraction_within_0_02_of_rate": math.Abs(p-rate) <= 0.02, "all": p == 1, "none": p == 0}
}

// legalRate reports whether a rate is legal in this package, where -1 is Never.
func legalRate(rate float64) bool { return rate == Never || (rate >= 0 && rate <= 1) }

// samplingShare is the probability with which a case is sampled.
func (g *gem) samplingShare() float64 {
	rate := number(value(g.c.Input["rate"]))
	t := g.readTrace(text(value(g.c.Input["header"])), rate)
	switch {
	case t.undecided:
		return rate
	case t.sampled:
		return 1
	}
	return 0
}

// byChance returns the outputs of a sampling case that depend on chance.
func byChance(c *goldenCase) []string {
	var all []string
	for _, rules := range []bool{false, true} {
		g := &gem{c: c, rules: rules, applied: map[string]bool{}}
		all = append(all, chanceAt(g.samplingShare(), number(value(c.Input["trials"])))...)
	}
	return all
}

func chanceAt(p, trials float64) []string {
	if p <= 0 || p >= 1 {
		return nil
	}
	var chance []string
	if 6*math.Sqrt(p*(1-p)/trials) > 0.02 {
		chance = append(chance, "fraction_within_0_02_of_rate")
	}
	if math.Pow(p, trials) > 1e-9 {
		chance = append(chance, "all")
	}
	if math.Pow(1-p, trials) > 1e-9 {
		chance = append(chance, "none")
	}
	return chance
}

// Configuration.

type gemConfig struct {
	name        *string
	version     *string
	rate        float64
	annotations map[string]any
	metadata    map[string]any
	caller      bool
	solr        string
}

func (g *gem) configure() {
	given, cfg := g.c.Config, &g.config
	test := "test-app"
	cfg.name, cfg.rate, cfg.solr, cfg.caller = &test, 1, "solr", given["record_caller"] == true
	if v, ok := given["name"]; ok {
		cfg.name = stringOf(v)
	}
	cfg.version = stringOf(given["version"])
	if v, ok := given["sampling_rate"]; ok {
		cfg.rate = number(value(v))
	}
	if v, ok := given["solr_hook_name"]; ok {
		cfg.solr = text(value(v))
	}
	g.checkConfig()
	cfg.annotations = map[string]any{"hostname": "<hostname>"}
	if v, ok := given["default_annotation"].(object); ok {
		cfg.annotations = g.annotated(map[string]any{}, v)
	}
	cfg.metadata = map[string]any{"tracing_sdk": map[string]any{"name": "aws-xray"}}
	if v, ok := given["default_metadata"].(object); ok {
		cfg.metadata = g.withMetadata(map[string]any{}, v)
	}
}

// checkConfig raises the errors that New returns.
func (g *gem) checkConfig() {
	bad := g.config.name == nil || *g.config.name == "" || !legalRate(g.config.rate)
	for _, p := range append(list(g.c.Config["excluded_paths"]), list(g.c.Input["excluded_paths"])...) {
		if re, ok := p.(map[string]any); ok {
			bad = bad || !possiblePattern(text(re["regexp"]))
		} else {
			bad = bad || !possiblePath(text(value(p)))
		}
	}
	keys := map[string]bool{}
	annotations, _ := g.c.Config["default_annotation"].(object)
	for _, m := range annotations {
		key := illegalInKeys.ReplaceAllString(strings.ReplaceAll(m.key, "-", "_"), "")
		bad = bad || key == "" || keys[key] || value(m.value) == nil
		keys[key] = true
	}
	if bad && g.differs("bad-values") {
		raise("tracing: Config")
	}
}

// possiblePattern reports whether a pattern can match the path of a request.
func possiblePattern(p string) bool {
	_, err := parsePattern(p)
	return err == nil
}

// stringOf returns a string, nil for none.
func stringOf(v any) *string {
	if v == nil {
		return nil
	}
	s := text(value(v))
	return &s
}

func number(v any) float64 {
	switch v := v.(type) {
	case float64:
		return v
	case int:
		return float64(v)
	}
	f, _ := strconv.ParseFloat(text(v), 64)
	return f
}

// Segments.

// gemSegment is a segment or a subsegment.
type gemSegment struct {
	name, id, root string
	parent         *string
	sub, remote    bool
	trace          gemTrace
	annotations    map[string]any
	metadata       map[string]any
	request        map[string]any
	response       map[string]any
	flags          []bool // error, throttle, fault; nil if none was set
	exception      map[string]any
	sql            map[string]any
	finished       bool
	sent           bool
	null           bool
}

// gemContext is a context of the gem.
type gemContext struct {
	name     string
	trace    gemTrace
	base     *gemSegment
	inner    *gemSegment // the segment that began last and has not ended
	disabled []string
	pending  *pending
}

// pending is a name that waits for its subsegment.
type pending struct {
	name string
	used bool
}

func (g *gem) newSegment(name string, t gemTrace) *gemSegment {
	return &gemSegment{
		name: name, id: g.newID(), root: t.root, trace: t,
		annotations: maps.Clone(g.config.annotations), metadata: maps.Clone(g.config.metadata),
	}
}

// within runs f in a context instead of the thread's own.
func (g *gem) within(c *gemContext, f func()) {
	outer := g.context
	defer func() {
		if g.context = nil; outer != nil && g.differs("context-restored") {
			g.context = outer
		}
	}()
	g.context = c
	f()
}

// traced begins a trace with a segment.
func (g *gem) traced(name *string, t gemTrace, f func(*gemSegment)) {
	if name == nil {
		name = g.config.name
	}
	if name == nil {
		raise("`name` is empty.")
	}
	c := &gemContext{name: *name, trace: t}
	outer := g.context
	if outer == nil {
		outer = &g.bare
	}
	if (len(outer.disabled) != 0 || outer.pending.waits()) && g.differs("context-inherits") {
		c.disabled, c.pending = outer.disabled, outer.pending
	}
	if c.name == "" && g.differs("legal-names") {
		c.name = *g.config.name
	}
	g.within(c, func() {
		c.base = g.newSegment(c.name, t)
		c.base.parent = t.parent
		c.inner = c.base
		g.finishing(c, c.base, func() { f(c.base) })
	})
}

func (p *pending) waits() bool { return p != nil && !p.used }

// finishing runs f in a segment, and sends it.
func (g *gem) finishing(c *gemContext, s *gemSegment, f func()) {
	e := rescue(f)
	if e != nil {
		s.fail(g, e)
	}
	if c.trace.sampled {
		g.send(s)
	}
	if e != nil {
		panic(e)
	}
}

// subsegment begins a subsegment if there is a context.
func (g *gem) subsegment(name string, remote bool, f func(*gemSegment)) {
	c := g.context
	if c == nil {
		if g.differs("nil-segment") {
			f(nil)
			return
		}
		s := g.newSegment("", g.generate(g.config.rate))
		s.sub, s.null = true, true
		f(s)
		return
	}
	s := g.newSegment(g.takeName(name), c.trace)
	s.sub, s.remote, s.parent = true, remote, &c.base.id
	if c.inner != c.base && g.differs("nested-parents") {
		s.parent = &c.inner.id
	}
	if outer := c.inner; g.context == c {
		c.inner = s
		defer func() { c.inner = outer }()
	}
	g.finishing(c, s, func() { f(s) })
}

func (g *gem) takeName(name string) string {
	if p := g.context.pending; p.waits() {
		p.used = true
		name = p.name
	}
	return name
}

// ended reports whether a segment accepts no more data.
func (s *gemSegment) ended(g *gem) bool { return s.finished && g.differs("finish-sends") }

// fail records an exception.
func (s *gemSegment) fail(g *gem, e *rubyError) {
	if s.ended(g) {
		return
	}
	s.flags = []bool{false, false, true}
	s.exception = map[string]any{"message": e.message, "type": "<class>", "remote": false, "truncated": 0, "stack": stackOfGem(e.frames)}
	if e.frames == 250 {
		s.exception["truncated"] = "<positive>"
	}
	if !g.differs("legal-causes") {
		s.exception["skipped"], s.exception["cause"] = 0, nil
	}
}

func stackOfGem(frames any) map[string]any {
	return map[string]any{"<stack>": map[string]any{"frames": frames, "line_type": "String"}}
}

// respond records a response, and sets flags by its status.
func (s *gemSegment) respond(g *gem, status, length any, judge, remote bool) {
	if s.ended(g) {
		return
	}
	s.response = map[string]any{"status": status, "length": length}
	if !judge {
		return
	}
	message, flags := "Got 4xx", []bool{true, false, false}
	switch n := rubyToI(status); {
	case n == 429:
		message, flags = "Got 429", []bool{true, true, false}
	case n >= 400 && n <= 499:
	case n >= 500 && n <= 599:
		message, flags = "Got 5xx", []bool{false, false, true}
	default:
		return
	}
	if remote != s.remote && g.differs("remote-by-namespace") {
		remote = s.remote
	}
	kind := "http_response_error"
	if remote {
		kind = "http_request_error"
	}
	s.flags = flags
	s.exception = map[string]any{"message": message, "type": kind, "remote": remote, "truncated": 1, "stack": stackOfGem(10)}
}

func (g *gem) annotated(into map[string]any, values object) map[string]any {
	into = maps.Clone(into)
	for _, m := range values {
		if key, v, ok := g.normalise(m.key, value(m.value)); ok {
			into[key] = v
		}
	}
	return into
}

// withMetadata merges metadata.
func (g *gem) withMetadata(into map[string]any, values object) map[string]any {
	into = maps.Clone(into)
	for _, m := range values {
		v := value(m.value)
		inner, isMap := v.(map[string]any)
		if !g.rules {
			into[m.key] = g.metadataValue(v)
			continue
		}
		space, own := "default", map[string]any{m.key: v}
		if isMap {
			space, own = m.key, inner
		}
		old, _ := into[space].(map[string]any)
		if !isMap || len(inner) == 0 || len(old) != 0 {
			g.differs("metadata-namespaces")
		}
		if len(own) == 0 {
			continue
		}
		if old = maps.Clone(old); old == nil {
			old = map[string]any{}
		}
		for key, v := range own {
			old[g.utf8(key)] = g.metadataValue(v)
		}
		into[g.utf8(space)] = old
	}
	return into
}

// metadataValue returns a value as the document contains it.
func (g *gem) metadataValue(v any) any {
	switch v := v.(type) {
	case float64:
		if !writable(v) && g.differs("legal-values") {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	case string:
		return g.utf8(v)
	case []any, map[string]any:
		if !deeplyWritable(v) && g.differs("legal-values") {
			return "<cannot be written>"
		}
	case json.Number:
		return v
	case fmt.Stringer: // a time
		if !g.differs("go-values") {
			return rubyText()
		}
	}
	return v
}

// deeplyWritable is writable, except for texts, which encoding/json repairs.
func deeplyWritable(v any) bool {
	switch v := v.(type) {
	case float64:
		return writable(v)
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !deeplyWritable(e) })
	case map[string]any:
		for _, e := range v {
			if !deeplyWritable(e) {
				return false
			}
		}
	}
	return true
}

// send writes the document of a segment.
func (g *gem) send(s *gemSegment) {
	if s.sent {
		return
	}
	s.sent = true
	d := g.document(s)
	if !writable(d) {
		if g.socket {
			raise("not allowed in JSON")
		}
		return
	}
	g.documents = append(g.documents, d)
}

// document returns the document of a segment.
func (g *gem) document(s *gemSegment) map[string]any {
	d := map[string]any{
		"name": g.legalName(s), "id": s.id, "trace_id": s.root, "start_time": "<time>", "end_time": "<time>",
		"annotations": s.annotations, "metadata": s.metadata,
	}
	if v := g.config.version; v != nil && (*v != "" || !g.differs("empty-strings")) {
		d["service"] = map[string]any{"version": g.bound(*v, 250)}
	}
	if s.request != nil || s.response != nil {
		h := map[string]any{}
		if s.request != nil {
			h["request"] = g.requestOf(s)
		}
		if s.response != nil {
			h["response"] = g.responseOf(s)
		}
		d["http"] = h
	}
	if s.flags != nil && (slices.Contains(s.flags, true) || !g.differs("false-flags")) {
		d["error"], d["throttle"], d["fault"] = s.flags[0], s.flags[1], s.flags[2]
		if s.exception != nil {
			d["cause"] = map[string]any{"working_directory": "<cwd>/", "paths": []any{}, "exceptions": []any{g.exceptionOf(s)}}
		}
	}
	if s.parent != nil {
		d["parent_id"] = *s.parent
	}
	if s.sub {
		d["type"] = "subsegment"
	}
	if s.remote {
		d["namespace"] = "remote"
	}
	if s.sql != nil {
		d["sql"] = s.sql
	}
	return d
}

func (g *gem) exceptionOf(s *gemSegment) map[string]any {
	e := maps.Clone(s.exception)
	e["id"] = g.newID()
	if g.differs("legal-causes") {
		e["stack"].(map[string]any)["<stack>"].(map[string]any)["line_type"] = "Integer"
	}
	return e
}

var illegalInNames = regexp.MustCompile(`[^\p{L}\p{N}\s_.:/%&#=+\-@]`)

// legalName returns the name of a segment.
func (g *gem) legalName(s *gemSegment) string {
	name := s.name
	if name == "" && g.differs("legal-names") {
		return "unnamed"
	}
	name = g.utf8(name)
	legal := []rune(illegalInNames.ReplaceAllString(name, "_"))
	if short := string(legal[:min(len(legal), 200)]); short != name && g.differs("legal-names") {
		return short
	}
	return name
}

// bound cuts a string.
func (g *gem) bound(s string, n int) string {
	if utf8.RuneCountInString(s) > n && g.differs("bounded-strings") {
		return string([]rune(s)[:n])
	}
	return s
}

// requestOf returns the request part of a document.
func (g *gem) requestOf(s *gemSegment) map[string]any {
	r := map[string]any{}
	for key, v := range s.request {
		if v == "" && g.differs("empty-strings") {
			continue
		}
		r[key] = v
	}
	for key, n := range map[string]int{"method": 250, "url": 2000, "user_agent": 2000, "client_ip": 250} {
		if v, ok := r[key].(string); ok {
			r[key] = g.bound(v, n)
		}
	}
	return r
}

// responseOf returns the response part of a document.
func (g *gem) responseOf(s *gemSegment) map[string]any {
	status, length := s.response["status"], s.response["length"]
	r := map[string]any{"status": status}
	if _, isInt := value(status).(int); !isInt && g.differs("status-number") {
		r["status"] = rubyToI(status)
	}
	if rubyToI(status) == 0 && g.differs("status-number") {
		delete(r, "status")
	}
	if !g.differs("content-length") {
		r["length"] = length
		return r
	}
	if n, err := strconv.ParseInt(text(length), 10, 64); err == nil && n >= 0 {
		r["content_length"] = n
	} else if s.response["server"] == true {
		r["content_length"] = 0 // nothing was written
	}
	return r
}

// responseHeaders returns the headers of an application's response that are compared.
func (g *gem) responseHeaders(headers map[string]any) (shown map[string]any, length any) {
	shown = map[string]any{}
	length = headers["Content-Length"]
	for key, v := range headers {
		canonical := map[string]string{"content-length": "Content-Length", "x-amzn-trace-id": "X-Amzn-Trace-Id"}[strings.ToLower(key)]
		if canonical == "" {
			continue
		}
		if key != canonical && g.differs("net-http") {
			if key = canonical; key == "Content-Length" {
				length = v
			}
		}
		shown[key] = text(value(v))
	}
	if length == nil {
		length = 0
	}
	return shown, length
}
