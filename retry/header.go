package retry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// HeaderMatcher matches a header of a request or a response: see [envoy.HeaderMatcher].
type HeaderMatcher = envoy.HeaderMatcher

func compileHeaders(field string, list []HeaderMatcher) ([]envoy.Matcher, error) {
	return envoy.CompileHeaders("retry: Config."+field, list)
}

// anyMatches reports whether one of the matchers holds. get returns the values of a
// header, nil if it is missing.
func anyMatches(list []envoy.Matcher, get func(name string) []string) bool {
	return slices.ContainsFunc(list, func(m envoy.Matcher) bool { return m.Matches(get(m.Name())) })
}

// ResetFormat is how a [ResetHeader] says how long to wait.
type ResetFormat uint8

// The formats.
const (
	// SecondsOrDate is what Retry-After may hold (RFC 9110, section 10.2.3): seconds or an
	// HTTP date. A fraction of a second is rounded up.
	SecondsOrDate ResetFormat = iota
	Seconds                   // whole seconds only, as Envoy's SECONDS
	UnixTimestamp             // seconds since 1970, as Envoy's UNIX_TIMESTAMP
)

// ResetHeader names a header in which a response asks for a wait.
type ResetHeader struct {
	Name   string      `json:"name"`
	Format ResetFormat `json:"format,omitempty"`
}

// check returns what is wrong with element i of ResetHeaders.
func (h ResetHeader) check(i int) error {
	var why string
	switch {
	case h.Name == "":
		why = "Name is empty; write one such as Retry-After"
	case !envoy.IsToken(h.Name):
		why = fmt.Sprintf("Name %q is no header name; write one such as Retry-After", h.Name)
	case h.Format > UnixTimestamp:
		why = fmt.Sprintf("Format %d is unknown; write retry.SecondsOrDate, retry.Seconds or retry.UnixTimestamp", h.Format)
	default:
		return nil
	}
	return fmt.Errorf("retry: Config.ResetHeaders[%d]: %s", i, why)
}

// parse reads a header's value at the instant now. A wait in the past, or that no Duration can hold,
// is not ok; nor is a wait of no time, as in Envoy: a server that asks for it must not be hit by all
// callers in one instant.
func (f ResetFormat) parse(value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	seconds, ok := f.seconds(value)
	switch {
	case ok && f == UnixTimestamp:
		return until(time.Unix(int64(seconds), 0), now) //nolint:gosec // it has 63 bits
	case ok && seconds > 0 && seconds <= maxSeconds:
		return time.Duration(seconds) * time.Second, true
	case f == SecondsOrDate:
		if at, ok := parseDate(value); ok {
			return until(at, now)
		}
	}
	return 0, false
}

// parseDate reads an HTTP date (RFC 9110, section 5.6.7), as [net/http.ParseTime] does.
func parseDate(value string) (at time.Time, ok bool) {
	for _, form := range [...]string{"Mon, 02 Jan 2006 15:04:05 GMT", time.RFC850, time.ANSIC} {
		date, err := time.Parse(form, value)
		if err == nil {
			return date, true
		}
	}
	return time.Time{}, false
}

// seconds reads a number of seconds, with a plus sign if there is one, as Envoy does.
// SecondsOrDate takes a fraction too, as servers send it, and rounds it up.
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

// maxSeconds is the longest wait in seconds that a Duration can hold.
const maxSeconds = uint64(1<<63-1) / uint64(time.Second)

func until(at, now time.Time) (wait time.Duration, ok bool) {
	wait = at.Sub(now) // or as much of it as fits
	if wait <= 0 || !now.Add(wait).Equal(at) {
		return 0, false
	}
	return wait, true
}
