package pillion_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// TestNil passes nil to each function that a program calls: an error names what is missing, or a
// panic if the function returns no error.
func TestNil(t *testing.T) {
	u := newUpstream(t)
	work := func(context.Context) (int, error) { return 1, nil }
	var none context.Context
	do := func(ctx context.Context, u *pillion.Upstream, work func(context.Context) (int, error)) func() error {
		return func() error {
			_, err := pillion.Do(ctx, u, work)
			return err
		}
	}
	does := func(f func()) func() error { return func() error { f(); return nil } }
	tests := []struct {
		name   string
		call   func() error
		panics bool
		want   string
	}{
		{"Do, upstream", do(t.Context(), nil, work), false, "pillion: Do: nil Upstream"},
		{"Do, context", do(none, u, work), false, "pillion: Do: recipes: nil context"},
		{"Do, function", do(t.Context(), u, nil), false, "pillion: Do: recipes: nil function"},
		{"Do, all", do(none, nil, nil), false, "pillion: Do: nil Upstream"},
		{"RoundTrip", func() error { _, err := u.Transport(nil).RoundTrip(nil); return err }, false, "pillion: recipes: nil request"},
		{"Transport", does(func() { (*pillion.Upstream)(nil).Transport(nil) }), true, "pillion: Transport of a nil Upstream"},
		{"WithIdempotent", does(func() { pillion.WithIdempotent(none) }), true, "pillion: WithIdempotent: nil context"},
		{"Invoke, chain", does(func() { (*policy.Chain)(nil).Invoke(t.Context(), &letter{}) }), true, "pillion: Invoke: nil Chain"},
		{"Invoke, context", does(func() { u.Chain().Invoke(none, &letter{}) }), true, "pillion: Invoke: nil context"},
		{"Invoke, exchange", does(func() { u.Chain().Invoke(t.Context(), nil) }), true, "pillion: Invoke: nil Exchange"},
		{"a policy's outcome", does(func() {
			_, _ = pillion.Do(t.Context(), newUpstream(t, around(func(context.Context, *policy.Call, policy.Func) *policy.Outcome { return nil })), work)
		}), true, "pillion: recipes: a policy returned a nil Outcome"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var err error
			got := recovered(func() { err = test.call() })
			if !test.panics {
				got = nil
				if err != nil {
					got = err.Error()
				}
			}
			if got != test.want {
				t.Errorf("got %v, want %q", got, test.want)
			}
		})
	}
}

// TestNil_harmless passes nil where it means the default, or nothing.
func TestNil_harmless(t *testing.T) {
	var listener pillion.Listener
	var config *retry.Config
	u := newUpstream(t, nil, listener, pillion.Log(nil), config, (*limits.Config)(nil), (*pillion.Options)(nil))
	if resp, err := u.Transport(answers(http.StatusOK, "soup")).RoundTrip(&http.Request{}); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a request without anything: got %v, %v, want 200", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	if _, err := u.Transport(&http.Transport{}).RoundTrip(&http.Request{}); err == nil || !strings.Contains(err.Error(), "nil Request.URL") {
		t.Errorf("the same over net/http: got %v, want its own complaint", err)
	}
	if _, err := newUpstream(t, pillion.Log(slog.New(slog.DiscardHandler))).Transport(&http.Transport{}).RoundTrip(&http.Request{URL: mustURL(t, "http://recipes.test/")}); err == nil ||
		!strings.Contains(err.Error(), "nil Request.Header") {
		t.Errorf("a request without a header: got %v, want net/http's own complaint", err)
	}
}

// TestOptions_settings pins the errors of bad settings.
func TestOptions_settings(t *testing.T) {
	tests := map[string]struct {
		policies []pillion.Policy
		want     []string // lines of the error, nil for none
	}{
		"none":     {nil, nil},
		"one":      {[]pillion.Policy{pillion.Options{}}, nil},
		"1ms":      {[]pillion.Policy{pillion.Options{DrainTime: 1e6}}, nil},
		"two":      {[]pillion.Policy{pillion.Options{}, pillion.Options{LocalReplies: true}}, []string{`upstream "recipes": pillion: Options: it is given more than once; write one with all the fields`}},
		"two, nil": {[]pillion.Policy{(*pillion.Options)(nil), &pillion.Options{}}, []string{`upstream "recipes": pillion: Options: it is given more than once; write one with all the fields`}},
		"no unit":  {[]pillion.Policy{pillion.Options{DrainTime: 100}}, []string{`upstream "recipes": pillion: Options.DrainTime: 100ns is below 1ms; did you forget the unit? Write a duration such as 5*time.Second, or 0 for 100ms`}},
		"all wrong": {
			[]pillion.Policy{pillion.Options{ReplayBuffer: -1, DrainBytes: -2, DrainTime: 5}, retry.Config{On: "5xx"}, pillion.Options{}},
			[]string{
				`upstream "recipes": pillion: Options: it is given more than once; write one with all the fields`,
				"pillion: Options.ReplayBuffer: -1 is negative; write 1 or more, or 0 to keep nothing",
				"pillion: Options.DrainBytes: -2 is negative; write 1 or more, or 0 for 64 KiB",
				"pillion: Options.DrainTime: 5ns is below 1ms; did you forget the unit? Write a duration such as 5*time.Second, or 0 for 100ms",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := pillion.New("recipes", test.policies...)
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}
