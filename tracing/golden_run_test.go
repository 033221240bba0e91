package tracing

import (
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

// value makes of a case's value the one that is meant.
func value(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return int(i)
		}
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
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

// goldenConfig makes of a case's configuration one of ours.
func goldenConfig(c *goldenCase) Config {
	cfg := Config{Name: "test-app"}
	if name, ok := c.Config["name"]; ok {
		cfg.Name = text(name)
	}
	cfg.Version = text(c.Config["version"])
	if rate, ok := c.Config["sampling_rate"]; ok {
		if cfg.SamplingRate, _ = strconv.ParseFloat(text(rate), 64); cfg.SamplingRate == 0 {
			cfg.SamplingRate = NeverSample
		}
	}
	cfg.RecordCaller = c.Config["record_caller"] == true
	excluded, _ := c.Config["excluded_paths"].([]any)
	option, _ := c.Input["excluded_paths"].([]any)
	for _, p := range append(slices.Clone(excluded), option...) {
		if re, ok := p.(map[string]any); ok {
			cfg.ExcludedPatterns = append(cfg.ExcludedPatterns, text(re["regexp"]))
		} else {
			cfg.ExcludedPaths = append(cfg.ExcludedPaths, text(p))
		}
	}
	if a, ok := c.Config["default_annotation"].(map[string]any); ok {
		cfg.Annotations = value(a).(map[string]any)
	}
	return cfg
}

func runHeader(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	out := map[string]any{}
	parsed := ParseHeader(text(c.Input["header"]))
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
	for rate, key := range map[float64]string{NeverSample: "at_rate_0", 1: "at_rate_1"} {
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
	for _, p := range c.Input["pairs"].([]any) {
		pair := p.([]any)
		annotate(&m, text(value(pair[0])), value(pair[1]))
	}
	w := writer{defaults: &defaults{}}
	w.annotations(m)
	body := strings.TrimSuffix(strings.TrimPrefix(string(w.b), `"annotations":`), ",")
	pairs := map[string]any{}
	maps.Copy(pairs, m)
	return map[string]any{"pairs": pairs, "json": body}
}

func runEnv(_ *testing.T, c *goldenCase) map[string]any {
	env, _ := c.Input["env"].(map[string]any)
	cfg, err := fromEnv(Config{}, func(name string) string { return text(env[name]) })
	if err != nil {
		for name := range env {
			if !strings.Contains(err.Error(), name) {
				return map[string]any{"error does not name": name}
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
	rate, _ := strconv.ParseFloat(text(c.Input["rate"]), 64)
	want := rate
	if rate == 0 {
		rate = NeverSample
	}
	tracer, err := newTracer(Config{Name: "x", SamplingRate: rate, Daemon: NoDaemon}, nil)
	if err != nil {
		return map[string]any{"error": "rate"}
	}
	trials, _ := strconv.Atoi(text(c.Input["trials"]))
	h := ParseHeader(text(c.Input["header"]))
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

// boom is what a raise operation throws.
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
	ctx, seg := r.tracer.Continue(context.Background(), text(value(r.c.Input["name"])), ParseHeader(text(r.c.Input["header"])))
	defer seg.End(nil)
	r.run(ctx, ops)
}

// finish puts what happened into out.
func (r *replay) finish(out map[string]any, sent *recorder) {
	r.t.Helper()
	out["log"], out["documents"] = r.log, []any{}
	if r.wire != nil {
		out["wire_requests"] = r.wire
	}
	for _, d := range sent.documents(r.t, r.tracer) {
		out["documents"] = append(out["documents"].([]any), map[string]any(d))
	}
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
		inner, other := r.tracer.Trace(ctx, text(op["name"]))
		defer other.End(nil)
		r.run(inner, do)
	case "annotate":
		for key, v := range op["values"].(map[string]any) {
			seg.Annotate(key, value(v))
		}
	case "metadata":
		for key, v := range op["values"].(map[string]any) {
			addGolden(seg, key, value(v))
		}
	case "http_response", "plain_http_response":
		status, _ := strconv.Atoi(text(op["status"]))
		size, _ := strconv.Atoi(text(op["length"]))
		seg.SetResponse(status, int64(size))
		if name == "http_response" {
			seg.SetStatus(status)
		}
	case "http_request":
		req := op["request"].(map[string]any)
		seg.SetRequest(Request{
			Method: text(req["method"]), URL: text(req["url"]), UserAgent: text(req["user_agent"]), ClientIP: text(req["client_ip"]),
			XForwardedFor: req["x_forwarded_for"] == true, Traced: op["traced"] == true || req["traced"] == true,
		})
	case "set_error":
		f := op["flags"].(map[string]any)
		seg.SetFlags(f["error"] == true, f["throttle"] == true, f["fault"] == true)
	case "set_sql":
		q := op["sql"].(map[string]any)
		seg.SetSQL(SQL{URL: text(q["url"]), DatabaseVersion: text(q["database_version"])})
	case "finish":
		seg.End(nil)
	case "overwrite":
		r.run(Overwrite(ctx, text(op["name"])), do)
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
		n, _ := strconv.Atoi(text(op["depth"]))
		deep(n, text(op["message"]))
	case "rescue":
		if p := r.protect(func() { r.run(ctx, do) }); p != nil {
			r.note(map[string]any{"op": name, "raised": true, "message": true})
		}
	case "thread":
		inner := context.Background()
		if op["context"] == "copy" {
			inner = Detach(ctx)
		}
		r.elsewhere(inner, do)
	case "fiber":
		r.elsewhere(ctx, do)
	case "given_context":
		r.run(Detach(ctx), do)
	case "rsolr":
		hook := "solr"
		if named := text(r.c.Config["solr_hook_name"]); named != "" {
			hook = named
		}
		r.run(Overwrite(ctx, hook), do)
	case "http", "faraday":
		r.http(ctx, op)
	default:
		r.t.Errorf("unknown operation %q", name)
	}
}

func (r *replay) elsewhere(ctx context.Context, do []any) {
	var done sync.WaitGroup
	done.Go(func() { r.run(ctx, do) })
	done.Wait()
}

// addGolden adds metadata in the gem's one level.
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
		if req.Header.Set(key, text(v)); key == "Host" {
			req.Host = text(v)
			req.Header.Del("Host")
		}
	}
	var rt http.RoundTripper = base
	if server["behaviour"] == "timeout" {
		base.ResponseHeaderTimeout = 20 * time.Millisecond
	}
	if op["raise_error"] == "inner" {
		rt = roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, failed := base.RoundTrip(req)
			if failed == nil && resp.StatusCode >= 400 {
				resp.Body.Close()
				return nil, fmt.Errorf("the server responded with status %d", resp.StatusCode)
			}
			return resp, failed
		})
	}
	u, err := pillion.New(upstreamName(op, req), Client{Tracer: r.tracer, CallerNames: name == "http"})
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := u.Transport(rt).RoundTrip(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		err = errors.Join(err, resp.Body.Close())
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

// upstreamName is what the gem's hooks call a server, but for the naming header.
func upstreamName(op map[string]any, req *http.Request) string {
	switch {
	case text(op["name"]) != "":
		return text(op["name"])
	case req.Host != "" && req.Host != req.URL.Host:
		return req.Host
	case op["op"] == "faraday":
		return "unknown-request-from-test-app"
	}
	return req.URL.Hostname()
}

// serve starts a server as the case wants it.
func (r *replay) serve(spec map[string]any) (url string, stop func()) {
	if r.wire == nil {
		r.wire = []any{}
	}
	if spec["behaviour"] == "refused" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.t.Fatal(err)
		}
		l.Close()
		return "http://" + l.Addr().String(), func() {}
	}
	quit := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.seen(req)
		switch spec["behaviour"] {
		case "timeout":
			<-quit
		case "close":
			panic(http.ErrAbortHandler)
		default:
			reply(w, spec)
		}
	}))
	return s.URL, func() { close(quit); s.Close() }
}

