package balance

import (
	"math"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestBadConfig(t *testing.T) {
	tests := map[string]Config{
		"Policy: 6 is not a policy":                                                             {Policy: 6},
		"LeastRequest.ChoiceCount: 1 is less than 2":                                            {LeastRequest: LeastRequestConfig{ChoiceCount: 1}},
		"LeastRequest.ChoiceCount: -1 is less than 2":                                           {LeastRequest: LeastRequestConfig{ChoiceCount: -1}},
		"LeastRequest.ActiveRequestBias: -2 is negative; use Zero for 0":                        {LeastRequest: LeastRequestConfig{ActiveRequestBias: -2}},
		"LeastRequest.ActiveRequestBias: NaN is negative; use Zero for 0":                       {LeastRequest: LeastRequestConfig{ActiveRequestBias: math.NaN()}},
		"RingHash.MinSize: 8388609 is more than 8388608":                                        {RingHash: RingHashConfig{MinSize: 8388609}},
		"RingHash.MaxSize: 8388609 is more than 8388608":                                        {RingHash: RingHashConfig{MaxSize: 8388609}},
		"RingHash.MinSize: 11 is more than MaxSize, 10":                                         {Policy: RingHash, RingHash: RingHashConfig{MinSize: 11, MaxSize: 10}},
		"RingHash.MinSize: 1024 is more than MaxSize, 100":                                      {Policy: RingHash, RingHash: RingHashConfig{MaxSize: 100}},
		"RingHash.Function: 2 is not a hash function":                                           {RingHash: RingHashConfig{Function: 2}},
		"Maglev.TableSize: 1 is not a prime number":                                             {Maglev: MaglevConfig{TableSize: 1}},
		"Maglev.TableSize: 65536 is not a prime number":                                         {Maglev: MaglevConfig{TableSize: 65536}},
		"Maglev.TableSize: 5000077 is more than 5000011":                                        {Maglev: MaglevConfig{TableSize: 5000077}},
		"ConsistentHashing.BalanceFactor: 99 is less than 100":                                  {ConsistentHashing: ConsistentHashingConfig{BalanceFactor: 99, Active: &atomic.Int64{}}},
		"ConsistentHashing.Active: nil; BalanceFactor needs the active requests of the cluster": {ConsistentHashing: ConsistentHashingConfig{BalanceFactor: 100}},
		"PeakEWMA.Decay: -1s is negative":                                                       {PeakEWMA: PeakEWMAConfig{Decay: -time.Second}},
		"PeakEWMA.Decay: -1ns is negative":                                                      {PeakEWMA: PeakEWMAConfig{Decay: -1}},
		"PanicThreshold: 101 is not between 0 and 100; use Zero for 0":                          {PanicThreshold: 101},
		"PanicThreshold: NaN is not between 0 and 100; use Zero for 0":                          {PanicThreshold: math.NaN()},
		"ZoneAware: LocalityWeighted is set, too":                                               {ZoneAware: &ZoneAware{}, LocalityWeighted: true},
		"ZoneAware.RoutingEnabled: -5 is not between 0 and 100; use Zero for 0":                 {ZoneAware: &ZoneAware{RoutingEnabled: -5}},
		"SlowStart.Window: 1µs is less than 1ms":                                                {SlowStart: SlowStart{Window: time.Microsecond}},
		"SlowStart.Window: -1s is less than 1ms":                                                {SlowStart: SlowStart{Window: -time.Second}},
		"SlowStart: has no effect with RING_HASH":                                               {Policy: RingHash, SlowStart: SlowStart{Window: time.Second}},
		"SlowStart: has no effect with RANDOM":                                                  {Policy: Random, SlowStart: SlowStart{Window: time.Second}},
		"SlowStart.Aggression: -1 is negative":                                                  {SlowStart: SlowStart{Aggression: -1}},
		"SlowStart.MinWeightPercent: 100.5 is not between 0 and 100; use Zero for 0":            {SlowStart: SlowStart{MinWeightPercent: 100.5}},
		"Maglev.TableSize: 4 is not a prime number; write one such as 65537, or 0 for 65537\nbalance: Config.PanicThreshold: 200 is not betw": {Maglev: MaglevConfig{TableSize: 4}, PanicThreshold: 200},
	}
	for want, c := range tests {
		b, err := New(c)
		if b != nil || err == nil || !strings.HasPrefix(err.Error(), "balance: Config."+want) {
			t.Errorf("got %v, want balance: Config.%s", err, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Config{ZoneAware: &ZoneAware{}}.complete()
	if err != nil {
		t.Fatal(err)
	}
	if c.LeastRequest.ChoiceCount != 2 || c.LeastRequest.ActiveRequestBias != 1 || c.RingHash.MinSize != 1024 || c.RingHash.MaxSize != 8388608 ||
		c.Maglev.TableSize != 65537 || c.PanicThreshold != 50 || c.PeakEWMA.Decay != 10*time.Second || c.SlowStart.Aggression != 1 ||
		c.SlowStart.MinWeightPercent != 10 || c.ZoneAware.RoutingEnabled != 100 || c.ZoneAware.MinClusterSize != 6 || c.Rand == nil {
		t.Errorf("got %+v, %+v", c, c.ZoneAware)
	}
	given := &ZoneAware{RoutingEnabled: Zero, MinClusterSize: math.MaxUint64}
	c, err = Config{LeastRequest: LeastRequestConfig{ActiveRequestBias: Zero}, PanicThreshold: Zero, SlowStart: SlowStart{MinWeightPercent: Zero}, ZoneAware: given}.complete()
	if err != nil {
		t.Fatal(err)
	}
	if c.LeastRequest.ActiveRequestBias != 0 || c.panicThreshold() != 0 || c.SlowStart.MinWeightPercent != 0 || c.ZoneAware.RoutingEnabled != 0 {
		t.Errorf("Zero: got %+v, %+v", c, c.ZoneAware)
	}
	if c.ZoneAware.MinClusterSize != math.MaxUint64 {
		t.Errorf("got MinClusterSize %d, want the given one", c.ZoneAware.MinClusterSize)
	}
	if given.RoutingEnabled != Zero {
		t.Error("the caller's ZoneAware was changed")
	}
}

func TestPolicyString(t *testing.T) {
	for p, want := range map[Policy]string{RoundRobin: "ROUND_ROBIN", LeastRequest: "LEAST_REQUEST", Random: "RANDOM", RingHash: "RING_HASH", Maglev: "MAGLEV", PeakEWMA: "PEAK_EWMA", 77: "Policy(77)"} {
		if p.String() != want {
			t.Errorf("got %q, want %q", p, want)
		}
	}
}

func TestPrime(t *testing.T) {
	primes := map[uint64]bool{}
	for n := uint64(2); n < 2000; n++ {
		isPrime := true
		for p := range primes {
			isPrime = isPrime && n%p != 0
		}
		if isPrime {
			primes[n] = true
		}
	}
	for n := range uint64(2000) {
		if prime(n) != primes[n] {
			t.Errorf("prime(%d): got %v", n, prime(n))
		}
	}
	if !prime(5000011) || !prime(65537) || prime(65537*65537) {
		t.Error("prime is wrong for large numbers")
	}
}

// TestWholePercent pins the percentages that Envoy makes less than they are.
func TestWholePercent(t *testing.T) {
	for percent, want := range map[float64]uint32{0: 0, 1: 1, 28: 28, 29: 28, 57: 56, 58: 57, 50: 50, 99.99: 99, 100: 100, 0.5: 0} {
		if got := wholePercent(percent); got != want {
			t.Errorf("%v %%: got %d, want %d", percent, got, want)
		}
	}
}

// TestImports keeps the package free of the rest of the module.
func TestImports(t *testing.T) {
	const module = "github.com/pillion-go/pillion/"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		if dep = strings.TrimSpace(dep); strings.HasPrefix(dep, module) && dep != module+"cluster/internal/balance" {
			t.Errorf("imports %s", dep)
		}
	}
}
