package retry

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion"
)

// The headers in which a caller asks for retries.
const (
	onHeader          = "X-Envoy-Retry-On"
	grpcOnHeader      = "X-Envoy-Retry-Grpc-On"
	maxRetriesHeader  = "X-Envoy-Max-Retries"
	statusCodesHeader = "X-Envoy-Retriable-Status-Codes"
	headerNamesHeader = "X-Envoy-Retriable-Header-Names"
)

//nolint:gochecknoglobals // a list that nothing writes
var envoyHeaders = []string{onHeader, grpcOnHeader, maxRetriesHeader, statusCodesHeader, headerNamesHeader}

// heeding is p with what the caller's headers ask for; p itself where they ask for
// nothing.
func (p *policy) heeding(c *pillion.Call) *policy {
	var asked [5]string
	some := false
	for i, name := range envoyHeaders {
		asked[i] = c.RequestHeader(name)
		some = some || asked[i] != ""
	}
	if !some {
		return p
	}
	q := *p
	q.addConditions(asked[0], false)
	q.addConditions(asked[1], true)
	if n, err := strconv.ParseUint(asked[2], 10, 31); err == nil {
		q.most = int(n)
	}
	q.addStatusCodes(asked[3])
	q.addHeaders(asked[4])
	return &q
}

// addConditions adds the words that the header may hold: gRPC's are for their own
// header, and all others for the other.
func (p *policy) addConditions(list string, grpc bool) {
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.TrimSpace(word); words[word].Any(byGRPC) == grpc {
			more, _ := parse(word)
			p.on = p.on.or(more)
		}
	}
}

func (p *policy) addStatusCodes(list string) {
	for word := range strings.SplitSeq(list, ",") {
		if code, err := strconv.Atoi(strings.TrimSpace(word)); err == nil {
			p.statusCodes = append(slices.Clip(p.statusCodes), code)
		}
	}
}

func (p *policy) addHeaders(list string) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if m, err := compileHeaders("", []HeaderMatcher{{Name: name}}); err == nil {
			p.headers = append(slices.Clip(p.headers), m...)
		}
	}
}
