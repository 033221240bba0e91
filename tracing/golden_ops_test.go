package tracing

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// The operations of trace, rack and udp cases, as the gem executes them.

func (g *gem) trace() map[string]any {
	e := rescue(func() {
		g.configure()
		ops := list(g.c.Input["do"])
		if g.c.Input["bare"] == true {
			g.run(ops, nil)
			return
		}
		g.traced(stringOf(g.c.Input["name"]), g.incomingTrace(g.c.Input["header"]), func(s *gemSegment) { g.run(ops, s) })
	})
	return g.output(e)
}

// incomingTrace returns the trace of a header, or a new one if there is none.
func (g *gem) incomingTrace(header any) gemTrace {
	if header == nil {
		return g.generate(g.config.rate)
	}
	return g.readTrace(text(value(header)), g.config.rate)
}

// output returns the output of the case.
func (g *gem) output(e *rubyError) map[string]any {
	out := map[string]any{"documents": g.documents, "log": g.log}
	if g.called {
		out["wire_requests"] = g.wire
	}
	if e != nil {
		out["raised"] = true
	}
	return out
}

func (g *gem) rack() map[string]any {
	out := map[string]any{}
	e := rescue(func() {
		g.configure()
		if g.config.name == nil {
			raise("`name` is empty.")
		}
		g.request(rackEnv(g.c), out)
	})
	maps.Copy(out, g.output(e))
	return out
}

// request serves a request through the middleware.
func (g *gem) request(r rackRequestOf, out map[string]any) {
	app, _ := g.c.Input["app"].(map[string]any)
	header, has := r.env["HTTP_X_AMZN_TRACE_ID"]
	seen := map[string]any{}
	if has {
		seen["HTTP_X_AMZN_TRACE_ID"] = header
	}
	if g.excluded(r) {
		out["env_seen_by_app"] = seen
		status, headers := g.serve(app, nil)
		shown, _ := g.responseHeaders(headers)
		out["response"] = map[string]any{"status": status, "headers": shown}
		return
	}
	var incoming any
	if has {
		incoming = header
	}
	t := g.incomingTrace(incoming)
	if has && (header != "" || !g.differs("net-http")) {
		if len(header) > 4096 && g.differs("bounded-strings") {
			header = strings.ToValidUTF8(header[:4096], "")
		}
		seen["HTTP_X_AMZN_TRACE_ID_ORIGINAL"] = header
	}
	seen["HTTP_X_AMZN_TRACE_ID"] = t.String()
	g.traced(g.config.name, t, func(s *gemSegment) {
		g.recordRack(s, r)
		out["env_seen_by_app"] = seen
		status, headers := g.serve(app, s)
		shown, length := g.responseHeaders(headers)
		recorded := status
		if n := rubyToI(status); n >= 100 && n < 200 && n != 101 && g.differs("net-http") {
			recorded = 200
		}
		s.respond(g, recorded, length, true, false)
		s.response["server"] = true
		shown["X-Amzn-Trace-Id"] = t.String()
		out["response"] = map[string]any{"status": status, "headers": shown}
	})
}

// serve runs the application.
func (g *gem) serve(app map[string]any, s *gemSegment) (status any, headers map[string]any) {
	g.run(list(app["do"]), s)
	status = 200
	if v, ok := app["status"]; ok {
		status = value(v)
	}
	if _, isInt := status.(int); !isInt && g.differs("status-number") {
		status = rubyToI(status)
	}
	if n := rubyToI(status); (n < 100 || n > 999) && g.differs("net-http") {
		raise("invalid WriteHeader code")
	}
	headers, _ = app["headers"].(map[string]any)
	return status, headers
}

