package tracing

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
)

var goldenKinds = map[string]func(*testing.T, *goldenCase) map[string]any{
	"header":     runHeader,
	"annotation": runAnnotation,
	"env":        runEnv,
	"sampling":   runSampling,
	"trace":      runTrace,
	"rack":       runRack,
	"udp":        runUDP,
}

// value converts a value of a case to the value that it describes.
func value(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return int(i)
		}
		if f, _ := v.Float64(); strings.ContainsAny(v.String(), ".eE") {
			return f
		}
		return v
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = value(v[i])
		}
		return list
	case map[string]any:
		return special(v)
	case object:
		out := map[string]any{}
		for _, m := range v {
			out[m.key] = value(m.value)
		}
		return out
	}
	return v
}

func special(m map[string]any) any {
	switch {
	case m["repeat"] != nil:
		n, _ := strconv.Atoi(text(m["times"]))
		return strings.Repeat(text(m["repeat"]), n)
	case m["hex"] != nil:
		b, err := hex.DecodeString(text(m["hex"]))
		if err != nil {
			panic(err)
		}
		return string(b)
	case m["float"] != nil:
		f, err := strconv.ParseFloat(text(m["float"]), 64)
		if err != nil {
			panic(err)
		}
		return f
	case m["symbol"] != nil:
		return text(m["symbol"])
	case m["time"] != nil:
		n, _ := strconv.ParseInt(text(m["time"]), 10, 64)
		return time.Unix(n, 0).UTC()
	case m["map"] != nil:
		return value(m["map"])
	}
	out := map[string]any{}
	for key, v := range m {
		out[key] = value(v)
	}
	return out
}

// goldenConfig converts the configuration of a case to a Config.
func goldenConfig(c *goldenCase) Config {
	cfg := Config{Name: "test-app"}
	if name, ok := c.Config["name"]; ok {
		cfg.Name = text(value(name))
	}
	cfg.Version = text(value(c.Config["version"]))
	if rate, ok := c.Config["sampling_rate"]; ok {
		if cfg.SamplingRate = number(value(rate)); cfg.SamplingRate == 0 {
			cfg.SamplingRate = Never
		}
	}
	cfg.RecordCaller = c.Config["record_caller"] == true
	excluded, _ := c.Config["excluded_paths"].([]any)
	option, _ := c.Input["excluded_paths"].([]any)
	for _, p := range append(slices.Clone(excluded), option...) {
		if re, ok := p.(map[string]any); ok {
			cfg.ExcludedPatterns = append(cfg.ExcludedPatterns, text(re["regexp"]))
		} else {
			cfg.ExcludedPaths = append(cfg.ExcludedPaths, text(value(p)))
		}
	}
	if a, ok := c.Config["default_annotation"].(object); ok {
		cfg.Annotations = value(a).(map[string]any)
	}
	if m, ok := c.Config["default_metadata"].(object); ok {
		cfg.Metadata = map[string]map[string]any{}
		for _, m := range m {
			addDefault(cfg.Metadata, m.key, value(m.value))
		}
	}
	return cfg
}

// addDefault adds metadata of the gem, which has one level.
func addDefault(to map[string]map[string]any, key string, v any) {
	values, ok := v.(map[string]any)
	space := key
	if !ok {
		space, values = "default", map[string]any{key: v}
	}
	if len(values) == 0 {
		return
	}
	if to[space] == nil {
		to[space] = map[string]any{}
	}
	maps.Copy(to[space], values)
}

func runHeader(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	out := map[string]any{}
	parsed := ParseHeader(text(value(c.Input["header"])))
	pairs := map[string]any{}
	for _, p := range []Field{{"Root", parsed.Root}, {"Parent", parsed.Parent}} {
		if p.Value != "" {
			pairs[p.Key] = p.Value
		}
	}
	for _, f := range parsed.Fields {
		pairs[f.Key] = f.Value
	}
	out["pairs"] = pairs
	for rate, key := range map[float64]string{Never: "at_rate_0", 1: "at_rate_1"} {
		tracer, _ := newTestTracer(t, Config{SamplingRate: rate})
		_, seg := tracer.Continue(t.Context(), "", parsed)
		h := seg.Header()
		at := map[string]any{
			"root": h.Root, "parent": nil, "has_parent": h.Parent != "", "sampled": h.Sampled == Sampled,
			"to_header_value":    h.String(),
			"child_header_value": strings.Replace(seg.Downstream().String(), "Parent="+seg.ID(), "Parent=<child>", 1),
		}
		if h.Parent != "" {
			at["parent"] = h.Parent
		}
		out[key] = at
		seg.End(nil)
	}
	return out
}

