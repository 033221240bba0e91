package retry

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// ready returns the rule compiled from cfg.
func ready(t *testing.T, cfg Config) *envoyRule {
	t.Helper()
	p, err := cfg.compile()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// almostOne is the largest number that Rand may return.
var almostOne = math.Nextafter(1, 0)

// TestExponentialBounds uses the smallest and the largest result of Rand: the wait before retry n
// is from 0 to below min(base·2^(n-1), max), computed here with numbers that do not overflow.
func TestExponentialBounds(t *testing.T) {
	for _, tc := range []struct {
		name      string
		cfg       Config
		base, max time.Duration
	}{
		{"default", Config{}, 25 * time.Millisecond, 250 * time.Millisecond},
		{"base alone", Config{BaseInterval: time.Second}, time.Second, 10 * time.Second},
		{"base and max", Config{BaseInterval: 100 * time.Millisecond, MaxInterval: 150 * time.Millisecond}, 100 * time.Millisecond, 150 * time.Millisecond},
		{"max of base", Config{BaseInterval: time.Second, MaxInterval: time.Second}, time.Second, time.Second},
		{"max alone", Config{MaxInterval: time.Minute}, 25 * time.Millisecond, time.Minute},
		{"huge max", Config{BaseInterval: time.Millisecond, MaxInterval: 1 << 53}, time.Millisecond, 1 << 53},
		{"longest", Config{BaseInterval: math.MaxInt64, MaxInterval: math.MaxInt64}, math.MaxInt64, math.MaxInt64},
		{"ten times base overflows", Config{BaseInterval: math.MaxInt64 / 3}, math.MaxInt64 / 3, math.MaxInt64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for n := 1; n <= 1000; n++ {
				ceiling := math.Min(math.Ldexp(float64(tc.base), n-1), float64(tc.max))
				tc.cfg.Rand = always(0)
				if got, ok := ready(t, tc.cfg).exponential(n); got != 0 || !ok {
					t.Fatalf("retry %d: got at least %v, want 0", n, got)
				}
				tc.cfg.Rand = always(almostOne)
				got, ok := ready(t, tc.cfg).exponential(n)
				if float64(got) >= ceiling || float64(got) < ceiling*(1-1e-9)-1 || !ok {
					t.Fatalf("retry %d: got at most %v, want just below %v", n, got, time.Duration(ceiling))
				}
			}
		})
	}
}

// TestExponentialIsUniform counts many waits in tenths of their range and applies a chi-squared
// test. The seed is fixed, so that the test is deterministic.
func TestExponentialIsUniform(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	p := ready(t, Config{Rand: chance.Float64})
	for n, ceiling := range map[int]time.Duration{
		1: 25 * time.Millisecond, 2: 50 * time.Millisecond, 3: 100 * time.Millisecond,
		4: 200 * time.Millisecond, 5: 250 * time.Millisecond, 9: 250 * time.Millisecond,
	} {
		const samples = 10000
		var tenths [10]float64
		for range samples {
			wait, _ := p.exponential(n)
			tenths[int(10*wait/ceiling)]++
		}
		chi := 0.0
		for _, got := range tenths {
			chi += (got - samples/10) * (got - samples/10) / (samples / 10)
		}
		if chi > 27.9 { // nine degrees of freedom, 0.1%
			t.Errorf("retry %d: got %v waits in the tenths of [0, %v), chi-squared %.1f, want them even", n, tenths, ceiling, chi)
		}
	}
}

// TestDefaultRand uses the default Rand.
func TestDefaultRand(t *testing.T) {
	p := ready(t, Config{})
	seen := map[time.Duration]bool{}
	for range 100 {
		wait, _ := p.exponential(1)
		if wait < 0 || wait >= 25*time.Millisecond {
			t.Fatalf("got %v, want it within [0, 25ms)", wait)
		}
		seen[wait] = true
	}
	if len(seen) < 90 {
		t.Errorf("got %d different waits of 100, want nearly all to differ", len(seen))
	}
}

