package breaker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// realSubjects are the ways a program uses a Breaker.
var realSubjects = map[string]func(*testing.T, traceConfig) subject{
	"by hand":  newHandSubject,
	"upstream": newUpstreamSubject,
}

// coreSubject is a core alone.
type coreSubject struct {
	core core
	now  time.Duration
}

func newCoreSubject(cfg traceConfig) *coreSubject {
	c := cfg.config().withDefaults()
	if n := cfg.NonBreakCount; n != nil {
		c.NonBreakCount = *n // a core takes 0 for 1, as the gem does
	}
	return &coreSubject{core: newCore(c.Threshold, int64(c.NonBreakCount), c.Sleep, c.Period, 0)}
}

// coreOf returns the core of a circuit with cfg.
func coreOf(cfg Config, now time.Duration) core {
	cfg = cfg.withDefaults()
	return newCore(cfg.Threshold, int64(cfg.NonBreakCount), cfg.Sleep, cfg.Period, now)
}

func (s *coreSubject) advance(at time.Duration) { s.now = at }

func (s *coreSubject) run(out string) bool {
	end, ran := s.begin()
	if ran {
		end(out)
	}
	return ran
}

func (s *coreSubject) begin() (end func(string), ran bool) {
	v := s.core.admit(s.now)
	if v == refused {
		s.core.record(Break, s.now)
		return nil, false
	}
	return func(out string) { s.core.done(v, traceResults[out], s.now) }, true
}

func (s *coreSubject) record(r Result) { s.core.record(r, s.now) }

func (s *coreSubject) reset() { s.core.reset(s.now) }

func (s *coreSubject) look() (Status, bool) {
	s.core.window.roll(s.now)
	return s.core.window.sum.status(), s.core.open
}

// handSubject uses a Breaker through Admit and Done, under the clock of a synctest bubble.
type handSubject struct {
	breaker *Breaker
	epoch   time.Time
}

func newHandSubject(t *testing.T, cfg traceConfig) subject {
	t.Helper()
	b, err := New(cfg.config())
	if err != nil {
		t.Fatal(err)
	}
	return &handSubject{breaker: b, epoch: time.Now()}
}

func (s *handSubject) advance(at time.Duration) { time.Sleep(time.Until(s.epoch.Add(at))) }

func (s *handSubject) run(out string) bool {
	end, ran := s.begin()
	if ran {
		end(out)
	}
	return ran
}

func (s *handSubject) begin() (end func(string), ran bool) {
	ticket, err := s.breaker.Admit()
	if err != nil {
		s.breaker.Record(Break)
		return nil, false
	}
	return func(out string) { ticket.Done(traceResults[out], nil) }, true
}

func (s *handSubject) record(r Result) { s.breaker.Record(r) }

func (s *handSubject) reset() { s.breaker.ResetStatus() }

func (s *handSubject) look() (Status, bool) { return s.breaker.Status(), s.breaker.State() == Open }

// upstreamSubject makes real calls through an upstream with a Breaker: functions, and, for a
// call that must stay in progress, HTTP responses whose body has not ended.
type upstreamSubject struct {
	handSubject
	upstream *pillion.Upstream
}

func newUpstreamSubject(t *testing.T, cfg traceConfig) subject {
	t.Helper()
	c := cfg.config()
	c.Classify = classifyTold
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	u, err := pillion.New("golden", b)
	if err != nil {
		t.Fatal(err)
	}
	return &upstreamSubject{handSubject{b, time.Now()}, u}
}

// toldError ends a call with the result that a trace asks for.
type toldError struct{ result Result }

func (e *toldError) Error() string { return e.result.String() }

func classifyTold(o *policy.Outcome) Result {
	if told, ok := errors.AsType[*toldError](o.Err); ok {
		return told.result
	}
	return Classify(o)
}

// told returns the error that ends a call with out, nil for a success.
func told(out string) error {
	if r := traceResults[out]; r != Success {
		return &toldError{r}
	}
	return nil
}

func (s *upstreamSubject) run(out string) (ran bool) {
	defer func() { _ = recover() }() // a fatal call panics
	_, _ = pillion.Do(context.Background(), s.upstream, func(context.Context) (any, error) {
		ran = true
		if out == "fatal" {
			panic(out)
		}
		return nil, told(out)
	})
	return ran
}

func (s *upstreamSubject) begin() (end func(string), ran bool) {
	body := &toldBody{}
	base := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: body}, nil
	})
	req, err := http.NewRequest(http.MethodGet, "http://golden/", http.NoBody)
	if err != nil {
		panic(err) // the request is constant
	}
	resp, err := s.upstream.Transport(base).RoundTrip(req)
	if err != nil {
		return nil, false
	}
	return func(out string) {
		if body.err = told(out); body.err == nil {
			body.err = io.EOF
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}, true
}

// toldBody is an empty body that ends with err.
type toldBody struct{ err error }

func (b *toldBody) Read([]byte) (int, error) { return 0, b.err }

func (b *toldBody) Close() error { return nil }

// roundTrip adapts a function to http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