// rackEnv returns the environment of a case's request.
func rackEnv(c *goldenCase) rackRequestOf {
	in := text(c.Input["url"])
	if in == "" {
		in = "/"
	}
	u, err := url.Parse(in)
	if err != nil {
		u = &url.URL{Path: in}
	}
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	env := map[string]string{
		"REQUEST_METHOD": strings.ToUpper(text(c.Input["method"])), "SERVER_NAME": host, "SERVER_PORT": u.Port(), "QUERY_STRING": u.RawQuery,
		"PATH_INFO": path, "rack.url_scheme": u.Scheme, "REMOTE_ADDR": text(c.Input["remote_addr"]),
	}
	for key, v := range map[string]string{
		"REQUEST_METHOD": "GET", "SERVER_NAME": "example.org", "rack.url_scheme": "http", "REMOTE_ADDR": "127.0.0.1",
		"SERVER_PORT": map[string]string{"https": "443"}[env["rack.url_scheme"]],
	} {
		if env[key] == "" {
			env[key] = v
		}
	}
	if env["SERVER_PORT"] == "" {
		env["SERVER_PORT"] = "80"
	}
	if env["rack.url_scheme"] == "https" {
		env["HTTPS"] = "on"
	}
	headers, _ := c.Input["headers"].(map[string]any)
	for key, v := range headers {
		env["HTTP_"+strings.ReplaceAll(strings.ToUpper(key), "-", "_")] = text(value(v))
	}
	over, _ := c.Input["env"].(map[string]any)
	for key, v := range over {
		env[key] = text(value(v))
	}
	return rackRequestOf{env}
}

// excluded reports whether the request is passed on without a trace.
func (g *gem) excluded(r rackRequestOf) bool {
	path := r.get("PATH_INFO")
	is := g.excludes(path)
	if decoded, err := url.PathUnescape(path); err == nil && g.excludes(decoded) != is && g.differs("decoded-paths") {
		return !is
	}
	return is
}

func (g *gem) excludes(path string) bool {
	for _, p := range append(slices.Clone(list(g.c.Config["excluded_paths"])), list(g.c.Input["excluded_paths"])...) {
		if re, ok := p.(map[string]any); ok {
			if rubyMatches(text(re["regexp"]), path) {
				return true
			}
		} else if path == text(value(p)) {
			return true
		}
	}
	return false
}

// recordRack records a request.
func (g *gem) recordRack(s *gemSegment, r rackRequestOf) {
	if v, ok := r.env["HTTP_X_FORWARDED_HOST"]; ok && len(splitHeader(v)) == 0 && !g.differs("urls-of-requests") {
		raise("undefined method `start_with?' for nil")
	}
	_, forwarded := r.env["HTTP_X_FORWARDED_FOR"]
	s.request = map[string]any{
		"method": r.get("REQUEST_METHOD"), "url": g.rackURL(r), "client_ip": r.ip(), "x_forwarded_for": forwarded,
	}
	if here := r.peerIP(); here != s.request["client_ip"] && g.differs("client-address") {
		s.request["client_ip"] = here
	}
	if _, ok := r.env["HTTP_USER_AGENT"]; ok {
		s.request["user_agent"] = g.encoded("User-Agent", r.get("HTTP_USER_AGENT"))
	}
}

// encoded returns the value of a header as the gem writes it, which depends on the encoding
// of the string.
func (g *gem) encoded(name, s string) string {
	headers, _ := g.c.Input["headers"].(map[string]any)
	given, _ := headers[name].(map[string]any)
	valid := strings.ToValidUTF8(s, "")
	if given["hex"] == nil || given["encoding"] != nil {
		return valid
	}
	ascii := strings.Map(func(r rune) rune {
		if r > 127 {
			return -1
		}
		return r
	}, valid)
	if ascii != valid && g.differs("utf8-kept") {
		return valid
	}
	return ascii
}

// rackURL returns the URL of a request.
func (g *gem) rackURL(r rackRequestOf) string {
	bare, parsed := rubyURI(r.url())
	host := r.get("HTTP_HOST")
	if host == "" {
		host = r.get("SERVER_NAME")
		if port := r.get("SERVER_PORT"); port != map[bool]string{false: "80", true: "443"}[r.get("HTTPS") == "on"] {
			host += ":" + port
		}
	}
	scheme := "http"
	if r.get("HTTPS") == "on" || (trustedHere(r.get("REMOTE_ADDR")) && strings.EqualFold(r.get("HTTP_X_FORWARDED_PROTO"), "https")) {
		scheme = "https"
	}
	base, path := r.scheme()+"://"+r.hostWithPort(), (&url.URL{Path: r.path()}).EscapedPath()
	if decoded, err := url.PathUnescape(r.path()); err == nil {
		path = (&url.URL{Path: decoded, RawPath: r.path()}).EscapedPath()
	}
	if here := scheme + "://" + host; here != base && g.differs("urls-of-requests") {
		bare, parsed = here+path, true
	}
	if !parsed && g.differs("urls") {
		return base + path
	}
	return bare
}

