package timeout

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// such is what errors about durations say to write.
const such = "write a duration such as 5*time.Second"

func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		name     string
		policies []policy.Policy
		want     []string
	}{
		{"zero", []policy.Policy{Config{}}, nil},
		{"none", []policy.Policy{Config{Total: Unlimited, PerTry: Unlimited, Idle: Unlimited}}, nil},
		{"Total", []policy.Policy{Config{Total: -2}}, []string{"timeout: Config.Total: -2ns is negative; " + such + ", 0 for 15s, or timeout.Unlimited"}},
		{"PerTry", []policy.Policy{Config{PerTry: -time.Second}}, []string{"timeout: Config.PerTry: -1s is negative; " + such + ", or 0 for no timeout"}},
		{"Idle", []policy.Policy{Config{Idle: -3}}, []string{"timeout: Config.Idle: -3ns is negative; " + such + ", or 0 for no timeout"}},
		{
			"all together",
			[]policy.Policy{Config{Total: -2, PerTry: -3, Idle: -4}},
			[]string{
				"timeout: Config.Total: -2ns is negative; " + such + ", 0 for 15s, or timeout.Unlimited",
				"timeout: Config.PerTry: -3ns is negative; " + such + ", or 0 for no timeout",
				"timeout: Config.Idle: -4ns is negative; " + such + ", or 0 for no timeout",
			},
		},
		{
			"twice",
			[]policy.Policy{Config{}, Config{}},
			[]string{"pillion: order: total timeout outside total timeout would set the limits twice; " +
				"leave one of them out, or put AnyOrder among the policies if you mean it"},
		},
		{
			"inside retry",
			[]policy.Policy{retry.Config{}, Config{}},
			[]string{"pillion: order: retry outside total timeout would limit each attempt, not the call; " +
				"write them in the order total timeout, retry, or put AnyOrder among the policies if you mean it"},
		},
		{"twice, with AnyOrder", []policy.Policy{Config{}, Config{}, policy.AnyOrder{}}, nil},
		{
			"units forgotten",
			[]policy.Policy{Config{Total: 2000, PerTry: 300, Idle: 1}},
			[]string{
				"timeout: Config.Total: 2µs is below 1ms; did you forget the unit? W" + such[1:] + ", 0 for 15s, or timeout.Unlimited",
				"timeout: Config.PerTry: 300ns is below 1ms; did you forget the unit? W" + such[1:] + ", or 0 for no timeout",
				"timeout: Config.Idle: 1ns is below 1ms; did you forget the unit? W" + such[1:] + ", or 0 for no timeout",
			},
		},
		{"shortest", []policy.Policy{Config{Total: 2 * ms, PerTry: ms, Idle: ms}}, nil},
		{
			"not below Total",
			[]policy.Policy{Config{Total: time.Second, PerTry: time.Second, Idle: time.Minute}},
			[]string{
				"timeout: Config.PerTry: 1s is not below Total, which is 1s; write less, or leave it out",
				"timeout: Config.Idle: 1m0s is not below Total, which is 1s; write less, or leave it out",
			},
		},
		{
			"not below the default of Total",
			[]policy.Policy{Config{PerTry: 15 * time.Second, Idle: 15*time.Second - 1}},
			[]string{"timeout: Config.PerTry: 15s is not below Total, which is 15s by default; write less, or leave it out"},
		},
		{"no Total", []policy.Policy{Config{Total: Unlimited, PerTry: time.Hour, Idle: time.Hour}}, nil},
		{"callers may lengthen Total", []policy.Policy{Config{Total: time.Second, PerTry: time.Minute, EnvoyHeaders: true}}, nil},
		{
			"one for the call, one for the attempts",
			[]policy.Policy{Config{Total: time.Second}, retry.Config{}, Config{Total: Unlimited, PerTry: 100 * ms}},
			nil,
		},
		{"only timeouts of attempts, inside retry", []policy.Policy{retry.Config{}, Config{Total: Unlimited, PerTry: time.Second}}, nil},
		{"only timeouts of attempts, twice", []policy.Policy{Config{Total: Unlimited, PerTry: time.Second}, Config{Total: Unlimited, Idle: time.Second}}, nil},
		{"no timeout, inside retry", []policy.Policy{retry.Config{}, &Config{Total: Unlimited}}, nil},
		{"only the first sets Total", []policy.Policy{Config{Total: time.Minute}, Config{PerTry: 20 * time.Second}}, nil},
		{"only the second sets Total", []policy.Policy{&Config{PerTry: 20 * time.Second}, &Config{Total: time.Minute}}, nil},
		{
			"one outside retry sets Total, one inside does not",
			[]policy.Policy{Config{Total: time.Minute}, retry.Config{}, Config{PerTry: time.Second}},
			nil,
		},
		{
			"both set Total",
			[]policy.Policy{Config{Total: time.Minute}, Config{Total: time.Second}},
			[]string{"pillion: order: total timeout outside total timeout would set the limits twice; " +
				"leave one of them out, or put AnyOrder among the policies if you mean it"},
		},
		{
			"a caller may set Total",
			[]policy.Policy{retry.Config{}, Config{Total: Unlimited, EnvoyHeaders: true}},
			[]string{"pillion: order: retry outside total timeout would limit each attempt, not the call; " +
				"write them in the order total timeout, retry, or put AnyOrder among the policies if you mean it"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			if _, err := pillion.New("recipes", tc.policies...); err != nil {
				got = strings.Split(strings.TrimPrefix(err.Error(), `upstream "recipes": `), "\n")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("errors of %+v (-want +got):\n%s", tc.policies, diff)
			}
		})
	}
}
