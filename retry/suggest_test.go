package retry

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
)

// TestSuggest checks what New's error suggests for an unknown condition.
func TestSuggest(t *testing.T) {
	for word, want := range map[string]string{
		"5XX":                    "5xx",
		"connect_failure":        "connect-failure",
		"Connect Failure":        "connect-failure",
		"gateway_error":          "gateway-error",
		"retriable-4XX":          "retriable-4xx",
		"4xx":                    "retriable-4xx",
		"503":                    "retriable-status-codes, with RetriableStatusCodes: []int{503}",
		"429":                    "retriable-status-codes, with RetriableStatusCodes: []int{429}",
		"5xx;reset":              "5xx,reset",
		"5xx reset":              "5xx,reset",
		"5XX | connect_failure":  "5xx,connect-failure",
		"5xx/429":                "5xx,retriable-status-codes, with RetriableStatusCodes: []int{429}",
		"timeout":                "reset, which covers the per-try timeout",
		"per_try_timeout":        "reset, which covers the per-try timeout",
		"connection-refused":     "connect-failure",
		"conect-failure":         "connect-failure",
		"resets":                 "reset",
		"retryable-status-codes": "retriable-status-codes",
		"retriable-status-code":  "retriable-status-codes",
		"UNAVAILABLE":            "unavailable",
		"DEADLINE_EXCEEDED":      "deadline-exceeded",
		"canceled":               "cancelled",
		"gateway":                "gateway-error",
		"refused":                "refused-stream",
		"ratelimited":            "envoy-ratelimited",
		"Default":                "default",
		"idempotence":            "idempotent",
		"sometimes":              "",
		"no":                     "",
		"x":                      "",
		"99":                     "",
		"600":                    "",
		";":                      "",
		"a;b":                    "",
		"5xx;often":              "",
	} {
		if got := suggest(word); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
		_, err := pillion.New("recipes", Config{On: word})
		switch {
		case err == nil:
			t.Errorf("%q: got no error", word)
		case strings.Contains(err.Error(), "did you mean") != (want != ""), !strings.HasSuffix(err.Error(), theWords):
			t.Errorf("%q: got %v, want a suggestion: %v, and the conditions", word, err, want != "")
		}
	}
}

// FuzzWords parses arbitrary lists of conditions:
//   - Nothing panics.
//   - The error for an unknown condition is one line that begins with the field.
//   - A suggestion that is a list of conditions is valid.
func FuzzWords(f *testing.F) {
	for _, on := range []string{
		"", " ", ",", "5xx,reset", "default,idempotent", "idempotent", "5XX", "5xx;reset", "429", "timeout", "\n", "a;b;c", "é", "\xff", "DEFAULT",
		"retriable-status-codes,retriable-headers,envoy-ratelimited", strings.Repeat("x", 300),
	} {
		f.Add(on)
	}
	f.Fuzz(func(t *testing.T, on string) {
		c, unknown := parse(on)
		_, err := parseStrict(on)
		empty := c == conditions{}
		if (err != nil) != (len(unknown) != 0 || (empty && strings.TrimSpace(on) != "")) {
			t.Errorf("%q: got %v, with %q unknown", on, err, unknown)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "retry: Config.On: ")) {
			t.Errorf("%q: got %q, want one line that begins with the field", on, err)
		}
		for _, word := range unknown {
			if meant := suggest(word); meant != "" && !strings.Contains(meant, " ") {
				if _, bad := parse(meant); len(bad) != 0 {
					t.Errorf("%q: suggested %q, of which %q is unknown", word, meant, bad)
				}
			}
		}
	})
}

// TestLegalWords checks that the list is complete, and that each condition has an effect.
func TestLegalWords(t *testing.T) {
	legal := legalWords()
	if want := append([]string{"default", "idempotent"}, slices.Sorted(maps.Keys(words))...); !slices.Equal(legal, want) {
		t.Errorf("got %q, want %q", legal, want)
	}
	for _, word := range legal {
		if c, unknown := parse(word); len(unknown) != 0 || c == (conditions{}) {
			t.Errorf("%s: got %+v and %q unknown, want a condition", word, c, unknown)
		}
	}
}