// run executes operations on the segment s.
func (g *gem) run(ops []any, s *gemSegment) {
	for _, op := range ops {
		g.step(op.(map[string]any), s)
	}
}

func (g *gem) note(op map[string]any, key string, v any) {
	g.log = append(g.log, map[string]any{"op": op["op"], key: v})
}

func (g *gem) step(op map[string]any, s *gemSegment) {
	do := list(op["do"])
	switch name := text(op["op"]); name {
	case "subsegment":
		g.subsegment(text(value(op["name"])), op["remote"] == true, func(sub *gemSegment) { g.run(do, sub) })
	case "trace":
		g.traced(stringOf(op["name"]), g.generate(g.config.rate), func(seg *gemSegment) { g.run(do, seg) })
	case "overwrite":
		g.overwrite(text(value(op["name"])), func() { g.run(do, s) })
	case "rsolr":
		g.overwrite(g.config.solr, func() { g.run(do, s) })
	case "disable":
		g.disable(text(op["id"]), func() { g.run(do, s) })
	case "disabled?":
		g.note(op, "disabled", g.isDisabled(text(op["id"])))
	case "started?":
		g.note(op, "started", g.context != nil)
	case "current":
		if g.context == nil && !g.differs("nil-segment") {
			g.log = append(g.log, map[string]any{"op": name, "raised": true, "message": true})
		} else {
			g.note(op, "nil", g.context == nil)
		}
	case "rescue":
		if rescue(func() { g.run(do, s) }) != nil {
			g.log = append(g.log, map[string]any{"op": name, "raised": true, "message": true})
		}
	case "fiber":
		g.run(do, s)
	case "thread":
		g.thread(op["context"] == "copy", func() { g.run(do, s) }, func() { g.run(do, nil) })
	case "given_context":
		if c := g.copied(); c != nil {
			g.within(c, func() { g.run(do, s) })
		} else {
			g.thread(false, nil, func() { g.run(do, s) })
		}
	case "raise":
		raise(text(op["message"]))
	case "deep_raise":
		panic(&rubyError{text(op["message"]), deepFrames(rubyToI(op["depth"]))})
	case "http", "faraday":
		g.http(op)
	default:
		g.change(op, s)
	}
}

// deepFrames is the number of frames of a deep stack.
func deepFrames(depth int) any {
	if depth >= 250 {
		return 250
	}
	return "<below-cap>"
}

// change executes an operation on a segment.
func (g *gem) change(op map[string]any, s *gemSegment) {
	if s == nil {
		if !g.differs("nil-segment") {
			raise("undefined method for nil")
		}
		if op["op"] == "trace_header" {
			g.note(op, "value", "")
		}
		return
	}
	if op["op"] == "trace_header" {
		g.note(op, "value", g.child(s.trace, s.id).String())
		return
	}
	if s.ended(g) {
		return
	}
	values, _ := op["values"].(object)
	switch op["op"] {
	case "annotate":
		s.annotations = g.annotated(s.annotations, values)
	case "metadata":
		s.metadata = g.withMetadata(s.metadata, values)
	case "http_response":
		s.respond(g, op["status"], op["length"], true, op["remote"] == true)
	case "plain_http_response":
		s.respond(g, op["status"], op["length"], false, false)
	case "http_request":
		s.request = g.requestGiven(op, s)
	case "set_error":
		f, _ := op["flags"].(map[string]any)
		s.flags, s.exception = []bool{f["error"] == true, f["throttle"] == true, f["fault"] == true}, nil
	case "set_sql":
		s.sql = g.sqlGiven(op["sql"].(map[string]any))
	case "finish":
		s.finished = true
		if s.trace.sampled && !s.null && g.differs("finish-sends") {
			g.send(s)
		}
	default:
		panic("unknown operation " + text(op["op"]))
	}
}

// requestGiven returns a request that was set by hand.
func (g *gem) requestGiven(op map[string]any, s *gemSegment) map[string]any {
	given, _ := op["request"].(map[string]any)
	r := map[string]any{}
	for _, key := range []string{"method", "url", "user_agent", "client_ip"} {
		if v := stringOf(given[key]); v != nil {
			r[key] = *v
		}
	}
	if u, ok := r["url"].(string); ok {
		r["url"] = g.bareURL(u)
	}
	if s.sub {
		r["traced"] = op["traced"] == true
		return r
	}
	if v := given["x_forwarded_for"]; v != nil {
		r["x_forwarded_for"] = v
	} else if g.differs("forwarded-flag") {
		r["x_forwarded_for"] = false
	}
	return r
}

