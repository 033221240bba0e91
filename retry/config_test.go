package retry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
)

// lines gives what New says is wrong, without the lead.
func lines(t *testing.T, p pillion.Policy) []string {
	t.Helper()
	_, err := pillion.New("recipes", p)
	if err == nil {
		return nil
	}
	return strings.Split(strings.TrimPrefix(err.Error(), `upstream "recipes": `), "\n")
}

func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"zero", Config{}, nil},
		{"none", Config{NumRetries: None}, nil},
		{"spaces and empty words", Config{On: " 5xx , reset,, connect-failure "}, nil},
		{"header word in other case", Config{On: "5XX"}, []string{`retry: Config.On: ["5XX"] is no retry condition of Envoy's`}},
		{
			"unknown words",
			Config{On: "5xx,sometimes,reset , never"},
			[]string{`retry: Config.On: ["sometimes" "never"] is no retry condition of Envoy's`},
		},
		{"no word", Config{On: " , "}, []string{`retry: Config.On: [" , "] is no retry condition of Envoy's`}},
		{"NumRetries", Config{NumRetries: -2}, []string{"retry: Config.NumRetries: -2 is negative"}},
		{
			"negative intervals",
			Config{BaseInterval: -1, MaxInterval: -2, MaxResetInterval: -3},
			[]string{
				"retry: Config.BaseInterval: -1ns is negative",
				"retry: Config.MaxInterval: -2ns is negative",
				"retry: Config.MaxResetInterval: -3ns is negative",
			},
		},
		{
			"MaxInterval below BaseInterval",
			Config{BaseInterval: time.Second, MaxInterval: time.Millisecond},
			[]string{"retry: Config.MaxInterval: 1ms is below BaseInterval"},
		},
		{
			"MaxInterval below the default BaseInterval",
			Config{MaxInterval: 24 * time.Millisecond},
			[]string{"retry: Config.MaxInterval: 24ms is below BaseInterval"},
		},
		{"MaxInterval of BaseInterval", Config{MaxInterval: 25 * time.Millisecond}, nil},
		{
			"status codes that are none",
			Config{On: "retriable-status-codes", RetriableStatusCodes: []int{99, 100, 599, 600}},
			[]string{
				"retry: Config.RetriableStatusCodes: 99 is no HTTP status",
				"retry: Config.RetriableStatusCodes: 600 is no HTTP status",
			},
		},
		{
			"status codes without the word",
			Config{On: "5xx", RetriableStatusCodes: []int{429}},
			[]string{"retry: Config.RetriableStatusCodes: no effect: On lacks retriable-status-codes"},
		},
		{
			"headers without the word",
			Config{RetriableHeaders: []HeaderMatcher{{Name: "X-Again"}}},
			[]string{"retry: Config.RetriableHeaders: no effect: On lacks retriable-headers"},
		},
		{
			"header matchers",
			Config{On: "retriable-headers", RetriableHeaders: []HeaderMatcher{
				{Name: "X-Good"}, {Exact: "yes"}, {Name: "X-Two", Prefix: "a", Suffix: "b"}, {Name: "X-Regex", Regex: "("},
			}},
			[]string{
				"retry: Config.RetriableHeaders[1]: Name is empty",
				`retry: Config.RetriableHeaders[2]: "X-Two" has more than one of Exact, Prefix, Suffix, Contains and Regex`,
				"retry: Config.RetriableHeaders[3]: Regex: error parsing regexp: missing closing ): `^(?:()$`",
			},
		},
		{
			"request header matchers",
			Config{RetriableRequestHeaders: []HeaderMatcher{{Name: "X", Contains: "a", Regex: "b"}}},
			[]string{`retry: Config.RetriableRequestHeaders[0]: "X" has more than one of Exact, Prefix, Suffix, Contains and Regex`},
		},
		{
			"reset headers",
			Config{ResetHeaders: []ResetHeader{{}, {Name: "X-Reset", Format: 3}, {Name: "Retry-After"}}},
			[]string{
				"retry: Config.ResetHeaders: Name is empty",
				"retry: Config.ResetHeaders: X-Reset: Format 3 is unknown",
			},
		},
		{
			"all at once",
			Config{
				On: "no", NumRetries: -9, BaseInterval: -1, RetriableStatusCodes: []int{1},
				RetriableHeaders: []HeaderMatcher{{}}, RetriableRequestHeaders: []HeaderMatcher{{}}, ResetHeaders: []ResetHeader{{}},
			},
			[]string{
				`retry: Config.On: ["no"] is no retry condition of Envoy's`,
				"retry: Config.NumRetries: -9 is negative",
				"retry: Config.BaseInterval: -1ns is negative",
				"retry: Config.RetriableStatusCodes: 1 is no HTTP status",
				"retry: Config.RetriableStatusCodes: no effect: On lacks retriable-status-codes",
				"retry: Config.RetriableHeaders: no effect: On lacks retriable-headers",
				"retry: Config.RetriableHeaders[0]: Name is empty",
				"retry: Config.RetriableRequestHeaders[0]: Name is empty",
				"retry: Config.ResetHeaders: Name is empty",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, lines(t, tc.cfg)); diff != "" {
				t.Errorf("errors of %+v (-want +got):\n%s", tc.cfg, diff)
			}
		})
	}
}

// TestOrder has New refuse a retry where it makes no sense, both kinds of it.
func TestOrder(t *testing.T) {
	want := "pillion: order: retry outside retry would multiply the attempts; put AnyOrder among the policies if you mean it"
	for _, p := range []pillion.Policy{Config{}, Retryable{}} {
		_, err := pillion.New("recipes", p, Config{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T outside Config: got %v, want %s", p, err, want)
		}
	}
}

// TestConfigIsCopied changes what a Config was made of, after the upstream was made.
func TestConfigIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codes := []int{404}
		matchers := []HeaderMatcher{{Name: "X-Again"}}
		resets := []ResetHeader{{Name: "X-Reset"}}
		u := upstream(t, Config{
			On: "retriable-status-codes,retriable-headers", RetriableStatusCodes: codes, RetriableHeaders: matchers,
			ResetHeaders: resets, Rand: always(0),
		})
		codes[0], matchers[0].Name, resets[0].Name = 200, "X-Other", "X-Other"
		for _, a := range []answer{status(404, "X-Reset", "1"), status(200, "X-Again", "", "X-Reset", "1")} {
			if r := call(t, u, answers(a, status(204)), get(t.Context())); r.code != 204 || r.elapsed != time.Second {
				t.Errorf("got status %d after %v, want the retry's 204 after 1s", r.code, r.elapsed)
			}
		}
	})
}
