package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/fault"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// Requests with a header receive a 503, although the server works. The abort is not retried.
func ExampleConfig() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") }))
	defer server.Close()
	recipes, err := pillion.New("recipes",
		fault.Config{
			Abort:   &fault.Abort{HTTPStatus: http.StatusServiceUnavailable},
			Headers: []envoy.HeaderMatcher{{Name: "X-Chaos", Exact: "yes"}}, // only these requests
		},
		timeout.Config{},
		retry.Config{},
	)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: recipes.Transport(nil)}
	for _, chaos := range []string{"no", "yes"} {
		ctx, info := pillion.WithInfo(context.Background())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			log.Fatal(err)
		}
		req.Header.Set("X-Chaos", chaos)
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s, flags %v\n", resp.StatusCode, body, info.Flags())
	}
	client.CloseIdleConnections()
	// Output:
	// 200 soup, flags -
	// 503 fault filter abort, flags FI
}

// A delay does not count towards the total timeout. The caller's deadline ends it.
func ExampleConfig_delay() {
	recipes, err := pillion.New("recipes",
		fault.Config{Delay: &fault.Delay{Fixed: time.Minute, Percentage: envoy.Percent{Numerator: 100}}},
		timeout.Config{Total: time.Second},
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = pillion.Do(ctx, recipes, func(context.Context) (string, error) { return "soup", nil })
	fmt.Println(err)
	// Output:
	// timeout: recipes: caller deadline passed
}

// Two upstreams share a Fault: at most one of their responses is slow at a time.
func ExampleNew() {
	slow, err := fault.New(fault.Config{ResponseRateLimit: &fault.RateLimit{LimitKbps: 8}, MaxActiveFaults: 1})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"recipes", "users"} {
		if _, err := pillion.New(name, slow); err != nil {
			log.Fatal(err)
		}
		fmt.Println(name)
	}
	// Output:
	// recipes
	// users
}

// Do returns an Error.
func ExampleError() {
	recipes, err := pillion.New("recipes", fault.Config{Abort: &fault.Abort{HTTPStatus: http.StatusTeapot}})
	if err != nil {
		log.Fatal(err)
	}
	_, err = pillion.Do(context.Background(), recipes, func(context.Context) (string, error) { return "soup", nil })
	fmt.Println(errors.Is(err, fault.ErrInjected), err)
	// Output:
	// true fault: recipes: aborted on purpose with status 418
}
