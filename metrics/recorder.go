package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// recorder counts an upstream's calls. It looks up its statistics once.
type recorder struct {
	slot  policy.Slot
	epoch time.Time // the start of its clock

	cluster         *ClusterStats
	static          bool // responses are not counted
	answers, again  *ResponseCounters
	canary          func() *ResponseCounters
	named           *namedCounters // nil unless CallerStatNames is set
	active          *Gauge
	sent            *Counter
	timeout, perTry *Counter
	idle, overflow  *Counter
	retry           *Counter
	exponential     *Counter
	rateLimited     *Counter
	limitExceeded   *Counter
	retryOverflow   *Counter
	retrySuccess    *Counter
	abandoned       *Counter
	refusals        sync.Map // *Counter by the name in a refusal's detail
	received, reset *Counter // streams that the upstream reset, and that this side reset

	major             atomic.Int32 // major HTTP version of the last response
	tries             policy.Slot  // when an attempt began; only if tryBudget is set
	budget, tryBudget *Histogram   // nil unless TimeoutBudget is set
	virtual           *virtualHost // nil without VirtualClusters
	sizes             *sizes       // nil unless RequestResponseSizes is set
}

func newRecorder(c *ClusterStats, cfg Config) *recorder {
	origin := Internal
	if cfg.External {
		origin = External
	}
	r := &recorder{
		epoch: time.Now(), cluster: c,
		answers:       c.Responses(origin),
		again:         c.Responses(Retry),
		static:        cfg.NoDynamicStats,
		canary:        sync.OnceValue(func() *ResponseCounters { return c.Responses(Canary) }),
		active:        c.Gauge("upstream_rq_active"),
		sent:          c.Counter("upstream_rq_total"),
		timeout:       c.Counter("upstream_rq_timeout"),
		perTry:        c.Counter("upstream_rq_per_try_timeout"),
		idle:          c.Counter("upstream_rq_per_try_idle_timeout"),
		overflow:      c.Counter(overflowCounter),
		retry:         c.Counter("upstream_rq_retry"),
		exponential:   c.Counter("upstream_rq_retry_backoff_exponential"),
		rateLimited:   c.Counter("upstream_rq_retry_backoff_ratelimited"),
		limitExceeded: c.Counter("upstream_rq_retry_limit_exceeded"),
		retryOverflow: c.Counter("upstream_rq_retry_overflow"),
		retrySuccess:  c.Counter("upstream_rq_retry_success"),
		abandoned:     c.Counter("retry_or_shadow_abandoned"),
		received:      c.Counter("upstream_rq_rx_reset"),
		reset:         c.Counter("upstream_rq_tx_reset"),
	}
	for _, name := range neverCalls {
		c.Counter(name)
	}
	if cfg.CallerStatNames {
		r.named = &namedCounters{cluster: c, origin: origin, known: map[string]*ResponseCounters{}}
	}
	if cfg.TimeoutBudget {
		r.budget = c.Histogram("upstream_rq_timeout_budget_percent_used")
		r.tryBudget = c.Histogram("upstream_rq_timeout_budget_per_try_percent_used")
	}
	if cfg.RequestResponseSizes {
		r.sizes = newSizes(c)
	}
	return r
}

// neverCalls lists statistics of Envoy that are 0 unless a policy counts them, such as a cluster.
//
//nolint:gochecknoglobals // read-only table
var neverCalls = [...]string{
	"upstream_rq_maintenance_mode", "upstream_rq_max_duration_reached", "upstream_rq_pending_overflow",
	"upstream_internal_redirect_failed_total", "upstream_internal_redirect_succeeded_total",
}

// now returns the time of the recorder's clock, in nanoseconds.
func (r *recorder) now() int64 { return int64(time.Since(r.epoch)) }

// A call's State holds the time at which it reached the recorder, and these flags.
const (
	seen      = 1 << iota // set if the call reached this policy: a policy outside can refuse it
	byCanary              // its response is from a canary
	isCounted             // its response is in upstream_rq_completed
	flagBits  = 3
)

// wrap returns a Func that records when a call begins, and counts its response when the headers
// arrive.
func (r *recorder) wrap(next policy.Func) policy.Func {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		c.State(r.slot).N = r.now()<<flagBits | seen
		if r.virtual != nil {
			r.virtual.remember(c)
		}
		o := next(ctx, c)
		r.answered(c, o)
		return o
	}
}

