package breaker_test

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
)

func TestConfig_errors(t *testing.T) {
	const (
		ratio   = "write one from 0 to 1"
		special = "write a ratio from 0 to 1, breaker.Zero or breaker.Never"
		never   = "write a ratio such as 0.5, or breaker.Never for a circuit that never opens"
		count   = "write 1 or more, or 0 for 20"
		sleep   = "write a duration such as 5*time.Second, or breaker.Zero for none"
		period  = "write a duration such as 5*time.Second, or 0 for 10s"
	)
	tests := map[string]struct {
		cfg  breaker.Config
		want []string // each line of the error
	}{
		"NaN":                {breaker.Config{Threshold: math.NaN()}, []string{"breaker: Config.Threshold: NaN is no ratio; " + ratio}},
		"negative threshold": {breaker.Config{Threshold: -0.5}, []string{"breaker: Config.Threshold: -0.5 is negative; " + special}},
		"below all":          {breaker.Config{Threshold: math.Inf(-1)}, []string{"breaker: Config.Threshold: -Inf is negative; " + special}},
		"a percentage":       {breaker.Config{Threshold: 50}, []string{"breaker: Config.Threshold: 50 is above 1; " + never}},
		"just above":         {breaker.Config{Threshold: 1.01}, []string{"breaker: Config.Threshold: 1.01 is above 1; " + never}},
		"above all":          {breaker.Config{Threshold: math.Inf(1)}, []string{"breaker: Config.Threshold: +Inf is above 1; " + never}},
		"negative count":     {breaker.Config{NonBreakCount: -1}, []string{"breaker: Config.NonBreakCount: -1 is negative; " + count}},
		"negative sleep":     {breaker.Config{Sleep: -time.Second}, []string{"breaker: Config.Sleep: -1s is negative; " + sleep}},
		"never as a sleep":   {breaker.Config{Sleep: breaker.Never}, []string{"breaker: Config.Sleep: -2ns is negative; " + sleep}},
		"sleep, no unit":     {breaker.Config{Sleep: 30}, []string{"breaker: Config.Sleep: 30ns is below 1ms; did you forget the unit? W" + sleep[1:]}},
		"negative period":    {breaker.Config{Period: -1}, []string{"breaker: Config.Period: -1ns is negative; " + period}},
		"period, no unit":    {breaker.Config{Period: 60_000}, []string{"breaker: Config.Period: 60µs is below 1ms; did you forget the unit? W" + period[1:]}},
		"all": {breaker.Config{Threshold: -3, NonBreakCount: -3, Sleep: -4, Period: 1}, []string{
			"breaker: Config.Threshold: -3 is negative; " + special,
			"breaker: Config.NonBreakCount: -3 is negative; " + count,
			"breaker: Config.Sleep: -4ns is negative; " + sleep,
			"breaker: Config.Period: 1ns is below 1ms; did you forget the unit? W" + period[1:],
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want := strings.Join(tt.want, "\n")
			for by, got := range configErrors(tt.cfg) {
				if got == nil || !strings.Contains(got.Error(), want) {
					t.Errorf("%s: got error %v, want %s", by, got, want)
				}
			}
			group := breaker.GroupConfig{Breaker: tt.cfg, MaxKeys: -7}
			_, got := breaker.NewGroup(group)
			if want += "\nbreaker: GroupConfig.MaxKeys: -7 is negative; write 1 or more, or 0 for 1000"; got == nil || got.Error() != want {
				t.Errorf("NewGroup: got error %v, want %s", got, want)
			}
			if _, got = pillion.New("recipes", group); got == nil || !strings.Contains(got.Error(), want) {
				t.Errorf("pillion.New: got error %v, want one with %s", got, want)
			}
		})
	}
}

// configErrors returns the error of each function that takes cfg.
func configErrors(cfg breaker.Config) map[string]error {
	_, alone := breaker.New(cfg)
	_, upstream := pillion.New("recipes", cfg)
	_, settings := breaker.GobreakerSettings(cfg)
	_, group := breaker.NewGroup(breaker.GroupConfig{Breaker: cfg})
	return map[string]error{"New": alone, "pillion.New": upstream, "GobreakerSettings": settings, "NewGroup": group}
}

func TestConfig_good(t *testing.T) {
	for name, cfg := range map[string]breaker.Config{
		"zero":      {},
		"extremes":  {Threshold: 1, NonBreakCount: math.MaxInt, Sleep: math.MaxInt64, Period: math.MaxInt64},
		"smallest":  {Threshold: math.SmallestNonzeroFloat64, NonBreakCount: 1, Sleep: time.Millisecond, Period: time.Millisecond},
		"never":     {Threshold: breaker.Never},
		"all zeros": {Threshold: breaker.Zero, Sleep: breaker.Zero},
	} {
		for by, err := range configErrors(cfg) {
			if err != nil {
				t.Errorf("%s, %s: got error %v, want none", name, by, err)
			}
		}
	}
}