// TestWaits checks when each attempt reaches the wire.
func TestWaits(t *testing.T) {
	const ms = time.Millisecond
	at := func(times ...time.Duration) []time.Duration { return times }
	for _, tc := range []struct {
		name   string
		cfg    Config
		answer answer
		want   []time.Duration
	}{
		{
			"default",
			Config{NumRetries: 6, Rand: always(0.5)},
			status(503),
			at(0, 12500*time.Microsecond, 37500*time.Microsecond, 87500*time.Microsecond, 187500*time.Microsecond,
				312500*time.Microsecond, 437500*time.Microsecond),
		},
		{
			"base and max",
			Config{NumRetries: 4, BaseInterval: 100 * ms, MaxInterval: 150 * ms, Rand: always(0.5)},
			status(503),
			at(0, 50*ms, 125*ms, 200*ms, 275*ms),
		},
		{"after failures", Config{NumRetries: 2, BaseInterval: 10 * ms, Rand: always(0.5)}, failure(errRefusedDial), at(0, 5*ms, 15*ms)},
		{
			"Retry-After by default",
			Config{NumRetries: 2, Rand: always(0)},
			status(503, "Retry-After", "2"),
			at(0, 2*time.Second, 4*time.Second),
		},
		{
			"Retry-After, spread", Config{Rand: always(0.5)}, status(503, "Retry-After", "2"), at(0, 2500*ms),
		},
		{
			"Retry-After with conditions",
			Config{On: "5xx", Rand: always(0)},
			status(503, "Retry-After", "2"),
			at(0, 2*time.Second),
		},
		{
			"Retry-After of a 429",
			Config{On: "retriable-status-codes", RetriableStatusCodes: []int{429}, Rand: always(0)},
			status(429, "Retry-After", "2"),
			at(0, 2*time.Second),
		},
		{
			"Retry-After of a 429 in addition to the default conditions",
			Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: []int{429}, Rand: always(0)},
			status(429, "Retry-After", "2"),
			at(0, 2*time.Second),
		},
		{
			"Retry-After of a 429 that When retries",
			Config{When: func(o *policy.Outcome) bool { return o.Code == 429 }, Rand: always(0)},
			status(429, "Retry-After", "2"),
			at(0, 2*time.Second),
		},
		{
			"Retry-After, a fraction", Config{Rand: always(0)}, status(503, "Retry-After", "1.5"), at(0, 2*time.Second),
		},
		{
			"no reset headers with conditions",
			Config{On: "5xx", ResetHeaders: []ResetHeader{}, Rand: always(0.5)},
			status(503, "Retry-After", "2"),
			at(0, 12500*time.Microsecond),
		},
		{
			"Retry-After named with conditions",
			Config{On: "5xx", ResetHeaders: []ResetHeader{{Name: "Retry-After"}}, Rand: always(0)},
			status(503, "Retry-After", "2"),
			at(0, 2*time.Second),
		},
		{
			"no reset headers",
			Config{ResetHeaders: []ResetHeader{}, Rand: always(0.5)},
			status(503, "Retry-After", "2"),
			at(0, 12500*time.Microsecond),
		},
		// As in Envoy a wait of zero is ignored: otherwise all callers would retry at the same
		// instant.
		{
			"Retry-After of 0",
			Config{Rand: always(0.5)},
			status(503, "Retry-After", "0"),
			at(0, 12500*time.Microsecond),
		},
		{
			"longest accepted", Config{Rand: always(0)}, status(503, "Retry-After", "300"), at(0, 300*time.Second),
		},
		{
			"longer than accepted",
			Config{Rand: always(0.5)},
			status(503, "Retry-After", "301"),
			at(0, 12500*time.Microsecond),
		},
		{
			"MaxResetInterval",
			Config{MaxResetInterval: time.Second, Rand: always(0.5)},
			status(503, "Retry-After", "2"),
			at(0, 12500*time.Microsecond),
		},
		{
			"first valid header",
			Config{ResetHeaders: []ResetHeader{
				{Name: "X-Missing"}, {Name: "X-Garbage"}, {Name: "X-Long"}, {Name: "X-Good"}, {Name: "X-Later"},
			}, Rand: always(0)},
			status(503, "X-Garbage", "soon", "X-Long", "9999", "X-Good", "3", "X-Later", "4"), at(0, 3*time.Second),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := answers(tc.answer)
				call(t, upstream(t, tc.cfg), w, get(t.Context()))
				if diff := cmp.Diff(tc.want, w.times()); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestRateLimitedBounds uses the largest result of Rand: the wait is below 1.5 times the one asked
// for.
func TestRateLimitedBounds(t *testing.T) {
	for _, tc := range []struct{ asked, want time.Duration }{
		{time.Second, 1500*time.Millisecond - 1},
		{300 * time.Second, 450*time.Second - 1},
		{math.MaxInt64, math.MaxInt64},
	} {
		t.Run(tc.asked.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := ready(t, Config{MaxResetInterval: math.MaxInt64, Rand: always(almostOne)})
				got := p.spread(tc.asked)
				if diff := tc.want - got; diff < 0 || diff > 100 {
					t.Errorf("got at most %v, want just below %v", got, tc.want)
				}
			})
		})
	}
}

// source is a source of waits that records its use.
type source struct {
	waits []time.Duration
	used  int
	reset int
}

func (s *source) NextBackOff() time.Duration {
	s.used++
	if s.used > len(s.waits) {
		return backoff.Stop
	}
	return s.waits[s.used-1]
}

func (s *source) Reset() { s.used, s.reset = 0, s.reset+1 }

