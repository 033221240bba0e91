package tracing

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
	"github.com/google/go-cmp/cmp"
)

// These tests verify the assumption of the whole package: the X-Ray SDK works within
// segments of this package, and this package within segments of the SDK. Run them with
// -race.

// TestSDKAnnotates has the SDK write into a segment of this package.
func TestSDKAnnotates(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	for _, err := range []error{
		xray.AddAnnotation(ctx, "user-id", 5),
		xray.AddMetadata(ctx, "order", map[string]int{"n": 1}),
		xray.AddMetadataToNamespace(ctx, "ns", "k", "v"),
		xray.AddError(ctx, errBroken),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if got := xray.TraceID(ctx); got != seg.TraceID() {
		t.Errorf("got trace %s from the SDK, want %s", got, seg.TraceID())
	}
	seg.End(nil)
	d := sent.documents(t, tracer)[0]
	if d.at("annotations", "user_id") != 5.0 || d.at("metadata", "default", "order", "n") != 1.0 ||
		d.str("metadata", "ns", "k") != "v" || d.at("fault") != true || d.str("cause", "exceptions", "message") != "broken" {
		t.Errorf("got %v, want everything that the SDK wrote", d)
	}
}

// TestSDKNests nests subsegments of the SDK and of this package, three deep.
func TestSDKNests(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	sdk, a := xray.BeginSubsegment(ctx, "sdk")
	deep, b := xray.BeginSubsegment(sdk, "sdk-deep")
	ours, c := StartSubsegment(deep, "ours")
	again, d := xray.BeginSubsegment(ours, "sdk-again")
	if _, e := StartSubsegment(again, "ours-again"); e != nil {
		e.End(nil)
	}
	d.Close(nil)
	c.End(nil)
	b.Close(errBroken)
	a.Close(nil)
	seg.End(nil)
	docs := sent.documents(t, tracer)
	if diff := cmp.Diff([]string{"ours-again", "sdk-again", "ours", "sdk", "test-app"}, names(docs)); diff != "" {
		t.Fatalf("documents in the order of their ends (-want +got):\n%s", diff)
	}
	inner := sentDocument(find(t, docs, "sdk").at("subsegments").([]any)[0].(map[string]any))
	for _, tc := range []struct {
		child  sentDocument
		parent string
	}{
		{find(t, docs, "ours-again"), find(t, docs, "sdk-again").str("id")},
		{find(t, docs, "sdk-again"), find(t, docs, "ours").str("id")},
		{find(t, docs, "ours"), inner.str("id")},
		{find(t, docs, "sdk"), seg.ID()},
	} {
		if got := tc.child.str("parent_id"); got != tc.parent || tc.child.str("trace_id") != seg.TraceID() {
			t.Errorf("got %v below %s, want %s", tc.child.str("name"), got, tc.parent)
		}
	}
	if inner.str("name") != "sdk-deep" || inner.at("fault") != true {
		t.Errorf("got %v, want the SDK's inner subsegment embedded, with its error", inner)
	}
}

// TestSDKCloses closes segments of this package through the SDK, before or after End. Each
// is sent once.
func TestSDKCloses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		close func(ctx context.Context, seg *Segment)
	}{
		{"before", func(_ context.Context, seg *Segment) { seg.XRay().Close(nil); seg.End(nil) }},
		{"after", func(_ context.Context, seg *Segment) { seg.End(nil); seg.XRay().Close(nil) }},
		{"twice", func(_ context.Context, seg *Segment) { seg.XRay().Close(nil); seg.XRay().Close(nil) }},
		{"with a subsegment of its own", func(ctx context.Context, seg *Segment) {
			_, sub := xray.BeginSubsegment(ctx, "sub")
			sub.Close(nil)
			seg.XRay().Close(nil)
			seg.End(nil)
		}},
		{"with one that never ends", func(ctx context.Context, seg *Segment) {
			xray.BeginSubsegment(ctx, "open")
			seg.End(nil)
		}},
		{"streamed", func(ctx context.Context, seg *Segment) {
			_, sub := xray.BeginSubsegment(ctx, "sub")
			sub.CloseAndStream(nil)
			seg.End(nil)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			ctx, seg := tracer.Trace(t.Context(), "")
			tc.close(ctx, seg)
			count := map[string]int{}
			for _, d := range sent.documents(t, tracer) {
				count[d.str("name")]++
			}
			if count["test-app"] != 1 || count["sub"] > 1 {
				t.Errorf("got %v, want the segment once", count)
			}
		})
	}
}

