package envoy

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestPercent_applies(t *testing.T) {
	tests := []struct {
		name string
		p    Percent
		want map[uint64]bool // by the random number
	}{
		{"zero value", Percent{}, map[uint64]bool{0: true, 99: true}},
		{"never", Percent{Numerator: Never}, map[uint64]bool{0: false, 99: false}},
		{"hundred", Percent{Numerator: 30}, map[uint64]bool{0: true, 29: true, 30: false, 99: false, 100: true, 130: false}},
		{"ten thousand", Percent{Numerator: 1, Denominator: TenThousand}, map[uint64]bool{0: true, 1: false, 9999: false, 10000: true}},
		{"million", Percent{Numerator: 999_999, Denominator: Million}, map[uint64]bool{999_998: true, 999_999: false}},
		{"more than all", Percent{Numerator: 200}, map[uint64]bool{0: true, 99: true}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for random, want := range tc.want {
				if got := tc.p.Applies(func() uint64 { return random }); got != want {
					t.Errorf("%d: got %v, want %v", random, got, want)
				}
			}
		})
	}
}

// TestPercent_share pins the share over many calls, also with the default source.
func TestPercent_share(t *testing.T) {
	seeded := rand.New(rand.NewPCG(1, 2))
	for _, random := range []func() uint64{seeded.Uint64, nil} {
		const calls = 100_000
		hits := 0
		for range calls {
			if (Percent{Numerator: 2500, Denominator: TenThousand}).Applies(random) {
				hits++
			}
		}
		if off := math.Abs(float64(hits) - calls/4); off > 6*math.Sqrt(calls*0.25*0.75) {
			t.Errorf("got %d of %d, want a quarter", hits, calls)
		}
	}
}

func TestPercent_atMost(t *testing.T) {
	tests := []struct {
		p    Percent
		n    uint64
		want Percent
	}{
		{Percent{}, 30, Percent{Numerator: 30}},
		{Percent{}, 0, Percent{Numerator: Never}},
		{Percent{}, math.MaxUint64, Percent{Numerator: 100}},
		{Percent{Numerator: 20}, 30, Percent{Numerator: 20}},
		{Percent{Numerator: 20, Denominator: Million}, 3, Percent{Numerator: 3, Denominator: Million}},
		{Percent{Numerator: Never}, 30, Percent{Numerator: Never}},
	}
	for _, tc := range tests {
		if got := tc.p.AtMost(tc.n); got != tc.want {
			t.Errorf("%v at most %d: got %v, want %v", tc.p, tc.n, got, tc.want)
		}
	}
}

func TestPercent_check(t *testing.T) {
	tests := map[string]Percent{
		"":                         {},
		"Numerator: -2 is":         {Numerator: -2},
		"Denominator: 3 is":        {Numerator: 1, Denominator: 3},
		"Denominator: MILLION has": {Denominator: Million},
	}
	for want, p := range tests {
		err := p.Check()
		if want == "" != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", p, err, want)
		}
	}
}

func TestPercent_json(t *testing.T) {
	want := Percent{Numerator: 5, Denominator: TenThousand}
	text, err := json.Marshal(want)
	if err != nil || string(text) != `{"numerator":5,"denominator":"TEN_THOUSAND"}` {
		t.Errorf("got %s, %v", text, err)
	}
	var got Percent
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if err := json.Unmarshal([]byte(`{"denominator":"TEN"}`), &got); err == nil || !strings.Contains(err.Error(), "TEN_THOUSAND") {
		t.Errorf("got %v, want an error that names the denominators", err)
	}
	if _, err := json.Marshal(Percent{Denominator: 7}); err == nil || Denominator(7).String() != "Denominator(7)" {
		t.Errorf("got %v and %v for a denominator that does not exist", err, Denominator(7))
	}
}
