package retry

import (
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// envoyHeaders are the headers in which a caller asks for retries.
//
//nolint:gochecknoglobals // a list that nothing writes
var envoyHeaders = []string{
	envoy.RetryOnHeader, envoy.RetryGRPCOnHeader, envoy.MaxRetriesHeader, envoy.RetriableStatusHeader, envoy.RetriableHeadersHeader,
	envoy.HedgeHeader,
}

// heeding is p with what the caller's headers ask for, or p itself where they ask for
// nothing. As in Envoy the lines of a list are one list, and a number in several lines is none.
func (p *envoyRule) honoring(c *policy.Call) *envoyRule {
	var asked [5][]string
	some := false
	for i, name := range envoyHeaders[:len(asked)] {
		asked[i] = c.RequestHeaderValues(name)
		some = some || len(asked[i]) > 0
	}
	if !some {
		return p
	}
	q := *p
	q.addConditions(asked[0], false)
	q.addConditions(asked[1], true)
	if n, ok := number(asked[2]); ok {
		q.most = int(min(uint64(uint32(n)), math.MaxInt)) //nolint:gosec // Envoy cuts it to 32 bits, too
	}
	q.addStatusCodes(asked[3])
	q.addHeaders(asked[4])
	return &q
}

// hedging reports whether the attempts of a call are hedged, which a header may say.
func (l *loop) hedging(c *policy.Call) bool {
	values := c.RequestHeaderValues(envoy.HedgeHeader)
	if len(values) != 1 {
		return l.hedges
	}
	switch values[0] {
	case "true":
		return true
	case "false":
		return false
	}
	return l.hedges
}

// number reads a header that holds one number, as Envoy does: of 64 bits, with blanks
// around it or a plus sign before it.
func number(values []string) (n uint64, ok bool) {
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(values[0]), "+"), 10, 64)
	return n, err == nil
}

// elements are the elements of lists that are separated by commas.
func elements(lists []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, list := range lists {
			for word := range strings.SplitSeq(list, ",") {
				if !yield(strings.TrimSpace(word)) {
					return
				}
			}
		}
	}
}

// addConditions adds the conditions that the header may hold: gRPC's are for their own
// header, and all others for the other. Those that Envoy does not have are for a Config alone.
func (p *envoyRule) addConditions(lists []string, grpc bool) {
	for word := range elements(lists) {
		if is, envoys := words[word]; envoys && is.Any(byGRPC) == grpc {
			more, _ := parse(word)
			p.on = p.on.or(more)
		}
	}
}

func (p *envoyRule) addStatusCodes(lists []string) {
	for word := range elements(lists) {
		if code, err := strconv.Atoi(word); err == nil {
			p.statusCodes = append(slices.Clip(p.statusCodes), code)
		}
	}
}

func (p *envoyRule) addHeaders(lists []string) {
	for name := range elements(lists) {
		if m, err := (HeaderMatcher{Name: name}).Compile(); err == nil {
			p.headers = append(slices.Clip(p.headers), m)
		}
	}
}
