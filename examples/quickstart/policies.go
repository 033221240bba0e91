package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/examples/internal/page"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// bareTimeout is the only setting of the bare client.
const bareTimeout = time.Second

// policies are what pillion's client runs with.
type policies struct {
	timeout timeout.Config
	retry   retry.Config
	limits  limits.Config
	breaker breaker.Config
}

func defaultPolicies() policies {
	return policies{
		timeout: timeout.Config{Total: bareTimeout, PerTry: 250 * time.Millisecond},
		retry:   retry.Config{NumRetries: 2},
		limits:  limits.Config{MaxRequests: 200},
		breaker: breaker.Config{Threshold: 0.5, Period: time.Second, Sleep: 100 * time.Millisecond},
	}
}

// upstream makes the upstream that is called: the order is from the outside in.
func (p policies) upstream(stats *metrics.Registry, onStateChange func(breaker.Change)) (*pillion.Upstream, error) {
	p.breaker.OnStateChange = onStateChange
	return pillion.New("recipes", metrics.Config{Registry: stats}, p.timeout, p.retry, p.limits, p.breaker)
}

// rows describe the policies.
func (p policies) rows() []page.Row {
	b := p.breaker
	return []page.Row{
		{"  timeout  " + fmt.Sprintf("%v for a call, %v for each attempt", p.timeout.Total, p.timeout.PerTry)},
		{"  retry    " + fmt.Sprintf("at most %d retries for a call, within the default budget", p.retry.NumRetries)},
		{"  limits   " + fmt.Sprintf("at most %d attempts at the same time", p.limits.MaxRequests)},
		{"  breaker  " + fmt.Sprintf("opens for %v if %.0f %% of the results of the last %v are failures", b.Sleep, 100*b.Threshold, b.Period)},
	}
}

// openTime adds up how long the breaker was open.
type openTime struct {
	mu      sync.Mutex
	periods int           // guarded by mu
	total   time.Duration // guarded by mu
	since   time.Time     // zero while closed; guarded by mu
}

func (o *openTime) change(c breaker.Change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.To == breaker.Open {
		o.periods++
		o.since = c.At
		return
	}
	o.total += c.At.Sub(o.since)
	o.since = time.Time{}
}

func (o *openTime) sum() (periods int, total milliseconds) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.total
	if !o.since.IsZero() {
		t += time.Since(o.since)
	}
	return o.periods, ms(t)
}
