package envoy

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// HeaderMatcher matches a header of a request or a response. At most one of Exact, Prefix, Suffix,
// Contains and Regex may be set; without them the header must be present, with any value. A header
// in several lines matches if one of them matches, or all of them joined by commas. Mirrors Envoy's
// HeaderMatcher.
type HeaderMatcher struct {
	Name     string `json:"name"`
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`
	Regex    string `json:"regex,omitempty"` // must match the whole value

	// Invert inverts the match. As in Envoy, a header that is missing then matches only if no other
	// field but Name is set.
	Invert bool `json:"invert,omitempty"`
}

// Matcher is a compiled [HeaderMatcher]. It is immutable and safe for concurrent use.
type Matcher struct {
	name   string
	test   func(value string) bool // nil if the header must only be present
	invert bool
}

// Compile checks and compiles h. The error begins with the name of the field.
func (h HeaderMatcher) Compile() (Matcher, error) {
	m := Matcher{name: h.Name, invert: h.Invert}
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
		return m, errors.New("Name is empty; write one such as X-Retry")
	case !IsToken(h.Name):
		return m, fmt.Errorf("Name %q is no header name; write one such as X-Retry", h.Name)
	case tests > 1:
		return m, fmt.Errorf("%q has more than one of Exact, Prefix, Suffix, Contains and Regex; write one of them", h.Name)
	}
	return m, nil
}

// CompileHeaders compiles matchers. The error joins everything that is wrong; each part begins with
// field and the index.
func CompileHeaders(field string, list []HeaderMatcher) ([]Matcher, error) {
	var bad []error
	ready := make([]Matcher, 0, len(list))
	for i, h := range list {
		m, err := h.Compile()
		if err != nil {
			bad = append(bad, fmt.Errorf("%s[%d]: %w", field, i, err))
			continue
		}
		ready = append(ready, m)
	}
	return ready, errors.Join(bad...)
}

// Name returns the name of the header.
func (m Matcher) Name() string { return m.name }

// Matches reports whether the values of the header match, one for each line of the header. A nil
// slice means that the header is missing, an empty one that it has no value.
func (m Matcher) Matches(values []string) bool {
	switch {
	case m.test == nil:
		return (values != nil) != m.invert
	case values == nil:
		return false
	}
	return m.holds(values) != m.invert
}

// holds applies the test to each line of a header, and to all of them as one.
func (m Matcher) holds(values []string) bool {
	switch len(values) {
	case 0:
		return m.test("")
	case 1:
		return m.test(values[0])
	}
	return slices.ContainsFunc(values, m.test) || m.test(strings.Join(values, ","))
}

// compileRegex compiles an expression that must match the whole value. The expression must be valid
// by itself: ")(" is invalid, although "^(?:)(?:)$" is not.
func compileRegex(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		if wrong, ok := errors.AsType[*syntax.Error](err); ok { // without its text, which may have several lines
			err = errors.New(string(wrong.Code))
		}
		return nil, fmt.Errorf("Regex %q: %w", expr, err) //nolint:staticcheck // Regex is the field's name
	}
	return regexp.Compile(`^(?:` + expr + `)$`)
}

// IsToken reports whether name can be the name of a header (RFC 9110, section 5.6.2).
func IsToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
