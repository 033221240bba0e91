package metrics

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// VirtualCluster selects calls that are counted separately, in addition to the upstream's own
// statistics. Mirrors Envoy's VirtualCluster.
type VirtualCluster struct {
	// Name is the name in the statistics, vhost.<virtual host>.vcluster.<name>. It is required.
	Name string `json:"name"`

	// Headers lists matchers of the request headers; all of them must match. A matcher can also name
	// the pseudo-headers :method, :path (which includes the query) and :authority. At least one
	// matcher is required.
	Headers []envoy.HeaderMatcher `json:"headers"`
}

// otherCluster is Envoy's name for the calls that no virtual cluster matches.
const otherCluster = "other"

// virtualHost counts the calls of each virtual cluster.
type virtualHost struct {
	slot     policy.Slot // V is the attempt's *virtualStats
	clusters []matchedCluster
	other    *virtualStats
}

// matchedCluster is a VirtualCluster with its statistics.
type matchedCluster struct {
	headers []pseudoMatcher
	stats   *virtualStats
}

// virtualStats holds the statistics of one virtual cluster.
type virtualStats struct {
	responses     *ResponseCounters
	sent, timeout *Counter
	retry         *Counter
	limitExceeded *Counter
	retryOverflow *Counter
	retrySuccess  *Counter
}

// virtualHost makes the statistics of the virtual clusters, nil for none. The error joins the errors
// of all fields.
func (c Config) virtualHost(r *Registry) (*virtualHost, error) {
	if len(c.VirtualClusters) == 0 {
		return nil, nil //nolint:nilnil // no virtual host
	}
	var bad []error
	if c.VirtualHost == "" {
		bad = append(bad, errors.New("metrics: Config.VirtualHost: empty, but VirtualClusters is not; write a name such as shop"))
	}
	h := &virtualHost{}
	for i, v := range c.VirtualClusters {
		headers, err := v.compile(fmt.Sprintf("metrics: Config.VirtualClusters[%d].", i))
		if err != nil {
			bad = append(bad, err)
			continue
		}
		h.clusters = append(h.clusters, matchedCluster{headers: headers})
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	for i, v := range c.VirtualClusters {
		h.clusters[i].stats = r.virtualStats(c.VirtualHost, v.Name)
	}
	h.other = r.virtualStats(c.VirtualHost, otherCluster)
	return h, nil
}

// compile checks v and compiles its matchers. field is the prefix of the errors.
func (v VirtualCluster) compile(field string) ([]pseudoMatcher, error) {
	var bad []error
	if v.Name == "" {
		bad = append(bad, errors.New(field+"Name: empty; write a name such as orders"))
	}
	if len(v.Headers) == 0 {
		bad = append(bad, errors.New(field+"Headers: empty; write at least one matcher, such as a prefix of :path"))
	}
	made := make([]pseudoMatcher, len(v.Headers))
	for i, h := range v.Headers {
		var err error
		if made[i], err = compilePseudo(h); err != nil {
			bad = append(bad, fmt.Errorf("%sHeaders[%d]: %w", field, i, err))
		}
	}
	return made, errors.Join(bad...)
}

// virtualStats returns the statistics of a virtual cluster.
func (r *Registry) virtualStats(host, name string) *virtualStats {
	c := r.virtualCluster(host, name)
	return &virtualStats{
		responses:     c.Responses(""),
		sent:          c.Counter("upstream_rq_total"),
		timeout:       c.Counter("upstream_rq_timeout"),
		retry:         c.Counter("upstream_rq_retry"),
		limitExceeded: c.Counter("upstream_rq_retry_limit_exceeded"),
		retryOverflow: c.Counter("upstream_rq_retry_overflow"),
		retrySuccess:  c.Counter("upstream_rq_retry_success"),
	}
}

// remember stores the virtual cluster of an attempt, before events of the attempt can be concurrent
// with those of the call.
func (h *virtualHost) remember(c *policy.Call) {
	if s := c.State(h.slot); s.V == nil {
		s.V = h.match(c)
	}
}

// of returns the virtual cluster of an attempt.
func (h *virtualHost) of(c *policy.Call) *virtualStats {
	if v, ok := c.State(h.slot).V.(*virtualStats); ok {
		return v
	}
	return h.match(c) // the call was refused by a policy outside retry, or its attempt has not begun
}

// match returns the first virtual cluster that matches the request.
func (h *virtualHost) match(c *policy.Call) *virtualStats {
	for _, v := range h.clusters {
		if v.matches(c) {
			return v.stats
		}
	}
	return h.other
}

func (v matchedCluster) matches(c *policy.Call) bool {
	for _, m := range v.headers {
		if !m.matches(c) {
			return false
		}
	}
	return true
}

// listen counts the events of attempts.
func (h *virtualHost) listen(_ context.Context, e policy.Event) {
	switch e.Kind {
	case policy.EventAttempt:
		h.remember(e.Call)
	case policy.EventAttemptEnd:
		h.endAttempt(e.Call, e.Outcome)
	case policy.EventRetry:
		h.of(e.Call).retry.Inc()
	case policy.EventRetryLimitExceeded:
		h.of(e.Call).limitExceeded.Inc()
	case policy.EventRetryOverflow:
		h.of(e.Call).retryOverflow.Inc()
	case policy.EventRetrySuccess:
		h.of(e.Call).retrySuccess.Inc()
	default: // Envoy counts nothing else
	}
}

// endAttempt counts an attempt that has ended.
func (h *virtualHost) endAttempt(c *policy.Call, end *policy.Outcome) {
	v := h.of(c)
	if hadConnection(c, end) && !end.Has(policy.Refused) { // the limits of a cluster can refuse an attempt with a connection
		v.sent.Inc()
	}
	if cutOff(end) {
		v.timeout.Inc()
	}
}

// pseudoMatcher matches a header of a request, or a pseudo-header.
type pseudoMatcher struct {
	envoy.Matcher

	pseudo func(r policy.Request) string // nil for a header
}

//nolint:gochecknoglobals // read-only table
var pseudoHeaders = map[string]func(r policy.Request) string{
	":method":    func(r policy.Request) string { return r.Method },
	":authority": func(r policy.Request) string { return r.Authority },
	":path": func(r policy.Request) string {
		if r.Query == "" {
			return r.Path
		}
		return r.Path + "?" + r.Query
	},
}

// compilePseudo compiles a matcher.
func compilePseudo(h envoy.HeaderMatcher) (m pseudoMatcher, err error) {
	if strings.HasPrefix(h.Name, ":") {
		if m.pseudo = pseudoHeaders[h.Name]; m.pseudo == nil {
			return m, fmt.Errorf("Name %q is not a pseudo-header; write :method, :path or :authority", h.Name)
		}
		h.Name = h.Name[1:]
	}
	m.Matcher, err = h.Compile()
	return m, err
}

func (m pseudoMatcher) matches(c *policy.Call) bool {
	if m.pseudo == nil {
		return m.Matches(c.RequestHeaderValues(m.Name()))
	}
	r := c.Request()
	if r.Protocol == policy.ProtocolGRPC { // the method of gRPC is a path
		r.Method = "POST"
	}
	return m.Matches([]string{m.pseudo(r)})
}