func runAnnotation(_ *testing.T, c *goldenCase) map[string]any {
	var m map[string]any
	for _, p := range hashOf(c.Input["pairs"]) {
		annotate(&m, text(value(p[0])), value(p[1]))
	}
	w := writer{defaults: &defaults{}}
	w.annotations(m)
	body := strings.TrimSuffix(strings.TrimPrefix(string(w.b), `"annotations":`), ",")
	pairs := map[string]any{}
	maps.Copy(pairs, m)
	return map[string]any{"pairs": pairs, "json": body}
}

// hashOf is the Hash that Ruby makes from pairs: of equal keys the last value counts, at
// the position of the first.
func hashOf(pairs any) (hash [][]any) {
	at := map[string]int{}
	for _, p := range list(pairs) {
		pair := p.([]any)
		key := mustJSON(pair[0])
		if i, twice := at[key]; twice {
			hash[i] = pair
			continue
		}
		at[key] = len(hash)
		hash = append(hash, pair)
	}
	return hash
}

func runEnv(_ *testing.T, c *goldenCase) map[string]any {
	env, _ := c.Input["env"].(map[string]any)
	cfg, err := fromEnv(Config{}, func(name string) string { return text(env[name]) })
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "tracing: "), ":")
			if text(env[name]) == "" {
				return map[string]any{"error names no variable": line}
			}
		}
		return map[string]any{"raised": true}
	}
	d, err := parseDaemon(cfg.Daemon)
	if err != nil {
		return map[string]any{"bad": err.Error()}
	}
	host, port, _ := net.SplitHostPort(d.udp)
	out := map[string]any{
		"name": nil, "client": map[string]any{"host": host, "port": json.Number(port)},
		"excluded_paths": []any{}, "sampling_rate": 1.0,
	}
	if cfg.Name != "" {
		out["name"] = cfg.Name
	}
	for _, p := range cfg.ExcludedPaths {
		out["excluded_paths"] = append(out["excluded_paths"].([]any), p)
	}
	if cfg.SamplingRate != 0 {
		out["sampling_rate"] = max(cfg.SamplingRate, 0)
	}
	return out
}

func runSampling(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	rate := number(value(c.Input["rate"]))
	want := rate
	if rate == 0 {
		rate = Never
	}
	tracer, err := newTracer(Config{Name: "x", SamplingRate: rate, Daemon: NoDaemon}, nil)
	if err != nil {
		return map[string]any{"error": "rate"}
	}
	trials, _ := strconv.Atoi(text(c.Input["trials"]))
	h := ParseHeader(text(value(c.Input["header"])))
	yes := 0
	for range trials {
		if _, seg := tracer.Continue(t.Context(), "", h); seg.Sampled() {
			yes++
		}
	}
	return map[string]any{
		"fraction_within_0_02_of_rate": math.Abs(float64(yes)/float64(trials)-want) <= 0.02,
		"all":                          yes == trials, "none": yes == 0,
	}
}

// replay runs the operations of a case.
type replay struct {
	t      *testing.T
	c      *goldenCase
	tracer *Tracer

	mu   sync.Mutex
	log  []any // guarded by mu
	wire []any // guarded by mu
}

// boom is the exception of a raise operation.
type boom struct{ message string }

func (b boom) Error() string { return b.message }

func runTrace(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	sent := &recorder{}
	cfg := goldenConfig(c)
	tracer, err := newTracer(cfg, sent.dial)
	if err != nil {
		return map[string]any{"raised": true}
	}
	defer tracer.Close(t.Context())
	r := &replay{t: t, c: c, tracer: tracer}
	out := map[string]any{}
	if p := r.protect(func() { r.traced() }); p != nil {
		out["raised"] = true
	}
	r.finish(out, sent)
	return out
}

