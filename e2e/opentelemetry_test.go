package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/retry"
)

func Example_openTelemetry() {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	spans := tracetest.NewSpanRecorder() // a program uses an exporter
	provider := otelhttp.WithTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(spans)))
	named := func(name string) otelhttp.Option {
		return otelhttp.WithSpanNameFormatter(func(string, *http.Request) string { return name })
	}

	recipes, err := pillion.New("recipes", retry.Config{})
	if err != nil {
		log.Fatal(err)
	}
	attempts := otelhttp.NewTransport(http.DefaultTransport, provider, named("attempt"))
	calls := otelhttp.NewTransport(recipes.Transport(attempts), provider, named("recipes"))
	client := &http.Client{Transport: calls}

	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	for _, span := range spans.Ended() {
		fmt.Println(span.Name(), "in a span:", span.Parent().IsValid())
	}
	// Output:
	// attempt in a span: true
	// attempt in a span: true
	// recipes in a span: false
}
