// Package settings returns the texts of errors about settings: what is wrong with a value, and what to
// write instead.
package settings

import (
	"fmt"
	"strings"
	"time"
)

// Duration returns what is wrong with a duration that must be 0, or at least 1ms: a shorter one is
// probably a number without a unit. It returns "" if the duration is valid. instead lists the special
// values, such as "0 for 15s".
func Duration(d time.Duration, instead ...string) string {
	return AtLeast(d, time.Millisecond, instead...)
}

// AtLeast is [Duration] with the minimum least instead of 1ms.
func AtLeast(d, least time.Duration, instead ...string) string {
	const such = "a duration such as 5*time.Second"
	switch {
	case d < 0:
		return "is negative; write " + either(such, instead)
	case d > 0 && d < least:
		return fmt.Sprintf("is below %v; did you forget the unit? Write %s", least, either(such, instead))
	}
	return ""
}

// Count returns what is wrong with a number that may be 0 or more. It returns "" if the number is
// valid. instead lists the special values, such as "0 for 1024".
func Count(n int64, instead ...string) string {
	if n < 0 {
		return "is negative; write " + either("1 or more", instead)
	}
	return ""
}

// either joins values with commas and "or".
func either(first string, others []string) string {
	if len(others) == 0 {
		return first
	}
	last := len(others) - 1
	return strings.Join(append([]string{first}, others[:last]...), ", ") + ", or " + others[last]
}