// TestConfig_defaults checks the effect of the documented defaults, for each way to get them.
func TestConfig_defaults(t *testing.T) {
	policies := map[string]pillion.Policy{
		"zero value":         breaker.Config{},
		"nil pointer":        (*breaker.Config)(nil),
		"pointer":            &breaker.Config{},
		"named":              breaker.Config{Threshold: 0.5, NonBreakCount: 20, Sleep: time.Second, Period: 10 * time.Second},
		"constants":          breaker.Config{Threshold: breaker.DefaultThreshold, NonBreakCount: breaker.DefaultNonBreakCount, Sleep: breaker.DefaultSleep, Period: breaker.DefaultPeriod},
		"group":              breaker.GroupConfig{},
		"group, nil pointer": (*breaker.GroupConfig)(nil),
	}
	for name, p := range policies {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(t, p)
				call := func(base roundTrip) bool { return errors.Is(get(t, u, base), breaker.ErrOpen) }
				for range 20 {
					call(broken(errBoom))
				}
				time.Sleep(10 * time.Second) // all results leave the window
				for i := range 20 {
					if call(answer(http.StatusOK + i%2*300)) {
						t.Fatalf("call %d of 20, half of them bad: got a refusal, want none", i)
					}
				}
				time.Sleep(10*time.Second - 1)
				if !call(answer(http.StatusOK)) {
					t.Error("got no refusal of the next call, want one")
				}
				time.Sleep(time.Second)
				if !call(answer(http.StatusOK)) {
					t.Error("got no refusal a second later, want one")
				}
				time.Sleep(time.Nanosecond)
				if call(answer(http.StatusOK)) {
					t.Error("got a refusal after more than a second, want a trial")
				}
			})
		})
	}
}

func TestConfig_zero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Threshold: breaker.Zero, NonBreakCount: 1, Sleep: breaker.Zero})
		u := newUpstream(t, b)
		if err := get(t, u, answer(http.StatusOK)); err != nil {
			t.Fatal(err)
		}
		if err := get(t, u, answer(http.StatusOK)); !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("threshold 0: got error %v after a success, want one that is ErrOpen", err)
		}
		time.Sleep(time.Nanosecond)
		if err := get(t, u, answer(http.StatusOK)); err != nil {
			t.Errorf("sleep 0: got error %v an instant later, want none", err)
		}
	})
}

func TestConfig_neverOpens(t *testing.T) {
	b := newBreaker(t, breaker.Config{Threshold: breaker.Never, NonBreakCount: 1})
	u := newUpstream(t, b)
	for range 100 {
		_ = get(t, u, broken(errBoom))
	}
	wantStatus(t, b, breaker.Status{Failure: 100})
}

// TestConfig_json checks that a Config survives a round trip through JSON.
func TestConfig_json(t *testing.T) {
	cfg := breaker.GroupConfig{
		Breaker: breaker.Config{Name: "n", Threshold: breaker.Zero, NonBreakCount: 7, Sleep: time.Minute, Period: time.Hour},
		MaxKeys: 3,
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"breaker":{"name":"n","threshold":-1,"non_break_count":7,"sleep":60000000000,"period":3600000000000},"max_keys":3}`
	if string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
	var back breaker.GroupConfig
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(back); string(again) != want {
		t.Errorf("got %s after a round trip, want %s", again, want)
	}
}

// TestNotMade uses policies not made by a constructor.
func TestNotMade(t *testing.T) {
	for want, policies := range map[string][]pillion.Policy{
		"breaker: a *Breaker was not made by New or FromGobreaker": {(*breaker.Breaker)(nil), &breaker.Breaker{}},
		"breaker: a *Group was not made by NewGroup":               {(*breaker.Group)(nil), &breaker.Group{}},
	} {
		for i, p := range policies {
			if _, err := pillion.New("recipes", p); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("policy %d: got error %v, want one with %q", i, err, want)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	group, err := breaker.NewGroup(breaker.GroupConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []policy.Placer{b, breaker.Config{}, group, breaker.GroupConfig{}} {
		if _, err := pillion.New("recipes", p, repeater{}); err == nil {
			t.Errorf("%T outside a retry: got no error, want one", p)
		}
		if _, err := pillion.New("recipes", repeater{}, p); err != nil {
			t.Errorf("%T inside a retry: got error %v, want none", p, err)
		}
	}
}

// repeater takes the role of a retry policy.
type repeater struct{ pillion.AnyOrder }

func (repeater) Place() policy.Place { return policy.Place{Rank: policy.Retries} }