func (r *replay) traced() {
	ops := list(r.c.Input["do"])
	if r.c.Input["bare"] == true {
		r.run(context.Background(), ops)
		return
	}
	name := text(value(r.c.Input["name"]))
	ctx, seg := r.tracer.Continue(context.Background(), name, ParseHeader(text(value(r.c.Input["header"]))))
	defer seg.End(nil)
	r.run(r.withName(ctx, name), ops)
}

type traceNameKey struct{}

// withName keeps the name of a trace, from which Faraday derives the names of its calls.
func (r *replay) withName(ctx context.Context, name string) context.Context {
	if name == "" {
		name = r.tracer.name
	}
	return context.WithValue(ctx, traceNameKey{}, name)
}

// finish adds the results to out.
func (r *replay) finish(out map[string]any, sent *recorder) {
	r.t.Helper()
	out["log"], out["documents"] = r.log, []any{}
	if r.wire != nil {
		out["wire_requests"] = r.wire
	}
	sent.documents(r.t, r.tracer) // validates them
	for _, p := range sent.packets {
		out["documents"] = append(out["documents"].([]any), exactDocument(r.t, p))
	}
}

// exactDocument returns the document of a packet, with the text of its numbers.
func exactDocument(t *testing.T, p []byte) map[string]any {
	t.Helper()
	_, body, _ := bytes.Cut(p, []byte("\n"))
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var doc map[string]any
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func (r *replay) protect(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func (r *replay) note(entry map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, entry)
}

func (r *replay) run(ctx context.Context, ops []any) {
	for _, op := range ops {
		r.op(ctx, op.(map[string]any))
	}
}

func (r *replay) op(ctx context.Context, op map[string]any) {
	do := list(op["do"])
	seg := Current(ctx)
	switch name := text(op["op"]); name {
	case "subsegment":
		start := StartSubsegment
		if op["remote"] == true {
			start = StartRemote
		}
		inner, sub := start(ctx, text(value(op["name"])))
		defer sub.End(nil)
		r.run(inner, do)
	case "trace":
		named := text(value(op["name"]))
		inner, other := r.tracer.Trace(ctx, named)
		defer other.End(nil)
		r.run(r.withName(inner, named), do)
	case "annotate":
		for _, m := range op["values"].(object) {
			seg.Annotate(m.key, value(m.value))
		}
	case "metadata":
		for _, m := range op["values"].(object) {
			addGolden(seg, m.key, value(m.value))
		}
	case "http_response", "plain_http_response":
		status := rubyToI(op["status"])
		seg.SetResponse(status, contentLength(text(op["length"])))
		if name == "http_response" {
			seg.SetStatus(status)
		}
	case "http_request":
		req := op["request"].(map[string]any)
		seg.SetRequest(Request{
			Method: text(value(req["method"])), URL: text(value(req["url"])), UserAgent: text(value(req["user_agent"])),
			ClientIP: text(value(req["client_ip"])), XForwardedFor: req["x_forwarded_for"] == true, Traced: op["traced"] == true,
		})
	case "set_error":
		f := op["flags"].(map[string]any)
		seg.SetFlags(f["error"] == true, f["throttle"] == true, f["fault"] == true)
	case "set_sql":
		q := op["sql"].(map[string]any)
		seg.SetSQL(SQL{URL: text(value(q["url"])), DatabaseVersion: text(value(q["database_version"]))})
	case "finish":
		seg.End(nil)
	case "overwrite":
		r.run(Overwrite(ctx, text(value(op["name"]))), do)
	case "disable":
		r.run(Disable(ctx), do)
	case "disabled?":
		r.note(map[string]any{"op": name, "disabled": Disabled(ctx)})
	case "started?":
		r.note(map[string]any{"op": name, "started": seg != nil})
	case "current":
		r.note(map[string]any{"op": name, "nil": seg == nil})
	case "trace_header":
		r.note(map[string]any{"op": name, "value": seg.Downstream().String()})
	case "raise":
		panic(boom{text(op["message"])})
	case "deep_raise":
		deep(rubyToI(op["depth"]), text(op["message"]))
	case "rescue":
		if p := r.protect(func() { r.run(ctx, do) }); p != nil {
			r.note(map[string]any{"op": name, "raised": true, "message": true})
		}
	case "thread":
		inner := context.Background()
		if op["context"] == "copy" {
			inner = Detach(ctx) // a copy has the name too
		}
		r.elsewhere(inner, do)
	case "fiber":
		r.elsewhere(ctx, do)
	case "given_context":
		r.run(Detach(ctx), do)
	case "rsolr":
		hook := "solr"
		if named, ok := r.c.Config["solr_hook_name"]; ok {
			hook = text(value(named))
		}
		r.run(Overwrite(ctx, hook), do)
	case "http", "faraday":
		r.http(ctx, op)
	default:
		r.t.Errorf("unknown operation %q", name)
	}
}

func (r *replay) elsewhere(ctx context.Context, do []any) {
	var p any
	var done sync.WaitGroup
	done.Go(func() { p = r.protect(func() { r.run(ctx, do) }) })
	done.Wait()
	if p != nil {
		panic(p)
	}
}

// addGolden adds metadata of the gem, which has one level.
func addGolden(seg *Segment, key string, v any) {
	values, ok := v.(map[string]any)
	if !ok {
		seg.AddMetadata(key, v)
		return
	}
	for k, inner := range values {
		seg.AddMetadataTo(key, k, inner)
	}
}

func deep(n int, message string) int {
	if n == 0 {
		panic(boom{message})
	}
	return deep(n-1, message) + 1
}

// http makes a call through the policy, to a server of the case.
func (r *replay) http(ctx context.Context, op map[string]any) {
	name := text(op["op"])
	server, _ := op["server"].(map[string]any)
	base := &http.Transport{ResponseHeaderTimeout: 10 * time.Second, DisableKeepAlives: true}
	defer base.CloseIdleConnections()
	url, stop := r.serve(server)
	defer stop()
	method := text(op["method"])
	if method == "" {
		method = http.MethodGet
	}
	path := text(op["path"])
	if path == "" {
		path = "/"
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, strings.NewReader(text(op["body"])))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("User-Agent", map[string]string{"http": "Ruby", "faraday": "Faraday v1.1.0"}[name])
	headers, _ := op["headers"].(map[string]any)
	for key, v := range headers {
		if req.Header.Set(key, text(value(v))); http.CanonicalHeaderKey(key) == "Host" {
			req.Host = text(value(v))
			req.Header.Del("Host")
		}
	}
	if name == "faraday" { // Faraday writes queries itself
		req.URL.RawQuery = req.URL.Query().Encode()
	}
	var rt http.RoundTripper = base
	if server["behaviour"] == "timeout" {
		base.ResponseHeaderTimeout = 20 * time.Millisecond
	}
	if op["raise_error"] == "inner" {
		rt = roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, failed := base.RoundTrip(req)
			if failed == nil && resp.StatusCode >= 400 && resp.StatusCode < 600 {
				resp.Body.Close()
				return nil, fmt.Errorf("the server responded with status %d", resp.StatusCode)
			}
			return resp, failed
		})
	}
	u, err := pillion.New(upstreamName(ctx, op, req), Client{Tracer: r.tracer, CallerNames: name == "http"})
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := u.Transport(rt).RoundTrip(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if err == nil && op["raise_error"] == "outer" && resp.StatusCode >= 400 && resp.StatusCode < 600 {
		err = fmt.Errorf("the server responded with status %d", resp.StatusCode)
	}
	switch {
	case err == nil:
		r.note(map[string]any{"op": name, "status": resp.StatusCode})
	case op["swallow"] == true:
		r.note(map[string]any{"op": name, "raised": true})
	default:
		panic(err)
	}
}

