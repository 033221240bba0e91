package tracing

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// goldenRule is a difference from the gem that docs/aws-xray.md gives the reason of:
// for the cases that when accepts (nil is all), change makes of what the gem did what is
// expected here.
type goldenRule struct {
	name   string
	when   func(*goldenCase) bool
	change func(*goldenCase)
}

var goldenRules = []goldenRule{
	// Headers.
	{"fields-go-on", nil, fieldsGoOn},
	{"sendable-fields", headerHas(`[^ -~]`), sendableFieldsOnly},
	{"header-values-kept", headerHas(`=[^;]*=|;[^;=]+=?$`), headerValuesKept},
	{"empty-parent", headerHas(`Parent=;`), emptyParent},
	{"legal-root", headerHas(`Root=(;|nope|not-|2-)|,Parent`), legalRoot},
	{"empty-header", isAny("rack/header-empty"), emptyHeader},

	// Documents.
	{"content-length", nil, each(contentLengths)},
	{"legal-causes", nil, each(legalCauses)},
	{"legal-names", nil, each(legalNames)},
	{"name-needed", isAny("rack/empty-name"), func(c *goldenCase) { c.Output = map[string]any{"raised": true} }},
	{"empty-name", isAny("names/name-empty", "names/sub-empty", "client/http-name-empty"), emptyName},
	{"nested-parents", nestedOps, nestedParents},
	{"metadata-namespaces", isAny("context/metadata", "context/metadata-overrides-sdk"), metadataNamespaces},
	{"legal-annotations", nil, legalAnnotations},
	{"annotation-text", isAny("annotation/list", "annotation/map", "annotation/time", "context/annotate"), annotationText},
	{"status-number", isAny("context/response-string-status"), each(statusNumber)},
	{"utf8-kept", isAny("rack/user-agent-bad-bytes"), each(utf8Kept)},

	// Server.
	{"informational", isAny("rack/status-100"), each(func(_ *goldenCase, d map[string]any) {
		d["http"].(map[string]any)["response"].(map[string]any)["status"] = 200
	})},
	{"header-names", isAny("rack/content-length-lower"), headerNames},
	{"url-escaped", isAny("rack/url-invalid-keeps-query"), each(func(_ *goldenCase, d map[string]any) {
		d["http"].(map[string]any)["request"].(map[string]any)["url"] = "http://example.org/x%20y"
	})},

	// Client.
	{"naming-header", nil, namingHeader},
	{"refused-is-drawn", isAny("client/http-refused-in-start"), refusedIsDrawn},

	{"policy-notes", nil, policyNotes},
	{"url-of-the-unanswered", isAny("client/faraday-timeout", "client/faraday-refused", "client/faraday-closed"), each(func(_ *goldenCase, d map[string]any) {
		if r, ok := sentDocument(d).at("http", "request").(map[string]any); ok {
			r["url"] = "http://target-app/"
		}
	})},

	// Context.
	{"context-restored", isAny("context/trace-in-trace", "context/given-context-in-trace", "context/disable-nested-same-id"), contextRestored},
	{"disable-without-ids", isAny("context/disable-other-id", "context/no-context-disabled"), func(c *goldenCase) { logged(c, 0)["disabled"] = true }},
	{"nil-segment", isAny("context/no-context-subsegment", "context/no-context-current"), nilSegment},

	// Environment and sampling.
	{"daemon-by-default", hasNullSocket, daemonByDefault},
	{"bad-values", isAny("env/location-no-port", "env/location-port-only", "env/location-empty-port", "env/location-hex-port",
		"env/location-octal-port", "env/location-extra", "env/location-space", "env/location-big-port", "env/rate-2",
		"env/rate-negative"), func(c *goldenCase) { c.Output = map[string]any{"raised": true} }},
	{"ipv6-location", isAny("env/location-ipv6"), func(c *goldenCase) { setClient(c, "::1", "2000") }},
	{"empty-is-unset", isAny("env/name-empty", "env/rate-empty"), emptyIsUnset},
	{"sdk-variables", isAny("env/daemon-address-ignored"), func(c *goldenCase) {
		setClient(c, "127.0.0.1", "3000")
		c.Output["name"] = "x"
	}},
	{"paths-trimmed", isAny("env/paths-spaces", "env/paths-trailing"), pathsTrimmed},
	{"rate-checked", isAny("sampling/rate-2"), func(c *goldenCase) { c.Output = map[string]any{"error": "rate"} }},

	// Sending.
	{"large-documents", isAny("udp/too-big"), func(c *goldenCase) {
		c.Output["packets"], c.Output["cut"], c.Output["handler_calls"] = 1, true, nil
	}},
	{"full-queue-drops", isAny("udp/queue-full"), fullQueueDrops},
	{"queue-size-default", isAny("udp/queue-size-0"), queueSizeDefault},
	{"nan-is-text", isAny("udp/nan-annotation-in-caller"), func(c *goldenCase) {
		delete(c.Output, "raised")
		c.Output["traces_completed"] = 1
	}},
	{"null-daemon", isAny("udp/null-non-ascii"), func(c *goldenCase) { c.Output["handler_calls"] = nil }},
}

