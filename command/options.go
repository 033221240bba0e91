package command

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/pillion-go/pillion/retry"
)

// ParseRetry reads the options of Ruby's retryable from a map, as it comes from a
// configuration file or from ported code. The keys are the names of the options:
//
//   - tries is a whole number from 1, or "infinite"
//   - sleep is a number of seconds, a [time.Duration], or a func(retry int) time.Duration; it
//     is 0, or at least a millisecond
//   - on and not are a [retry.Match] or a list of them
//   - matching is a string, a [*regexp.Regexp], any other [retry.Pattern], or a list
//   - exception_cb is a func(error), log_method a func(int, error), ensure a func(int)
//
// The error matches [ErrInvalid] and joins all errors: unknown options and invalid values.
// The gem's options sleep_method and contexts are unknown here. tries: 0 is invalid: with it
// the gem never runs the work.
func ParseRetry(options map[string]any) (retry.Retryable, error) {
	var r retry.Retryable
	var bad problems
	for _, name := range slices.Sorted(maps.Keys(options)) {
		parse, known := retryOptions[name]
		if !known {
			bad.say("invalid: retry option %q is unknown", name)
			continue
		}
		if !parse(&r, options[name]) {
			bad.say("invalid: retry option %s: %v is not valid", name, options[name])
		}
	}
	if err := bad.err(); err != nil {
		return retry.Retryable{}, err
	}
	return r, nil
}

var retryOptions = map[string]func(r *retry.Retryable, v any) bool{ //nolint:gochecknoglobals // a table
	"tries":    func(r *retry.Retryable, v any) bool { return parseTries(&r.Tries, v) },
	"sleep":    parseSleep,
	"on":       func(r *retry.Retryable, v any) bool { return parseList(&r.On, v, parseMatch) },
	"not":      func(r *retry.Retryable, v any) bool { return parseList(&r.Not, v, parseMatch) },
	"matching": func(r *retry.Retryable, v any) bool { return parseList(&r.Matching, v, parsePattern) },
	"exception_cb": func(r *retry.Retryable, v any) (ok bool) {
		r.ExceptionCB, ok = v.(func(error))
		return ok && r.ExceptionCB != nil
	},
	"log_method": func(r *retry.Retryable, v any) (ok bool) {
		r.LogMethod, ok = v.(func(int, error))
		return ok && r.LogMethod != nil
	},
	"ensure": func(r *retry.Retryable, v any) (ok bool) {
		r.Ensure, ok = v.(func(int))
		return ok && r.Ensure != nil
	},
}

func parseTries(tries *int, v any) bool {
	if v == "infinite" {
		*tries = retry.Unlimited
		return true
	}
	n, ok := number(v)
	*tries = int(n)
	return ok && n >= 1 && n <= math.MaxInt32 && n == math.Trunc(n)
}

func parseSleep(r *retry.Retryable, v any) bool {
	switch v := v.(type) {
	case func(int) time.Duration:
		r.SleepFunc = v
		return v != nil
	case time.Duration:
		r.Sleep = v
	default:
		seconds, ok := number(v)
		if !ok || !(math.Abs(seconds) < math.MaxInt64/float64(time.Second)) {
			return false
		}
		r.Sleep = time.Duration(seconds * float64(time.Second))
		if seconds != 0 && r.Sleep == 0 {
			return false
		}
	}
	if r.Sleep == 0 {
		r.Sleep = retry.Zero
		return true
	}
	return r.Sleep >= time.Millisecond
}

// number returns v as a float64, if it is a number.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// parseList reads one element, or a list of elements.
func parseList[E any](list *[]E, v any, one func(any) (E, bool)) bool {
	var all []any
	switch v := v.(type) {
	case []E:
		for _, e := range v {
			all = append(all, e)
		}
	case []string:
		for _, e := range v {
			all = append(all, e)
		}
	case []any:
		all = v
	default:
		all = []any{v}
	}
	*list = []E{}
	for _, v := range all {
		e, ok := one(v)
		if !ok {
			return false
		}
		*list = append(*list, e)
	}
	return true
}

func parseMatch(v any) (retry.Match, bool) {
	switch v := v.(type) {
	case retry.Match:
		return v, v != nil
	case func(error) bool:
		return v, v != nil
	}
	return nil, false
}

func parsePattern(v any) (retry.Pattern, bool) {
	switch v := v.(type) {
	case string:
		return retry.Substring(v), true
	case *regexp.Regexp:
		return v, v != nil
	case retry.Pattern:
		return v, true
	}
	return nil, false
}