func (r *replay) seen(req *http.Request) {
	headers := map[string]any{"Host": req.Host}
	if host, _, err := net.SplitHostPort(req.Host); err == nil {
		headers["Host"] = host + ":<port>"
	}
	for _, name := range []string{HeaderName, NameHeader} {
		if v := req.Header.Values(name); len(v) != 0 {
			headers[map[string]string{HeaderName: "X-Amzn-Trace-Id", NameHeader: "X-Aws-Xray-Name"}[name]] = v[0]
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wire = append(r.wire, map[string]any{
		"request_line": req.Method + " " + req.URL.RequestURI() + " HTTP/1.1", "headers": headers,
	})
}

func reply(w http.ResponseWriter, spec map[string]any) {
	status := 200
	if s, err := strconv.Atoi(text(spec["status"])); err == nil {
		status = s
	}
	body := text(spec["body"])
	headers, given := spec["headers"].(map[string]any)
	for key, v := range headers {
		w.Header().Set(key, text(v))
	}
	if !given {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if given {
		w.(http.Flusher).Flush() // no length
	}
	_, _ = io.WriteString(w, body)
}

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
		r.run(req.Context(), list(app["do"]))
		headers, _ := app["headers"].(map[string]any)
		for key, v := range headers {
			w.Header().Set(key, text(v))
		}
		if status, err := strconv.Atoi(text(app["status"])); err == nil {
			w.WriteHeader(status)
		}
	}))
	if p := r.protect(func() { h.ServeHTTP(rec, rackRequest(c)) }); p != nil {
		out["raised"] = true
	} else {
		headers := map[string]any{}
		for _, name := range []string{HeaderName, "Content-Length"} {
			if v := rec.Header().Get(name); v != "" {
				headers[name] = v
			}
		}
		out["response"] = map[string]any{"status": rec.Code, "headers": headers}
	}
	r.finish(out, sent)
	return out
}