// upstreamName is the name that the gem's hooks use for a server, without the naming
// header.
func upstreamName(ctx context.Context, op map[string]any, req *http.Request) string {
	switch {
	case op["op"] == "faraday" && text(value(op["name"])) != "":
		return text(value(op["name"]))
	case req.Host != "" && req.Host != req.URL.Host:
		return req.Host
	case op["op"] == "faraday":
		name, _ := ctx.Value(traceNameKey{}).(string)
		return "unknown-request-from-" + name
	}
	return req.URL.Hostname()
}

// serve starts the server of a case. It responds as the recorder's server does, not as
// net/http would.
func (r *replay) serve(spec map[string]any) (url string, stop func()) {
	if r.wire == nil {
		r.wire = []any{}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	url = "http://" + l.Addr().String()
	if spec["behaviour"] == "refused" {
		l.Close()
		return url, func() {}
	}
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer conn.Close()
				r.respond(conn, spec, quit)
			})
		}
	})
	return url, func() { close(quit); l.Close(); done.Wait() }
}

// respond serves one request.
func (r *replay) respond(conn net.Conn, spec map[string]any, quit chan struct{}) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	r.seen(req)
	switch spec["behaviour"] {
	case "timeout":
		<-quit
		return
	case "close":
		return
	}
	body := text(spec["body"])
	headers, given := spec["headers"].(map[string]any)
	if !given {
		headers = map[string]any{"Content-Length": strconv.Itoa(len(body))}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d X\r\n", statusOf(spec))
	for key, v := range headers {
		fmt.Fprintf(&b, "%s: %s\r\n", key, text(v))
	}
	_, _ = io.WriteString(conn, b.String()+"Connection: close\r\n\r\n"+body)
}

