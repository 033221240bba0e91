package limits_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
)

// kitchen is an in-memory server that responds with a status.
type kitchen int

func (k kitchen) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(k), Request: req, Body: io.NopCloser(strings.NewReader("soup"))}, nil
}

// A call holds a slot until its response body is read or closed. A call without a free slot is
// refused immediately.
func ExampleConfig() {
	recipes, err := pillion.New("recipes", limits.Config{MaxRequests: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(200))}
	first, err := client.Get("http://recipes/1")
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = client.Get("http://recipes/2")
	fmt.Println(err)
	if err = first.Body.Close(); err != nil {
		fmt.Println(err)
		return
	}
	third, err := client.Get("http://recipes/3")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer third.Body.Close()
	fmt.Println(third.StatusCode)
	// Output:
	// Get "http://recipes/2": limits: recipes: max_requests of 1 reached; is the body of every response closed?
	// 200
}

// Zero admits nothing: the upstream is out of service.
func ExampleConfig_none() {
	database, err := pillion.New("database", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pillion.Do(context.Background(), database, func(context.Context) (int, error) { return 42, nil })
	fmt.Println(err, errors.Is(err, limits.ErrFull))
	// Output: limits: database: max_requests of 0 reached true
}

// FullError describes the limit that refused the call.
func ExampleFullError() {
	database, err := pillion.New("database", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pillion.Do(context.Background(), database, func(context.Context) (int, error) { return 42, nil })
	if full, ok := errors.AsType[*limits.FullError](err); ok {
		fmt.Println(full.Upstream, full.Limit, full.Max)
	}
	// Output: database max_requests 0
}

// RetryBudget bounds retries to a share of the concurrent requests. A retry over the budget is not
// made: the call returns the upstream's response.
func ExampleRetryBudget() {
	recipes, err := pillion.New("recipes",
		retry.Config{On: "5xx", NumRetries: 3, BaseInterval: time.Millisecond},
		limits.Config{RetryBudget: &limits.RetryBudget{BudgetPercent: 20, MinRetryConcurrency: limits.Zero}},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, info := pillion.WithInfo(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := recipes.Transport(kitchen(503)).RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode, info.Attempts(), info.Flags())
	// Output: 503 1 UO
}

// Set puts an upstream into maintenance while the program runs.
func ExampleMaintenance() {
	var down limits.Maintenance
	recipes, err := pillion.New("recipes", &down)
	if err != nil {
		fmt.Println(err)
		return
	}
	cook := func(context.Context) (string, error) { return "soup", nil }
	fmt.Println(pillion.Do(context.Background(), recipes, cook))
	if err = down.Set(envoy.Percent{}); err != nil { // all calls
		fmt.Println(err)
		return
	}
	_, err = pillion.Do(context.Background(), recipes, cook)
	fmt.Println(err)
	// Output:
	// soup <nil>
	// limits: recipes: maintenance
}

// Upstreams that use the same Limits share its slots, such as several routes to one service.
func ExampleNew() {
	shared, err := limits.New(limits.Config{MaxRequests: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	soups, err := pillion.New("soups", shared)
	if err != nil {
		fmt.Println(err)
		return
	}
	salads, err := pillion.New("salads", shared)
	if err != nil {
		fmt.Println(err)
		return
	}
	salad := func(context.Context) (string, error) { return "salad", nil }
	soup := func(ctx context.Context) (string, error) {
		_, err := pillion.Do(ctx, salads, salad)
		fmt.Println(err)
		return "soup", nil
	}
	fmt.Println(pillion.Do(context.Background(), soups, soup))
	fmt.Println(pillion.Do(context.Background(), salads, salad))
	// Output:
	// limits: salads: max_requests of 1 reached; is the body of every response closed?
	// soup <nil>
	// salad <nil>
}

// Set changes the share of the calls that are refused. A MaintenanceError names the upstream.
func ExampleMaintenance_Set() {
	var down limits.Maintenance
	recipes, err := pillion.New("recipes", &down)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, share := range []envoy.Percent{{Numerator: 100}, {Numerator: envoy.Never}} {
		if err = down.Set(share); err != nil {
			fmt.Println(err)
			return
		}
		_, err = pillion.Do(context.Background(), recipes, func(context.Context) (string, error) { return "soup", nil })
		refused, ok := errors.AsType[*limits.MaintenanceError](err)
		fmt.Println(ok && refused.Upstream == "recipes", errors.Is(err, limits.ErrMaintenance))
	}
	// Output:
	// true true
	// false false
}