// each applies change to each document.
func each(change func(c *goldenCase, d map[string]any)) func(*goldenCase) {
	return func(c *goldenCase) {
		for _, d := range list(c.Output["documents"]) {
			change(c, d.(map[string]any))
		}
		if p, ok := c.Output["first_packet"].(map[string]any); ok {
			change(c, p["document"].(map[string]any))
		}
	}
}

func isAny(names ...string) func(*goldenCase) bool {
	return func(c *goldenCase) bool { return slices.Contains(names, c.name()) }
}

// incoming is the trace header that a case begins with.
func incoming(c *goldenCase) string {
	if h, ok := c.Input["headers"].(map[string]any); ok {
		return text(h[HeaderName])
	}
	return text(c.Input["header"])
}

func headerHas(pattern string) func(*goldenCase) bool {
	re := regexp.MustCompile(pattern)
	return func(c *goldenCase) bool { return re.MatchString(incoming(c)) && c.Kind != "sampling" }
}

// rates calls f for both outcomes of a header case.
func rates(c *goldenCase, f func(at map[string]any)) {
	for _, key := range []string{"at_rate_0", "at_rate_1"} {
		if at, ok := c.Output[key].(map[string]any); ok {
			f(at)
		}
	}
}

// fieldsGoOn: what a header has beside root, parent and decision is sent on, but
// for Self.
func fieldsGoOn(c *goldenCase) {
	rest := ""
	if full := text(func() any { m, _ := c.Output["at_rate_1"].(map[string]any); return m["to_header_value"] }()); full != "" {
		rest = fieldsAfter(full)
	} else if strings.HasSuffix(incoming(c), ";Foo=bar") {
		rest = ";Foo=bar"
	}
	rest = regexp.MustCompile(`;Self=[^;]*`).ReplaceAllString(rest, "")
	rates(c, func(at map[string]any) { at["child_header_value"] = text(at["child_header_value"]) + rest })
	for _, w := range list(c.Output["wire_requests"]) {
		h := w.(map[string]any)["headers"].(map[string]any)
		if h[HeaderName] != nil {
			h[HeaderName] = text(h[HeaderName]) + rest
		}
	}
	for _, l := range list(c.Output["log"]) {
		if l := l.(map[string]any); l["op"] == "trace_header" {
			l["value"] = text(l["value"]) + rest
		}
	}
}

var unsendable = regexp.MustCompile(`;[^;]*[^ -~;][^;]*`)

// sendableFieldsOnly: a field of other than printable ASCII is left out.
func sendableFieldsOnly(c *goldenCase) {
	c.Output["pairs"] = slices.DeleteFunc(list(c.Output["pairs"]), func(p any) bool {
		return unsendable.MatchString(";" + text(p.([]any)[0]) + "=" + text(p.([]any)[1]))
	})
	rates(c, func(at map[string]any) {
		for _, name := range []string{"to_header_value", "child_header_value"} {
			at[name] = unsendable.ReplaceAllString(text(at[name]), "")
		}
	})
}

// fieldsAfter gives the unknown fields of a header that the gem wrote.
func fieldsAfter(h string) string {
	var rest strings.Builder
	for f := range strings.SplitSeq(h, ";") {
		if !strings.HasPrefix(f, "Root=") && !strings.HasPrefix(f, "Sampled=") && !strings.HasPrefix(f, "Parent=") {
			rest.WriteString(";" + f)
		}
	}
	return rest.String()
}

