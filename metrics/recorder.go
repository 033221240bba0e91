package metrics

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/pillion-go/pillion"
)

// recorder counts one upstream's calls. It resolves all that it counts on once.
type recorder struct {
	slot  pillion.Slot
	next  pillion.Func
	epoch time.Time // of the clock; taken when the upstream is made, as its own is

	cluster         *Cluster
	answers, again  *Answers
	canary          func() *Answers
	named           *namedAnswers // nil where callers may not name any
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
	noneHealthy     func() *Counter
	breakerOpen     func() *Counter
	budget          *Histogram // nil where it is not asked for
}

func newRecorder(c *Cluster, cfg Config) *recorder {
	origin := Internal
	if cfg.External {
		origin = External
	}
	rare := func(name string) func() *Counter {
		return sync.OnceValue(func() *Counter { return c.Counter(name) })
	}
	r := &recorder{
		epoch: time.Now(), cluster: c,
		answers:       c.Answers(origin),
		again:         c.Answers(Retry),
		canary:        sync.OnceValue(func() *Answers { return c.Answers(Canary) }),
		active:        c.Gauge("upstream_rq_active"),
		sent:          c.Counter("upstream_rq_total"),
		timeout:       c.Counter("upstream_rq_timeout"),
		perTry:        c.Counter("upstream_rq_per_try_timeout"),
		idle:          c.Counter("upstream_rq_per_try_idle_timeout"),
		overflow:      c.Counter("upstream_rq_active_overflow"),
		retry:         c.Counter("upstream_rq_retry"),
		exponential:   c.Counter("upstream_rq_retry_backoff_exponential"),
		rateLimited:   c.Counter("upstream_rq_retry_backoff_ratelimited"),
		limitExceeded: c.Counter("upstream_rq_retry_limit_exceeded"),
		retryOverflow: c.Counter("upstream_rq_retry_overflow"),
		retrySuccess:  c.Counter("upstream_rq_retry_success"),
		abandoned:     c.Counter("retry_or_shadow_abandoned"),
		noneHealthy:   rare("upstream_cx_none_healthy"),
		breakerOpen:   rare("upstream_rq_breaker_open"),
	}
	if cfg.CallerStatNames {
		r.named = &namedAnswers{cluster: c, origin: origin, known: map[string]*Answers{}}
	}
	if cfg.TimeoutBudget {
		r.budget = c.Histogram("upstream_rq_timeout_budget_percent_used")
	}
	return r
}

// now is the recorder's clock, in nanoseconds.
func (r *recorder) now() int64 { return int64(time.Since(r.epoch)) }

// What a call's State holds: the time at which it came by, and below it two bits.
const (
	cameBy   = 1 // it did: without it the call was refused outside of this policy
	byCanary = 2 // its answer is one of a canary's
	flagBits = 2
)

// call notes when a call began, and counts its answer as soon as its head is
// there.
func (r *recorder) call(ctx context.Context, c *pillion.Call) *pillion.Outcome {
	c.State(r.slot).N = r.now()<<flagBits | cameBy
	o := r.next(ctx, c)
	r.answered(c, o)
	return o
}

// answered counts the answer that the caller gets: the upstream's, or the one that
// Envoy would give in its place.
func (r *recorder) answered(c *pillion.Call, o *pillion.Outcome) {
	code := status(o)
	if code == 0 {
		code = localStatus(o)
	}
	if code != 0 {
		r.count(c, o, code)
	}
}

// count counts an answer in all of its categories.
func (r *recorder) count(c *pillion.Call, o *pillion.Outcome, code int) {
	r.answers.Count(code)
	if isCanary(c, o) {
		r.canary().Count(code)
		c.State(r.slot).N |= byCanary
	}
	if a := r.byName(c); a != nil {
		a.Count(code)
	}
}

// status is the HTTP status of an answer, 0 where there was none. A gRPC answer
// comes in a 200, whatever it says; a function that did what it should is a 200 too,
// and one that failed a 500.
func status(o *pillion.Outcome) int {
	switch {
	case o.Code >= 100:
		return o.Code
	case o.Detail == pillion.ViaUpstream:
		return 200
	case o.Is.Any(pillion.Failed):
		return 500
	}
	return 0
}

// localStatus is the status that Envoy counts for a call that brought no answer.
// What ran into a limit of the whole call is counted for each attempt that was under way,
// not here: during a back-off there was none.
func localStatus(o *pillion.Outcome) int {
	if cutOff(o) {
		return 0
	}
	return o.Detail.LocalStatus()
}

// cutOff reports whether the limit of the whole call struck.
func cutOff(o *pillion.Outcome) bool { return o.Detail == pillion.ResponseTimeout }