// answered counts the response that the caller receives: the upstream's, or the one that Envoy
// would send instead.
func (r *recorder) answered(c *policy.Call, o *policy.Outcome) {
	code, ok := status(o)
	if !ok {
		code = localStatus(o)
	}
	if code != 0 || ok {
		c.State(r.slot).N |= isCounted | r.count(c, o, code)
	}
}

// count counts a response in all of its categories. It returns flags for the call's state. It does
// not set them itself, because with a hedge an attempt can end concurrently with the call.
func (r *recorder) count(c *policy.Call, o *policy.Outcome, code int) (flags int64) {
	if r.static {
		return 0
	}
	r.answers.Count(code)
	if isCanary(c, o) {
		r.canary().Count(code)
		flags = byCanary
	}
	if a := r.byName(c); a != nil {
		a.Count(code)
	}
	if r.virtual != nil {
		r.virtual.of(c).responses.Count(code)
	}
	return flags
}

// status returns the HTTP status of a response, and whether there was a response. A response over
// gRPC is a 200, whatever its gRPC status. A function is a 200 if it succeeds and a 500 if it
// fails. An HTTP status below 100 is returned unchanged and counts as unknown.
func status(o *policy.Outcome) (code int, ok bool) {
	switch {
	case o.Code >= 100:
		return o.Code, true
	case o.Detail == envoy.ViaUpstream:
		if _, ok := o.Value.(*http.Response); ok {
			return o.Code, true
		}
		return http.StatusOK, true
	case o.Has(policy.Failed):
		return http.StatusInternalServerError, true
	}
	return 0, false
}

// localStatus returns the status that Envoy counts for a call without a response. It returns 0 for
// a call whose total timeout fired: that is counted with the active attempt, if any, because
// during a back-off there is none. A call that a filter of Envoy's refuses never comes to a cluster,
// and Envoy counts no status of a stream whose maximum duration is over.
func localStatus(o *policy.Outcome) int {
	if cutOff(o) || o.Detail.Unrouted() {
		return 0
	}
	return o.LocalStatus()
}

// cutOff reports whether the timeout of the whole call fired.
func cutOff(o *policy.Outcome) bool { return o.Detail == envoy.ResponseTimeout }

// isCanary reports whether a response is from a canary, according to its header. It runs for each
// call, and therefore reads an HTTP header directly.
func isCanary(c *policy.Call, o *policy.Outcome) bool {
	if resp, ok := o.Value.(*http.Response); ok {
		values := resp.Header[envoy.CanaryHeader]
		return len(values) != 0 && values[0] == "true"
	}
	name := envoy.CanaryHeader
	if o.Code < 100 {
		name = canaryKey
	}
	value, _ := c.ResponseHeader(o, name)
	return value == "true"
}

// canaryKey is [envoy.CanaryHeader] in the lower case of gRPC metadata.
const canaryKey = "x-envoy-upstream-canary"

// listener returns the function that counts the events of attempts, and the end of the call. It is a
// literal because a method value would copy each event once more. The events of every call come
// first.
func (r *recorder) listener() policy.Listener {
	return func(_ context.Context, e policy.Event) {
		switch e.Kind {
		case policy.EventAttempt:
			r.beginAttempt(e.Call)
		case policy.EventAttemptEnd:
			r.endAttempt(e.Call, e.Outcome)
		case policy.EventEnd:
			r.ended(e.Call, e.Outcome)
		default:
			r.listen(e)
		}
	}
}

// listen counts the other events.
func (r *recorder) listen(e policy.Event) {
	switch e.Kind {
	case policy.EventRefused:
		r.refused(e.Call, e.Outcome)
	case policy.EventRetryScheduled:
		if code, ok := status(e.Outcome); ok && !r.static {
			r.again.Count(code)
		}
	case policy.EventRetry:
		r.retry.Inc()
		if e.BackOff.RateLimited {
			r.rateLimited.Inc()
		} else {
			r.exponential.Inc()
		}
	case policy.EventRetryLimitExceeded:
		r.limitExceeded.Inc()
	case policy.EventRetryOverflow:
		r.retryOverflow.Inc()
	case policy.EventRetryAbandoned:
		r.abandoned.Inc()
	case policy.EventRetrySuccess:
		r.retrySuccess.Inc()
	default: // Envoy counts nothing else
	}
}

