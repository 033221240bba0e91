package tracing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/tracing"
)

// daemon listens on the loopback interface, as an X-Ray daemon does, and prints what it
// receives.
type daemon struct{ *net.UDPConn }

func listen() daemon {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return daemon{conn}
}

// show prints n documents, each with the named fields.
func (d daemon) show(n int, fields ...string) {
	buf := make([]byte, 64<<10)
	for range n {
		_ = d.SetReadDeadline(time.Now().Add(10 * time.Second))
		size, err := d.Read(buf)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, document, _ := bytes.Cut(buf[:size], []byte("\n"))
		var all map[string]json.RawMessage
		if err := json.Unmarshal(document, &all); err != nil {
			fmt.Println(err)
			return
		}
		line := []string{strings.Trim(string(all["name"]), `"`)}
		for _, f := range fields {
			if v, ok := all[f]; ok {
				line = append(line, f+"="+string(v))
			}
		}
		fmt.Println(strings.Join(line, " "))
	}
}

// start returns a tracer that sends to d.
func start(d daemon, c tracing.Config) *tracing.Tracer {
	c.Daemon = d.LocalAddr().String()
	tracer, err := tracing.New(c)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return tracer
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func Example() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front", Annotations: map[string]any{}, Metadata: map[string]map[string]any{}})
	defer tracer.Close(context.Background())
	recipes, err := pillion.New("recipes", tracing.Client{Tracer: tracer})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") }))
	defer server.Close()
	client := &http.Client{Transport: recipes.Transport(nil)}

	front := tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, server.URL, nil)
		resp, err := client.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}))
	front.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/menu", nil))
	d.show(2, "type", "namespace")
	// Output:
	// recipes type="subsegment" namespace="remote"
	// front
}

func ExampleNew() {
	_, err := tracing.New(tracing.Config{SamplingRate: 2, Daemon: "nowhere"})
	fmt.Println(err)
	// Output:
	// tracing: Config.Name: it is empty; write the service's name
	// tracing: Config.SamplingRate: 2 is not between 0 and 1; write 0.05 for 5%, Never for none
	// tracing: Config.Daemon: "nowhere" is not host:port; write it like 127.0.0.1:2000
}

func ExampleFromEnv() {
	os.Setenv("AWS_XRAY_LOCATION", "localhost:2000") // the gem's
	os.Setenv("AWS_XRAY_SAMPLING_RATE", "often")
	defer os.Unsetenv("AWS_XRAY_LOCATION")
	defer os.Unsetenv("AWS_XRAY_SAMPLING_RATE")
	cfg, err := tracing.FromEnv(tracing.Config{Name: "front"})
	fmt.Println(cfg.Name, cfg.Daemon)
	fmt.Println(err)
	// Output:
	// front localhost:2000
	// tracing: AWS_XRAY_SAMPLING_RATE: "often" is not a number from 0 to 1; write 0.05 for 5%
}

func ExampleTracer_Trace() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "reports"})
	defer tracer.Close(context.Background())
	report := func(ctx context.Context) (err error) {
		ctx, seg := tracer.Trace(ctx, "nightly-report")
		defer seg.End(&err)
		seg.Annotate("customer-id", 7)
		_ = ctx // pass ctx to the work
		return errors.New("no paper")
	}
	fmt.Println(report(context.Background()))
	d.show(1, "error", "fault")
	// Output:
	// no paper
	// nightly-report error=false fault=true
}

func ExampleTracer_Continue() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "worker"})
	defer tracer.Close(context.Background())
	header := tracing.ParseHeader("Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1") // from a message
	_, seg := tracer.Continue(context.Background(), "", header)
	seg.End(nil)
	d.show(1, "trace_id", "parent_id")
	// Output:
	// worker trace_id="1-67891233-abcdef012345678912345678" parent_id="53995c3f42cd8ad8"
}

// A function can record a subsegment whether or not its caller traces.
func ExampleStartSubsegment() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	render := func(ctx context.Context) (err error) {
		_, seg := tracing.StartSubsegment(ctx, "render")
		defer seg.End(&err)
		return nil
	}
	fmt.Println(render(context.Background())) // records nothing
	ctx, seg := tracer.Trace(context.Background(), "")
	fmt.Println(render(ctx))
	seg.End(nil)
	d.show(2, "type")
	// Output:
	// <nil>
	// <nil>
	// render type="subsegment"
	// front
}

func ExampleCapture() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, seg := tracer.Trace(context.Background(), "")
	err := tracing.Capture(ctx, "cook", func(context.Context) error { return errors.New("burnt") })
	seg.End(nil)
	fmt.Println(err)
	d.show(2, "fault")
	// Output:
	// burnt
	// cook fault=true
	// front
}