var (
	queryOfURL = regexp.MustCompile(`[?#].*`)
	userOfURL  = regexp.MustCompile(`^(([^:/]+:)?//)[^/]*@`)
)

// bareURL returns a URL without query.
func (g *gem) bareURL(u string) string {
	bare, _ := rubyURI(u)
	if here := userOfURL.ReplaceAllString(queryOfURL.ReplaceAllString(u, ""), "$1"); here != bare && g.differs("urls") {
		return here
	}
	return bare
}

func (g *gem) sqlGiven(q map[string]any) map[string]any {
	out := map[string]any{}
	for _, key := range []string{"url", "database_version"} {
		v := stringOf(q[key])
		if v == nil || (*v == "" && g.differs("empty-strings")) {
			continue
		}
		out[key] = *v
		if key == "database_version" {
			out[key] = g.bound(*v, 250)
		} else if bare := userOfURL.ReplaceAllString(queryOfURL.ReplaceAllString(*v, ""), "$1"); bare != *v && g.differs("urls") {
			out[key] = bare
		}
	}
	return out
}

// Context.

// copied returns a copy of the context for another thread.
func (g *gem) copied() *gemContext {
	c := g.context
	if c == nil {
		if !g.differs("nil-segment") {
			raise("Context is not set for this thread")
		}
		return nil
	}
	return &gemContext{name: c.name, trace: c.trace, base: c.base, inner: c.inner}
}

// thread runs a thread, with a copy of the context or without a context.
func (g *gem) thread(isCopy bool, with, without func()) {
	var c *gemContext
	f := without
	if isCopy {
		c, f = g.copied(), with
	}
	outer, bare := g.context, g.bare
	defer func() { g.context, g.bare = outer, bare }()
	g.context, g.bare = c, gemContext{}
	f()
}

func (g *gem) overwrite(name string, f func()) {
	c := g.context
	if c == nil {
		c = &g.bare
		if !g.rules {
			c = &gemContext{}
		}
	}
	if c.pending.waits() {
		f()
		return
	}
	c.pending = &pending{name: name}
	defer func() { c.pending = nil }()
	f()
}

func (g *gem) disable(id string, f func()) {
	c := g.context
	if c == nil {
		c = &g.bare
	}
	before := c.disabled
	c.disabled = append(slices.Clone(before), id)
	defer func() {
		c.disabled = slices.DeleteFunc(slices.Clone(before), func(d string) bool { return d == id })
		if slices.Contains(before, id) && g.differs("context-restored") {
			c.disabled = before
		}
	}()
	f()
}

// isDisabled reports whether tracing of id is disabled.
func (g *gem) isDisabled(id string) bool {
	if g.context == nil {
		return len(g.bare.disabled) != 0 && g.differs("disable-without-ids")
	}
	disabled := g.context.disabled
	return slices.Contains(disabled, id) || (len(disabled) != 0 && g.differs("disable-without-ids"))
}

// Calls.

func (g *gem) http(op map[string]any) {
	g.called = true
	var status any
	e := rescue(func() { status = g.call(op) })
	switch {
	case e == nil:
		g.note(op, "status", status)
	case op["swallow"] == true:
		g.note(op, "raised", true)
	default:
		panic(e)
	}
}

// call makes a call, and returns its status.
func (g *gem) call(op map[string]any) any {
	faraday := op["op"] == "faraday"
	server, _ := op["server"].(map[string]any)
	failing := server["behaviour"] != nil
	traced := g.context != nil && !g.skipped(faraday)
	path, legal := rubyURI(opPath(op))
	if !legal && (traced || faraday) && !g.differs("urls") {
		raise("bad URI")
	}
	if server["behaviour"] == "refused" && op["style"] == "start" && !faraday && (!traced || !g.differs("refused-is-recorded")) {
		raise("Connection refused")
	}
	if !traced {
		g.send1(op, server, nil)
		if failing {
			raise("failed")
		}
		g.raiseOn(op, server, "inner")
		g.raiseOn(op, server, "outer")
		return statusOf(server)
	}
	g.subsegment(g.nameOf(op, faraday), true, func(s *gemSegment) {
		header := g.child(s.trace, s.id).String()
		unsendable := strings.ContainsAny(s.trace.root, "\r\n")
		if unsendable && !faraday {
			raise("header field value cannot include CR/LF")
		}
		s.request = map[string]any{"method": methodOf(op), "user_agent": agentOf(op, faraday), "traced": false, "url": "http://127.0.0.1:<port>" + g.escaped(path, legal)}
		if unsendable {
			raise("header field value cannot include CR/LF")
		}
		g.disable("net_http", func() { g.send1(op, server, &header) }) // the hook must not record it twice
		if host := headerOf(op, "Host"); host != nil && (failing || g.hidden(op, server)) && g.differs("url-of-the-unanswered") {
			s.request["url"] = "http://" + *host + g.escaped(path, legal)
		}
		g.fail(op, server, s)
		s.respond(g, statusOf(server), lengthOf(server), true, true)
		if g.config.caller {
			s.metadata = maps.Clone(s.metadata)
			s.metadata["caller"] = map[string]any{"stack": stackOfGem("<below-cap>"), "truncated": 0}
		}
	})
	g.raiseOn(op, server, "outer")
	return statusOf(server)
}