// sdkContext returns a context in which segments of the SDK can begin, which are sent
// through emitter.
func sdkContext(t *testing.T, emitter xray.Emitter, rate string) context.Context {
	t.Helper()
	local, err := sampling.NewLocalizedStrategyFromJSONBytes([]byte(
		`{"version": 2, "default": {"fixed_target": 0, "rate": ` + rate + `}, "rules": []}`))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := xray.ContextWithConfig(t.Context(), xray.Config{Emitter: emitter, SamplingStrategy: local})
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// TestContinueSDK continues a segment that the SDK began: through a tracer of this package
// if there is one, otherwise through the SDK's emitter.
func TestContinueSDK(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	daemon, theirs := listenUDP(t)
	emitter, err := xray.NewDefaultEmitter(daemon)
	if err != nil {
		t.Fatal(err)
	}
	ctx, seg := xray.BeginSegment(sdkContext(t, emitter, "1.0"), "theirs")
	u := upstream(t, Client{Tracer: tracer})
	var header string
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		header = r.Header.Get(HeaderName)
		return respond(200, "soup")(r)
	})
	if _, err := read(t, u.Transport(base), get(ctx, "http://recipes/1")); err != nil {
		t.Fatal(err)
	}
	_, sub := StartSubsegment(ctx, "by hand")
	sub.End(nil)
	seg.Close(nil)

	call := find(t, sent.documents(t, tracer), "recipes")
	if call.str("parent_id") != seg.ID || call.str("trace_id") != seg.TraceID {
		t.Errorf("got %v, want it below %s in %s", call, seg.ID, seg.TraceID)
	}
	if want := "Root=" + seg.TraceID + ";Sampled=1;Parent=" + call.str("id"); header != want {
		t.Errorf("got header %s, want %s", header, want)
	}
	byHand := theirs(t)
	if byHand.str("name") != "by hand" || byHand.str("parent_id") != seg.ID || byHand.str("type") != "subsegment" {
		t.Errorf("got %v, want it from the SDK's emitter, below its segment", byHand)
	}
	if got := theirs(t); got.str("name") != "theirs" {
		t.Errorf("got %v, want the SDK's segment", got)
	}
}

// TestContinueUnsampledSDK checks that calls in a trace that the SDK does not sample are
// not sent.
func TestContinueUnsampledSDK(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := xray.BeginSegment(sdkContext(t, nil, "0.0"), "theirs")
	u := upstream(t, Client{Tracer: tracer})
	if _, err := read(t, u.Transport(respond(200, "soup")), get(ctx, "http://recipes/1")); err != nil {
		t.Fatal(err)
	}
	seg.Close(nil)
	if docs := sent.documents(t, tracer); len(docs) != 0 {
		t.Errorf("got %v, want no documents", docs)
	}
}

// TestSDKServer serves with the SDK's handler, and with the handler of this package around
// the SDK's client.
func TestSDKClient(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	var header string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header.Get(HeaderName)
	}))
	defer server.Close()
	client := xray.Client(server.Client())
	rec := httptest.NewRecorder()
	tracer.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		resp, err := client.Do(get(r.Context(), server.URL))
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	})).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	docs := sent.documents(t, tracer)
	call := docs[0]
	if call.str("namespace") != "remote" || call.at("http", "response", "status") != 200.0 || call.at("subsegments") == nil {
		t.Errorf("got %v, want the SDK's subsegment with the subsegments within it", call)
	}
	if got := ParseHeader(header); got.Parent != call.str("id") || got.Root != call.str("trace_id") {
		t.Errorf("got header %s, want it to name %s", header, call.str("id"))
	}
}

// TestSDKConcurrent records from many goroutines concurrently, through the SDK and through
// this package.
func TestSDKConcurrent(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			inner, sub := StartSubsegment(ctx, "ours")
			err := xray.Capture(inner, "sdk", func(ctx context.Context) error {
				_ = xray.AddAnnotation(ctx, "k", "v")
				seg.Annotate("n", 1)
				return xray.AddMetadata(ctx, "k", []int{1})
			})
			sub.End(&err)
		})
		all.Go(func() {
			xray.CaptureAsync(ctx, "async", func(context.Context) error { return nil })
		})
	}
	all.Wait()
	seg.End(nil)
	for tracer.Stats().Queued != 0 || tracer.Stats().Sent < 61 { // CaptureAsync does not report its end
		runtime.Gosched()
	}
	if docs := sent.documents(t, tracer); len(docs) != 61 {
		t.Errorf("got %d documents, want 61", len(docs))
	}
}

// TestChildren checks the reflection that finds the SDK's subsegments.
func TestChildren(t *testing.T) {
	if !childrenKnown {
		t.Fatal("the SDK's field was not found")
	}
	tracer, _ := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	ctx, a := xray.BeginSubsegment(ctx, "a")
	_, b := xray.BeginSubsegment(ctx, "b")
	if got := children(a); len(got) != 1 || got[0] != b {
		t.Errorf("got %v, want b", got)
	}
	if got := children(seg.XRay()); got != nil {
		t.Errorf("got %v for a segment of this package, want none", got)
	}
	b.Close(nil)
	a.Close(nil)
	seg.End(nil)
}
