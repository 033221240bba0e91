package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// visit requests a page of a handler, and prints the response.
func visit(h http.Handler, header http.Header) {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/soup", nil)
	r.Header = header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
}

// A service that serves one request at a time refuses further ones, with the response of an Envoy in
// front of it.
func ExampleUpstream_Handler() {
	kitchen, err := pillion.New("kitchen", timeout.Config{Total: time.Second}, limits.Config{MaxRequests: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	var guarded http.Handler
	guarded, err = kitchen.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		visit(guarded, nil) // another client, meanwhile
		_, _ = io.WriteString(w, "soup")
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	visit(guarded, nil)
	// Output:
	// 503 upstream connect error or disconnect/reset before headers. reset reason: overflow
	// 200 soup
}

// The timeout that the client names ends the context of the request.
func ExampleUpstream_Handler_deadline() {
	kitchen, err := pillion.New("kitchen")
	if err != nil {
		fmt.Println(err)
		return
	}
	guarded, err := kitchen.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // a slow database query with this context
		fmt.Println(r.Context().Err())
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	visit(guarded, http.Header{"X-Envoy-Expected-Rq-Timeout-Ms": {"20"}})
	// Output:
	// context deadline exceeded
	// 504 upstream request timeout
}

// A server cannot retry a request.
func ExampleUpstream_Handler_retry() {
	kitchen, err := pillion.New("kitchen", retry.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = kitchen.Handler(http.NotFoundHandler())
	fmt.Println(err)
	// Output: upstream "kitchen": pillion: Handler: a server cannot retry or hedge a request; leave out retry and hedge
}

// A PanicError reports the panic of a handler to the policies. The panic goes on to the server.
func ExamplePanicError() {
	listener := func(_ context.Context, e policy.Event) {
		if p, ok := errors.AsType[*pillion.PanicError](e.Outcome.Err); ok && e.Kind == policy.EventEnd {
			fmt.Println(p.Value, len(p.Stack) > 0)
		}
	}
	kitchen, err := pillion.New("kitchen", pillion.Listener(listener))
	if err != nil {
		fmt.Println(err)
		return
	}
	guarded, err := kitchen.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("fire") }))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { fmt.Println("the server recovers:", recover()) }()
	visit(guarded, nil)
	// Output:
	// fire true
	// the server recovers: fire
}
