package tracing

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
	"github.com/aws/aws-xray-sdk-go/v2/xray"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

type (
	samplingRequest  = sampling.Request
	samplingDecision = sampling.Decision
)

// other is the SDK's segment type with another field.
type other struct{ rawSubsegments []string }

var typeOfOther = reflect.TypeFor[other]()

// forgetSDK makes the package behave as with an unknown version of the SDK.
func forgetSDK(t *testing.T) {
	t.Helper()
	_ = other{}.rawSubsegments
	index, known := childrenField, childrenKnown
	childrenField, childrenKnown = findChildren(typeOfOther)
	childrenReported = sync.Once{}
	t.Cleanup(func() { childrenField, childrenKnown = index, known })
}

// makeNested makes a subsegment of the SDK within another one.
func makeNested(t *testing.T, tracer *Tracer) {
	t.Helper()
	ctx, seg := tracer.Trace(t.Context(), "")
	ctx, a := xray.BeginSubsegment(ctx, "a")
	_, b := xray.BeginSubsegment(ctx, "b")
	b.Close(nil)
	a.Close(nil)
	seg.End(nil)
}

func countLines(s string) int { return strings.Count(s, "\n") }

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// TestSettings checks that invalid settings are refused with an error that names the
// package, the field, the value and what to write instead.
func TestSettings(t *testing.T) {
	var noStrategy *sampling.LocalizedStrategy
	for _, tc := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"rate over 1", Config{SamplingRate: 5}, []string{"Config.SamplingRate: 5 ", "write 0.05"}},
		{"negative rate", Config{SamplingRate: -0.5}, []string{"Config.SamplingRate: -0.5 ", "Never"}},
		{"no number", Config{SamplingRate: math.NaN()}, []string{"Config.SamplingRate: NaN "}},
		{"infinite rate", Config{SamplingRate: math.Inf(1)}, []string{"Config.SamplingRate: +Inf "}},
		{"nil strategy", Config{Sampling: noStrategy}, []string{"Config.Sampling: it is a nil *sampling.LocalizedStrategy"}},
		{"queue", Config{QueueSize: -5}, []string{"Config.QueueSize: -5 ", "omit it"}},
		{"path", Config{ExcludedPaths: []string{"health"}}, []string{`Config.ExcludedPaths: "health" `, `write "/health"`}},
		{"URL for a path", Config{ExcludedPaths: []string{"http://h/health"}}, []string{`Config.ExcludedPaths: "http://h/health" `}},
		{"path with query", Config{ExcludedPaths: []string{"/health?x=1"}}, []string{`"/health?x=1" `, `write "/health"`}},
		{"empty path", Config{ExcludedPaths: []string{""}}, []string{`Config.ExcludedPaths: "" `, "omit it"}},
		{"spaces", Config{ExcludedPaths: []string{" /health"}}, []string{`Config.ExcludedPaths: " /health" `}},
		{"pattern", Config{ExcludedPatterns: []string{"["}}, []string{"Config.ExcludedPatterns: ", "`[`", "write a regular expression"}},
		{"empty pattern", Config{ExcludedPatterns: []string{""}}, []string{`Config.ExcludedPatterns: "" `, "omit it"}},
		{"pattern without slash", Config{ExcludedPatterns: []string{"^health"}}, []string{`Config.ExcludedPatterns: "^health" `, `write "^/`}},
		{"pattern without slash, folded", Config{ExcludedPatterns: []string{`(?i)\Ahealth$`}}, []string{"Config.ExcludedPatterns: "}},
		{"proxy", Config{TrustedProxies: []string{"proxy.local"}}, []string{`Config.TrustedProxies: "proxy.local" `, "write it like 10.0.0.1"}},
		{"context", Config{ContextMissing: "RUNTIME_ERROR"}, []string{`Config.ContextMissing: "RUNTIME_ERROR" `, "write MissingReported"}},
		{"daemon", Config{Daemon: "http://127.0.0.1:2000"}, []string{`Config.Daemon: "http://127.0.0.1:2000" `, "write it like 127.0.0.1:2000"}},
		{"daemons", Config{Daemon: "udp:a:1 udp:b:2"}, []string{"Config.Daemon: ", "NoDaemon"}},
		{"two bad daemons", Config{Daemon: "udp:a:0 tcp:b:0"}, []string{`Config.Daemon: "a:0" `, `Config.Daemon: "b:0" `}},
		{"annotation key", Config{Annotations: map[string]any{"!!!": 1}}, []string{`Config.Annotations: key "!!!" `, "use letters"}},
		{"annotation nil", Config{Annotations: map[string]any{"pod": nil}}, []string{`Config.Annotations: the value of "pod" `, "omit it"}},
		{"annotations alike", Config{Annotations: map[string]any{"a-b": 1, "a_b": 2}}, []string{`Config.Annotations: "a-b" and "a_b" `}},
		{"metadata", Config{Metadata: map[string]map[string]any{"ns": {"k": make(chan int)}}}, []string{`Config.Metadata: "k" in "ns": `, "encoding/json"}},
		{"metadata that panics", Config{Metadata: map[string]map[string]any{"ns": {"k": badJSON{}}}}, []string{`Config.Metadata: "k" in "ns": no`}},
		{"large metadata", Config{Metadata: map[string]map[string]any{"ns": {"k": strings.Repeat("x", 20000)}}}, []string{`Config.Metadata: "k" in "ns": `, "at most 16384"}},
		{"name", Config{Name: " "}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.cfg.Name == "" {
				tc.cfg.Name = "front"
			}
			tracer, err := New(tc.cfg)
			if len(tc.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				_ = tracer.Close(t.Context())
				return
			}
			if err == nil {
				t.Fatal("got no error")
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "tracing: Config.") {
					t.Errorf("got %q, want package and field", line)
				}
			}
			if !containsAll(err.Error(), tc.want...) {
				t.Errorf("got %q, want %q", err, tc.want)
			}
		})
	}
	if _, err := New(Config{
		Name: "front", Daemon: NoDaemon, Metadata: map[string]map[string]any{"ns": {"nan": math.NaN()}},
		ExcludedPaths: []string{"*", "/"}, ExcludedPatterns: []string{"^/?$", "^[/h]", "health", `(?m)^health`, "^(/a|b)"},
	}); err != nil {
		t.Errorf("got %v for valid settings", err)
	}
	for env, value := range map[string]string{"AWS_XRAY_EXCLUDED_PATHS": "/a,health", "AWS_XRAY_SAMPLING_RATE": "5"} {
		if _, err := fromEnv(Config{}, func(name string) string { return map[string]string{env: value}[name] }); err == nil || !containsAll(err.Error(), "tracing: "+env+": ", "write ") {
			t.Errorf("%s=%s: got %v", env, value, err)
		}
	}
}