// headerValuesKept: a value keeps its further equals signs, and a last field that is
// empty is kept too.
func headerValuesKept(c *goldenCase) {
	fields := strings.Split(text(c.Input["header"]), ";")
	key, val, _ := strings.Cut(fields[len(fields)-1], "=")
	if key == "Sampled" || key == "Parent" || (key == "Root" && val == "") {
		return
	}
	pairs := list(c.Output["pairs"])
	pairs = slices.DeleteFunc(pairs, func(p any) bool { return p.([]any)[0] == key })
	c.Output["pairs"] = append(pairs, []any{key, val})
	if key == "Root" {
		return // not legal: see legal-root
	}
	rates(c, func(at map[string]any) {
		for _, name := range []string{"to_header_value", "child_header_value"} {
			at[name] = regexp.MustCompile(`;`+key+`=[^;]*`).ReplaceAllString(text(at[name]), "") + ";" + key + "=" + val
		}
	})
}

// emptyParent: an empty parent is none.
func emptyParent(c *goldenCase) {
	c.Output["pairs"] = slices.DeleteFunc(list(c.Output["pairs"]), func(p any) bool { return p.([]any)[0] == "Parent" })
	rates(c, func(at map[string]any) {
		at["parent"], at["has_parent"] = nil, false
		at["to_header_value"] = strings.Replace(text(at["to_header_value"]), ";Parent=", "", 1)
	})
}

// legalRoot: a trace begins anew where the root is no trace id, and without the
// parent, unless the root is empty.
func legalRoot(c *goldenCase) {
	old := regexp.MustCompile(`Root=[^;]*`)
	keepParent := strings.Contains(incoming(c), "Root=;")
	fix := func(s string) string {
		s = old.ReplaceAllString(s, "Root=<root:1>")
		if !keepParent {
			s = strings.Replace(s, ";Parent=zz", "", 1)
		}
		return s
	}
	if pairs := list(c.Output["pairs"]); pairs != nil {
		c.Output["pairs"] = slices.DeleteFunc(pairs, func(p any) bool { return p.([]any)[0] == "Root" && p.([]any)[1] == "" })
	}
	rates(c, func(at map[string]any) {
		at["root"] = "<root:1>"
		at["to_header_value"], at["child_header_value"] = fix(text(at["to_header_value"])), fix(text(at["child_header_value"]))
		if !keepParent {
			at["parent"], at["has_parent"] = nil, false
		}
	})
	each(func(_ *goldenCase, d map[string]any) { d["trace_id"] = "<root:1>" })(c)
	if r, ok := c.Output["response"].(map[string]any); ok {
		h := r["headers"].(map[string]any)
		h[HeaderName] = fix(text(h[HeaderName]))
		env := c.Output["env_seen_by_app"].(map[string]any)
		env["HTTP_X_AMZN_TRACE_ID"] = fix(text(env["HTTP_X_AMZN_TRACE_ID"]))
	}
}

// emptyHeader: an empty header is none.
func emptyHeader(c *goldenCase) {
	delete(c.Output["env_seen_by_app"].(map[string]any), "HTTP_X_AMZN_TRACE_ID_ORIGINAL")
}

// contentLengths: the size is a number, and called as X-Ray calls it.
func contentLengths(_ *goldenCase, d map[string]any) {
	r, ok := sentDocument(d).at("http", "response").(map[string]any)
	if !ok {
		return
	}
	length := r["length"]
	delete(r, "length")
	if length != nil {
		r["content_length"] = json.Number(text(length))
	}
}

// legalCauses: lines are numbers, and there is no null cause.
func legalCauses(_ *goldenCase, d map[string]any) {
	exceptions, _ := sentDocument(d).at("cause").(map[string]any)
	for _, e := range list(exceptions["exceptions"]) {
		e := e.(map[string]any)
		delete(e, "cause")
		delete(e, "skipped")
		e["stack"].(map[string]any)["<stack>"].(map[string]any)["line_type"] = "Integer"
	}
}

var illegalInNames = regexp.MustCompile(`[^\p{L}\p{N}\s_.:/%&#=+\-@]`)

// legalNames: a name has what X-Ray allows, and at most 200 characters of it.
func legalNames(_ *goldenCase, d map[string]any) {
	name := []rune(illegalInNames.ReplaceAllString(text(d["name"]), "_"))
	d["name"] = string(name[:min(len(name), 200)])
}

// emptyName: a segment without a name has the configured one, a call the upstream's.
func emptyName(c *goldenCase) {
	names := map[string]string{"names/name-empty": "test-app", "names/sub-empty": "unnamed", "client/http-name-empty": "127.0.0.1"}
	list(c.Output["documents"])[0].(map[string]any)["name"] = names[c.name()]
}

