// Package retryable holds the rule of Ruby's retryable that packages retry and command share.
package retryable

import "slices"

// Selects reports whether to retry a failure. No Match of not must match it. If on is not nil, one of
// its Matches must match it. If matching is not nil, one of its Patterns must match its text.
func Selects[Match ~func(error) bool, Pattern interface{ MatchString(text string) bool }](
	err error, text func(error) string, on, not []Match, matching []Pattern,
) bool {
	among := func(list []Match) bool { return slices.ContainsFunc(list, func(m Match) bool { return m(err) }) }
	if among(not) || (on != nil && !among(on)) {
		return false
	}
	return matching == nil || slices.ContainsFunc(matching, func(p Pattern) bool { return p.MatchString(text(err)) })
}
