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

// envoyHeaders lists the headers in which a caller asks for retries.
//
//nolint:gochecknoglobals // read-only list
var envoyHeaders = []string{
	envoy.RetryOnHeader, envoy.RetryGRPCOnHeader, envoy.MaxRetriesHeader, envoy.RetriableStatusHeader, envoy.RetriableHeadersHeader,
	envoy.HedgeHeader,
}

// honoring returns p extended by the caller's headers, or p if the caller sent none. As in Envoy
// several lines of a list form one list, and several lines of a number are invalid.
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
		q.most = int(min(uint64(uint32(n)), math.MaxInt)) //nolint:gosec // Envoy truncates it to 32 bits, too
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

// number parses a header that holds one number, as Envoy does: 64 bits, with optional blanks
// and an optional plus sign.
func number(values []string) (n uint64, ok bool) {
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(values[0]), "+"), 10, 64)
	return n, err == nil
}

// elements returns an iterator over the elements of comma-separated lists.
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

// addConditions adds the conditions of a header. If grpc is set it accepts only gRPC's
// conditions, else only Envoy's others. It ignores those that only a Config can have.
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