func (r *replay) seen(req *http.Request) {
	headers := map[string]any{"Host": localHost.ReplaceAllString(req.Host, "127.0.0.1:<port>")}
	for name, shown := range map[string]string{HeaderName: "X-Amzn-Trace-Id", NameHeader: "X-Aws-Xray-Name"} {
		if v := req.Header.Values(name); len(v) != 0 {
			headers[shown] = v[0]
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wire = append(r.wire, map[string]any{"request_line": req.Method + " " + req.RequestURI + " HTTP/1.1", "headers": headers})
}

var localHost = regexp.MustCompile(`^127\.0\.0\.1:\d+$`)

func runRack(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	sent := &recorder{}
	tracer, err := newTracer(goldenConfig(c), sent.dial)
	if err != nil {
		return map[string]any{"raised": true}
	}
	defer tracer.Close(t.Context())
	r := &replay{t: t, c: c, tracer: tracer}
	out := map[string]any{}
	rec := httptest.NewRecorder()
	h := tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		out["env_seen_by_app"] = envSeen(req)
		app, _ := c.Input["app"].(map[string]any)
		r.run(r.withName(req.Context(), ""), list(app["do"]))
		headers, _ := app["headers"].(map[string]any)
		for key, v := range headers {
			w.Header().Set(key, text(value(v)))
		}
		if status, ok := app["status"]; ok {
			w.WriteHeader(rubyToI(status))
		}
	}))
	if p := r.protect(func() { h.ServeHTTP(rec, rackRequest(c)) }); p != nil {
		out["raised"] = true
	} else {
		headers := map[string]any{}
		for _, name := range []string{HeaderName, "Content-Length"} {
			if v := rec.Header().Values(name); len(v) != 0 {
				headers[name] = v[0]
			}
		}
		out["response"] = map[string]any{"status": rec.Code, "headers": headers}
	}
	r.finish(out, sent)
	return out
}

// envSeen returns the trace header that the application sees, under Rack's names.
func envSeen(req *http.Request) map[string]any {
	env := map[string]any{}
	if v := req.Header.Values(HeaderName); len(v) != 0 {
		env["HTTP_X_AMZN_TRACE_ID"] = v[0]
	}
	if in := Current(req.Context()).Incoming(); in != "" {
		env["HTTP_X_AMZN_TRACE_ID_ORIGINAL"] = in
	}
	return env
}

// rackRequest returns the request from which a Rack server would have made the environment
// of the case.
func rackRequest(c *goldenCase) *http.Request {
	r := rackEnv(c)
	req := httptest.NewRequest(r.get("REQUEST_METHOD"), "/", nil)
	req.URL = &url.URL{Path: r.path()}
	if path, err := url.PathUnescape(r.path()); err == nil {
		req.URL.Path, req.URL.RawPath = path, r.path()
	}
	req.URL.RawQuery = r.get("QUERY_STRING")
	req.Host = r.get("SERVER_NAME")
	https := r.get("HTTPS") == "on"
	if port := r.get("SERVER_PORT"); port != map[bool]string{false: "80", true: "443"}[https] {
		req.Host += ":" + port
	}
	if https {
		req.TLS = &tls.ConnectionState{}
	}
	req.RemoteAddr = net.JoinHostPort(r.get("REMOTE_ADDR"), "1234")
	for key, v := range r.env {
		name, ok := strings.CutPrefix(key, "HTTP_")
		if !ok {
			continue
		}
		if name == "HOST" {
			req.Host = v
		} else {
			req.Header.Set(strings.ReplaceAll(name, "_", "-"), v)
		}
	}
	return req
}

