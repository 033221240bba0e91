package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
)

// result is what became of all calls on one path.
type result struct {
	Path           string        `json:"path"`
	Calls          int           `json:"calls"`
	Successes      int64         `json:"successes"`
	Attempts       int64         `json:"attempts"`
	Refusals       int64         `json:"refusals"`
	ServerRequests *int64        `json:"server_requests"` // null when the server is not ours to ask
	P50            milliseconds  `json:"p50_ms"`
	P99            milliseconds  `json:"p99_ms"`
	OpenPeriods    int           `json:"open_periods"`
	Open           milliseconds  `json:"open_ms"`
	Elapsed        time.Duration `json:"-"`
	LastFailure    error         `json:"-"`
}

// milliseconds prints as such.
type milliseconds float64

func ms(d time.Duration) milliseconds { return milliseconds(d.Seconds() * 1000) }

// load sends calls at a steady rate, whatever becomes of them, and sees what
// comes back.
type load struct {
	url      string
	calls    int
	rate     float64 // calls per second
	server   *server // nil for a server of somebody else's
	progress func(done int, phase string)
}

// run makes all calls through client. With info each is asked how many attempts
// it took; a client without it makes one.
func (l load) run(ctx context.Context, path string, client *http.Client, info bool) result {
	var successes, attempts, refusals atomic.Int64
	var failure atomic.Pointer[error]
	took := make([]time.Duration, l.calls)
	if l.server != nil {
		l.server.requests.Store(0)
	}
	began := time.Now()
	var calls sync.WaitGroup
	for n := range l.calls {
		due := began.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
		time.Sleep(time.Until(due))
		l.enter(n)
		calls.Go(func() {
			tries, err := l.call(ctx, client, info)
			took[n] = time.Since(due)
			attempts.Add(int64(tries))
			switch {
			case err == nil:
				successes.Add(1)
			case errors.Is(err, breaker.ErrOpen):
				refusals.Add(1)
			default:
				failure.Store(&err)
			}
		})
	}
	calls.Wait()
	client.CloseIdleConnections()
	slices.Sort(took)
	r := result{
		Path: path, Calls: l.calls, Successes: successes.Load(), Attempts: attempts.Load(), Refusals: refusals.Load(),
		P50: ms(took[len(took)/2]), P99: ms(took[len(took)*99/100]), Elapsed: time.Since(began),
	}
	if err := failure.Load(); err != nil {
		r.LastFailure = *err
	}
	if l.server != nil {
		seen := l.server.requests.Load()
		r.ServerRequests = &seen
	}
	return r
}

var errStatus = errors.New("a status of 500 or more")

// call makes one call, reads its answer, and tells how many attempts it took.
func (l load) call(ctx context.Context, client *http.Client, info bool) (attempts int, err error) {
	attempts = 1
	if info {
		var report *pillion.Info
		ctx, report = pillion.WithInfo(ctx)
		defer func() { attempts = report.Attempts() }()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return attempts, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return attempts, err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return attempts, err
	}
	if resp.StatusCode >= 500 {
		return attempts, errStatus
	}
	return attempts, nil
}

// describe says what is called, and how it behaves.
func (l load) describe() string {
	if l.server == nil {
		return l.url
	}
	var life []string
	for _, p := range phases() {
		life = append(life, fmt.Sprintf("%s (%.0f %%)", p.name, 100*p.share))
	}
	return "a server whose life is: " + strings.Join(life, ", ")
}

// enter moves the server on to the phase that call n belongs to.
func (l load) enter(n int) {
	name := ""
	if l.server != nil {
		p := phaseOf(float64(n) / float64(l.calls))
		if old := l.server.phase.Load(); old == nil || old.name != p.name {
			l.server.phase.Store(p)
		}
		name = p.name
	}
	if n%50 == 0 {
		l.progress(n, name)
	}
}

func phaseOf(share float64) *phase {
	all := phases()
	for i := range all {
		if share -= all[i].share; share < 0 {
			return &all[i]
		}
	}
	return &all[len(all)-1]
}