// isCanary reports whether an answer says that a canary gave it. It is asked for
// each, so HTTP's header is looked into directly.
func isCanary(c *pillion.Call, o *pillion.Outcome) bool {
	if resp, ok := o.Value.(*http.Response); ok {
		values := resp.Header[canaryHeader]
		return len(values) != 0 && values[0] == "true"
	}
	if o.Code < 100 {
		return false
	}
	value, _ := c.ResponseHeader(o, canaryHeader)
	return value == "true"
}

// canaryHeader is the response header in which an upstream calls itself a canary.
const canaryHeader = "X-Envoy-Upstream-Canary"

// hear counts what happens to attempts, and the end of the call.
func (r *recorder) hear(_ context.Context, e pillion.Event) {
	switch e.Kind {
	case pillion.EventAttempt:
		r.active.Add(1)
	case pillion.EventAttemptEnd:
		r.active.Add(-1)
		r.attempted(e.Call, e.Outcome)
	case pillion.EventEnd:
		r.ended(e.Call, e.Outcome)
	case pillion.EventRefused:
		r.refused(e.Outcome)
	case pillion.EventRetryScheduled:
		if code := status(e.Outcome); code != 0 {
			r.again.Count(code)
		}
	case pillion.EventRetry:
		r.retry.Inc()
		if e.BackOff.RateLimited {
			r.rateLimited.Inc()
		} else {
			r.exponential.Inc()
		}
	case pillion.EventRetryLimitExceeded:
		r.limitExceeded.Inc()
	case pillion.EventRetryOverflow:
		r.retryOverflow.Inc()
	case pillion.EventRetryAbandoned:
		r.abandoned.Inc()
	case pillion.EventRetrySuccess:
		r.retrySuccess.Inc()
	default: // Envoy counts nothing else
	}
}

// attempted counts an attempt that has ended. One that got no connection was
// never handed to one, and is not in upstream_rq_total.
func (r *recorder) attempted(c *pillion.Call, end *pillion.Outcome) {
	if !end.Is.Any(pillion.ConnectFailure | pillion.Invalid) {
		r.sent.Inc()
	}
	switch end.Detail {
	case pillion.ResponseTimeout:
		r.timeout.Inc()
		if status(end) == 0 {
			r.count(c, end, end.Detail.LocalStatus())
		}
	case pillion.TryIdleTimeout:
		r.idle.Inc()
	case pillion.TryTimeout:
		r.perTry.Inc()
	default: // no limit struck
	}
}

func (r *recorder) refused(o *pillion.Outcome) {
	switch o.Detail {
	case pillion.Overflow:
		r.overflow.Inc()
	case pillion.BreakerOpen:
		r.breakerOpen().Inc()
	case pillion.NoHealthyUpstream:
		r.noneHealthy().Inc()
	default: // of a kind that Envoy does not know
	}
}

// ended records how long a completed call took. A call that was refused outside of
// this policy never came by; it is counted here.
func (r *recorder) ended(c *pillion.Call, end *pillion.Outcome) {
	state := c.State(r.slot).N
	if state == 0 {
		r.answered(c, end)
		return
	}
	if status(end) == 0 || (end.Err != nil && !complete(c, end)) {
		return
	}
	took := time.Duration(r.now() - state>>flagBits)
	ms := milliseconds(took)
	r.answers.Time(ms)
	if state&byCanary != 0 {
		r.canary().Time(ms)
	}
	if a := r.byName(c); a != nil {
		a.Time(ms)
	}
	if r.budget != nil {
		r.budget.Record(share(c, took))
	}
}

// complete reports whether an error is itself a whole answer: a function's, or a
// status that a gRPC upstream gave.
func complete(c *pillion.Call, end *pillion.Outcome) bool {
	if c.Request().Protocol == "grpc" {
		return end.Detail == pillion.ViaUpstream
	}
	return end.Is.Any(pillion.Failed)
}

// share is how many per cent of its total limit a call took; 0 where there was no
// limit.
func share(c *pillion.Call, took time.Duration) uint64 {
	left, limited := c.Remaining()
	if !limited || took+left <= 0 {
		return 0
	}
	return uint64(100 * took.Truncate(time.Millisecond) / (took + left)) //nolint:gosec // not negative
}

// altStatName is the request header in which a caller names a category.
const altStatName = "X-Envoy-Upstream-Alt-Stat-Name"

// maxNames is how many names the callers of one upstream can make.
const maxNames = 100

// namedAnswers counts under names that callers give.
type namedAnswers struct {
	cluster *Cluster
	origin  string

	mu    sync.RWMutex
	known map[string]*Answers // guarded by mu
}

// byName finds the category that the caller named, if it may and did.
func (r *recorder) byName(c *pillion.Call) *Answers {
	if r.named == nil {
		return nil
	}
	name := c.RequestHeader(altStatName)
	if name == "" {
		return nil
	}
	return r.named.get(name)
}

func (n *namedAnswers) get(name string) *Answers {
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
		a = n.cluster.Answers(name + "." + n.origin)
		n.known[name] = a
	}
	return a
}