// nestedOps reports whether a case draws within a subsegment.
func nestedOps(c *goldenCase) bool {
	for _, op := range list(c.Input["do"]) {
		op := op.(map[string]any)
		for _, inner := range list(op["do"]) {
			if kind := inner.(map[string]any)["op"]; op["op"] == "subsegment" && (kind == "subsegment" || kind == "http") {
				return true
			}
		}
	}
	return false
}

// nestedParents: the parent is what it is drawn in, which here is what ends next.
func nestedParents(c *goldenCase) {
	docs := list(c.Output["documents"])
	for i := range docs[1:] {
		docs[i].(map[string]any)["parent_id"] = docs[i+1].(map[string]any)["id"]
	}
}

// metadataNamespaces: metadata has namespaces; what has none is in "default".
func metadataNamespaces(c *goldenCase) {
	d := list(c.Output["documents"])[0].(map[string]any)
	moved := map[string]any{}
	metadata := d["metadata"].(map[string]any)
	for key, v := range metadata {
		if _, ok := v.(map[string]any); !ok {
			moved[key] = v
			delete(metadata, key)
		}
	}
	metadata["default"] = moved
	metadata["tracing_sdk"] = map[string]any{"name": "<sdk>"}
}

// legalAnnotations: no null, no empty key, no number that JSON has no word for, and
// nothing longer than X-Ray indexes.
func legalAnnotations(c *goldenCase) {
	each(func(_ *goldenCase, d map[string]any) {
		a, _ := d["annotations"].(map[string]any)
		for key, v := range a {
			if v == nil {
				delete(a, key)
			}
		}
	})(c)
	if c.Kind != "annotation" {
		return
	}
	legal, changed := []any{}, false
	for _, p := range list(c.Output["pairs"]) {
		key, v := text(p.([]any)[0]), p.([]any)[1]
		if float, ok := v.(map[string]any); ok {
			v, changed = map[string]any{"NaN": "NaN", "-Infinity": "-Inf"}[text(float["float"])], true
		}
		if key == "" || v == nil {
			changed = true
			continue
		}
		if s, ok := v.(string); ok && len(s) > 1000 {
			v, changed = s[:1000], true
		}
		if len(key) > 500 {
			key, changed = key[:500], true
		}
		legal = append(legal, []any{key, v})
	}
	if changed {
		setPairs(c, legal)
	}
}

// setPairs expects these annotations.
func setPairs(c *goldenCase, pairs []any) {
	m := map[string]any{}
	for _, p := range pairs {
		m[text(p.([]any)[0])] = p.([]any)[1]
	}
	c.Output["pairs"], c.Output["json"] = pairs, string(marshal(m))
}

// annotationText: what is no scalar is written as fmt.Sprint writes it.
func annotationText(c *goldenCase) {
	if c.Kind == "trace" {
		list(c.Output["documents"])[0].(map[string]any)["annotations"].(map[string]any)["list"] = "[1 2]"
		return
	}
	setPairs(c, []any{[]any{"k", map[string]any{
		"list": "[1 a <nil>]", "map": "map[a:1]", "time": "1970-01-01 00:00:00 +0000 UTC",
	}[c.ID]}})
}

// statusNumber: a status is a number.
func statusNumber(_ *goldenCase, d map[string]any) {
	if r, ok := sentDocument(d).at("http", "response").(map[string]any); ok {
		r["status"] = json.Number(text(r["status"]))
	}
}

// utf8Kept: a header's bytes are read as UTF-8 whatever they are tagged as.
func utf8Kept(_ *goldenCase, d map[string]any) {
	d["http"].(map[string]any)["request"].(map[string]any)["user_agent"] = "abéc"
}

// headerNames: names of headers have no case.
func headerNames(c *goldenCase) {
	h := c.Output["response"].(map[string]any)["headers"].(map[string]any)
	delete(h, "content-length")
	h["Content-Length"] = "5"
	list(c.Output["documents"])[0].(map[string]any)["http"].(map[string]any)["response"].(map[string]any)["content_length"] = 5
}

// namingHeader: the header that names a subsegment is not sent.
func namingHeader(c *goldenCase) {
	for _, w := range list(c.Output["wire_requests"]) {
		delete(w.(map[string]any)["headers"].(map[string]any), NameHeader)
	}
}

