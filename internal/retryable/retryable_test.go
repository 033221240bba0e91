package retryable

import (
	"errors"
	"regexp"
	"testing"
)

func TestSelects(t *testing.T) {
	errSalt := errors.New("no salt")
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	salt, other := is(errSalt), is(errors.New("no soup"))
	type matches = []func(error) bool
	type patterns = []*regexp.Regexp
	for name, test := range map[string]struct {
		on, not  matches
		matching patterns
		want     bool
	}{
		"all":                   {nil, nil, nil, true},
		"among others":          {matches{other, salt}, nil, nil, true},
		"others":                {matches{other}, nil, nil, false},
		"an empty list":         {matches{}, nil, nil, false},
		"excluded":              {nil, matches{other, salt}, nil, false},
		"another excluded":      {nil, matches{other}, nil, true},
		"excluded and included": {matches{salt}, matches{salt}, nil, false},
		"its text":              {nil, nil, patterns{regexp.MustCompile("x"), regexp.MustCompile("^text of no salt$")}, true},
		"another text":          {nil, nil, patterns{regexp.MustCompile("soup")}, false},
		"no texts":              {nil, nil, patterns{}, false},
		"excluded, its text":    {nil, matches{salt}, patterns{regexp.MustCompile("salt")}, false},
	} {
		text := func(err error) string { return "text of " + err.Error() }
		if got := Selects(errSalt, text, test.on, test.not, test.matching); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
