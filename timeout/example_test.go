package timeout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// slow is a server that does not respond to its first requests.
type slow struct {
	silent   int
	requests int
	pause    time.Duration // in the middle of the body
}

func (s *slow) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.requests++; s.requests <= s.silent {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	if ms := req.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms"); ms != "" {
		fmt.Println("the server has", ms, "ms")
	}
	body := io.MultiReader(strings.NewReader("so"), pause(s.pause), strings.NewReader("up"))
	return &http.Response{StatusCode: http.StatusOK, Request: req, Body: io.NopCloser(body)}, nil
}

// pause is an empty reader whose Read takes some time.
type pause time.Duration

func (p pause) Read([]byte) (int, error) {
	time.Sleep(time.Duration(p))
	return 0, io.EOF
}

// show makes a call and prints its result.
func show(ctx context.Context, u *pillion.Upstream, server http.RoundTripper) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: u.Transport(server)}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.StatusCode, string(body))
}

// A Config outside retry bounds the whole call and each of its attempts.
func ExampleConfig() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: time.Second, PerTry: 10 * time.Millisecond},
		retry.Config{NumRetries: 2},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	show(context.Background(), recipes, &slow{silent: 2})
	show(context.Background(), recipes, &slow{silent: 3})
	// Output:
	// 200 soup
	// Get "http://recipes/1": timeout: recipes: per-try limit of 10ms reached
}

// PerTry ends with the response headers: a body may take longer.
func ExampleConfig_body() {
	recipes, err := pillion.New("recipes", timeout.Config{Total: timeout.Unlimited, PerTry: 10 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(context.Background(), recipes, &slow{pause: 30 * time.Millisecond})
	// Output: 200 soup
}

// If the caller's deadline comes first, it ends the call.
func ExampleConfig_caller() {
	recipes, err := pillion.New("recipes", timeout.Config{Total: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	show(ctx, recipes, &slow{silent: 1})
	// Output: Get "http://recipes/1": timeout: recipes: caller deadline passed
}

// ExpectedHeader sends the time limit to the server.
func ExampleConfig_expectedHeader() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond, ExpectedHeader: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(context.Background(), recipes, &slow{})
	// Output:
	// the server has 300 ms
	// 200 soup
}

// The timeouts apply to functions through their context.
func ExampleConfig_function() {
	database, err := pillion.New("database", timeout.Config{Total: 10 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pillion.Do(context.Background(), database, func(ctx context.Context) (int, error) {
		<-ctx.Done()
		return 0, errors.New("query killed")
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// timeout: database: total limit of 10ms reached: query killed
	// true
}

// The error names the timeout that fired.
func ExampleError() {
	recipes, err := pillion.New("recipes", timeout.Config{Idle: 10 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = (&http.Client{Transport: recipes.Transport(&slow{silent: 1})}).Get("http://recipes/1")
	if limit, ok := errors.AsType[*timeout.Error](err); ok {
		fmt.Println(limit.Upstream, limit.Scope == timeout.Idle, limit.Limit)
	}
	// Output: recipes true 10ms
}

// A stream may last for any time, but not be silent for longer than Idle.
func ExampleStream() {
	events, err := pillion.New("events",
		timeout.Stream{Idle: 20 * time.Millisecond},
		timeout.Config{Total: timeout.Unlimited},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pillion.Do(context.Background(), events, func(ctx context.Context) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
	fmt.Println(err)
	// Output:
	// timeout: events: stream idle limit of 20ms reached
}
