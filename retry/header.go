package retry

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// HeaderMatcher matches a header of a request or an answer. Of Exact, Prefix,
// Suffix, Contains and Regex at most one may be set; with none of them it is enough
// that the header is there. Mirrors Envoy's HeaderMatcher.
type HeaderMatcher struct {
	Name     string `json:"name"`
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`
	Regex    string `json:"regex,omitempty"`  // must match the whole value
	Invert   bool   `json:"invert,omitempty"` // match what does not match; a missing header too
}

// matcher is a HeaderMatcher made ready.
type matcher struct {
	name   string
	test   func(value string) bool
	invert bool
}

func compileHeaders(field string, list []HeaderMatcher) ([]matcher, error) {
	var bad []error
	ready := make([]matcher, 0, len(list))
	for i, h := range list {
		m, err := h.compile()
		if err != nil {
			bad = append(bad, fmt.Errorf("retry: Config.%s[%d]: %w", field, i, err))
			continue
		}
		ready = append(ready, m)
	}
	return ready, errors.Join(bad...)
}

func (h HeaderMatcher) compile() (matcher, error) {
	m := matcher{name: h.Name, invert: h.Invert, test: func(string) bool { return true }}
	tests := 0
	for _, t := range []struct {
		want string
		test func(string) bool
	}{
		{h.Exact, func(v string) bool { return v == h.Exact }},
		{h.Prefix, func(v string) bool { return strings.HasPrefix(v, h.Prefix) }},
		{h.Suffix, func(v string) bool { return strings.HasSuffix(v, h.Suffix) }},
		{h.Contains, func(v string) bool { return strings.Contains(v, h.Contains) }},
	} {
		if t.want != "" {
			m.test = t.test
			tests++
		}
	}
	if h.Regex != "" {
		re, err := regexp.Compile(`^(?:` + h.Regex + `)$`)
		if err != nil {
			return m, fmt.Errorf("Regex: %w", err) //nolint:staticcheck // it is the field's name
		}
		m.test = re.MatchString
		tests++
	}
	switch {
	case h.Name == "":
		return m, errors.New("Name is empty") //nolint:staticcheck // it is the field's name
	case tests > 1:
		return m, fmt.Errorf("%q has more than one of Exact, Prefix, Suffix, Contains and Regex", h.Name)
	}
	return m, nil
}

func anyMatches(list []matcher, get func(name string) (string, bool)) bool {
	for _, m := range list {
		value, there := get(m.name)
		if (there && m.test(value)) != m.invert {
			return true
		}
	}
	return false
}

// ResetFormat is how a [ResetHeader] says how long to wait.
type ResetFormat uint8

// The formats.
const (
	SecondsOrDate ResetFormat = iota // whole seconds, or an HTTP date: what Retry-After may hold (RFC 9110, section 10.2.3)
	Seconds                          // whole seconds only, as Envoy's SECONDS
	UnixTimestamp                    // seconds since 1970, as Envoy's UNIX_TIMESTAMP
)

// ResetHeader names a header in which an answer asks for a wait.
type ResetHeader struct {
	Name   string      `json:"name"`
	Format ResetFormat `json:"format,omitempty"`
}

func (h ResetHeader) check() error {
	switch {
	case h.Name == "":
		return errors.New("retry: Config.ResetHeaders: Name is empty")
	case h.Format > UnixTimestamp:
		return fmt.Errorf("retry: Config.ResetHeaders: %s: Format %d is unknown", h.Name, h.Format)
	}
	return nil
}

// parse reads a header's value at the instant now. A wait that is over already,
// or that no Duration can hold, is not ok; nor is one of no time, as in Envoy: whoever
// asks for it is not to be hit by all callers at once.
func (f ResetFormat) parse(value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	seconds, err := strconv.ParseUint(value, 10, 63)
	switch {
	case err == nil && f == UnixTimestamp:
		return until(time.Unix(int64(seconds), 0), now)
	case err == nil && seconds > 0 && seconds <= maxSeconds:
		return time.Duration(seconds) * time.Second, true
	case f == SecondsOrDate:
		if at, err := http.ParseTime(value); err == nil {
			return until(at, now)
		}
	}
	return 0, false
}

// maxSeconds is the longest wait in seconds that a Duration can hold.
const maxSeconds = uint64(1<<63-1) / uint64(time.Second)

func until(at, now time.Time) (wait time.Duration, ok bool) {
	wait = at.Sub(now) // or as much of it as fits
	if wait <= 0 || !now.Add(wait).Equal(at) {
		return 0, false
	}
	return wait, true
}