// beginAttempt counts an attempt as active, unless the upstream's carrier counts it.
func (r *recorder) beginAttempt(c *policy.Call) {
	if !c.Carried() {
		r.active.Add(1)
	}
	if r.tryBudget != nil {
		c.State(r.tries).N = r.now()
	}
}

// endAttempt counts an attempt that has ended.
func (r *recorder) endAttempt(c *policy.Call, end *policy.Outcome) {
	carried := c.Carried()
	if !carried {
		r.active.Add(-1)
	}
	if !carried && hadConnection(c, end) {
		r.sent.Inc()
	}
	if r.tryBudget != nil && !unanswered(end) {
		r.tryBudget.Record(percent(time.Duration(r.now()-c.State(r.tries).N), c.PerTryLimit()))
	}
	if resp, ok := end.Value.(*http.Response); ok && r.major.Load() != int32(resp.ProtoMajor) { //nolint:gosec // 1 or 2
		r.major.Store(int32(resp.ProtoMajor)) //nolint:gosec // 1 or 2
	}
	if r.sizes != nil {
		r.sizes.record(c)
	}
	if end.Detail == envoy.ViaUpstream { // as of most attempts: nothing cut it off
		return
	}
	r.timedOut(c, end)
	if !carried {
		r.brokeOff(c, end)
	}
}

// unanswered reports whether the total timeout ended an attempt before its response. Envoy counts
// such an attempt only in the budget of the call.
func unanswered(end *policy.Outcome) bool {
	_, ok := status(end)
	return end.Detail == envoy.ResponseTimeout && !ok
}

// hadConnection reports whether an attempt got a connection. Only then it counts in
// upstream_rq_total and in the statistics of connections.
func hadConnection(c *policy.Call, end *policy.Outcome) bool {
	return !end.Has(policy.ConnectFailure|policy.Invalid) && !c.Unconnected()
}

// timedOut counts the timeout that ended an attempt, if any.
func (r *recorder) timedOut(c *policy.Call, end *policy.Outcome) {
	switch end.Detail {
	case envoy.ResponseTimeout:
		r.timeout.Inc()
		if _, ok := status(end); !ok {
			r.count(c, end, end.LocalStatus())
		}
	case envoy.PerTryIdleTimeout:
		r.idle.Inc()
	case envoy.PerTryTimeout:
		r.perTry.Inc()
	default: // none fired
	}
}

// brokeOff counts the stream or connection that an early end of an attempt broke.
func (r *recorder) brokeOff(c *policy.Call, end *policy.Outcome) {
	switch end.Detail {
	case envoy.RemoteReset, envoy.RemoteResetAfter:
		r.received.Inc()
	case envoy.ConnectionTermination, envoy.ConnectionTerminationAfter:
		r.cut(c, end, true)
	case envoy.MalformedResponse, envoy.MalformedResponseAfter:
		r.cut(c, end, endedThere(end.Err))
	case envoy.ResponseTimeout, envoy.PerTryTimeout, envoy.PerTryIdleTimeout, envoy.StreamDuration, envoy.StreamIdle, envoy.CallerGone:
		r.cut(c, end, false)
	default: // it ended normally, or did not begin
	}
}

