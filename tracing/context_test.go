package tracing

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
	"github.com/google/go-cmp/cmp"
)

// TestNilSegment checks that the methods of a nil segment do nothing.
func TestNilSegment(t *testing.T) {
	ctx, seg := StartSubsegment(t.Context(), "x")
	remote, other := StartRemote(ctx, "x")
	if seg != nil || other != nil || remote != t.Context() || Current(ctx) != nil {
		t.Fatal("got a segment without a parent")
	}
	err := errBroken
	seg.Annotate("k", 1)
	seg.AddMetadata("k", 1)
	seg.SetError(err)
	seg.SetFlags(true, true, true)
	seg.SetSQL(SQL{})
	seg.SetUser("u")
	seg.SetRequest(Request{})
	seg.SetResponse(500, 1)
	seg.SetStatus(500)
	seg.End(&err)
	if seg.ID()+seg.TraceID()+seg.Incoming() != "" || seg.Sampled() || seg.XRay() != nil ||
		seg.Downstream().String()+seg.Header().String() != "" {
		t.Error("got a value from a nil segment")
	}
	if got := Capture(t.Context(), "x", func(context.Context) error { return errBroken }); !errors.Is(got, errBroken) {
		t.Errorf("got %v from Capture, want its function's error", got)
	}
	func() {
		defer func() {
			if p := recover(); p != "passes" {
				t.Errorf("got panic %v", p)
			}
		}()
		defer seg.End(nil)
		panic("passes")
	}()
	if _, sdk := xray.BeginSubsegment(t.Context(), "x"); sdk != nil {
		t.Errorf("got %v", sdk)
	}
}

// TestDisabledSDK checks that segments of a disabled SDK are ignored.
func TestDisabledSDK(t *testing.T) {
	t.Setenv("AWS_XRAY_SDK_DISABLED", "true")
	ctx, _ := xray.BeginSegment(t.Context(), "x")
	if inner, seg := StartSubsegment(ctx, "y"); seg != nil || Current(inner) != nil {
		t.Error("got a subsegment of a disabled segment")
	}
}

// TestRealIDs checks that a trace that is not sampled has real ids and sends nothing.
func TestRealIDs(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{SamplingRate: Never})
	ctx, seg := tracer.Trace(t.Context(), "")
	_, sub := StartRemote(ctx, "sub")
	sub.Annotate("k", 1)
	sub.SetError(errBroken)
	if h := sub.Downstream(); h.Sampled != NotSampled || !isTraceID(h.Root) || !isSegmentID(h.Parent) ||
		strings.Trim(h.Parent, "0") == "" || h.Root != seg.TraceID() {
		t.Errorf("got %+v, want real ids", h)
	}
	sub.End(nil)
	seg.End(nil)
	if docs := sent.documents(t, tracer); len(docs) != 0 || sub.XRay().Annotations != nil {
		t.Errorf("got %v, want no documents", docs)
	}
}

// TestAfterTheEnd checks that changes after the end are not sent.
func TestAfterTheEnd(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	_, seg := tracer.Trace(t.Context(), "")
	seg.Annotate("k", "first")
	seg.End(nil)
	seg.Annotate("k", "second")
	seg.SetStatus(500)
	err := errBroken
	seg.End(&err)
	docs := sent.documents(t, tracer)
	if len(docs) != 1 || docs[0].str("annotations", "k") != "first" || docs[0].at("fault") != nil {
		t.Errorf("got %v, want it as it ended", docs)
	}
}

// TestDetach passes a trace to a goroutine that outlives the request.
func TestDetach(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ctx, seg := tracer.Trace(ctx, "")
	detached := Detach(Overwrite(Disable(ctx), "other"))
	var work sync.WaitGroup
	seg.End(nil)
	cancel()
	work.Go(func() {
		inner, sub := StartSubsegment(detached, "late")
		defer sub.End(nil)
		if inner.Err() != nil || Disabled(inner) {
			t.Errorf("got %v, disabled %v, want neither", inner.Err(), Disabled(inner))
		}
	})
	work.Wait()
	docs := sent.documents(t, tracer)
	if diff := cmp.Diff([]string{"test-app", "late"}, names(docs)); diff != "" || docs[1].str("parent_id") != seg.ID() {
		t.Errorf("documents (-want +got):\n%s", diff)
	}
	if got := xray.TraceID(xray.DetachContext(ctx)); got != seg.TraceID() {
		t.Errorf("got %s from the SDK, want %s", got, seg.TraceID())
	}
	if got := Current(xray.DetachContext(ctx)); got != seg {
		t.Errorf("got %v from the SDK, want the segment", got)
	}
}

