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
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
)

// kitchen is a server in memory that answers with a status.
type kitchen int

func (k kitchen) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(k), Request: req, Body: io.NopCloser(strings.NewReader("soup"))}, nil
}

// A place is held until the answer's body is read or closed. A call that finds
// none free is refused at once.
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

// Zero lets nothing through: the upstream is out of service.
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

// What is refused can be read from the error.
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

// Retries may be a share of what is under way. One that is over it is not made: the
// upstream's answer stays the result.
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
