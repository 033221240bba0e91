package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// The headers in which a call sets its own timeouts; 0 is none.
const (
	totalHeader  = "X-Envoy-Upstream-Rq-Timeout-Ms"
	perTryHeader = "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms"
)

// mixed returns n calls of which three in ten fail at first: a third of these with 503,
// a third because no response comes within the timeout of an attempt, and a third because the
// connection is refused. Some succeed after a retry, some never; for some the total timeout
// fires.
func mixed(path string, n int) []call {
	calls := make([]call, n)
	for i := range calls {
		calls[i] = call{path: "/soup"}
		if i%10 < 3 {
			calls[i] = failing(i%10, i/10, fmt.Sprintf("%s-%d", path, i))
		}
	}
	return calls
}

// possible is the share of n mixed calls that can succeed, with the policy's retries.
func possible(n int) float64 {
	good := 0
	for _, c := range mixed("", n) {
		for _, prefix := range []string{"/soup", "/503/1/", "/503/2/", "/hang/1/"} {
			if strings.HasPrefix(c.path, prefix) {
				good++
			}
		}
	}
	return float64(good) / float64(n)
}

// never is more attempts than the policy makes.
const never = 99

// failing is call n among those that fail in one of three ways.
func failing(way, n int, id string) call {
	attempts := []int{1, 2, never}[n%3]
	switch way {
	case 0:
		return call{path: fmt.Sprintf("/503/%d/%s", attempts, id)}
	case 1:
		return call{path: "/refused/0/" + id}
	}
	c := call{path: fmt.Sprintf("/hang/%d/%s", attempts, id)}
	if attempts == 2 { // the total timeout fires during the first attempt
		c.header = http.Header{totalHeader: {"100"}}
	}
	return c
}

// crowd is the number of calls that are made while no slot is free.
const crowd = 20

// overflow takes all slots of the policy, those for requests and then those for
// retries, and each time makes some calls more.
func (p *path) overflow(ctx context.Context, limits policy, s *server) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	full := make([]call, crowd)
	for i := range full {
		full[i] = call{path: "/soup"}
	}
	if err := p.whileHeld(ctx, s, limits.MaxRequests, 0, full); err != nil {
		return err
	}
	for i := range full {
		full[i] = call{path: fmt.Sprintf("/503/%d/%s-full-%d", never, p.name, i)}
	}
	return p.whileHeld(ctx, s, limits.MaxRetries, 1, full)
}

// whileHeld makes calls while n others are under way, each in the attempt that follows
// the failing ones.
func (p *path) whileHeld(ctx context.Context, s *server, n, failing int, calls []call) error {
	patient := http.Header{totalHeader: {"0"}, perTryHeader: {"0"}}
	var held sync.WaitGroup
	defer held.Wait()
	for i := range n {
		held.Go(func() {
			c := call{fmt.Sprintf("/hold/%d/%s-held-%d-%d", failing, p.name, failing, i), patient.Clone()}
			_ = p.do(ctx, c) // the statistics show what happened
		})
	}
	defer s.release()
	if err := s.awaitHeld(ctx, n); err != nil {
		return err
	}
	p.closedLoop(ctx, 1, calls)
	return nil
}

// mixedRow is the result of the mixed calls on one path.
type mixedRow struct {
	Path      string  `json:"path"`
	Calls     int     `json:"calls"`
	Succeeded float64 `json:"succeeded"` // of 1
	P50       float64 `json:"p50_us"`
	P90       float64 `json:"p90_us"`
	P99       float64 `json:"p99_us"`
	CPU       float64 `json:"cpu_us_per_call"`
}

// mixedCallers is the number of callers that make the mixed calls.
const mixedCallers = 64

// runMixed makes the mixed calls on a path, and those that find no free slot.
func (p *path) runMixed(ctx context.Context, limits policy, s *server, calls int) (mixedRow, error) {
	r := p.closedLoop(ctx, mixedCallers, mixed(p.name, calls))
	row := mixedRow{
		Path: p.name, Calls: calls, Succeeded: 1 - float64(r.failed)/float64(calls),
		P50: us(r.quantile(0.5)), P90: us(r.quantile(0.9)), P99: us(r.quantile(0.99)), CPU: us(r.cpuPerCall()),
	}
	if !p.guarded {
		return row, nil
	}
	return row, p.overflow(ctx, limits, s)
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
