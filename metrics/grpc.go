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

// GRPC counts an upstream's gRPC calls by method and status, under
// grpc.<service>.<method>: the number of each status, success, failure and total,
// request_message_count, response_message_count, and upstream_rq_time in milliseconds. It is
// a policy that stands outside of retry, beside [Config]: it counts calls, with the status
// that their callers get, and ignores other protocols. Mirrors Envoy's filter grpc_stats,
// with stats_for_all_methods and enable_upstream_stats.
//
//	recipes, err := pillion.New("recipes", Config{}, GRPC{}, breaker.Config{})
//
// A response that breaks off after its header has no status: only its messages are counted,
// as in Envoy. Timeouts count as DEADLINE_EXCEEDED, or as UNAVAILABLE where
// callers get Envoy's status, with [pillion.Options] LocalReplies.
//
// In Prometheus the service and the method are the labels envoy_grpc_bridge_service and
// envoy_grpc_bridge_method. Envoy cuts names at each dot: of /kitchen.v1.Cook/Get the service
// is kitchen, the method v1, and the name envoy_cluster_grpc_Cook_Get_0. ReplaceDots makes
// the labels whole.
//
// Calls of methods beyond MaxMethods are counted together, as grpc.<status> and so on. So are
// calls whose path is longer than 256 bytes, or is not /<service>/<method>.
type GRPC struct {
	// StatName is the cluster's name in the statistics. Empty means the upstream's. It should
	// be that of Config.
	StatName string `json:"alt_stat_name,omitempty"`

	// MaxMethods is how many methods have statistics of their own, so that the callers of a
	// server cannot fill its memory with names. 0 means 1000; negative means none.
	MaxMethods int `json:"max_methods,omitempty"`

	// ReplaceDots names services with underscores in place of dots: kitchen_v1_Cook. Mirrors
	// replace_dots_in_grpc_service_name of the filter.
	ReplaceDots bool `json:"replace_dots_in_grpc_service_name,omitempty"`

	// Registry is where the cluster is counted. Nil means [Default].
	Registry *Registry `json:"-"`
}

// DefaultMaxMethods is the MaxMethods of a GRPC that sets none.
const DefaultMaxMethods = 1000

// maxName is how long a name may be, in bytes, that a caller chooses and that has
// statistics of its own.
const maxName = 256

// Place is outside of what retries or hedges.
func (GRPC) Place() policy.Place { return place() }

// Wrap has the upstream's gRPC calls counted.
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

// countedMethods is what a GRPC claims: its cluster's methods are counted once in an
// upstream.
type countedMethods struct{ cluster *ClusterStats }

// methods are the statistics of one upstream's methods.
type methods struct {
	cluster *ClusterStats
	most    int
	replace bool // of dots in services
	epoch   time.Time
	slot    policy.Slot
	known   sync.Map // of *method, by the full method
	some    atomic.Int64
	rest    sync.Once
	others  *method
}

// method counts one method's calls.
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

// hasNoStatus reports whether a response was plain HTTP, or ended after its header without
// a status.
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

// of finds the statistics of a method.
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

// unnamed are the statistics of all methods that have none of their own.
func (m *methods) unnamed() *method {
	m.rest.Do(func() { m.others = newMethod(m.cluster, grpcPrefix) })
	return m.others
}

// serviceAndMethod reads a path as Envoy does: two words between slashes, and perhaps a
// query.
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

// statusOf is the counter of one status, made at its first use, as in Envoy.
func (m *method) statusOf(code int) *Counter {
	at := &m.status[code]
	if c := at.Load(); c != nil {
		return c
	}
	c := m.cluster.Counter(m.prefix + strconv.Itoa(code))
	at.Store(c)
	return c
}
