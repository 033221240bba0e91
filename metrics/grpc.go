package metrics

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// GRPC counts an upstream's gRPC calls by method and status, under grpc.<service>.<method>: the
// number of each status, success, failure and total, request_message_count,
// response_message_count, and upstream_rq_time in milliseconds. It is a policy that must be
// outside retry, next to [Config]. It counts calls, with the status that callers receive, and
// ignores other protocols. Mirrors Envoy's filter grpc_stats, with stats_for_all_methods and
// enable_upstream_stats.
//
//	recipes, err := pillion.New("recipes", Config{}, GRPC{}, breaker.Config{})
//
// A response that breaks after its headers has no status. As in Envoy only its messages are
// counted. Timeouts count as DEADLINE_EXCEEDED, or as UNAVAILABLE if callers receive Envoy's status
// because of LocalReplies in [pillion.Options].
//
// In Prometheus the service and the method are the labels envoy_grpc_bridge_service and
// envoy_grpc_bridge_method. Envoy cuts names at each dot: for /kitchen.v1.Cook/Get the service is
// kitchen, the method v1, and the name envoy_cluster_grpc_Cook_Get_0. With ReplaceDots the labels
// are complete.
//
// Calls of methods beyond MaxMethods are counted together, as grpc.<status> and so on. So are calls
// whose path is longer than 256 bytes, or is not /<service>/<method>.
type GRPC struct {
	// StatName is the cluster's name in the statistics. Empty means the name of the upstream. It
	// should be the same as in Config.
	StatName string `json:"alt_stat_name,omitempty"`

	// MaxMethods is the maximum number of methods with separate statistics. It stops the callers
	// of a server from filling its memory with names. 0 means 1000; negative means none.
	MaxMethods int `json:"max_methods,omitempty"`

	// ReplaceDots replaces dots in service names with underscores: kitchen_v1_Cook. Mirrors
	// replace_dots_in_grpc_service_name of the filter.
	ReplaceDots bool `json:"replace_dots_in_grpc_service_name,omitempty"`

	// Registry holds the cluster. Nil means [Default].
	Registry *Registry `json:"-"`
}

// DefaultMaxMethods is the default of MaxMethods.
const DefaultMaxMethods = 1000

// maxName is the maximum length, in bytes, of a name that a caller chooses and that has separate
// statistics.
const maxName = 256

// Place returns a place outside retry and hedge policies.
func (GRPC) Place() policy.Place { return place() }

// Wrap wraps next and counts the upstream's gRPC calls.
func (g GRPC) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	cluster := clusterOf(s, g.Registry, g.StatName)
	if !s.Claim(countedMethods{cluster}) {
		return nil, errTwice("GRPC", cluster)
	}
	if g.MaxMethods == 0 {
		g.MaxMethods = DefaultMaxMethods
	}
	m := &methods{cluster: cluster, most: g.MaxMethods, replace: g.ReplaceDots, epoch: time.Now(), slot: s.Slot()}
	end := m.end
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if c.Request().Protocol != policy.ProtocolGRPC {
			return next(ctx, c)
		}
		c.State(m.slot).N = int64(time.Since(m.epoch))
		o := next(ctx, c)
		o.OnEnd(c, end)
		return o
	}, nil
}

// countedMethods is the claim of a GRPC: an upstream's methods are counted once in a cluster.
type countedMethods struct{ cluster *ClusterStats }

// methods holds the statistics of an upstream's methods.
type methods struct {
	cluster *ClusterStats
	most    int
	replace bool // replace dots in services
	epoch   time.Time
	slot    policy.Slot
	known   sync.Map // *method by full method
	some    atomic.Int64
	rest    sync.Once
	others  *method
}

// method counts the calls of a method.
type method struct {
	cluster           *ClusterStats
	prefix            string // grpc.<service>.<method>.
	status            [17]atomic.Pointer[Counter]
	success           *Counter
	failure           *Counter
	total             *Counter
	requests, answers *Counter
	time              *Histogram
}

// end counts a call that has ended.
func (m *methods) end(c *policy.Call, end *policy.Outcome) {
	of := m.of(c.Request().Path)
	sent, received := c.Messages()
	of.requests.Add(sent)
	of.answers.Add(received)
	if hasNoStatus(end) {
		return
	}
	of.count(c.GRPCStatus(end))
	if end.Detail == envoy.ViaUpstream {
		of.time.Record(milliseconds(time.Since(m.epoch) - time.Duration(c.State(m.slot).N)))
	}
}

// hasNoStatus reports whether a response was plain HTTP, or ended after its headers without a
// status.
func hasNoStatus(end *policy.Outcome) bool {
	switch end.Detail {
	case envoy.ViaUpstream:
		return end.Code >= 100
	case envoy.ConnectionTerminationAfter, envoy.RemoteResetAfter, envoy.MalformedResponseAfter:
		return true
	default:
		return false
	}
}

// count counts a status.
func (m *method) count(code int) {
	if code < 0 || code >= len(m.status) {
		code = 2 // UNKNOWN
	}
	m.statusOf(code).Inc()
	if code == 0 {
		m.success.Inc()
	} else {
		m.failure.Inc()
	}
	m.total.Inc()
}

// of returns the statistics of a method.
func (m *methods) of(path string) *method {
	if len(path) > maxName {
		return m.unnamed()
	}
	if found, ok := m.known.Load(path); ok {
		return found.(*method) //nolint:forcetypeassert // nothing else is stored
	}
	service, name, ok := serviceAndMethod(path)
	if !ok || m.some.Load() >= int64(m.most) {
		return m.unnamed()
	}
	if m.replace {
		service = strings.ReplaceAll(service, ".", "_")
	}
	found, loaded := m.known.LoadOrStore(path, newMethod(m.cluster, grpcPrefix+service+"."+name+"."))
	if !loaded {
		m.some.Add(1)
	}
	return found.(*method) //nolint:forcetypeassert // nothing else is stored
}

// unnamed returns the statistics of all methods without separate ones.
func (m *methods) unnamed() *method {
	m.rest.Do(func() { m.others = newMethod(m.cluster, grpcPrefix) })
	return m.others
}

// serviceAndMethod parses a path as Envoy does: two words between slashes, and an optional query.
func serviceAndMethod(path string) (service, method string, ok bool) {
	path, _, _ = strings.Cut(path, "?")
	words := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	if len(words) != 2 {
		return "", "", false
	}
	return words[0], words[1], true
}

func newMethod(c *ClusterStats, prefix string) *method {
	return &method{
		cluster: c, prefix: prefix,
		success: c.Counter(prefix + "success"), failure: c.Counter(prefix + "failure"), total: c.Counter(prefix + "total"),
		requests: c.Counter(prefix + "request_message_count"), answers: c.Counter(prefix + "response_message_count"),
		time: c.Histogram(prefix + "upstream_rq_time"),
	}
}

// statusOf returns the counter of a status. It makes the counter at its first use, as Envoy does.
func (m *method) statusOf(code int) *Counter {
	at := &m.status[code]
	if c := at.Load(); c != nil {
		return c
	}
	c := m.cluster.Counter(m.prefix + strconv.Itoa(code))
	at.Store(c)
	return c
}