// envSeen is what the application sees of the trace header, in Rack's names.
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

func rackRequest(c *goldenCase) *http.Request {
	url := text(c.Input["url"])
	if url == "" {
		url = "/"
	}
	method := text(c.Input["method"])
	if method == "" {
		method = http.MethodGet
	}
	req := httptest.NewRequest(method, url, nil)
	if req.Host == "example.com" {
		req.Host = "example.org"
	}
	if strings.HasPrefix(url, "https:") {
		req.TLS = &tls.ConnectionState{}
	}
	req.RemoteAddr = "127.0.0.1:1234"
	if addr := text(c.Input["remote_addr"]); addr != "" {
		req.RemoteAddr = addr + ":1234"
	}
	headers, _ := c.Input["headers"].(map[string]any)
	for key, v := range headers {
		req.Header.Set(key, text(value(v)))
	}
	env, _ := c.Input["env"].(map[string]any)
	if path := text(env["PATH_INFO"]); path != "" {
		req.URL.Path, req.URL.RawPath = path, ""
	}
	return req
}

func runUDP(t *testing.T, c *goldenCase) map[string]any {
	t.Helper()
	var mu sync.Mutex
	var told []any
	cfg := goldenConfig(c)
	if name, ok := c.Input["name"]; ok {
		cfg.Name = text(name)
	}
	cfg.OnError = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, map[string]any{"error": fmt.Sprintf("%T", err)})
		if c.Input["handler_raises"] == true {
			panic("boom")
		}
	}
	sent := &recorder{}
	dial := sent.dial
	switch text(c.Input["client"]) {
	case "null":
		cfg.Daemon = NoDaemon
	case "unresolvable":
		dial = func(context.Context, string) (io.WriteCloser, error) {
			return nil, &net.DNSError{Name: "bad host name"}
		}
	case "short":
		dial = func(context.Context, string) (io.WriteCloser, error) { return shortWriter{}, nil }
	}
	worker, _ := c.Input["worker"].(map[string]any)
	if size, ok := worker["max_queue_size"]; ok {
		cfg.QueueSize, _ = strconv.Atoi(text(size))
	}
	release := make(chan struct{})
	if text(worker["num"]) == "0" { // nothing is sent before all has ended
		inner := dial
		dial = func(ctx context.Context, a string) (io.WriteCloser, error) { <-release; return inner(ctx, a) }
	}
	tracer, err := newTracer(cfg, dial)
	if err != nil {
		return map[string]any{"raised": true}
	}
	r := &replay{t: t, c: c, tracer: tracer}
	traces := max(1, func() int { n, _ := strconv.Atoi(text(c.Input["traces"])); return n }())
	for range traces {
		ctx, seg := tracer.Trace(t.Context(), "")
		r.run(ctx, list(c.Input["do"]))
		seg.End(nil)
	}
	close(release)
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	stats := tracer.Stats()
	mu.Lock()
	defer mu.Unlock()
	out := map[string]any{
		"traces_completed": traces, "caller_blocked": false, "packets": len(sent.packets), "told": len(told) != 0,
		"dropped": stats.QueueFull != 0, "cut": stats.Cut != 0,
	}
	if len(sent.packets) != 0 && c.Input["omit_packet"] == nil && stats.Cut == 0 && stats.QueueFull == 0 {
		p := sent.packets[0]
		head, _, _ := bytes.Cut(p, []byte("\n"))
		out["first_packet"] = map[string]any{
			"lines": bytes.Count(p, []byte("\n")) + 1, "header_line": string(head), "ends_with_newline": bytes.HasSuffix(p, []byte("\n")),
			"document": map[string]any(parsePacket(t, p)), "ascii_only": !bytes.ContainsFunc(p, func(r rune) bool { return r > 127 }),
		}
	}
	return out
}

type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 3, nil }
func (shortWriter) Close() error              { return nil }
