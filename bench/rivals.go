package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"
)

var errStatus = errors.New("bad status")

// newGobreaker is gobreaker with a rolling window like pillion's.
func newGobreaker(tripped bool) *gobreaker.CircuitBreaker[*http.Response] {
	cb := gobreaker.NewCircuitBreaker[*http.Response](settings(tripped))
	if tripped {
		_, _ = cb.Execute(func() (*http.Response, error) { return nil, errStatus })
	}
	return cb
}

func settings(tripped bool) gobreaker.Settings {
	return gobreaker.Settings{
		MaxRequests: 1, Interval: 10 * time.Second, BucketPeriod: time.Second, Timeout: time.Hour,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			volume := c.TotalSuccesses + c.TotalFailures
			return tripped || (volume >= 20 && float64(c.TotalFailures)/float64(volume) >= 0.5)
		},
	}
}

// gobreakerTransport is gobreaker in a round tripper, as its users write it.
type gobreakerTransport struct {
	cb   *gobreaker.CircuitBreaker[*http.Response]
	base http.RoundTripper
}

func (t gobreakerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.cb.Execute(func() (*http.Response, error) {
		resp, err := t.base.RoundTrip(req)
		if err == nil && resp.StatusCode >= 500 {
			return resp, errStatus
		}
		return resp, err
	})
	if errors.Is(err, errStatus) {
		err = nil
	}
	return resp, err
}

func failsafeBreaker() circuitbreaker.CircuitBreaker[*http.Response] {
	return circuitbreaker.NewBuilder[*http.Response]().
		WithFailureRateThreshold(0.5, 20, 10*time.Second).
		HandleIf(func(r *http.Response, err error) bool { return err != nil || r.StatusCode >= 500 }).
		Build()
}

// twoStepTransport is gobreaker's two-step form. It judges at the end of the body, as
// pillion's breaker does.
type twoStepTransport struct {
	cb   *gobreaker.TwoStepCircuitBreaker[*http.Response]
	base http.RoundTripper
}

func newTwoStep(base http.RoundTripper) twoStepTransport {
	return twoStepTransport{gobreaker.NewTwoStepCircuitBreaker[*http.Response](settings(false)), base}
}

func (t twoStepTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	done, err := t.cb.Allow()
	if err != nil {
		return nil, err
	}
	resp, err := t.base.RoundTrip(req)
	switch {
	case err != nil:
		done(err)
	case resp.StatusCode >= 500:
		done(errStatus)
	case resp.Body == http.NoBody:
		done(nil)
	default:
		resp.Body = &judgedBody{ReadCloser: resp.Body, done: done}
	}
	return resp, err
}

// judgedBody calls done once, at the end of the body.
type judgedBody struct {
	io.ReadCloser
	once sync.Once
	done func(error)
}

func (b *judgedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *judgedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

func (b *judgedBody) end(err error) {
	b.once.Do(func() {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		b.done(err)
	})
}

// failsafeTotal is failsafeAll with a timeout of the whole call, which pillion's row has
// too.
func failsafeTotal(base http.RoundTripper) http.RoundTripper {
	return failsafehttp.NewRoundTripper(failsafeAll(base), timeout.New[*http.Response](time.Second))
}

// failsafeAll is failsafe-go's retry, breaker, bulkhead and timeout.
func failsafeAll(base http.RoundTripper) http.RoundTripper {
	return failsafehttp.NewRoundTripper(base,
		failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(1).WithBackoff(25*time.Millisecond, 250*time.Millisecond).Build(),
		failsafeBreaker(),
		bulkhead.New[*http.Response](1024),
		timeout.New[*http.Response](300*time.Millisecond),
	)
}

// byHand combines named packages, as a careful user would: gobreaker, backoff, a
// semaphore, and one context with a deadline, which is canceled when the body is closed.
type byHand struct {
	cb   *gobreaker.CircuitBreaker[*http.Response]
	sem  *semaphore.Weighted
	base http.RoundTripper
}

var errFull = errors.New("full")

func (t *byHand) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), time.Second)
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(25*time.Millisecond), backoff.WithMaxElapsedTime(0))
	for attempt := 0; ; attempt++ {
		resp, err := t.try(req.WithContext(ctx))
		if (err == nil && resp.StatusCode < 502) || attempt == 1 {
			if err != nil {
				cancel()
				return nil, err
			}
			resp.Body = &heldBody{resp.Body, t.sem, cancel}
			return resp, nil
		}
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
			_ = resp.Body.Close()
			t.sem.Release(1)
		}
		time.Sleep(wait.NextBackOff())
	}
}

func (t *byHand) try(req *http.Request) (*http.Response, error) {
	if !t.sem.TryAcquire(1) {
		return nil, errFull
	}
	resp, err := gobreakerTransport{t.cb, t.base}.RoundTrip(req)
	if err != nil {
		t.sem.Release(1)
	}
	return resp, err
}

// heldBody releases the slot and the context when the caller closes the body.
type heldBody struct {
	io.ReadCloser
	sem    *semaphore.Weighted
	cancel context.CancelFunc
}

func (b *heldBody) Close() error {
	err := b.ReadCloser.Close()
	b.sem.Release(1)
	b.cancel()
	return err
}