// refusedIsDrawn: a connection that is refused has a subsegment, however it is opened.
func refusedIsDrawn(c *goldenCase) {
	seg := list(c.Output["documents"])[0].(map[string]any)
	sub := map[string]any{}
	for _, key := range []string{"start_time", "end_time", "error", "throttle", "fault", "trace_id"} {
		sub[key] = seg[key]
	}
	var cause any
	if err := json.Unmarshal([]byte(strings.Replace(string(marshal(seg["cause"])), "<id:2>", "<id:9>", 1)), &cause); err != nil {
		panic(err)
	}
	sub["annotations"], sub["metadata"] = clone(seg["annotations"]), clone(seg["metadata"])
	sub["name"], sub["id"], sub["parent_id"], sub["cause"] = "target-app", "<id:8>", seg["id"], cause
	sub["type"], sub["namespace"] = "subsegment", "remote"
	sub["http"] = map[string]any{"request": map[string]any{
		"method": "GET", "url": "http://127.0.0.1:<port>/", "user_agent": "Ruby", "traced": false,
	}}
	c.Output["documents"] = []any{sub, seg}
}

func clone(v any) any {
	var c any
	if err := json.Unmarshal(marshal(v), &c); err != nil {
		panic(err)
	}
	return c
}

// policyNotes: a call that failed says how, in Envoy's words.
func policyNotes(c *goldenCase) {
	const closed = "upstream_reset_before_response_started{connection_termination}"
	op := map[string]any{}
	if ops := list(c.Input["do"]); len(ops) != 0 {
		op = ops[0].(map[string]any)
	}
	server, _ := op["server"].(map[string]any)
	notes, ok := map[string][2]string{
		"timeout": {"UT", "upstream_per_try_timeout"},
		"close":   {"UC", closed},
		"refused": {"UF", "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"},
	}[text(server["behaviour"])]
	if op["raise_error"] != nil {
		notes, ok = [2]string{"UC", closed}, true
	}
	if !ok {
		return
	}
	d := list(c.Output["documents"])[0].(map[string]any)
	d["annotations"].(map[string]any)["response_flags"] = notes[0]
	d["metadata"].(map[string]any)["pillion"] = map[string]any{"response_code_details": notes[1]}
}

func logged(c *goldenCase, i int) map[string]any { return list(c.Output["log"])[i].(map[string]any) }

// contextRestored: the end of an inner context brings the outer one back.
func contextRestored(c *goldenCase) {
	if c.ID == "disable-nested-same-id" {
		logged(c, 0)["disabled"] = true
		return
	}
	logged(c, 0)["started"] = true
	docs := list(c.Output["documents"])
	outer := docs[len(docs)-1].(map[string]any)
	b := map[string]any{"name": "b", "id": "<id:9>", "parent_id": outer["id"], "type": "subsegment"}
	for _, key := range []string{"annotations", "metadata", "start_time", "end_time", "trace_id"} {
		b[key] = outer[key]
	}
	c.Output["documents"] = append(docs[:len(docs)-1:len(docs)-1], b, outer)
}

// nilSegment: where there is no segment there is a nil one, and no header.
func nilSegment(c *goldenCase) {
	if entry := logged(c, 0); entry["op"] == "current" {
		c.Output["log"] = []any{map[string]any{"op": "current", "nil": true}}
	} else {
		entry["value"] = ""
	}
}

func hasNullSocket(c *goldenCase) bool {
	client, _ := c.Output["client"].(map[string]any)
	return client["sock"] != nil
}

func setClient(c *goldenCase, host, port string) {
	c.Output["client"] = map[string]any{"host": host, "port": json.Number(port)}
}

// daemonByDefault: without an address it is the daemon's usual one.
func daemonByDefault(c *goldenCase) { setClient(c, "127.0.0.1", "2000") }

// emptyIsUnset: an empty variable is as good as none.
func emptyIsUnset(c *goldenCase) {
	delete(c.Output, "raised")
	setClient(c, "127.0.0.1", "2000")
	c.Output["name"], c.Output["excluded_paths"], c.Output["sampling_rate"] = nil, []any{}, json.Number("1")
}

// pathsTrimmed: paths have no spaces around them, and are not empty.
func pathsTrimmed(c *goldenCase) { c.Output["excluded_paths"] = []any{"/a", "/b"} }

// fullQueueDrops: a full queue drops, counts and tells; nobody waits.
func fullQueueDrops(c *goldenCase) {
	c.Output["traces_completed"], c.Output["caller_blocked"] = 5, false
	c.Output["dropped"], c.Output["handler_calls"], c.Output["packets"] = true, []any{true}, "<some>"
}

// queueSizeDefault: a size of zero is the default one.
func queueSizeDefault(c *goldenCase) {
	c.Output = map[string]any{"traces_completed": 1, "caller_blocked": false, "packets": 1, "first_packet": nil}
}