// TestOverwriteOnce checks that only one of several concurrent subsegments takes the name.
func TestOverwriteOnce(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	named := Overwrite(ctx, "named")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { _, sub := StartSubsegment(named, "own"); sub.End(nil) })
	}
	all.Wait()
	_, again := StartSubsegment(Overwrite(named, "again"), "own")
	again.End(nil)
	seg.End(nil)
	count := map[string]int{}
	for _, n := range names(sent.documents(t, tracer)) {
		count[n]++
	}
	if diff := cmp.Diff(map[string]int{"named": 1, "own": 9, "again": 1, "test-app": 1}, count); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// strategy is a custom sampling strategy.
type strategy func(*sampling.Request) *sampling.Decision

func (s strategy) ShouldTrace(r *sampling.Request) *sampling.Decision { return s(r) }

// TestSampling checks that strategies decide, and that an incoming decision takes
// precedence.
func TestSampling(t *testing.T) {
	rule := "soups"
	for _, tc := range []struct {
		name   string
		rate   float64
		s      strategy
		header string
		want   bool
		rule   string
	}{
		{"yes, by a rule", Never, func(r *sampling.Request) *sampling.Decision {
			return &sampling.Decision{Sample: r.URL == "/menu" && r.Host == "front" && r.Method == http.MethodGet && r.ServiceName == "test-app", Rule: &rule}
		}, "", true, "soups"},
		{"no", 1, func(*sampling.Request) *sampling.Decision { return &sampling.Decision{} }, "", false, ""},
		{"incoming wins", 1, func(*sampling.Request) *sampling.Decision { return &sampling.Decision{} }, "Sampled=1", true, ""},
		{"incoming no wins", 1, nil, "Sampled=0", false, ""},
		{"no decision", Never, func(*sampling.Request) *sampling.Decision { return nil }, "", false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := Config{SamplingRate: tc.rate}
			if tc.s != nil {
				cfg.Sampling = tc.s
			}
			tracer, sent := newTestTracer(t, cfg)
			docs := serve(t, tracer, sent, http.Header{HeaderName: {tc.header}}, func(http.ResponseWriter, *http.Request) {})
			if (len(docs) != 0) != tc.want {
				t.Fatalf("got %v, want sampled: %v", docs, tc.want)
			}
			if tc.want && docs[0].str("aws", "xray", "sampling_rule_name") != tc.rule {
				t.Errorf("got %v, want rule %q", docs[0]["aws"], tc.rule)
			}
		})
	}
}