// skipped reports whether a call is not traced although there is a context.
func (g *gem) skipped(faraday bool) bool {
	if faraday { // Faraday does not check
		return len(g.context.disabled) != 0 && g.differs("disable-without-ids")
	}
	return g.isDisabled("net_http")
}

func opPath(op map[string]any) string {
	if p := text(op["path"]); p != "" {
		return p
	}
	return "/"
}

// escaped returns a path as the document contains it.
func (g *gem) escaped(path string, legal bool) string {
	if legal {
		return path
	}
	u, err := url.Parse("http://h" + path)
	if err != nil {
		return path
	}
	return u.EscapedPath()
}

func methodOf(op map[string]any) string {
	if m := text(op["method"]); m != "" {
		return m
	}
	return "GET"
}

// headerOf returns a header of a call, nil for none.
func headerOf(op map[string]any, name string) *string {
	headers, _ := op["headers"].(map[string]any)
	for key, v := range headers {
		if strings.EqualFold(key, name) {
			return stringOf(v)
		}
	}
	return nil
}

func agentOf(op map[string]any, faraday bool) string {
	if v := headerOf(op, "User-Agent"); v != nil {
		return *v
	}
	if faraday {
		return "Faraday v1.1.0"
	}
	return "Ruby"
}

// nameOf returns the name of a call's subsegment.
func (g *gem) nameOf(op map[string]any, faraday bool) string {
	given := headerOf(op, NameHeader)
	if faraday {
		given = stringOf(op["name"])
	}
	upstream := "127.0.0.1"
	if faraday {
		upstream = "unknown-request-from-" + g.context.name
	}
	if host := headerOf(op, "Host"); host != nil {
		upstream = *host
	}
	if given != nil && (*given != "" || !g.differs("legal-names")) {
		return *given
	}
	return upstream
}

// send1 sends the request.
func (g *gem) send1(op, server map[string]any, trace *string) {
	if server["behaviour"] == "refused" {
		return
	}
	path := opPath(op)
	if u, err := url.Parse("http://h" + path); err == nil {
		if op["op"] == "faraday" && u.RawQuery != "" {
			u.RawQuery = u.Query().Encode()
			path = u.RequestURI()
		} else if u.RequestURI() != path && g.differs("urls") {
			path = u.RequestURI()
		}
	}
	headers := map[string]any{"Host": "127.0.0.1:<port>"}
	for _, name := range []string{"Host", "X-Amzn-Trace-Id"} {
		if v := headerOf(op, name); v != nil {
			headers[name] = *v
		}
	}
	if v := headerOf(op, NameHeader); v != nil && !g.differs("naming-header") {
		headers["X-Aws-Xray-Name"] = *v
	}
	if trace != nil {
		headers["X-Amzn-Trace-Id"] = *trace
	}
	g.wire = append(g.wire, map[string]any{"request_line": methodOf(op) + " " + path + " HTTP/1.1", "headers": headers})
}

// fail raises the error of the call, if it failed.
func (g *gem) fail(op, server map[string]any, s *gemSegment) {
	const closed = "upstream_reset_before_response_started{connection_termination}"
	notes, failing := map[string][2]string{
		"timeout": {"UT", "upstream_per_try_timeout"},
		"close":   {"UC", closed},
		"refused": {"UF", "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"},
	}[text(server["behaviour"])]
	if !failing {
		if !g.hidden(op, server) {
			return
		}
		notes = [2]string{"UC", closed}
	}
	if g.differs("policy-notes") {
		s.annotations, s.metadata = maps.Clone(s.annotations), maps.Clone(s.metadata)
		s.annotations["response_flags"] = notes[0]
		s.metadata["pillion"] = map[string]any{"response_code_details": notes[1]}
	}
	raise("failed")
}

