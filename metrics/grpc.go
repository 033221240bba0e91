package metrics

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion"
)

// GRPC counts an upstream's gRPC calls by their method and status, under
// grpc.<service>.<method>: the number of each status, success, failure and total,
// request_message_count, response_message_count, and upstream_rq_time in milliseconds. It is
// a policy, to stand outside of retry, beside [Config]: it counts calls, with the status that
// their callers get, and calls of other protocols not at all. Mirrors Envoy's filter
// grpc_stats, with stats_for_all_methods and enable_upstream_stats.
//
//	recipes, err := pillion.New("recipes", metrics.Config{}, metrics.GRPC{}, breaker.Config{})
//
// Methods beyond MaxMethods are counted together, as grpc.<status> and so on.
type GRPC struct {
	// StatName is the cluster's name in the statistics. Empty means the upstream's; it should
	// be that of Config.
	StatName string `json:"alt_stat_name,omitempty"`

	// MaxMethods is how many methods have statistics of their own, so that whoever calls a
	// server cannot fill its memory with names. 0 means 1000; negative means none.
	MaxMethods int `json:"max_methods,omitempty"`

	// Registry is where the cluster is counted. Nil means [Default].
	Registry *Registry `json:"-"`
}

// DefaultMaxMethods is the MaxMethods of a GRPC that names none.
const DefaultMaxMethods = 1000

// Role is that of a policy that counts.
func (GRPC) Role() pillion.Role { return pillion.RoleMetrics }

// Wrap has the upstream's gRPC calls counted.
func (g GRPC) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
	registry := g.Registry
	if registry == nil {
		registry = Default()
	}
	name := g.StatName
	if name == "" {
		name = s.Upstream()
	}
	if g.MaxMethods == 0 {
		g.MaxMethods = DefaultMaxMethods
	}
	m := &methods{cluster: registry.Cluster(name), most: g.MaxMethods, epoch: time.Now(), slot: s.Slot()}
	end := m.end
	return func(ctx context.Context, c *pillion.Call) *pillion.Outcome {
		if c.Request().Protocol != "grpc" {
			return next(ctx, c)
		}
		c.State(m.slot).N = int64(time.Since(m.epoch))
		o := next(ctx, c)
		o.OnEnd(c, end)
		return o
	}, nil
}

// methods are the statistics of one upstream's methods.
type methods struct {
	cluster *Cluster
	most    int
	epoch   time.Time
	slot    pillion.Slot
	known   sync.Map // of *method, by the full method
	some    atomic.Int64
	rest    sync.Once
	others  *method
}

// method counts one method's calls.
type method struct {
	cluster           *Cluster
	prefix            string // grpc.<service>.<method>.
	status            [17]atomic.Pointer[Counter]
	success           *Counter
	failure           *Counter
	total             *Counter
	requests, answers *Counter
	time              *Histogram
}

// end counts a call that is over.
func (m *methods) end(c *pillion.Call, end *pillion.Outcome) {
	of := m.of(c.Request().Path)
	code := grpcCode(end)
	of.statusOf(code).Inc()
	if code == 0 {
		of.success.Inc()
	} else {
		of.failure.Inc()
	}
	of.total.Inc()
	sent, received := c.Messages()
	of.requests.Add(sent)
	of.answers.Add(received)
	if end.Detail == pillion.ViaUpstream {
		of.time.Record(milliseconds(time.Since(m.epoch) - time.Duration(c.State(m.slot).N)))
	}
}

// grpcCode is the status that the caller gets, as far as it is known here; of a call
// that was not answered that is Envoy's, but for limits on time and callers who left.
func grpcCode(end *pillion.Outcome) int {
	local := end.Detail.LocalStatus()
	switch {
	case end.Err == nil:
		return 0
	case end.Detail == pillion.ViaUpstream && end.Code > 0 && end.Code < 17:
		return end.Code
	case end.Is.Any(pillion.Cancelled):
		return 1
	case end.Is.Any(pillion.Timeout) && !end.Is.Any(pillion.ConnectFailure):
		return 4
	case local != 0:
		return pillion.GRPCStatus(local)
	case end.Is.Any(pillion.Refused | pillion.Reset):
		return 14
	case end.Is.Any(pillion.ProtocolError):
		return 13
	}
	return 2
}

// of finds the statistics of a method.
func (m *methods) of(path string) *method {
	if found, ok := m.known.Load(path); ok {
		return found.(*method) //nolint:forcetypeassert // nothing else is stored
	}
	service, name, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || m.some.Load() >= int64(m.most) {
		m.rest.Do(func() { m.others = newMethod(m.cluster, "grpc.") })
		return m.others
	}
	found, loaded := m.known.LoadOrStore(path, newMethod(m.cluster, "grpc."+service+"."+name+"."))
	if !loaded {
		m.some.Add(1)
	}
	return found.(*method) //nolint:forcetypeassert // nothing else is stored
}

func newMethod(c *Cluster, prefix string) *method {
	return &method{
		cluster: c, prefix: prefix,
		success: c.Counter(prefix + "success"), failure: c.Counter(prefix + "failure"), total: c.Counter(prefix + "total"),
		requests: c.Counter(prefix + "request_message_count"), answers: c.Counter(prefix + "response_message_count"),
		time: c.Histogram(prefix + "upstream_rq_time"),
	}
}

// statusOf is the counter of one status, made when it is first met, as in Envoy.
func (m *method) statusOf(code int) *Counter {
	at := &m.status[code]
	if c := at.Load(); c != nil {
		return c
	}
	c := m.cluster.Counter(m.prefix + strconv.Itoa(code))
	at.Store(c)
	return c
}