func runUDP(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	var mu sync.Mutex
	var reported bool
	cfg := goldenConfig(c)
	if name, ok := c.Input["name"]; ok {
		cfg.Name = text(value(name))
	}
	cfg.OnError = func(error) {
		mu.Lock()
		defer mu.Unlock()
		reported = true
		if c.Input["handler_raises"] == true {
			panic("boom")
		}
	}
	worker, _ := c.Input["worker"].(map[string]any)
	if size, ok := worker["max_queue_size"]; ok {
		cfg.QueueSize = rubyToI(size)
	}
	s := newSender(c)
	if text(c.Input["client"]) == "null" {
		cfg.Daemon = NoDaemon
	}
	tracer, err := newTracer(cfg, s.dial)
	if err != nil {
		return map[string]any{"raised": true}
	}
	s.hold(t, tracer)
	r := &replay{t: t, c: c, tracer: tracer}
	traces := max(1, rubyToI(c.Input["traces"]))
	out := map[string]any{"caller_blocked": false, "traces_completed": traces}
	for i := range traces {
		p := r.protect(func() {
			ctx, seg := tracer.Trace(t.Context(), "")
			defer s.drain(t, tracer)
			defer seg.End(nil)
			for _, op := range list(c.Input["do"]) {
				r.run(r.withName(ctx, ""), []any{op})
				s.drain(t, tracer)
			}
		})
		if p != nil {
			out["raised"], out["traces_completed"] = true, i
			break
		}
	}
	close(s.release)
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	stats, packets := tracer.Stats(), s.sent.packets
	if s.held {
		packets = packets[1:]
	}
	mu.Lock()
	defer mu.Unlock()
	out["packets"], out["reported"], out["dropped"], out["cut"] = len(packets), reported, stats.QueueFull != 0, stats.Cut != 0
	if len(packets) != 0 && c.Input["omit_packet"] == nil && stats.Cut == 0 && stats.QueueFull == 0 {
		p := packets[0]
		parsePacket(t, p) // validates it
		head, _, _ := bytes.Cut(p, []byte("\n"))
		out["first_packet"] = map[string]any{
			"lines": bytes.Count(p, []byte("\n")) + 1, "header_line": string(head), "ends_with_newline": bytes.HasSuffix(p, []byte("\n")),
			"document": exactDocument(t, p), "ascii_only": !bytes.ContainsFunc(p, func(r rune) bool { return r > 127 }),
		}
	}
	return out
}

// sender is the daemon of a case.
type sender struct {
	sent    recorder
	client  string
	stopped bool // the gem has no worker
	held    bool // nothing is sent here until all segments have ended
	asked   chan struct{}
	release chan struct{}
}

func newSender(c *goldenCase) *sender {
	worker, _ := c.Input["worker"].(map[string]any)
	return &sender{
		client: text(c.Input["client"]), stopped: worker["num"] != nil && rubyToI(worker["num"]) == 0,
		asked: make(chan struct{}, 1), release: make(chan struct{}),
	}
}

func (s *sender) dial(ctx context.Context, address string) (io.WriteCloser, error) {
	switch s.client {
	case "unresolvable":
		return nil, &net.DNSError{Name: "bad host name"}
	case "short":
		return shortWriter{}, nil
	}
	if s.held {
		s.asked <- struct{}{}
		<-s.release
	}
	return s.sent.dial(ctx, address)
}

// drain waits until the queue is empty, because the gem's callers wait for room in it.
func (s *sender) drain(t *testing.T, tracer *Tracer) {
	t.Helper()
	if s.held {
		return
	}
	if err := tracer.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// hold blocks the tracer's goroutine with another document if the gem has no worker, so
// that later documents stay in the queue.
func (s *sender) hold(t *testing.T, tracer *Tracer) {
	t.Helper()
	if s.held = s.stopped && (s.client == "" || s.client == "udp"); s.held {
		_, seg := tracer.Continue(t.Context(), "", Header{Sampled: Sampled})
		seg.End(nil)
		<-s.asked
	}
}

type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 3, nil }
func (shortWriter) Close() error              { return nil }
