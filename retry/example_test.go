package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// flaky is a server that responds with 503 and an optional header, a number of times.
type flaky struct {
	failures int
	header   http.Header
	requests int
}

func (f *flaky) RoundTrip(req *http.Request) (*http.Response, error) {
	f.requests++
	if f.requests > f.failures {
		return &http.Response{StatusCode: http.StatusOK, Request: req, Body: io.NopCloser(strings.NewReader("soup"))}, nil
	}
	return &http.Response{
		StatusCode: http.StatusServiceUnavailable, Header: f.header, Request: req, Body: io.NopCloser(strings.NewReader("not now")),
	}, nil
}

// show makes a call and prints its result.
func show(u *pillion.Upstream, server http.RoundTripper, method string) {
	ctx, info := pillion.WithInfo(context.Background())
	req, err := http.NewRequestWithContext(ctx, method, "http://recipes/1", nil)
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
	fmt.Printf("%s: %d %s, %d attempts, flags %v\n", method, resp.StatusCode, body, info.Attempts(), info.Flags())
}

// On uses Envoy's names for conditions. When the retries are used up, the last response is
// returned unchanged, with the flag URX.
func ExampleConfig() {
	recipes, err := pillion.New("recipes", retry.Config{On: "5xx,reset,connect-failure", NumRetries: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 2}, http.MethodGet)
	show(recipes, &flaky{failures: 3}, http.MethodGet)
	// Output:
	// GET: 200 soup, 3 attempts, flags -
	// GET: 503 not now, 3 attempts, flags URX
}

// Without On a policy retries only calls that are safe to send twice.
func ExampleConfig_default() {
	recipes, err := pillion.New("recipes", retry.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 1}, http.MethodGet)
	show(recipes, &flaky{failures: 1}, http.MethodPost)
	// Output:
	// GET: 200 soup, 2 attempts, flags -
	// POST: 503 not now, 1 attempts, flags -
}

// The error lists each invalid field of a configuration.
func ExampleConfig_errors() {
	_, err := pillion.New("recipes", retry.Config{On: "5xx,sometimes", NumRetries: -5})
	fmt.Println(err)
	// Output:
	// upstream "recipes": retry: Config.On: "sometimes" is no retry condition; the conditions are default, idempotent, 5xx, cancelled, connect-failure, deadline-exceeded, envoy-ratelimited, gateway-error, internal, refused-stream, reset, reset-before-request, resource-exhausted, retriable-4xx, retriable-headers, retriable-status-codes, unavailable, separated by commas
	// retry: Config.NumRetries: -5 is negative; write 1 or more, 0 for 1, or retry.Never for none
}

