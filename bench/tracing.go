package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pillion-go/pillion/tracing"
)

// tracingGroups measure a segment with one call in it: pillion's, the X-Ray SDK's, and
// a span of OpenTelemetry. The first two send over UDP to a socket on loopback; OpenTelemetry's
// batches are discarded.
func tracingGroups() []group {
	daemon := drain()
	return []group{
		tracingGroup("tracing, sampled", daemon, 1),
		tracingGroup("tracing, not sampled", daemon, tracing.Never),
	}
}

// drain starts a daemon that discards what it reads.
func drain() *net.UDPAddr {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		log.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20) // less if the system does not allow it
	go func() {
		buf := make([]byte, 1<<16)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr)
}

func tracingGroup(name string, daemon *net.UDPAddr, rate float64) group {
	base := stub{200, body}
	return group{name, []candidate{
		{"bare", bareCall(base)},
		{"pillion", segment(daemon, rate, base)},
		{"pillion, with attempts", segmentAttempts(daemon, rate, base)},
		{"X-Ray SDK", sdkSegment(daemon, rate, base)},
		{"otelhttp with a batch exporter", otelSpan(rate, base)},
	}, true}
}

func newTracer(daemon *net.UDPAddr, rate float64) *tracing.Tracer {
	t, err := tracing.New(tracing.Config{Name: "bench", Daemon: daemon.String(), SamplingRate: rate, QueueSize: 100000})
	if err != nil {
		log.Fatal(err)
	}
	tracers = append(tracers, t)
	return t
}

// tracers are all tracers; at the end checkDrops reads what they dropped.
var tracers []*tracing.Tracer

// checkDrops reports a tracer that dropped documents: its time does not include them.
func checkDrops() error {
	for _, t := range tracers {
		if s := t.Stats(); s.Dropped() > s.Sent/100 {
			return fmt.Errorf("bench: tracing dropped %d of %d documents", s.Dropped(), s.Dropped()+s.Sent)
		}
	}
	return nil
}

func segment(daemon *net.UDPAddr, rate float64, base http.RoundTripper) func() {
	t := newTracer(daemon, rate)
	return traced(t, upstream(tracing.Client{Tracer: t}).Transport(base))
}

func segmentAttempts(daemon *net.UDPAddr, rate float64, base http.RoundTripper) func() {
	t := newTracer(daemon, rate)
	return traced(t, upstream(tracing.Client{Tracer: t}, tracing.Attempts{Tracer: t}).Transport(base))
}

func traced(t *tracing.Tracer, rt http.RoundTripper) func() {
	req := newRequest()
	return func() {
		ctx, seg := t.Trace(context.Background(), "bench")
		call(ctx, rt, req)
		seg.End(nil)
	}
}

// call makes one call within ctx. No two candidates may share a request: the SDK writes
// to its header.
func call(ctx context.Context, rt http.RoundTripper, req *http.Request) {
	resp, err := rt.RoundTrip(req.WithContext(ctx))
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 512)
	for err == nil {
		_, err = resp.Body.Read(buf)
	}
	_ = resp.Body.Close()
}

// bareCall is the call that the candidates trace. It copies the request with a context,
// as each of them must.
func bareCall(base http.RoundTripper) func() {
	req := newRequest()
	return func() { call(context.Background(), base, req) }
}

func newRequest() *http.Request {
	req, err := http.NewRequest(http.MethodGet, "http://bench/", nil)
	if err != nil {
		log.Fatal(err)
	}
	return req
}

func sdkSegment(daemon *net.UDPAddr, rate float64, base http.RoundTripper) func() {
	emitter, err := xray.NewDefaultEmitter(daemon)
	if err != nil {
		log.Fatal(err)
	}
	share := "1"
	if rate < 0 {
		share = "0"
	}
	local, err := sampling.NewLocalizedStrategyFromJSONBytes([]byte(
		`{"version": 2, "default": {"fixed_target": 0, "rate": ` + share + `}, "rules": []}`))
	if err != nil {
		log.Fatal(err)
	}
	root, err := xray.ContextWithConfig(context.Background(), xray.Config{Emitter: emitter, SamplingStrategy: local})
	if err != nil {
		log.Fatal(err)
	}
	rt, req := xray.RoundTripper(base), newRequest()
	return func() {
		ctx, seg := xray.BeginSegment(root, "bench")
		call(ctx, rt, req)
		seg.Close(nil)
	}
}

func otelSpan(rate float64, base http.RoundTripper) func() {
	sampler := sdktrace.AlwaysSample()
	if rate < 0 {
		sampler = sdktrace.NeverSample()
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithBatcher(tracetest.NewNoopExporter()))
	rt := otelhttp.NewTransport(base, otelhttp.WithTracerProvider(provider), otelhttp.WithPropagators(propagation.TraceContext{}))
	tracer, req := provider.Tracer("bench"), newRequest()
	return func() {
		ctx, span := tracer.Start(context.Background(), "bench")
		call(ctx, rt, req)
		span.End()
	}
}

// tracingBounds are what package tracing promises.
func tracingBounds() []bound {
	return []bound{
		{"tracing, sampled", "pillion", "X-Ray SDK", 1.0 / 3, 23},
		{"tracing, not sampled", "pillion", "X-Ray SDK", 1.0 / 3, 21},
	}
}
