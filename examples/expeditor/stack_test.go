package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
	"github.com/pillion-go/pillion/tracing"
)

// A service written with Expeditor, Faraday and aws-xray, whole.
// docs/expeditor-faraday-xray.md sets it beside its Ruby.
func Example_stack() {
	recipes := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("recipes: traced:", r.Header.Get(tracing.HeaderName) != "")
		fmt.Fprint(w, "braised leeks")
	}))
	defer recipes.Close()

	tracer, err := tracing.New(tracing.Config{Name: "front", Daemon: tracing.NoDaemon})
	if err != nil {
		fmt.Println(err)
		return
	}
	service, err := command.NewService(command.ServiceConfig{Name: "recipes", Threshold: 0.5})
	if err != nil {
		fmt.Println(err)
		return
	}
	upstream, err := pillion.New("recipes", // what Faraday's middlewares were
		tracing.Client{Tracer: tracer},
		timeout.Config{PerTry: time.Second},
		retry.Config{NumRetries: 2},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: upstream.Transport(nil)}

	front := tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context() // carries the segment: nothing is handed over by hand
		recipe := command.New(command.Config{Service: service, Timeout: 2 * time.Second},
			func(ctx context.Context) (string, error) { return get(ctx, client, recipes.URL) })
		_ = recipe.SetFallback(func(context.Context, error) (string, error) { return "no recipe", nil })
		_ = recipe.Start(ctx)
		text, err := recipe.Get(ctx)
		fmt.Fprint(w, text, err)
	}))

	answer := httptest.NewRecorder()
	front.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	fmt.Println("front:", answer.Body)
	fmt.Println(service.Status().Success, service.Shutdown(context.Background()), tracer.Close(context.Background()))
	// Output:
	// recipes: traced: true
	// front: braised leeks<nil>
	// 1 <nil> <nil>
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body) // here, since the context ends with the work
	if err == nil && resp.StatusCode >= http.StatusInternalServerError {
		err = fmt.Errorf("recipes: %s", resp.Status) // so that it counts, as Faraday's raise_error has it
	}
	return string(text), err
}
