package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Rank is the position of a policy relative to retry and hedge, from the outside in.
type Rank uint8

// The ranks. A policy that calls next more than once for a call, with [Call.Next], must have the
// rank Retries or Hedges; otherwise its attempts are not counted.
const (
	AnyPlace   Rank = iota // anywhere
	PerCall                // sees calls: outside the policies that retry or hedge
	Retries                // retries calls
	Hedges                 // makes further attempts before the first has ended
	PerAttempt             // sees attempts: inside the policies that retry or hedge
)

// String returns the name of the rank, a word or two.
func (r Rank) String() string {
	names := [...]string{"any place", "per call", "retry", "hedge", "per attempt"}
	if int(r) >= len(names) {
		return fmt.Sprintf("Rank(%d)", uint8(r))
	}
	return names[r]
}

// repeats reports whether policies of this rank retry or hedge.
func (r Rank) repeats() bool { return r == Retries || r == Hedges }

// Place is the position of a policy among the others. The zero Place allows any.
type Place struct {
	// Rank orders the policy relative to those that retry or hedge.
	Rank Rank

	// Name is the policy's name in errors, a word or two. Empty means the name of the rank.
	Name string

	// Why describes what the policy would do on the wrong side of a policy that retries or hedges,
	// such as "would hide failed attempts from the breaker".
	Why string

	// Once describes what two policies of this Name would do in one upstream, such as "would set
	// the limits twice". Empty allows several.
	Once string
}

func (p Place) name() string {
	if p.Name == "" {
		return p.Rank.String()
	}
	return p.Name
}

// Placer is a [Policy] whose place among the others matters.
type Placer interface {
	Policy
	Place() Place
}

func placeOf(p Policy) Place {
	if placer, ok := p.(Placer); ok {
		return placer.Place()
	}
	return Place{}
}

// misplaced returns why inside must not be anywhere inside outside, "" if it may. Of two policies
// of which one retries or hedges, the outer must not rank higher.
func misplaced(outside, inside Place) string {
	switch {
	case outside.Rank.repeats() && (outside.Rank == inside.Rank || outside.Rank > inside.Rank && inside.Rank.repeats()):
		return "would multiply the attempts"
	case outside.Once != "" && outside.name() == inside.name():
		return outside.Once
	case outside.Rank == AnyPlace || inside.Rank == AnyPlace || outside.Rank <= inside.Rank:
		return ""
	case outside.Rank.repeats():
		return cmp.Or(inside.Why, "would see attempts and take them for calls")
	case inside.Rank.repeats():
		return cmp.Or(outside.Why, "would see only the last attempt of each call")
	}
	return ""
}

// instead returns what to write instead of two misplaced policies. Two of the same rank or name have
// no right order.
func instead(outside, inside Place, policies []Policy) string {
	if outside.Rank == inside.Rank || outside.name() == inside.name() {
		return "leave one of them out"
	}
	var places []Place
	for _, p := range policies {
		if place := placeOf(p); place.Rank != AnyPlace {
			places = append(places, place)
		}
	}
	slices.SortStableFunc(places, func(a, b Place) int { return cmp.Compare(a.Rank, b.Rank) })
	var names []string
	for _, p := range places {
		names = append(names, p.name())
	}
	return "write them in the order " + strings.Join(slices.Compact(names), ", ")
}

// checkOrder returns an error for each pair of policies whose order makes no sense.
func checkOrder(policies []Policy) []error {
	if slices.ContainsFunc(policies, isAnyOrder) {
		return nil
	}
	var bad []error
	for i, p := range policies {
		for _, q := range policies[i+1:] {
			outer, inner := placeOf(p), placeOf(q)
			if why := misplaced(outer, inner); why != "" {
				bad = append(bad, fmt.Errorf("pillion: order: %v outside %v %s; %s, or put AnyOrder among the policies if you mean it",
					outer.name(), inner.name(), why, instead(outer, inner, policies)))
			}
		}
	}
	return bad
}

func isAnyOrder(p Policy) bool {
	switch p.(type) {
	case AnyOrder, *AnyOrder:
		return true
	}
	return false
}

// yield replaces each policy that has a place by default, if another policy has that place.
func yield(policies []Policy) {
	for i, p := range policies {
		without, ok := yielded(p)
		if ok && slices.ContainsFunc(policies, func(q Policy) bool {
			_, byDefault := yielded(q)
			return placeOf(q).name() == placeOf(p).name() && !byDefault
		}) {
			policies[i] = without
		}
	}
}

func yielded(p Policy) (without Policy, ok bool) {
	if y, is := p.(Yielding); is {
		return y.Yield()
	}
	return nil, false
}
