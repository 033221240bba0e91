package tracing

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// unwind runs f in a goroutine, because f may end it, and returns the value of f's panic.
func unwind(f func()) (p any) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { p = recover() }()
		f()
	}()
	<-done
	return p
}

// TestUnwinding ends work with a panic or runtime.Goexit in different functions. Each
// segment is sent once, as a fault with its cause.
func TestUnwinding(t *testing.T) {
	ends := map[string]struct {
		run     func()
		panic   any
		message string
	}{
		"Goexit":    {runtime.Goexit, nil, errGoexit.Error()},
		"panic":     {func() { panic("soup is off") }, "soup is off", "soup is off"},
		"panic nil": {func() { panic(nil) }, &runtime.PanicNilError{}, new(runtime.PanicNilError).Error()}, //nolint:govet // on purpose
	}
	places := map[string]struct {
		run  func(t *testing.T, tracer *Tracer, end func())
		want []string
	}{
		"the transport": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			call(t, tracer, roundTripper(func(*http.Request) (*http.Response, error) { end(); return nil, errBroken }), Client{Tracer: tracer})
		}, []string{"recipes"}},
		"the transport of an attempt": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			call(t, tracer, roundTripper(func(*http.Request) (*http.Response, error) { end(); return nil, errBroken }),
				Client{Tracer: tracer, Name: "call"}, retry.Config{}, Attempts{Tracer: tracer})
		}, []string{"recipes", "call"}},
		"a plain function": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			ctx, _ := tracer.Trace(t.Context(), "")
			_, _ = pillion.Do(ctx, upstream(t, Client{Tracer: tracer}), func(context.Context) (int, error) { end(); return 0, nil })
		}, []string{"recipes"}},
		"a handler": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			tracer.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { end() })).
				ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		}, []string{"test-app"}},
		"a handler with a head": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated); end() })).
				ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		}, []string{"test-app"}},
		"Capture": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			ctx, _ := tracer.Trace(t.Context(), "")
			_ = Capture(ctx, "sub", func(context.Context) error { end(); return nil })
		}, []string{"sub"}},
		"a served call": {func(t *testing.T, tracer *Tracer, end func()) {
			t.Helper()
			_, _ = pillion.Do(t.Context(), upstream(t, Server{Tracer: tracer}), func(context.Context) (int, error) { end(); return 0, nil })
		}, []string{"test-app"}},
	}
	for endName, e := range ends {
		for placeName, p := range places {
			t.Run(endName+" in "+placeName, func(t *testing.T) {
				tracer, sent := newTestTracer(t, Config{})
				got := unwind(func() { p.run(t, tracer, e.run) })
				if _, isNil := got.(*runtime.PanicNilError); got != e.panic && !isNil {
					t.Errorf("got panic %v, want %v", got, e.panic)
				}
				docs := sent.documents(t, tracer)
				if diff := cmp.Diff(p.want, names(docs)); diff != "" {
					t.Fatalf("documents (-want +got):\n%s", diff)
				}
				for _, d := range docs {
					if d.at("fault") != true || d.str("cause", "exceptions", "message") != e.message {
						t.Errorf("got %v, want a fault: %s", d, e.message)
					}
					if status := d.at("http", "response", "status"); (status == 201.0) != (placeName == "a handler with a head") || (status != nil && status != 201.0) {
						t.Errorf("got status %v", status)
					}
				}
			})
		}
	}
}

func call(t *testing.T, tracer *Tracer, base http.RoundTripper, policies ...policy.Policy) {
	t.Helper()
	ctx, _ := tracer.Trace(t.Context(), "")
	_, _ = read(t, upstream(t, policies...).Transport(base), get(ctx, "http://recipes/"))
}

// TestUnknownSDK makes the SDK's field unknown. New works, reports it once, and does
// not send the subsegments within the SDK's own.
func TestUnknownSDK(t *testing.T) {
	log := captureLogs(t)
	forgetSDK(t)
	for range 3 {
		tracer, sent := newTestTracer(t, Config{})
		makeNested(t, tracer)
		if diff := cmp.Diff([]string{"a", "test-app"}, names(sent.documents(t, tracer))); diff != "" {
			t.Errorf("documents (-want +got):\n%s", diff)
		}
	}
	if got := log.String(); countLines(got) != 1 || !containsAll(got, "level=WARN", "aws-xray-sdk-go", "v2.0.3") {
		t.Errorf("got %q, want one warning", got)
	}
	if index, ok := findChildren(typeOfOther); ok {
		t.Errorf("got field %v of another type", index)
	}
}
