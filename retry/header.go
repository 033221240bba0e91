package retry

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
)

// HeaderMatcher matches a header of a request or a response. At most one of Exact, Prefix,
// Suffix, Contains and Regex may be set. If none is, the header must be present with any value.
// A header with several lines matches if one line does, or all lines joined by commas. Mirrors
// Envoy's HeaderMatcher.
type HeaderMatcher struct {
	Name     string `json:"name"`
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`
	Regex    string `json:"regex,omitempty"` // must match the whole value

	// Invert inverts the match. As in Envoy, a missing header then matches only if no other
	// field than Name is set.
	Invert bool `json:"invert,omitempty"`
}

// matcher is a compiled HeaderMatcher.
type matcher struct {
	name   string
	test   func(value string) bool // nil if the header only has to be present
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
	m := matcher{name: h.Name, invert: h.Invert}
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
		re, err := compileRegex(h.Regex)
		if err != nil {
			return m, err
		}
		m.test = re.MatchString
		tests++
	}
	switch {
	case h.Name == "":
		return m, errors.New("Name is empty") //nolint:staticcheck // it is the field's name
	case !isToken(h.Name):
		return m, fmt.Errorf("Name %q is no header name; write one such as X-Retry", h.Name) //nolint:staticcheck // it is the field's name
	case tests > 1:
		return m, fmt.Errorf("%q has more than one of Exact, Prefix, Suffix, Contains and Regex", h.Name)
	}
	return m, nil
}

// compileRegex compiles an expression that must match a whole value. The expression must be
// valid by itself: ")(" is not, although "^(?:)(?:)$" is.
func compileRegex(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		if wrong, ok := errors.AsType[*syntax.Error](err); ok { // without the expression, which may have several lines
			err = errors.New(string(wrong.Code))
		}
		return nil, fmt.Errorf("Regex %q: %w", expr, err) //nolint:staticcheck // it is the field's name
	}
	return regexp.Compile(`^(?:` + expr + `)$`)
}

// isToken reports whether name is a valid header name (RFC 9110, section 5.6.2).
func isToken(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// anyMatches reports whether one of the matchers matches. get returns the values of a header,
// or nil if it is missing.
func anyMatches(list []matcher, get func(name string) []string) bool {
	return slices.ContainsFunc(list, func(m matcher) bool { return m.matches(get(m.name)) })
}

func (m matcher) matches(values []string) bool {
	switch {
	case m.test == nil:
		return (values != nil) != m.invert
	case values == nil:
		return false
	}
	return m.holds(values) != m.invert
}

// holds applies the test to each line of a header, and to all lines joined.
func (m matcher) holds(values []string) bool {
	switch len(values) {
	case 0:
		return m.test("")
	case 1:
		return m.test(values[0])
	}
	return slices.ContainsFunc(values, m.test) || m.test(strings.Join(values, ","))
}

// ResetFormat is the format of the wait in a [ResetHeader].
type ResetFormat uint8

// The formats of a ResetHeader.
const (
	// SecondsOrDate is the format of Retry-After (RFC 9110, section 10.2.3): seconds or an HTTP
	// date. A fraction of a second is rounded up.
	SecondsOrDate ResetFormat = iota
	Seconds                   // whole seconds only, as Envoy's SECONDS
	UnixTimestamp             // seconds since 1970, as Envoy's UNIX_TIMESTAMP
)

// ResetHeader describes a response header that asks for a wait.
type ResetHeader struct {
	Name   string      `json:"name"`
	Format ResetFormat `json:"format,omitempty"`
}

func (h ResetHeader) check() error {
	switch {
	case h.Name == "":
		return errors.New("retry: Config.ResetHeaders: Name is empty")
	case !isToken(h.Name):
		return fmt.Errorf("retry: Config.ResetHeaders: Name %q is no header name; write one such as Retry-After", h.Name)
	case h.Format > UnixTimestamp:
		return fmt.Errorf("retry: Config.ResetHeaders: %s: Format %d is unknown", h.Name, h.Format)
	}
	return nil
}

// parse returns the wait that a header's value asks for at now. It is not ok if the wait has
// passed or overflows a Duration. As in Envoy a wait of zero is not ok either, because all
// callers would retry at the same instant.
func (f ResetFormat) parse(value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	seconds, ok := f.seconds(value)
	switch {
	case ok && f == UnixTimestamp:
		return until(time.Unix(int64(seconds), 0), now) //nolint:gosec // it has 63 bits
	case ok && seconds > 0 && seconds <= maxSeconds:
		return time.Duration(seconds) * time.Second, true
	case f == SecondsOrDate:
		if at, err := http.ParseTime(value); err == nil {
			return until(at, now)
		}
	}
	return 0, false
}

// seconds parses a number of seconds, with an optional plus sign, as Envoy does. SecondsOrDate
// also accepts a fraction, which some servers send, and rounds it up.
func (f ResetFormat) seconds(value string) (seconds uint64, ok bool) {
	value, fraction := strings.TrimPrefix(value, "+"), ""
	if f == SecondsOrDate {
		value, fraction, _ = strings.Cut(value, ".")
	}
	if value == "" && fraction != "" {
		value = "0"
	}
	seconds, err := strconv.ParseUint(value, 10, 63)
	if err != nil || strings.Trim(fraction, "0123456789") != "" {
		return 0, false
	}
	if strings.Trim(fraction, "0") != "" {
		seconds++
	}
	return seconds, true
}

// maxSeconds is the longest wait in whole seconds that fits in a Duration.
const maxSeconds = uint64(1<<63-1) / uint64(time.Second)

func until(at, now time.Time) (wait time.Duration, ok bool) {
	wait = at.Sub(now) // clamped to the longest Duration
	if wait <= 0 || !now.Add(wait).Equal(at) {
		return 0, false
	}
	return wait, true
}