// The waits can come from github.com/cenkalti/backoff. Its Stop ends the retries.
func ExampleConfig_backOff() {
	recipes, err := pillion.New("recipes", retry.Config{
		On:         "5xx",
		NumRetries: 10,
		BackOff: func() backoff.BackOff {
			return backoff.WithMaxRetries(backoff.NewConstantBackOff(time.Millisecond), 3)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 100}, http.MethodGet)
	// Output: GET: 503 not now, 4 attempts, flags URX
}

// A request header can mark the calls that may be retried.
func ExampleHeaderMatcher() {
	recipes, err := pillion.New("recipes", retry.Config{
		On:                      "retriable-headers",
		RetriableHeaders:        []retry.HeaderMatcher{{Name: "X-Shard", Prefix: "moving"}},
		RetriableRequestHeaders: []retry.HeaderMatcher{{Name: "X-No-Retry", Invert: true}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 1, header: http.Header{"X-Shard": {"moving to 7"}}}, http.MethodPost)
	show(recipes, &flaky{failures: 1, header: http.Header{"X-Shard": {"7"}}}, http.MethodPost)
	// Output:
	// POST: 200 soup, 2 attempts, flags -
	// POST: 503 not now, 1 attempts, flags -
}

// A response can ask for a wait. A listener receives the wait.
func ExampleResetHeader() {
	recipes, err := pillion.New("recipes",
		retry.Config{
			On:               "gateway-error",
			ResetHeaders:     []retry.ResetHeader{{Name: "X-Reset", Format: retry.Seconds}},
			MaxResetInterval: time.Minute,
			Rand:             func() float64 { return 0.5 }, // deterministic for the example
		},
		pillion.Listener(func(_ context.Context, e policy.Event) {
			if e.Kind == policy.EventRetryScheduled {
				fmt.Println(e.BackOff.Wait, e.BackOff.RateLimited)
			}
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 1, header: http.Header{"X-Reset": {"3600"}}}, http.MethodGet) // too long
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	// A wait that does not fit is not started: the response is returned immediately.
	resp, err := recipes.Transport(&flaky{failures: 1, header: http.Header{"X-Reset": {"2"}}}).RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output:
	// 12.5ms false
	// GET: 200 soup, 2 attempts, flags -
	// 503
}

// Retryable has the options of Ruby's retryable gem.
func ExampleRetryable() {
	recipes, err := pillion.New("recipes", retry.Retryable{
		Tries:     3,
		SleepFunc: func(retry int) time.Duration { return time.Duration(retry) * time.Millisecond },
		LogMethod: func(retries int, err error) { fmt.Println("retry", retries, "after:", err) },
		Ensure:    func(retries int) { fmt.Println("retries:", retries) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 2}, http.MethodGet)
	// Output:
	// retry 1 after: upstream responded with status 503
	// retry 2 after: upstream responded with status 503
	// retries: 2
	// GET: 200 soup, 3 attempts, flags -
}

// On and Not choose which failures are retried.
func ExampleRetryable_on() {
	errBusy := errors.New("database is busy")
	database, err := pillion.New("database",
		retry.Retryable{
			Tries: 5,
			Sleep: retry.Zero,
			On:    []retry.Match{retry.Is(errBusy), retry.Status(502, 503)},
			Not:   []retry.Match{retry.Is(breaker.ErrOpen)},
		},
		breaker.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	runs := 0
	_, err = pillion.Do(context.Background(), database, func(context.Context) (int, error) {
		if runs++; runs < 3 {
			return 0, errBusy
		}
		return 0, errors.New("syntax error")
	})
	fmt.Println(runs, err)
	// Output: 3 syntax error
}

// As matches a failure by its type.
func ExampleAs() {
	match := retry.As[*breaker.OpenError]()
	fmt.Println(match(&breaker.OpenError{}), match(errors.New("something else")))
	// Output: true false
}

// Is matches a failure that is, or wraps, an error.
func ExampleIs() {
	match := retry.Is(io.ErrUnexpectedEOF)
	fmt.Println(match(fmt.Errorf("reading: %w", io.ErrUnexpectedEOF)), match(io.EOF))
	// Output: true false
}

// Status matches a response by its status.
func ExampleStatus() {
	match := retry.Status(502, 503)
	fmt.Println(match(&pillion.StatusError{Code: 503}), match(&pillion.StatusError{Code: 500}))
	// Output: true false
}

// Substring matches a failure by its text.
func ExampleSubstring() {
	recipes, err := pillion.New("recipes", retry.Retryable{
		Sleep:    retry.Zero,
		Matching: []retry.Pattern{retry.Substring("status 503"), retry.Substring("busy")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 1}, http.MethodGet)
	// Output: GET: 200 soup, 2 attempts, flags -
}

// A slow attempt continues while another attempt runs beside it. The first good response is the
// result.
func ExampleConfig_hedge() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: 5 * time.Second, PerTry: 20 * time.Millisecond},
		retry.Config{On: "5xx", HedgeOnPerTryTimeout: true},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	var attempts atomic.Int32
	soup, err := pillion.Do(context.Background(), recipes, func(ctx context.Context) (string, error) {
		if attempts.Add(1) == 1 { // it hangs
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "soup", nil
	})
	fmt.Println(soup, err, attempts.Load())
	// Output:
	// soup <nil> 2
}

// A Budget bounds the retries to a share of the calls. A retry over the budget is not made: the call
// returns the upstream's response, with the flag UO.
func ExampleBudget() {
	recipes, err := pillion.New("recipes", retry.Config{
		Budget: &retry.Budget{Percent: 20, MinPerSecond: retry.Zero},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(recipes, &flaky{failures: 1}, http.MethodGet)
	// Output: GET: 503 not now, 1 attempts, flags UO
}

// Check reports invalid options before an upstream or a command uses them.
func ExampleRetryable_Check() {
	fmt.Println(retry.Retryable{Tries: -2, Sleep: 3}.Check())
	// Output:
	// retry: Retryable.Tries: -2 is negative; write 1 or more, 0 for 2, or retry.Unlimited
	// retry: Retryable.Sleep: 3ns is below 1ms; did you forget the unit? Write a duration such as 5*time.Second, 0 for 1s, or retry.Zero for none
}
