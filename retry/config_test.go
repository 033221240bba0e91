package retry

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// lines returns the lines of New's error, without the prefix.
func lines(t *testing.T, p policy.Policy) []string {
	t.Helper()
	_, err := pillion.New("recipes", p)
	if err == nil {
		return nil
	}
	return strings.Split(strings.TrimPrefix(err.Error(), `upstream "recipes": `), "\n")
}

// theWords ends each error about On.
const theWords = "; the conditions are default, idempotent, 5xx, cancelled, connect-failure, deadline-exceeded, envoy-ratelimited, " +
	"gateway-error, internal, refused-stream, reset, reset-before-request, resource-exhausted, retriable-4xx, retriable-headers, " +
	"retriable-status-codes, unavailable, separated by commas"

// such is what errors about durations say to write.
const such = "write a duration such as 5*time.Second"

func TestConfigErrors(t *testing.T) {
	when := func(*policy.Outcome) bool { return false }
	source := func() backoff.BackOff { return &backoff.ZeroBackOff{} }
	for _, tc := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"zero", Config{}, nil},
		{"none", Config{NumRetries: Never}, nil},
		{"spaces and empty words", Config{On: " 5xx , reset,, connect-failure "}, nil},
		{"condition in upper case", Config{On: "5XX"}, []string{`retry: Config.On: "5XX" is no retry condition (did you mean 5xx?)` + theWords}},
		{
			"unknown conditions",
			Config{On: "5xx,sometimes,reset , never"},
			[]string{`retry: Config.On: "sometimes" is no retry condition; "never" is no retry condition` + theWords},
		},
		{"no condition", Config{On: " , "}, []string{`retry: Config.On: " , " has no condition; leave it empty for the default conditions`}},
		{"conditions that Envoy does not have", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: []int{429}}, nil},
		{"default alone", Config{On: "default"}, nil},
		{"idempotent alone", Config{On: "idempotent"}, []string{`retry: Config.On: "idempotent" is no condition by itself; write "default,idempotent"`}},
		{"idempotent for When", Config{On: "idempotent", When: when}, nil},
		{"idempotent for the caller's conditions", Config{On: "idempotent", EnvoyHeaders: true}, nil},
		{"NumRetries", Config{NumRetries: -2}, []string{"retry: Config.NumRetries: -2 is negative; write 1 or more, 0 for 1, or retry.Never for none"}},
		{
			"negative intervals",
			Config{BaseInterval: -1, MaxInterval: -2, MaxResetInterval: -3},
			[]string{
				"retry: Config.BaseInterval: -1ns is negative; " + such + ", or 0 for 25ms",
				"retry: Config.MaxInterval: -2ns is negative; " + such + ", or 0 for ten times BaseInterval",
				"retry: Config.MaxResetInterval: -3ns is negative; " + such + ", or 0 for 5m",
			},
		},
		{
			"MaxInterval below BaseInterval",
			Config{BaseInterval: time.Second, MaxInterval: time.Millisecond},
			[]string{"retry: Config.MaxInterval: 1ms is below BaseInterval; write 1s or more, or 0 for ten times BaseInterval"},
		},
		{
			"MaxInterval below the default BaseInterval",
			Config{MaxInterval: 24 * time.Millisecond},
			[]string{"retry: Config.MaxInterval: 24ms is below BaseInterval; write 25ms or more, or 0 for ten times BaseInterval"},
		},
		{"MaxInterval of BaseInterval", Config{MaxInterval: 25 * time.Millisecond}, nil},
		{
			"units forgotten",
			Config{BaseInterval: 25, MaxInterval: 250, MaxResetInterval: 999999},
			[]string{
				"retry: Config.BaseInterval: 25ns is below 1ms; did you forget the unit? W" + such[1:] + ", or 0 for 25ms",
				"retry: Config.MaxInterval: 250ns is below 1ms; did you forget the unit? W" + such[1:] + ", or 0 for ten times BaseInterval",
				"retry: Config.MaxResetInterval: 999.999µs is below 1ms; did you forget the unit? W" + such[1:] + ", or 0 for 5m",
			},
		},
		{"shortest intervals", Config{BaseInterval: time.Millisecond, MaxInterval: time.Millisecond, MaxResetInterval: time.Millisecond}, nil},
		{
			"intervals with BackOff",
			Config{BackOff: source, BaseInterval: time.Second, MaxInterval: time.Minute, MaxResetInterval: time.Minute},
			[]string{
				"retry: Config.BaseInterval: 1s has no effect beside BackOff; leave it out",
				"retry: Config.MaxInterval: 1m0s has no effect beside BackOff; leave it out",
			},
		},
		{
			"MaxResetInterval without headers",
			Config{ResetHeaders: []ResetHeader{}, MaxResetInterval: time.Minute},
			[]string{"retry: Config.MaxResetInterval: 1m0s has no effect without ResetHeaders; leave it out"},
		},
		{
			"invalid status codes",
			Config{On: "retriable-status-codes", RetriableStatusCodes: []int{99, 100, 599, 600}},
			[]string{
				"retry: Config.RetriableStatusCodes: 99 is no HTTP status; write one from 100 to 599",
				"retry: Config.RetriableStatusCodes: 600 is no HTTP status; write one from 100 to 599",
			},
		},
		{
			"status codes without the condition",
			Config{On: "5xx", RetriableStatusCodes: []int{429}},
			[]string{"retry: Config.RetriableStatusCodes: no effect, because On lacks retriable-status-codes; add it to On, or leave RetriableStatusCodes out"},
		},
		{
			"headers without the condition",
			Config{RetriableHeaders: []HeaderMatcher{{Name: "X-Again"}}},
			[]string{"retry: Config.RetriableHeaders: no effect, because On lacks retriable-headers; add it to On, or leave RetriableHeaders out"},
		},
		{
			"conditions without their lists",
			Config{On: "retriable-headers,retriable-status-codes"},
			[]string{
				"retry: Config.On: retriable-status-codes has no effect, because RetriableStatusCodes is empty; fill that, or leave retriable-status-codes out",
				"retry: Config.On: retriable-headers has no effect, because RetriableHeaders is empty; fill that, or leave retriable-headers out",
			},
		},
		{
			"conditions and lists that callers complete",
			Config{On: "retriable-headers", RetriableStatusCodes: []int{429}, EnvoyHeaders: true},
			nil,
		},
		{
			"invalid lists that callers complete",
			Config{RetriableStatusCodes: []int{42}, RetriableHeaders: []HeaderMatcher{{}}, EnvoyHeaders: true},
			[]string{"retry: Config.RetriableStatusCodes: 42 is no HTTP status; write one from 100 to 599", "retry: Config.RetriableHeaders[0]: Name is empty; write one such as X-Retry"},
		},
		{
			"header names",
			Config{
				On: "retriable-headers", RetriableHeaders: []HeaderMatcher{{Name: "X Again"}, {Name: ":status"}},
				RetriableRequestHeaders: []HeaderMatcher{{Name: "X-Again:"}}, ResetHeaders: []ResetHeader{{Name: "Retry\nAfter"}},
			},
			[]string{
				`retry: Config.RetriableHeaders[0]: Name "X Again" is no header name; write one such as X-Retry`,
				`retry: Config.RetriableHeaders[1]: Name ":status" is no header name; write one such as X-Retry`,
				`retry: Config.RetriableRequestHeaders[0]: Name "X-Again:" is no header name; write one such as X-Retry`,
				`retry: Config.ResetHeaders[0]: Name "Retry\nAfter" is no header name; write one such as Retry-After`,
			},
		},
		{
			"expressions",
			Config{On: "retriable-headers", RetriableHeaders: []HeaderMatcher{
				{Name: "X", Regex: "a)(b"}, {Name: "X", Regex: "(\n"}, {Name: "X", Regex: "(?i)a|b"},
			}},
			[]string{
				`retry: Config.RetriableHeaders[0]: Regex "a)(b": unexpected )`,
				`retry: Config.RetriableHeaders[1]: Regex "(\n": missing closing )`,
			},
		},
		{
			"header matchers",
			Config{On: "retriable-headers", RetriableHeaders: []HeaderMatcher{
				{Name: "X-Good"}, {Exact: "yes"}, {Name: "X-Two", Prefix: "a", Suffix: "b"}, {Name: "X-Regex", Regex: "("},
			}},
			[]string{
				"retry: Config.RetriableHeaders[1]: Name is empty; write one such as X-Retry",
				`retry: Config.RetriableHeaders[2]: "X-Two" has more than one of Exact, Prefix, Suffix, Contains and Regex; write one of them`,
				`retry: Config.RetriableHeaders[3]: Regex "(": missing closing )`,
			},
		},
		{
			"request header matchers",
			Config{RetriableRequestHeaders: []HeaderMatcher{{Name: "X", Contains: "a", Regex: "b"}}},
			[]string{`retry: Config.RetriableRequestHeaders[0]: "X" has more than one of Exact, Prefix, Suffix, Contains and Regex; write one of them`},
		},
		{
			"reset headers",
			Config{ResetHeaders: []ResetHeader{{}, {Name: "X-Reset", Format: 3}, {Name: "Retry-After"}}},
			[]string{
				"retry: Config.ResetHeaders[0]: Name is empty; write one such as Retry-After",
				"retry: Config.ResetHeaders[1]: Format 3 is unknown; write retry.SecondsOrDate, retry.Seconds or retry.UnixTimestamp",
			},
		},
		{
			"all together",
			Config{
				On: "no", NumRetries: -9, BaseInterval: -1, RetriableStatusCodes: []int{1},
				RetriableHeaders: []HeaderMatcher{{}}, RetriableRequestHeaders: []HeaderMatcher{{}}, ResetHeaders: []ResetHeader{{}},
			},
			[]string{
				`retry: Config.On: "no" is no retry condition` + theWords,
				"retry: Config.NumRetries: -9 is negative; write 1 or more, 0 for 1, or retry.Never for none",
				"retry: Config.BaseInterval: -1ns is negative; " + such + ", or 0 for 25ms",
				"retry: Config.RetriableStatusCodes: 1 is no HTTP status; write one from 100 to 599",
				"retry: Config.RetriableStatusCodes: no effect, because On lacks retriable-status-codes; add it to On, or leave RetriableStatusCodes out",
				"retry: Config.RetriableHeaders: no effect, because On lacks retriable-headers; add it to On, or leave RetriableHeaders out",
				"retry: Config.RetriableHeaders[0]: Name is empty; write one such as X-Retry",
				"retry: Config.RetriableRequestHeaders[0]: Name is empty; write one such as X-Retry",
				"retry: Config.ResetHeaders[0]: Name is empty; write one such as Retry-After",
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

// TestOrder checks that New refuses one retry policy outside another, for both types.
func TestOrder(t *testing.T) {
	want := "pillion: order: retry outside retry would multiply the attempts; leave one of them out, or put AnyOrder among the policies if you mean it"
	for _, p := range []policy.Policy{Config{}, Retryable{}} {
		_, err := pillion.New("recipes", p, Config{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T outside Config: got %v, want %s", p, err, want)
		}
	}
}

// TestConfigIsCopied changes the slices of a Config after the upstream was made.
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

// TestConfigJSON writes a Config and reads it again. An empty list of reset headers must stay
// different from nil.
func TestConfigJSON(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{ResetHeaders: []ResetHeader{}},
		{On: "default,idempotent", ResetHeaders: []ResetHeader{{Name: "X-Reset", Format: Seconds}}, Budget: &Budget{Percent: 30, Window: time.Minute}},
		{Budget: &Budget{Disabled: true}},
	} {
		text, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var read Config
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cfg, read); diff != "" {
			t.Errorf("%s (-written +read):\n%s", text, diff)
		}
	}
}