// TestNil calls each function and method with nil. It returns an error or panics with a
// text that names the nil value, and never dereferences it.
func TestNil(t *testing.T) {
	tracer, _ := newTestTracer(t, Config{})
	var none *Tracer
	ctx := t.Context()
	var nilContext context.Context
	request := func(r *http.Request) func() {
		return func() {
			tracer.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	for name, f := range map[string]func(){
		"Tracer.Trace: it is nil":        func() { none.Trace(ctx, "x") },
		"Tracer.Trace: it was not made":  func() { new(Tracer).Trace(ctx, "x") },
		"Tracer.Continue: it is nil":     func() { none.Continue(ctx, "x", Header{}) },
		"Tracer.Handler: it is nil":      func() { none.Handler(http.NotFoundHandler()) },
		"Tracer.Stats: it is nil":        func() { none.Stats() },
		"Tracer.Handler: next is nil":    func() { tracer.Handler(nil) },
		"Tracer.Handler: the request is": request(nil),
		"Tracer.Handler: the ResponseWrite": func() {
			tracer.Handler(http.NotFoundHandler()).ServeHTTP(nil, httptest.NewRequest(http.MethodGet, "/", nil))
		},
		"Tracer.Trace: ctx is nil":    func() { tracer.Trace(nilContext, "x") },
		"Tracer.Continue: ctx is nil": func() { tracer.Continue(nilContext, "x", Header{}) },
		"StartSubsegment: ctx is nil": func() { StartSubsegment(nilContext, "x") },
		"StartRemote: ctx is nil":     func() { StartRemote(nilContext, "x") },
		"Capture: ctx is nil":         func() { _ = Capture(nilContext, "x", func(context.Context) error { return nil }) },
		"Capture: f is nil":           func() { _ = Capture(ctx, "x", nil) },
		"Current: ctx is nil":         func() { Current(nilContext) },
		"Disable: ctx is nil":         func() { Disable(nilContext) },
		"Disabled: ctx is nil":        func() { Disabled(nilContext) },
		"Overwrite: ctx is nil":       func() { Overwrite(nilContext, "x") },
		"Detach: ctx is nil":          func() { Detach(nilContext) },
	} {
		p := unwind(f)
		if text, ok := p.(string); !ok || !strings.HasPrefix(text, "tracing: "+name) {
			t.Errorf("got panic %v, want one that begins with tracing: %s", p, name)
		}
	}
	for want, err := range map[string]error{
		"Tracer.Flush: it is nil":      none.Flush(ctx),
		"Tracer.Close: it is nil":      none.Close(ctx),
		"Tracer.Close: it was not":     new(Tracer).Close(ctx),
		"Tracer.Close: ctx is nil":     tracer.Close(nilContext),
		"Tracer.Flush: ctx is nil":     tracer.Flush(nilContext),
		"Client.Tracer: it is nil":     newError(Client{}),
		"Client.Tracer: it was not":    newError(Client{Tracer: new(Tracer)}),
		"Attempts.Tracer: it is nil":   newError(Attempts{}),
		"Server.Tracer: it is nil":     newError(Server{}),
		"Server.Tracer: it was not ma": newError(Server{Tracer: new(Tracer)}),
	} {
		if err == nil || !strings.Contains(err.Error(), "tracing: "+want) {
			t.Errorf("got %v, want tracing: %s", err, want)
		}
	}
}

func newError(p policy.Policy) error {
	_, err := pillion.New("recipes", p)
	return err
}

// TestZeroSegment checks that a zero Segment does nothing, as a nil one does.
func TestZeroSegment(t *testing.T) {
	var s Segment
	s.Annotate("k", 1)
	s.AddMetadata("k", 1)
	s.SetError(errBroken)
	s.SetFlags(true, true, true)
	s.SetStatus(500)
	s.SetRequest(Request{})
	s.SetResponse(200, 1)
	s.SetSQL(SQL{})
	s.SetUser("u")
	s.End(nil)
	if s.ID() != "" || s.TraceID() != "" || s.Sampled() || s.XRay() != nil || s.Incoming() != "" || s.Header().String() != "" || s.Downstream().String() != "" {
		t.Errorf("got %+v, want the zero values", s)
	}
}