// TestSDKStrategies uses the SDK's own strategies.
func TestSDKStrategies(t *testing.T) {
	local, err := sampling.NewLocalizedStrategyFromJSONBytes([]byte(
		`{"version": 2, "default": {"fixed_target": 0, "rate": 0}, "rules": [{"host": "*", "http_method": "*", "url_path": "/menu", "fixed_target": 0, "rate": 1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	tracer, sent := newTestTracer(t, Config{Sampling: local})
	if docs := serve(t, tracer, sent, nil, func(http.ResponseWriter, *http.Request) {}); len(docs) != 1 {
		t.Errorf("got %v, want the request that matches the rule", docs)
	}
	other := httptest.NewRequest(http.MethodGet, "/other", nil)
	tracer.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), other)
	if docs := sent.documents(t, tracer); len(docs) != 1 {
		t.Errorf("got %v, want no documents for a request that no rule matches", docs)
	}
	central, err := sampling.NewCentralizedStrategy()
	if err != nil {
		t.Fatal(err)
	}
	newTestTracer(t, Config{Sampling: central, Daemon: "udp:127.0.0.1:2000 tcp:127.0.0.1:1"})
	if _, err := newTracer(Config{Name: "x", Sampling: central, Daemon: "nowhere.invalid:2000"}, nil); err == nil {
		t.Error("got no error for a daemon that cannot be resolved")
	}
}

// TestConfigErrors checks that all invalid fields are reported together.
func TestConfigErrors(t *testing.T) {
	_, err := New(Config{
		SamplingRate: 1.5, Daemon: "nowhere", ExcludedPatterns: []string{"(", "ok"}, TrustedProxies: []string{"10.0.0.0/99"},
		ContextMissing: "PANIC", QueueSize: -1,
	})
	want := []string{
		"tracing: Config.Name: it is empty; write the service's name",
		"tracing: Config.SamplingRate: 1.5 is not between 0 and 1; write 0.05 for 5%, Never for none",
		`tracing: Config.Daemon: "nowhere" is not host:port; write it like 127.0.0.1:2000`,
		"tracing: Config.ExcludedPatterns: error parsing regexp: missing closing ): `(`; write a regular expression that package regexp accepts",
		`tracing: Config.TrustedProxies: "10.0.0.0/99" is neither an address nor a network; write it like 10.0.0.1 or 10.0.0.0/8`,
		`tracing: Config.ContextMissing: "PANIC" is unknown; write MissingReported, or omit it`,
		"tracing: Config.QueueSize: -1 is negative; omit it for 1000 documents",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestDaemonAddress(t *testing.T) {
	for in, want := range map[string]daemon{
		"":                        {DefaultDaemon, DefaultDaemon},
		NoDaemon:                  {"", DefaultDaemon},
		"xray:2000":               {"xray:2000", "xray:2000"},
		"[::1]:2000":              {"[::1]:2000", "[::1]:2000"},
		"udp:a:1 tcp:b:2":         {"a:1", "b:2"},
		"tcp:b:2 udp:a:1":         {"a:1", "b:2"},
		"tcp:[::1]:2 udp:[::1]:1": {"[::1]:1", "[::1]:2"},
		"a":                       {}, ":1": {}, "a:": {}, "a:0": {}, "a:65536": {}, "a:x": {}, "a:01": {}, "a:+1": {}, "a b:1": {},
		"udp:a:1 udp:b:2": {}, "udp:a:1": {}, "udp:a:1 tcp:b:2 x": {}, "a:1:2": {}, "http://a:1": {}, "a:-1": {}, "a:1\x00": {},
	} {
		got, err := parseDaemon(in)
		if (err != nil) != (want == daemon{}) || (err == nil && got != want) {
			t.Errorf("%q: got %+v and %v, want %+v", in, got, err, want)
		}
	}
}

// TestFromEnv checks that the SDK's variables take precedence, and that each invalid
// variable is named.
func TestFromEnv(t *testing.T) {
	set := func(env map[string]string) (Config, error) {
		return fromEnv(Config{Name: "own", Daemon: "own:1", SamplingRate: 0.5, ExcludedPaths: []string{"/own"}}, func(k string) string { return env[k] })
	}
	got, err := set(map[string]string{
		"AWS_XRAY_NAME": "gem", "AWS_XRAY_TRACING_NAME": "sdk", "AWS_XRAY_LOCATION": "gem:1", "AWS_XRAY_DAEMON_ADDRESS": "sdk:2",
		"AWS_XRAY_SAMPLING_RATE": "0", "AWS_XRAY_EXCLUDED_PATHS": "/a, /b,", "AWS_XRAY_CONTEXT_MISSING": "RUNTIME_ERROR",
		"AWS_XRAY_SDK_DISABLED": "TRUE",
	})
	want := Config{
		Name: "sdk", Daemon: "sdk:2", SamplingRate: Never, ExcludedPaths: []string{"/a", "/b"}, ContextMissing: MissingReported, Disabled: true,
	}
	if diff := cmp.Diff(mustJSON(want), mustJSON(got)); diff != "" || err != nil {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	got, err = set(map[string]string{
		"AWS_XRAY_LOCATION": "x", "AWS_XRAY_DAEMON_ADDRESS": "y", "AWS_XRAY_SAMPLING_RATE": "NaN", "AWS_XRAY_CONTEXT_MISSING": "log",
		"AWS_XRAY_SDK_DISABLED": "1",
	})
	if got.Name != "own" || got.Daemon != "own:1" || got.SamplingRate != 0.5 || got.Disabled {
		t.Errorf("got %+v, want it unchanged", got)
	}
	for _, want := range []string{
		`tracing: AWS_XRAY_LOCATION: "x" is not host:port`, `tracing: AWS_XRAY_DAEMON_ADDRESS: "y" is not host:port`,
		`tracing: AWS_XRAY_SAMPLING_RATE: "NaN" is not a number from 0 to 1`,
		`tracing: AWS_XRAY_CONTEXT_MISSING: "log" is unknown; write LOG_ERROR, IGNORE_ERROR or RUNTIME_ERROR`,
		`tracing: AWS_XRAY_SDK_DISABLED: "1" is not a boolean; write true or false`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to contain %s", err, want)
		}
	}
}

// TestStartUp starts a process with a daemon address at which the SDK would panic. The
// process runs, and FromEnv reports the error.
func TestStartUp(t *testing.T) {
	if os.Getenv("PILLION_TRACING_CHILD") != "" {
		_, err := FromEnv(Config{Name: "x"})
		t.Logf("child: %v", err)
		return
	}
	for _, value := range []string{"nonsense", "host:port", "tcp:127.0.0.1:2000 127.0.0.1:2000", "127.0.0.1:2000:x"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStartUp$", "-test.v")
		cmd.Env = append(os.Environ(), "PILLION_TRACING_CHILD=1", "AWS_XRAY_DAEMON_ADDRESS="+value)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "child: tracing: AWS_XRAY_DAEMON_ADDRESS: ") {
			t.Errorf("%s: got %v, want the process to run and to name the variable:\n%s", value, err, out)
		}
	}
}

// TestVersion reads the version of the service from the file REVISION.
func TestVersion(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("REVISION", []byte("deadbeef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tracer, sent := newTestTracer(t, Config{})
	_, seg := tracer.Trace(t.Context(), "")
	seg.End(nil)
	if got := sent.documents(t, tracer)[0].str("service", "version"); got != "deadbeef" {
		t.Errorf("got %q, want the text of REVISION", got)
	}
}