// Subsegments that the X-Ray SDK makes within a segment of this package are sent too, with
// the segment as parent.
func Example_sdk() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, seg := tracer.Trace(context.Background(), "")
	_ = xray.AddAnnotation(ctx, "dish", "soup")
	_ = xray.Capture(ctx, "sdk", func(context.Context) error { return nil })
	seg.End(nil)
	d.show(2, "type")
	// Output:
	// sdk type="subsegment"
	// front
}

// Each attempt is recorded if Attempts is inside of retry.
func ExampleAttempts() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front", Annotations: map[string]any{}})
	defer tracer.Close(context.Background())
	recipes, err := pillion.New("recipes",
		tracing.Client{Tracer: tracer},
		retry.Config{On: "5xx", NumRetries: 1},
		tracing.Attempts{Tracer: tracer},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	n := 0
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		if n++; n == 1 {
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Request: r, Body: http.NoBody}, nil
		}
		return &http.Response{StatusCode: http.StatusOK, Request: r, Body: http.NoBody}, nil
	})
	ctx, seg := tracer.Trace(context.Background(), "")
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	resp, err := recipes.Transport(base).RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	seg.End(nil)
	d.show(4, "annotations", "fault")
	// Output:
	// recipes annotations={"attempt":1} fault=true
	// recipes annotations={"attempt":2}
	// recipes annotations={"attempts":2}
	// front annotations={}
}

func ExampleOverwrite() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, seg := tracer.Trace(context.Background(), "")
	named := tracing.Overwrite(ctx, "solr")
	for range 2 {
		_, sub := tracing.StartRemote(named, "10.0.0.7")
		sub.End(nil)
	}
	seg.End(nil)
	d.show(3)
	// Output:
	// solr
	// 10.0.0.7
	// front
}

func ExampleDisable() {
	ctx := tracing.Disable(context.Background())
	fmt.Println(tracing.Disabled(ctx), tracing.Disabled(tracing.Detach(ctx)))
	// Output: true false
}

func ExampleParseHeader() {
	h := tracing.ParseHeader("Self=1-x;Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a:1")
	fmt.Println(h.Root, h.Sampled == tracing.Sampled, h.Fields)
	fmt.Println(h.TraceParent())
	// Output:
	// 1-67891233-abcdef012345678912345678 true [{Self 1-x} {Lineage a:1}]
	// 00-67891233abcdef012345678912345678-53995c3f42cd8ad8-01
}

func ExampleParseTraceParent() {
	h, ok := tracing.ParseTraceParent("00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01", "")
	fmt.Println(h, ok)
	// Output: Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1;Parent=00f067aa0ba902b7 true
}

func ExampleTracer_Stats() {
	tracer, err := tracing.New(tracing.Config{Name: "front", Daemon: tracing.NoDaemon})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tracer.Close(context.Background())
	s := tracer.Stats()
	fmt.Println(s.Sent, s.Dropped(), s.Queued)
	// Output: 0 0 0
}

// A handler records each request as a segment.
func ExampleTracer_Handler() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	h := tracer.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		tracing.Current(r.Context()).Annotate("dish", "soup")
	}))
	r := httptest.NewRequest(http.MethodGet, "/menu", nil)
	r.Header.Set("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1")
	h.ServeHTTP(httptest.NewRecorder(), r)
	d.show(1, "trace_id", "parent_id")
	// Output: front trace_id="1-67891233-abcdef012345678912345678" parent_id="53995c3f42cd8ad8"
}

// Client records a call as a subsegment, and sends its trace to the upstream.
func ExampleClient() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	recipes, err := pillion.New("recipes", tracing.Client{Tracer: tracer})
	if err != nil {
		fmt.Println(err)
		return
	}
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		fmt.Println("traced:", tracing.ParseHeader(r.Header.Get("X-Amzn-Trace-Id")).Sampled == tracing.Sampled)
		return &http.Response{StatusCode: http.StatusTooManyRequests, Request: r, Body: http.NoBody}, nil
	})
	ctx, seg := tracer.Trace(context.Background(), "")
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1?salt=no", nil)
	resp, err := recipes.Transport(base).RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	seg.End(nil)
	d.show(2, "namespace", "http", "throttle")
	// Output:
	// traced: true
	// recipes namespace="remote" http={"request":{"method":"GET","url":"http://recipes/1","traced":false},"response":{"status":429}} throttle=true
	// front
}

