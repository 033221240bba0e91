package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/examples/internal/pace"
)

// result is the outcome of all calls on one path: through the bare client or through
// pillion.
type result struct {
	Path           string        `json:"path"`
	Calls          int           `json:"calls"`
	Successes      int           `json:"successes"`
	Possible       int           `json:"possible_successes"` // all calls but those during which the server is down
	Phases         []phaseResult `json:"phases,omitempty"`   // empty for another server than ours
	Attempts       int           `json:"attempts"`
	Refusals       int           `json:"refusals"`
	ServerRequests *int64        `json:"server_requests"` // null for another server than ours
	P50            milliseconds  `json:"p50_ms"`
	P99            milliseconds  `json:"p99_ms"`
	OpenPeriods    int           `json:"open_periods"`
	Open           milliseconds  `json:"open_ms"`
	Elapsed        time.Duration `json:"-"`
	LastFailure    error         `json:"-"`
}

// phaseResult is the outcome of the calls during one phase of the server.
type phaseResult struct {
	Name      string `json:"name"`
	Calls     int    `json:"calls"`
	Successes int    `json:"successes"`
	Possible  int    `json:"possible_successes"`
}

// milliseconds is the unit of the durations in the JSON form.
type milliseconds float64

func ms(d time.Duration) milliseconds { return milliseconds(d.Seconds() * 1000) }

// load starts calls at a fixed rate, whether or not those before have ended.
type load struct {
	url    string
	calls  int
	rate   float64           // calls per second
	server *server           // nil if url is another server
	base   http.RoundTripper // of both clients; nil means the default
}

// outcome is what one call came to.
type outcome struct {
	took     time.Duration
	attempts int
	err      error
}

// run makes all calls through client, unless ctx ends before.
func (l load) run(ctx context.Context, client *http.Client, progress func(done int)) result {
	if l.server != nil {
		l.server.requests.Store(0)
	}
	outcomes := make([]outcome, l.calls)
	began := time.Now()
	var calls sync.WaitGroup
	for n, due := range pace.Calls(ctx, l.calls, l.rate) {
		progress(n)
		calls.Go(func() {
			o := &outcomes[n]
			o.attempts, o.err = l.call(ctx, client, n)
			o.took = time.Since(due)
		})
	}
	calls.Wait()
	client.CloseIdleConnections()
	r := l.sum(outcomes)
	r.Elapsed = time.Since(began)
	return r
}

// sum adds up the outcomes of all calls.
func (l load) sum(outcomes []outcome) result {
	r := result{Calls: l.calls, Possible: l.calls}
	var took []time.Duration
	for _, o := range outcomes {
		took = append(took, o.took)
		r.Attempts += o.attempts
		switch {
		case o.err == nil:
			r.Successes++
		case errors.Is(o.err, breaker.ErrOpen):
			r.Refusals++
		default:
			r.LastFailure = o.err
		}
	}
	slices.Sort(took)
	r.P50, r.P99 = ms(took[len(took)/2]), ms(took[len(took)*99/100])
	if l.server != nil {
		requests := l.server.requests.Load()
		r.ServerRequests, r.Phases = &requests, sumPhases(outcomes)
		r.Possible = 0
		for _, p := range r.Phases {
			r.Possible += p.Possible
		}
	}
	return r
}

// sumPhases adds up the outcomes of the calls during each phase.
func sumPhases(outcomes []outcome) []phaseResult {
	results := make([]phaseResult, len(phases))
	for i, p := range phases {
		results[i].Name = p.name
	}
	for n, o := range outcomes {
		i := phaseOf(n, len(outcomes))
		results[i].Calls++
		if o.err == nil {
			results[i].Successes++
		}
		if !phases[i].down {
			results[i].Possible++
		}
	}
	return results
}

var errStatus = errors.New("status 500 or above")

// call makes call n and reads its response. It returns the number of attempts: the
// bare client makes one.
func (l load) call(ctx context.Context, client *http.Client, n int) (attempts int, err error) {
	ctx, info := pillion.WithInfo(ctx)
	defer func() { attempts = max(1, info.Attempts()) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return 0, err
	}
	if l.server != nil {
		req.Header.Set(phaseHeader, strconv.Itoa(phaseOf(n, l.calls)))
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.StatusCode >= 500 {
		return 0, errStatus
	}
	return 0, nil
}
