package main

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/examples/internal/pace"
)

// load starts calls at a fixed rate, even if earlier calls have not ended.
type load struct {
	calls int
	rate  float64 // calls per second
}

// length returns the time from the first call to the start of the last one.
func (l load) length() time.Duration {
	return time.Duration(float64(l.calls) / l.rate * float64(time.Second))
}

// outcome is the outcome of one call.
type outcome struct {
	took    time.Duration
	failed  bool
	retries int
	host    int // the host that responded last; -1 for none
}

// run makes all calls, unless ctx ends first.
func (l load) run(ctx context.Context, client *http.Client) []outcome {
	outcomes := make([]outcome, l.calls)
	var calls sync.WaitGroup
	for n, due := range pace.Calls(ctx, l.calls, l.rate) {
		calls.Go(func() {
			outcomes[n] = call(ctx, client, n)
			outcomes[n].took = time.Since(due)
		})
	}
	calls.Wait()
	return outcomes
}

// userHeader is the request header with the user of a call, for hash policies.
const userHeader = "Fleet-User"

// call makes call n. A response of status 500 or above is a failure.
func call(ctx context.Context, client *http.Client, n int) outcome {
	ctx, info := pillion.WithInfo(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes.internal/", nil)
	if err != nil {
		return outcome{failed: true, host: -1}
	}
	req.Header.Set(userHeader, strconv.Itoa(n))
	o := outcome{host: -1}
	resp, err := client.Do(req)
	o.failed, o.retries = err != nil, max(info.Attempts()-1, 0)
	if err != nil {
		return o
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	o.failed = err != nil || resp.StatusCode >= 500
	if host, err := strconv.Atoi(resp.Header.Get(hostHeader)); err == nil {
		o.host = host
	}
	return o
}

// milliseconds is a duration in the JSON output.
type milliseconds float64

// percentile returns the time in which the given share of the calls ended.
func percentile(outcomes []outcome, share float64) milliseconds {
	took := make([]time.Duration, len(outcomes))
	for i, o := range outcomes {
		took[i] = o.took
	}
	slices.Sort(took)
	i := min(int(share*float64(len(took))), len(took)-1)
	return milliseconds(took[i].Seconds() * 1000)
}

// shareOf returns the share of the calls for which is returns true.
func shareOf(outcomes []outcome, is func(outcome) bool) float64 {
	n := 0
	for _, o := range outcomes {
		if is(o) {
			n++
		}
	}
	return float64(n) / float64(len(outcomes))
}