// Server records each call of a gRPC server as a segment.
func ExampleServer() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	front, err := pillion.New("front", tracing.Server{Tracer: tracer})
	if err != nil {
		fmt.Println(err)
		return
	}
	intercept, err := pilliongrpc.UnaryServerInterceptor(front) // of a server
	if err != nil {
		fmt.Println(err)
		return
	}
	info := &grpc.UnaryServerInfo{FullMethod: "/kitchen.Menu/Soup"}
	_, err = intercept(context.Background(), nil, info, func(context.Context, any) (any, error) {
		return nil, status.Error(codes.NotFound, "no soup")
	})
	fmt.Println(err)
	d.show(1, "error")
	// Output:
	// rpc error: code = NotFound desc = no soup
	// front error=true
}

// Current returns the segment of a context, or nil, whose methods do nothing.
func ExampleCurrent() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, seg := tracer.Trace(context.Background(), "")
	defer seg.End(nil)
	fmt.Println(tracing.Current(ctx) == seg)
	none := tracing.Current(context.Background())
	none.Annotate("dish", "soup")
	fmt.Println(none == nil, none.ID() == "")
	// Output:
	// true
	// true true
}

// StartRemote records a call over a protocol that has no policy. The request carries Downstream.
func ExampleStartRemote() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, seg := tracer.Trace(context.Background(), "")
	_, call := tracing.StartRemote(ctx, "queue")
	message := map[string]string{"trace": call.Downstream().String()}
	call.End(nil)
	seg.End(nil)
	fmt.Println(tracing.ParseHeader(message["trace"]).Parent == call.ID())
	d.show(2, "namespace")
	// Output:
	// true
	// queue namespace="remote"
	// front
}

// Detach is for work that goes on after the response.
func ExampleDetach() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	ctx, seg := tracer.Trace(ctx, "")
	later := tracing.Detach(ctx)
	seg.End(nil)
	cancel()
	fmt.Println(later.Err())
	_, sub := tracing.StartSubsegment(later, "mail")
	sub.End(nil)
	d.show(2, "type")
	// Output:
	// <nil>
	// front
	// mail type="subsegment"
}

// A subsegment can describe a query of a database.
func ExampleSegment_SetSQL() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	ctx, seg := tracer.Trace(context.Background(), "")
	_, query := tracing.StartRemote(ctx, "menu@db")
	query.SetSQL(tracing.SQL{URL: "postgres://cook:secret@db:5432/menu", Query: "SELECT name FROM soups WHERE id = $1"})
	query.End(nil)
	seg.End(nil)
	d.show(2, "sql")
	// Output:
	// menu@db sql={"url":"postgres://db:5432/menu","sanitized_query":"SELECT name FROM soups WHERE id = $1"}
	// front
}

// Metadata is any value that JSON can hold. Annotations are for searches.
func ExampleSegment_AddMetadata() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front", Annotations: map[string]any{}, Metadata: map[string]map[string]any{}})
	defer tracer.Close(context.Background())
	_, seg := tracer.Trace(context.Background(), "")
	seg.Annotate("table-number", 7)
	seg.AddMetadata("order", []string{"soup", "salad"})
	seg.AddMetadataTo("kitchen", "heat", 0.5)
	seg.End(nil)
	d.show(1, "annotations", "metadata")
	// Output: front annotations={"table_number":7} metadata={"default":{"order":["soup","salad"]},"kitchen":{"heat":0.5}}
}

// SetError records an error that the function does not return. SetFlags says whose error it is.
func ExampleSegment_SetError() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	for _, work := range []func(s *tracing.Segment){
		func(s *tracing.Segment) { s.SetError(errors.New("burnt")) },
		func(s *tracing.Segment) { s.SetFlags(true, true, false) },
	} {
		_, seg := tracer.Trace(context.Background(), "")
		work(seg)
		seg.End(nil)
	}
	d.show(2, "error", "throttle", "fault")
	// Output:
	// front error=false throttle=false fault=true
	// front error=true throttle=true fault=false
}

// Flush waits until all documents have been sent.
func ExampleTracer_Flush() {
	d := listen()
	defer d.Close()
	tracer := start(d, tracing.Config{Name: "front"})
	defer tracer.Close(context.Background())
	_, seg := tracer.Trace(context.Background(), "")
	seg.End(nil)
	fmt.Println(tracer.Flush(context.Background()), tracer.Stats().Sent)
	// Output: <nil> 1
}

// OnError receives a SendError for packets that were lost.
func ExampleSendError() {
	onError := func(err error) { // Config.OnError
		if failed, ok := errors.AsType[*tracing.SendError](err); ok {
			fmt.Println(failed.Address, failed.Err)
		}
	}
	onError(&tracing.SendError{Address: tracing.DefaultDaemon, Err: errors.New("connection refused")})
	// Output: 127.0.0.1:2000 connection refused
}