// hidden reports whether a middleware inside converts the response to an error.
func (g *gem) hidden(op, server map[string]any) bool {
	n := statusOf(server)
	return op["raise_error"] == "inner" && n >= 400 && n < 600
}

func (g *gem) raiseOn(op, server map[string]any, where string) {
	if n := statusOf(server); op["raise_error"] == where && n >= 400 && n < 600 {
		raise("the server responded with status")
	}
}

func statusOf(server map[string]any) int {
	if v, ok := server["status"]; ok {
		return rubyToI(v)
	}
	return 200
}

// lengthOf returns the Content-Length of a server's response.
func lengthOf(server map[string]any) any {
	headers, given := server["headers"].(map[string]any)
	if !given {
		return text(len(text(server["body"])))
	}
	for key, v := range headers {
		if strings.EqualFold(key, "Content-Length") {
			return text(v)
		}
	}
	return nil
}

// Sending.

const largestPacket = 65507

func (g *gem) udp() map[string]any {
	if e := rescue(g.configure); e != nil {
		return map[string]any{"raised": true}
	}
	client, in := text(g.c.Input["client"]), g.c.Input
	name := stringOf(in["name"])
	if name != nil && *name == "" && g.differs("bad-values") {
		return map[string]any{"raised": true}
	}
	g.socket = client == "null" || client == "short"
	worker, _ := in["worker"].(map[string]any)
	size, limited := 1000, worker["max_queue_size"] != nil
	if limited {
		size = rubyToI(worker["max_queue_size"])
	}
	if size == 0 && g.differs("queue-size-default") {
		size = 1000
	}
	if size <= 0 {
		return map[string]any{"raised": true}
	}
	stopped := worker["num"] != nil && rubyToI(worker["num"]) == 0 && !g.socket
	out := map[string]any{"caller_blocked": false}
	completed := 0
	for range max(1, rubyToI(in["traces"])) {
		e := rescue(func() {
			g.traced(name, g.generate(g.config.rate), func(s *gemSegment) { g.run(list(in["do"]), s) })
		})
		if e != nil {
			out["raised"] = true
			break
		}
		if stopped && len(g.documents) > size && !g.differs("full-queue-drops") {
			out["caller_blocked"] = true
			break
		}
		completed++
	}
	out["traces_completed"] = completed
	g.deliver(out, client, stopped, size)
	return out
}

// deliver sends the documents.
func (g *gem) deliver(out map[string]any, client string, stopped bool, size int) {
	docs := g.documents
	if stopped && (len(docs) == 0 || !g.differs("one-sender")) {
		out["packets"] = 0
		return
	}
	if stopped && len(docs) > size { // only with the rule
		docs = docs[:size]
		out["dropped"], out["handler_calls"] = true, []any{true}
	}
	packets := []any{}
	for _, d := range docs {
		large := sizeOf(d) > largestPacket
		switch {
		case client == "null":
			if !ascii(d) && !g.differs("null-daemon") {
				out["handler_calls"] = []any{true}
			}
		case client == "short", client == "unresolvable":
			out["handler_calls"] = []any{true}
			if large && g.differs("large-documents") {
				out["cut"] = true
			}
		case large && g.differs("large-documents"):
			out["cut"] = true
			packets = append(packets, nil)
		case large:
			out["handler_calls"] = []any{true}
		default:
			packets = append(packets, d)
		}
	}
	out["packets"] = len(packets)
	if len(packets) != 0 && g.c.Input["omit_packet"] == nil && out["cut"] == nil && out["dropped"] == nil {
		out["first_packet"] = map[string]any{
			"lines": 3, "header_line": `{"format": "json", "version": 1}`, "ends_with_newline": true, "document": packets[0], "ascii_only": ascii(packets[0]),
		}
	}
}

// sizeOf returns the approximate size of the packet in bytes.
func sizeOf(d any) int { return len(mustJSON(d)) + 150 }

func ascii(d any) bool {
	return !strings.ContainsFunc(string(marshal(d)), func(r rune) bool { return r > 127 })
}