// endedThere reports whether a response is malformed because the upstream ended the connection in
// the middle of it.
func endedThere(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// cut counts an attempt that the upstream or this side cut off. Over HTTP/1 this ends the
// connection; over HTTP/2 this side resets the stream.
func (r *recorder) cut(c *policy.Call, end *policy.Outcome, byUpstream bool) {
	s := r.cluster.dialed()
	switch major := r.version(c, end); {
	case major == 2 && !byUpstream:
		r.reset.Inc()
	case major == 1 && s != nil:
		s.cut(byUpstream, end.Has(policy.ProtocolError))
	}
}

// version returns the major HTTP version of an attempt, 0 if it is unknown or there was no
// connection. Without a response it is the version of the last response, or of all counted
// connections.
func (r *recorder) version(c *policy.Call, end *policy.Outcome) int {
	resp, ok := end.Value.(*http.Response)
	switch protocol := c.Request().Protocol; {
	case ok:
		return resp.ProtoMajor
	case !hadConnection(c, end):
		return 0
	case protocol == policy.ProtocolGRPC && c.Endpoint() != "": // gRPC reports the peer only if there was one
		return 2
	case protocol != policy.ProtocolHTTP:
		return 0
	}
	if major := r.major.Load(); major != 0 {
		return int(major)
	}
	return r.cluster.dialed().version()
}

// refused counts a refusal in the statistic that its detail names.
func (r *recorder) refused(c *policy.Call, o *policy.Outcome) {
	name := o.Detail.Counter()
	switch name {
	case "":
		return // Envoy has no statistic for it
	case overflowCounter:
		r.overflow.Inc()
		if r.tryBudget != nil && !c.Carried() { // for Envoy it is an attempt that takes no time
			r.tryBudget.Record(0)
		}
		return
	}
	n, ok := r.refusals.Load(name)
	if !ok {
		n, _ = r.refusals.LoadOrStore(name, r.cluster.Counter(name))
	}
	n.(*Counter).Inc() //nolint:forcetypeassert // nothing else is stored
}

// overflowCounter counts calls that a limit of the library refused.
const overflowCounter = "upstream_rq_active_overflow"

// ended records the duration of a completed call. A call that a policy outside refused did not
// reach this policy, and is counted here. A call that panicked has no response, and therefore no
// time.
func (r *recorder) ended(c *policy.Call, end *policy.Outcome) {
	state := c.State(r.slot).N
	if state == 0 {
		r.answered(c, end)
		return
	}
	took := time.Duration(r.now() - state>>flagBits)
	completed := isComplete(c, end) && state&isCounted != 0
	if completed {
		r.completed(c, state, milliseconds(took))
	}
	if r.budget != nil && (completed || isTimeout(end)) {
		r.budget.Record(share(c, took))
	}
}

// completed records the time of a call in all of its categories.
func (r *recorder) completed(c *policy.Call, state int64, ms uint64) {
	if r.static {
		return
	}
	r.answers.Time(ms)
	if state&byCanary != 0 {
		r.canary().Time(ms)
	}
	if a := r.byName(c); a != nil {
		a.Time(ms)
	}
	if r.virtual != nil {
		r.virtual.of(c).responses.Time(ms)
	}
}

// isTimeout reports whether a timeout of the library ended a call.
func isTimeout(end *policy.Outcome) bool {
	switch end.Detail {
	case envoy.ResponseTimeout, envoy.PerTryTimeout, envoy.PerTryIdleTimeout:
		return true
	default:
		return false
	}
}

// isComplete reports whether a call received its response completely.
func isComplete(c *policy.Call, end *policy.Outcome) bool {
	_, ok := status(end)
	return ok && (end.Err == nil || isResponse(c, end))
}

// isResponse reports whether the error of a call is a complete response: a function's error, or a
// status that a gRPC upstream sent.
func isResponse(c *policy.Call, end *policy.Outcome) bool {
	if c.Request().Protocol == policy.ProtocolGRPC {
		return end.Detail == envoy.ViaUpstream
	}
	return end.Has(policy.Failed)
}

// share returns how many percent of its total timeout a call used, 0 without one.
func share(c *policy.Call, took time.Duration) uint64 {
	left, limited := c.Remaining()
	if !limited {
		return 0
	}
	return percent(took, took+left)
}

// percent returns how many percent of limit were used, 0 without a limit. As in Envoy both are in
// whole milliseconds.
func percent(took, limit time.Duration) uint64 {
	if limit <= 0 {
		return 0
	}
	return uint64(max(0, 100*took.Truncate(time.Millisecond)/limit))
}

// maxNames is the maximum number of names that the callers of an upstream can make.
const maxNames = 100

// namedCounters counts responses under names from request headers.
type namedCounters struct {
	cluster *ClusterStats
	origin  string

	mu    sync.RWMutex
	known map[string]*ResponseCounters // guarded by mu
}

// byName returns the category that the request header names, or nil.
func (r *recorder) byName(c *policy.Call) *ResponseCounters {
	if r.named == nil {
		return nil
	}
	return r.named.of(c)
}

// of returns the category that the request header names, or nil.
func (n *namedCounters) of(c *policy.Call) *ResponseCounters {
	name := c.RequestHeader(envoy.AltStatNameHeader)
	if name == "" || len(name) > maxName {
		return nil
	}
	return n.get(name)
}

func (n *namedCounters) get(name string) *ResponseCounters {
	n.mu.RLock()
	a, ok := n.known[name]
	full := len(n.known) >= maxNames
	n.mu.RUnlock()
	if ok || full {
		return a
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok = n.known[name]; !ok && len(n.known) < maxNames {
		a = n.cluster.Responses(name + "." + n.origin)
		n.known[name] = a
	}
	return a
}