// TestBackOffSource takes the waits from a custom source.
func TestBackOffSource(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name    string
		source  func() backoff.BackOff
		retries int
		answer  answer
		want    []time.Duration
	}{
		{
			"custom, stopped by Stop", func() backoff.BackOff { return &source{waits: []time.Duration{3 * ms, 0, 4 * ms}} },
			100, status(503),
			[]time.Duration{0, 3 * ms, 3 * ms, 7 * ms},
		},
		{
			"custom, stopped by NumRetries", func() backoff.BackOff { return &source{waits: []time.Duration{3 * ms, 0, 4 * ms}} },
			1, status(503),
			[]time.Duration{0, 3 * ms},
		},
		{
			"constant", func() backoff.BackOff { return backoff.NewConstantBackOff(7 * ms) },
			3, status(503),
			[]time.Duration{0, 7 * ms, 14 * ms, 21 * ms},
		},
		{
			"exponential",
			func() backoff.BackOff {
				return backoff.NewExponentialBackOff(backoff.WithInitialInterval(10*ms), backoff.WithMultiplier(3),
					backoff.WithRandomizationFactor(0), backoff.WithMaxInterval(50*ms))
			},
			4, failure(errRefusedDial),
			[]time.Duration{0, 10 * ms, 40 * ms, 90 * ms, 140 * ms},
		},
		{
			"exponential, stopped by its MaxElapsedTime",
			func() backoff.BackOff {
				return backoff.NewExponentialBackOff(backoff.WithInitialInterval(10*ms), backoff.WithMultiplier(1),
					backoff.WithRandomizationFactor(0), backoff.WithMaxElapsedTime(25*ms))
			},
			100, status(503),
			[]time.Duration{0, 10 * ms, 20 * ms},
		},
		{
			"WithMaxRetries",
			func() backoff.BackOff { return backoff.WithMaxRetries(&backoff.ZeroBackOff{}, 2) },
			100, status(503),
			[]time.Duration{0, 0, 0},
		},
		{
			"wait asked for by a response takes precedence", func() backoff.BackOff { return &source{waits: []time.Duration{3 * ms}} },
			2, status(503, "Retry-After", "1"),
			[]time.Duration{0, time.Second, 2 * time.Second},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, Config{NumRetries: tc.retries, BackOff: tc.source, Rand: always(0)})
				for range 2 { // each call has a new source
					w := answers(tc.answer)
					r := call(t, u, w, get(t.Context()))
					if diff := cmp.Diff(tc.want, w.times()); diff != "" {
						t.Errorf("attempts (-want +got):\n%s", diff)
					}
					if !r.flags.Has(envoy.URX) {
						t.Errorf("got flags %v, want URX", r.flags)
					}
				}
			})
		})
	}
}

// TestBackOffSourceIsAskedWhenNeeded counts the sources made.
func TestBackOffSourceIsAskedWhenNeeded(t *testing.T) {
	var made []*source
	u := upstream(t, Config{NumRetries: 2, BackOff: func() backoff.BackOff {
		made = append(made, &source{waits: []time.Duration{0, 0, 0}})
		return made[len(made)-1]
	}})
	call(t, u, answers(status(200)), get(t.Context()))
	if len(made) != 0 {
		t.Errorf("got %d sources for a call without a retry, want 0", len(made))
	}
	for range 2 {
		call(t, u, answers(status(503)), get(t.Context()))
	}
	if len(made) != 2 {
		t.Fatalf("got %d sources for two calls with retries, want 2", len(made))
	}
	for _, s := range made {
		if s.reset != 1 || s.used != 2 {
			t.Errorf("got a source reset %d times and asked %d times, want 1 and 2", s.reset, s.used)
		}
	}
}

// TestPermanent returns errors in backoff.Permanent.
func TestPermanent(t *testing.T) {
	permanent := backoff.Permanent(errBroken)
	for _, tc := range []struct {
		name    string
		policy  policy.Policy
		answers []answer
		want    int
	}{
		{"Config, immediately", Config{On: "5xx,reset", NumRetries: 5, Rand: always(0)}, []answer{failure(permanent)}, 1},
		{
			"Config, after a retry",
			Config{On: "5xx,reset", NumRetries: 5, Rand: always(0)},
			[]answer{status(503), failure(permanent)},
			2,
		},
		{"Retryable", Retryable{Tries: 5, Sleep: Zero}, []answer{failure(permanent)}, 1},
		{"not retried in any case", Config{On: "retriable-4xx"}, []answer{failure(permanent)}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := call(t, upstream(t, tc.policy), answers(tc.answers...), get(t.Context()))
			var left *backoff.PermanentError
			if r.attempts != tc.want || !errors.Is(r.err, errBroken) || errors.As(r.err, &left) {
				t.Errorf("got %d attempts and %#v, want %d and errBroken without backoff.Permanent", r.attempts, r.err, tc.want)
			}
		})
	}
}
