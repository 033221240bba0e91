package envoy

import (
	"fmt"
	"math/rand/v2"
)

// Denominator is the denominator of a [Percent].
type Denominator uint8

// The denominators.
const (
	Hundred     Denominator = iota // a numerator of 1 is 1 %
	TenThousand                    // a numerator of 1 is 0.01 %
	Million                        // a numerator of 1 is 0.0001 %
)

// denominators are Envoy's names and their values.
//
//nolint:gochecknoglobals // a table that nothing writes
var denominators = [...]struct {
	name  string
	value uint64
}{{"HUNDRED", 100}, {"TEN_THOUSAND", 10_000}, {"MILLION", 1_000_000}}

// String returns Envoy's name, such as "TEN_THOUSAND".
func (d Denominator) String() string {
	if int(d) >= len(denominators) {
		return fmt.Sprintf("Denominator(%d)", uint8(d))
	}
	return denominators[d].name
}

// MarshalText returns Envoy's name.
func (d Denominator) MarshalText() ([]byte, error) {
	if int(d) >= len(denominators) {
		return nil, fmt.Errorf("envoy: %v is unknown", d)
	}
	return []byte(d.String()), nil
}

// UnmarshalText parses Envoy's name.
func (d *Denominator) UnmarshalText(text []byte) error {
	for i, known := range denominators {
		if known.name == string(text) {
			*d = Denominator(i)
			return nil
		}
	}
	return fmt.Errorf("envoy: %q is no denominator; write HUNDRED, TEN_THOUSAND or MILLION", text)
}

// Never is the numerator for no call. Zero stands for the default.
const Never = -1

// Percent is a share of calls: Numerator of each hundred, or of as many as Denominator says. The
// zero value means all calls, where Envoy's means none; a Numerator of [Never] means none. More
// than all means all. Mirrors Envoy's FractionalPercent.
type Percent struct {
	Numerator   int         `json:"numerator,omitempty"`
	Denominator Denominator `json:"denominator,omitempty"`
}

// Check returns an error if p is invalid. The error begins with the name of a field.
func (p Percent) Check() error {
	switch {
	case p.Numerator < 0 && p.Numerator != Never:
		return fmt.Errorf("Numerator: %d is negative; write Never for no call", p.Numerator) //nolint:staticcheck // Numerator is the field's name
	case int(p.Denominator) >= len(denominators):
		return fmt.Errorf("Denominator: %d is unknown; write Hundred, TenThousand or Million", p.Denominator)
	case p.Numerator == 0 && p.Denominator != Hundred:
		return fmt.Errorf("Denominator: %v has no effect without a Numerator; write Never for no call", p.Denominator)
	}
	return nil
}

// of returns the numerator and the denominator as numbers.
func (p Percent) of() (numerator, denominator uint64) {
	denominator = denominators[p.Denominator].value
	switch {
	case p.Numerator == 0:
		return denominator, denominator
	case p.Numerator < 0:
		return 0, denominator
	}
	return uint64(p.Numerator), denominator
}

// AtMost returns p with a numerator of at most n: a caller may ask for less.
func (p Percent) AtMost(n uint64) Percent {
	numerator, _ := p.of()
	if n = min(n, numerator); n == 0 {
		return Percent{Numerator: Never, Denominator: p.Denominator}
	}
	return Percent{Numerator: int(n), Denominator: p.Denominator} //nolint:gosec // it is no larger than an int was, or 1,000,000
}

// Applies decides at random whether a call belongs to the share. random returns uniform random
// numbers; nil means [math/rand/v2.Uint64]. It is not called if the share is none or all.
func (p Percent) Applies(random func() uint64) bool {
	numerator, denominator := p.of()
	switch {
	case numerator == 0:
		return false
	case numerator >= denominator:
		return true
	case random == nil:
		random = rand.Uint64
	}
	return random()%denominator < numerator
}
