package fault

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Fault injects faults. It is a policy: MaxActiveFaults bounds the calls of all upstreams that use
// the same Fault together. It is safe for concurrent use. Use [New] to make one.
type Fault struct {
	config  Config
	headers []envoy.Matcher
	active  atomic.Int64
	most    int64 // the maximum of active; negative for no limit
}

// New returns a Fault. It copies c. Its error joins one error for each invalid field of c.
func New(c Config) (*Fault, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	headers, err := envoy.CompileHeaders("fault: Config.Headers", c.Headers)
	if err != nil {
		return nil, err
	}
	f := &Fault{config: c.clone(), headers: headers, most: int64(c.MaxActiveFaults)}
	switch c.MaxActiveFaults {
	case 0:
		f.most = -1
	case Zero:
		f.most = 0
	}
	return f, nil
}

// Config returns a copy of the configuration of f.
func (f *Fault) Config() Config { return f.config.clone() }

// clone returns a copy that shares no memory with c, except the Headers' contents.
func (c Config) clone() Config {
	c.Delay, c.Abort, c.ResponseRateLimit = copied(c.Delay), copied(c.Abort), copied(c.ResponseRateLimit)
	c.DownstreamNodes, c.Headers = slices.Clone(c.DownstreamNodes), slices.Clone(c.Headers)
	return c
}

// copied returns a pointer to a copy of *p, or nil if p is nil.
func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// Place returns a place outside retry and hedge policies.
func (*Fault) Place() policy.Place { return place() }

// Wrap makes the counters of an upstream and wraps next with the faults.
func (f *Fault) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	i := &injector{Fault: f, upstream: b.Upstream(), next: next, counters: newCounters(b)}
	if a := f.config.Abort; a != nil && !a.Header {
		i.fixed = newEnding(i.upstream, a.status(), a.GRPCStatus)
	}
	i.release = func(*policy.Call, *policy.Outcome) { i.deactivate() }
	if cluster := f.config.UpstreamCluster; cluster != "" && cluster != i.upstream {
		return next, nil
	}
	return i.call, nil
}

// status returns the HTTP status of an abort that does not depend on the request.
func (a *Abort) status() int {
	if a.GRPCStatus != 0 {
		return http.StatusOK
	}
	return a.HTTPStatus
}

// injector injects the faults of one upstream.
type injector struct {
	*Fault
	upstream string
	next     policy.Func
	counters *counters
	release  policy.Hook
	fixed    *ending // the ending of aborts with a configured status; nil if requests determine it
	asked    endings // the endings of aborts with a status of a request
}

// call makes one call, with or without faults.
func (i *injector) call(ctx context.Context, c *policy.Call) *policy.Outcome {
	if !i.matches(c) {
		return i.next(ctx, c)
	}
	t := turn{injector: i, call: c}
	returned := false
	defer func() {
		if t.active && !returned { // next panicked
			i.deactivate()
		}
	}()
	o := t.run(ctx)
	returned = true
	if t.active {
		o.OnEnd(c, i.release)
	}
	if t.kbps != 0 {
		pace(ctx, o, t.kbps)
	}
	return o
}

// matches reports whether a call may have faults.
func (i *injector) matches(c *policy.Call) bool {
	if nodes := i.config.DownstreamNodes; len(nodes) != 0 && !slices.Contains(nodes, c.RequestHeader(envoy.DownstreamNodeHeader)) {
		return false
	}
	for _, m := range i.headers {
		if !m.Matches(c.RequestHeaderValues(m.Name())) {
			return false
		}
	}
	return true
}

// activate counts a call as active. It returns false if the maximum is reached.
func (i *injector) activate() bool {
	for {
		n := i.active.Load()
		if i.most >= 0 && n >= i.most {
			i.counters.overflow.Add(1)
			return false
		}
		if i.active.CompareAndSwap(n, n+1) {
			i.counters.active.Add(1)
			return true
		}
	}
}

func (i *injector) deactivate() {
	i.active.Add(-1)
	i.counters.active.Add(-1)
}

// turn is one call that may have faults.
type turn struct {
	*injector
	call   *policy.Call
	active bool   // the call is counted as active
	kbps   uint64 // the rate of the response in KiB per second; 0 for no limit
}

