package timeout

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/retry"
)

func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		name     string
		policies []pillion.Policy
		want     []string
	}{
		{"zero", []pillion.Policy{Config{}}, nil},
		{"none", []pillion.Policy{Config{Total: None, PerTry: None, Idle: None}}, nil},
		{"Total", []pillion.Policy{Config{Total: -2}}, []string{"timeout: Config.Total: -2ns is negative"}},
		{"PerTry", []pillion.Policy{Config{PerTry: -time.Second}}, []string{"timeout: Config.PerTry: -1s is negative"}},
		{"Idle", []pillion.Policy{Config{Idle: -3}}, []string{"timeout: Config.Idle: -3ns is negative"}},
		{
			"all at once",
			[]pillion.Policy{Config{Total: -2, PerTry: -3, Idle: -4}},
			[]string{
				"timeout: Config.Total: -2ns is negative",
				"timeout: Config.PerTry: -3ns is negative",
				"timeout: Config.Idle: -4ns is negative",
			},
		},
		{
			"twice",
			[]pillion.Policy{Config{}, Config{}},
			[]string{"pillion: order: total timeout outside total timeout would set the limits twice; " +
				"put AnyOrder among the policies if you mean it"},
		},
		{
			"inside of retry",
			[]pillion.Policy{retry.Config{}, Config{}},
			[]string{"pillion: order: retry outside total timeout would limit each attempt, not the call; " +
				"put AnyOrder among the policies if you mean it"},
		},
		{"twice, and meant", []pillion.Policy{Config{}, Config{}, pillion.AnyOrder{}}, nil},
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
