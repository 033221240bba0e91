package tracing

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/pillion-go/pillion"
)

// BenchmarkCall measures a segment that contains one call. The daemon does not listen.
func BenchmarkCall(b *testing.B) {
	for _, bc := range []struct {
		name   string
		rate   float64
		daemon string
	}{{"sampled", 1, "127.0.0.1:9"}, {"unsampled", Never, NoDaemon}} {
		b.Run(bc.name, func(b *testing.B) {
			tracer, err := newTracer(Config{Name: "x", SamplingRate: bc.rate, QueueSize: 100000},
				func(context.Context, string) (io.WriteCloser, error) { return discard{}, nil })
			if err != nil {
				b.Fatal(err)
			}
			defer tracer.Close(b.Context())
			u, err := pillion.New("recipes", Client{Tracer: tracer})
			if err != nil {
				b.Fatal(err)
			}
			rt, req := u.Transport(respond(200, "soup")), get(context.Background(), "http://recipes/")
			b.ReportAllocs()
			for b.Loop() {
				ctx, seg := tracer.Trace(context.Background(), "")
				traceCall(b, rt, req.WithContext(ctx))
				seg.End(nil)
			}
		})
	}
}

func traceCall(tb testing.TB, rt http.RoundTripper, req *http.Request) {
	tb.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