// run selects the faults in Envoy's order, and makes the call unless it is aborted.
func (t *turn) run(ctx context.Context) *policy.Outcome {
	if kbps := t.rate(); kbps != 0 && t.activate() {
		t.kbps = kbps
		t.counters.limited.Add(1)
	}
	delay := t.delay()
	delayed := delay > 0 && t.activate()
	if delayed {
		t.counters.delayed(t.call)
		if o := t.wait(ctx, delay); o != nil {
			o.Flags |= envoy.DI
			return o
		}
	}
	o := t.proceed(ctx)
	if delayed {
		o.Flags |= envoy.DI
	}
	return o
}

// proceed aborts the call or makes it.
func (t *turn) proceed(ctx context.Context) *policy.Outcome {
	if end := t.abort(); end != nil && t.activate() {
		t.counters.aborted(t.call)
		return t.call.Refuse(end.err, end.detail)
	}
	return t.next(ctx, t.call)
}

// activate counts the call as active, once for all its faults.
func (t *turn) activate() bool {
	if !t.active {
		t.active = t.injector.activate()
	}
	return t.active
}

// wait waits for d. If the call ends first, wait returns its outcome, else nil.
func (t *turn) wait(ctx context.Context, d time.Duration) *policy.Outcome {
	left, limited := t.call.Remaining()
	late := limited && left < d
	if late {
		d = left
	}
	t.call.EmitBackOff(policy.EventDelayed, &policy.Outcome{Flags: envoy.DI}, policy.BackOff{Wait: d})
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return t.call.Gone(ctx, &policy.Outcome{})
	case <-timer.C:
	}
	if late {
		return t.call.Expired(&policy.Outcome{})
	}
	return nil
}

// delay selects the delay of the call, 0 for none.
func (t *turn) delay() time.Duration {
	d := t.config.Delay
	if d == nil {
		return 0
	}
	wait, percentage := d.Fixed, d.Percentage
	if d.Header {
		ms, _ := t.number(envoy.FaultDelayHeader)
		wait = time.Duration(min(ms, uint64(longest/time.Millisecond))) * time.Millisecond
		percentage = t.lowered(percentage, envoy.FaultDelayPercentHeader)
	}
	if wait == 0 || !percentage.Applies(t.config.Rand) {
		return 0
	}
	return wait
}

// longest is the maximum of the delay that a request asks for.
const longest = 365 * 24 * time.Hour

// abort selects the abort of the call, nil for none.
func (t *turn) abort() *ending {
	a := t.config.Abort
	if a == nil {
		return nil
	}
	end, percentage := t.fixed, a.Percentage
	if a.Header {
		end, percentage = t.askedFor(), t.lowered(percentage, envoy.FaultAbortPercentHeader)
	}
	if end == nil || !percentage.Applies(t.config.Rand) {
		return nil
	}
	return end
}

// askedFor returns the ending that the request asks for, nil for none. An HTTP status takes
// precedence over a gRPC status.
func (t *turn) askedFor() *ending {
	if status, ok := t.number(envoy.FaultAbortHeader); ok && isHTTPStatus(status) {
		return t.asked.withHTTP(t.upstream, status)
	}
	if code, ok := t.number(envoy.FaultAbortGRPCHeader); ok && isGRPCStatus(code) {
		return t.asked.withGRPC(t.upstream, code)
	}
	return nil
}

// rate selects the rate of the response in KiB per second, 0 for no limit.
func (t *turn) rate() uint64 {
	r := t.config.ResponseRateLimit
	if r == nil {
		return 0
	}
	kbps, percentage := uint64(r.LimitKbps), r.Percentage //nolint:gosec // it is not negative
	if r.Header {
		kbps, _ = t.number(envoy.FaultRateHeader)
		percentage = t.lowered(percentage, envoy.FaultRatePercentHeader)
	}
	if kbps == 0 || !percentage.Applies(t.config.Rand) {
		return 0
	}
	return kbps
}

// lowered returns p with a numerator of at most the number in a request header.
func (t *turn) lowered(p envoy.Percent, header string) envoy.Percent {
	if n, ok := t.number(header); ok && n <= maxNumerator {
		return p.AtMost(n)
	}
	return p
}

// maxNumerator is the largest numerator that Envoy reads.
const maxNumerator = 1<<32 - 1

// number parses the first line of a request header as Envoy does, with optional blanks and an
// optional plus sign.
func (t *turn) number(header string) (n uint64, ok bool) {
	values := t.call.RequestHeaderValues(header)
	if len(values) == 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(values[0]), "+"), 10, 64)
	if err != nil {
		return 0, false
	}
	return n, true
}
