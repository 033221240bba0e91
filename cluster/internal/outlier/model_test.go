package outlier

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// model is a slow and obvious twin of Detector. It keeps every result, finds runs and rates by
// looking through all of them, and ticks once per interval, whether there is a reason or not.
type model struct {
	c       Config
	random  func() uint64
	hosts   []*modelHost
	stats   map[string]uint64
	events  []Event[string]
	tick    time.Time
	average [2]Average
}

type modelHost struct {
	name    string
	results [2][]int // HTTP codes: of external origin, and of local origin (200 or 503)
	since   [3]int   // results that belong to an earlier run: of 5xx, gateway failures, local ones
	bucket  [2]int   // results before the interval under way
	rate    [2]float64
	ejected modelPenalty
	marked  modelPenalty
}

type modelPenalty struct {
	on           bool
	kind         Kind
	count        uint32
	backoff      int
	began, ended time.Time
	jitter       time.Duration
}

func newModel(c Config, random func() uint64, now time.Time) *model {
	return &model{
		c: c, random: random, stats: map[string]uint64{}, tick: now.Add(c.Interval),
		average: [2]Average{{-1, -1}, {-1, -1}},
	}
}

func (m *model) find(name string) *modelHost {
	i := slices.IndexFunc(m.hosts, func(h *modelHost) bool { return h.name == name })
	if i < 0 {
		return nil
	}
	return m.hosts[i]
}

func (m *model) add(name string) {
	if m.find(name) == nil {
		m.hosts = append(m.hosts, &modelHost{name: name, rate: [2]float64{-1, -1}})
	}
}

func (m *model) remove(name string) {
	m.hosts = slices.DeleteFunc(m.hosts, func(h *modelHost) bool { return h.name == name })
}

func (m *model) active() int {
	n := 0
	for _, h := range m.hosts {
		if h.ejected.on {
			n++
		}
	}
	return n
}

// report follows Envoy's table of outcomes.
func (m *model) report(name string, r Result, now time.Time) {
	h := m.find(name)
	if h == nil {
		return
	}
	if r.Outcome == RequestDegraded && m.c.DetectDegradedHosts && !h.marked.on {
		m.stats["ejections_detected_degradation"]++
		m.begin(&h.marked, Degraded, now)
		m.log(h, &h.marked, Event[string]{Action: Eject, Kind: Degraded, Enforced: true, SuccessRate: -1}, now)
	}
	origin, code := 0, r.Code
	merged := map[Outcome]int{RequestSuccess: 200, RequestDegraded: 200, RequestFailed: 500, ConnectSuccessFinal: 200, ConnectFailed: 503, Timeout: 504}
	split := map[Outcome]int{RequestSuccess: 200, RequestDegraded: 200, RequestFailed: 503}
	switch {
	case !m.c.SplitExternalLocalOriginErrors && code == 0:
		code = merged[r.Outcome]
		if code == 0 {
			return
		}
	case !m.c.SplitExternalLocalOriginErrors:
	case r.Outcome == ConnectSuccess || r.Outcome == ConnectSuccessFinal:
		origin, code = 1, 200
	case r.Outcome == ConnectFailed || r.Outcome == Timeout:
		origin, code = 1, 503
	case code == 0:
		code = split[r.Outcome]
	}
	h.results[origin] = append(h.results[origin], code)
	if origin == 1 {
		if code == 503 {
			m.detectRun(h, 2, ConsecutiveLocalOriginFailure, m.c.ConsecutiveLocalOriginFailure, now)
		}
		return
	}
	if code == 502 || code == 503 || code == 504 {
		m.detectRun(h, 1, ConsecutiveGatewayFailure, m.c.ConsecutiveGatewayFailure, now)
	}
	if code/100 == 5 {
		m.detectRun(h, 0, Consecutive5xx, m.c.Consecutive5xx, now)
	}
}

// runLength counts the failures at the end of the results.
func (h *modelHost) runLength(run int) uint32 {
	results := h.results[run/2][h.since[run]:]
	n := uint32(0)
	for _, code := range slices.Backward(results) {
		if code/100 != 5 || run == 1 && (code < 502 || code > 504) {
			break
		}
		n++
	}
	return n
}

func (m *model) detectRun(h *modelHost, run int, k Kind, length uint32, now time.Time) {
	if h.runLength(run) != length || h.ejected.on {
		return
	}
	if k == Consecutive5xx {
		m.stats["ejections_consecutive_5xx"]++
	}
	m.detect(h, k, Event[string]{SuccessRate: -1}, now)
	h.since[run] = len(h.results[run/2])
}

var modelNames = map[Kind]string{
	Consecutive5xx: "consecutive_5xx", ConsecutiveGatewayFailure: "consecutive_gateway_failure",
	ConsecutiveLocalOriginFailure: "consecutive_local_origin_failure",
	SuccessRate:                   "success_rate", SuccessRateLocalOrigin: "local_origin_success_rate",
	FailurePercentage: "failure_percentage", FailurePercentageLocalOrigin: "local_origin_failure_percentage",
}

func (m *model) detect(h *modelHost, k Kind, e Event[string], now time.Time) {
	m.stats["ejections_detected_"+modelNames[k]]++
	if h.ejected.on {
		return
	}
	share := 100 * float64(m.active()+1) / float64(len(m.hosts))
	first := m.c.AlwaysEjectOneHost && m.active() == 0
	if share > float64(m.c.MaxEjectionPercent) && !first {
		m.stats["ejections_overflow"]++
		return
	}
	if k == Consecutive5xx || k == SuccessRate {
		m.stats["ejections_total"]++
	}
	chance := map[Kind]uint32{
		Consecutive5xx: m.c.EnforcingConsecutive5xx, ConsecutiveGatewayFailure: m.c.EnforcingConsecutiveGatewayFailure,
		ConsecutiveLocalOriginFailure: m.c.EnforcingConsecutiveLocalOriginFailure,
		SuccessRate:                   m.c.EnforcingSuccessRate, SuccessRateLocalOrigin: m.c.EnforcingLocalOriginSuccessRate,
		FailurePercentage: m.c.EnforcingFailurePercentage, FailurePercentageLocalOrigin: m.c.EnforcingFailurePercentageLocalOrigin,
	}[k]
	e.Action, e.Kind = Eject, k
	e.Enforced = chance == 100 || chance != 0 && m.random()%100 < uint64(chance)
	if e.Enforced {
		m.stats["ejections_enforced_total"]++
		m.stats["ejections_enforced_"+modelNames[k]]++
		m.begin(&h.ejected, k, now)
	}
	m.log(h, &h.ejected, e, now)
}

func (m *model) maximum() time.Duration {
	if m.c.MaxEjectionTime == 0 {
		return max(300*time.Second, m.c.BaseEjectionTime)
	}
	return m.c.MaxEjectionTime
}

func (m *model) begin(p *modelPenalty, k Kind, now time.Time) {
	p.on, p.kind, p.began, p.jitter = true, k, now, 0
	p.count++
	if most := m.c.MaxEjectionTimeJitter.Milliseconds(); most > 0 {
		p.jitter = time.Duration(m.random()%uint64(most+1)) * time.Millisecond
	}
	if time.Duration(p.backoff)*m.c.BaseEjectionTime < m.maximum()+m.c.BaseEjectionTime {
		p.backoff++
	}
}

func (m *model) until(p *modelPenalty) time.Time {
	return p.began.Add(min(time.Duration(p.backoff)*m.c.BaseEjectionTime, m.maximum()) + p.jitter)
}

func (m *model) end(h *modelHost, p *modelPenalty, now time.Time) {
	p.on, p.ended = false, now
	if p == &h.ejected {
		h.since = [3]int{len(h.results[0]), len(h.results[0]), len(h.results[1])}
	}
	m.log(h, p, Event[string]{Action: Uneject, Kind: p.kind, Enforced: true, SuccessRate: -1}, now)
}

func (m *model) log(h *modelHost, p *modelPenalty, e Event[string], now time.Time) {
	e.Host, e.Count, e.SinceLast = h.name, p.count, -1
	last := p.ended
	if e.Action == Uneject {
		last = p.began
	}
	if !last.IsZero() {
		e.SinceLast = now.Sub(last)
	}
	m.events = append(m.events, e)
}

func (m *model) healthCheckPassed(name string, now time.Time) {
	if h := m.find(name); h != nil && h.ejected.on && m.c.SuccessfulActiveHealthCheckUnejectHost {
		m.end(h, &h.ejected, now)
	}
}

// onTick is one interval's work at now.
func (m *model) onTick(now time.Time) {
	intervals := map[*modelHost][2][]int{}
	for _, h := range m.hosts {
		if h.ejected.on && !m.until(&h.ejected).After(now) {
			m.end(h, &h.ejected, now)
		}
		if h.marked.on && !m.until(&h.marked).After(now) {
			m.end(h, &h.marked, now)
		}
		intervals[h] = [2][]int{h.results[0][h.bucket[0]:], h.results[1][h.bucket[1]:]}
		h.bucket = [2]int{len(h.results[0]), len(h.results[1])}
		h.rate = [2]float64{-1, -1}
	}
	for o := range 2 {
		m.judge(o, intervals, now)
	}
	for _, h := range m.hosts {
		for _, p := range []*modelPenalty{&h.ejected, &h.marked} {
			if !p.on && !p.ended.IsZero() && now.Sub(p.ended) >= m.c.Interval && p.backoff > 0 {
				p.backoff--
			}
		}
	}
	m.tick = now.Add(m.c.Interval)
}

func (m *model) judge(o int, intervals map[*modelHost][2][]int, now time.Time) {
	m.average[o] = Average{-1, -1}
	var rated, counted []*modelHost
	rates := map[*modelHost]float64{}
	few := len(m.hosts) < int(m.c.SuccessRateMinimumHosts) && len(m.hosts) < int(m.c.FailurePercentageMinimumHosts)
	for _, h := range m.hosts {
		results := intervals[h][o]
		if h.ejected.on || len(results) == 0 || few {
			continue
		}
		successes := 0
		for _, code := range results {
			if code/100 != 5 {
				successes++
			}
		}
		rates[h] = float64(successes) * 100 / float64(len(results))
		if len(results) >= int(m.c.SuccessRateRequestVolume) {
			rated = append(rated, h)
			h.rate[o] = rates[h]
		}
		if len(results) >= int(m.c.FailurePercentageRequestVolume) {
			counted = append(counted, h)
			h.rate[o] = rates[h]
		}
	}
	if len(rated) > 0 && len(rated) >= int(m.c.SuccessRateMinimumHosts) {
		sum, squares := 0.0, 0.0
		for _, h := range rated {
			sum += rates[h]
		}
		mean := sum / float64(len(rated))
		for _, h := range rated {
			squares += (rates[h] - mean) * (rates[h] - mean)
		}
		deviation := math.Sqrt(squares / float64(len(rated)))
		m.average[o] = Average{mean, mean - float64(m.c.SuccessRateStdevFactor)/1000*deviation}
		for _, h := range rated {
			if rates[h] < m.average[o].Threshold {
				m.stats["ejections_success_rate"]++
				m.detect(h, []Kind{SuccessRate, SuccessRateLocalOrigin}[o], Event[string]{SuccessRate: rates[h], Cluster: m.average[o]}, now)
			}
		}
	}
	if len(counted) > 0 && len(counted) >= int(m.c.FailurePercentageMinimumHosts) {
		for _, h := range counted {
			if 100-rates[h] >= float64(m.c.FailurePercentageThreshold) {
				m.detect(h, []Kind{FailurePercentage, FailurePercentageLocalOrigin}[o], Event[string]{SuccessRate: rates[h]}, now)
			}
		}
	}
}

func (m *model) status(name string) (Status, bool) {
	h := m.find(name)
	if h == nil {
		return Status{}, false
	}
	s := Status{
		Ejected: h.ejected.on, Kind: h.ejected.kind, Degraded: h.marked.on, Ejections: h.ejected.count, Degradations: h.marked.count,
		SuccessRate: h.rate[0], LocalOriginSuccessRate: h.rate[1], EjectedAt: h.ejected.began, UnejectedAt: h.ejected.ended,
	}
	if s.Ejected {
		s.Until = m.until(&h.ejected)
	}
	return s, true
}

// chooser draws numbers below n: from a seed, or from the input of a fuzz test.
type chooser func(n int) int

func seeded(seed uint64) chooser {
	return rand.New(rand.NewPCG(seed, 1)).IntN
}

func fromBytes(data []byte) (chooser, func() bool) {
	at := 0
	choose := func(n int) int {
		if at >= len(data) {
			return 0
		}
		at++
		return int(data[at-1]) % n
	}
	return choose, func() bool { return at >= len(data) }
}

func oneOf[T any](choose chooser, values ...T) T { return values[choose(len(values))] }

// randomConfig returns a configuration in which something happens within a few results.
func randomConfig(choose chooser) Config {
	ms := time.Millisecond
	share := func() uint32 { return oneOf[uint32](choose, 100, 100, 0, 50, 33) }
	small := func() uint32 { return oneOf[uint32](choose, 1, 2, 3, 5, 0) }
	c := Config{
		Interval:              oneOf(choose, 10*ms, 50*ms, 100*ms),
		BaseEjectionTime:      oneOf(choose, 10*ms, 30*ms, 45*ms, 100*ms),
		MaxEjectionTime:       oneOf(choose, 0, 100*ms, 300*ms, 101*ms),
		MaxEjectionTimeJitter: oneOf(choose, 0, ms, 20*ms),
		MaxEjectionPercent:    oneOf[uint32](choose, 100, 50, 34, 10, 0, 25),
		AlwaysEjectOneHost:    choose(3) == 0,
		Consecutive5xx:        small(), EnforcingConsecutive5xx: share(),
		ConsecutiveGatewayFailure: small(), EnforcingConsecutiveGatewayFailure: share(),
		SplitExternalLocalOriginErrors: choose(2) == 0,
		ConsecutiveLocalOriginFailure:  small(), EnforcingConsecutiveLocalOriginFailure: share(),
		SuccessRateMinimumHosts: small(), SuccessRateRequestVolume: small(),
		SuccessRateStdevFactor: oneOf[uint32](choose, 1000, 1900, 0, 500, 1414),
		EnforcingSuccessRate:   share(), EnforcingLocalOriginSuccessRate: share(),
		FailurePercentageThreshold:    oneOf[uint32](choose, 50, 85, 100, 0, 33),
		FailurePercentageMinimumHosts: small(), FailurePercentageRequestVolume: small(),
		EnforcingFailurePercentage: share(), EnforcingFailurePercentageLocalOrigin: share(),
		SuccessfulActiveHealthCheckUnejectHost: choose(2) == 0, DetectDegradedHosts: choose(2) == 0,
	}
	if choose(2) == 0 { // leave the rest to what a tick finds
		c.Consecutive5xx, c.ConsecutiveGatewayFailure, c.ConsecutiveLocalOriginFailure = 0, 0, 0
	}
	return c
}

func randomResult(choose chooser) Result {
	outcome := oneOf(choose, RequestSuccess, RequestFailed, RequestDegraded, ConnectSuccess, ConnectSuccessFinal, ConnectFailed, Timeout)
	code := 0
	if choose(3) > 0 {
		code = oneOf(choose, 200, 500, 503, 404, 502, 504, 505, 599, 600, 499, 204, 100, 501)
	}
	if choose(2) == 0 {
		return Response(oneOf(choose, 200, 500, 503))
	}
	return Result{Outcome: outcome, Code: code}
}

// pair drives a Detector and a model through the same events.
type pair struct {
	t      *testing.T
	d      *Detector[string]
	m      *model
	now    time.Time
	events []Event[string]
	next   time.Time // what the detector asked for
}

func newPair(t *testing.T, c Config, seed uint64) *pair {
	t.Helper()
	start := time.Unix(1000, 0)
	source := func() func() uint64 { return rand.New(rand.NewPCG(seed, 2)).Uint64 }
	d, err := New[string](c, source(), start)
	if err != nil {
		t.Fatalf("New(%+v): %v", c, err)
	}
	return &pair{t: t, d: d, m: newModel(c, source(), start), now: start}
}

// took notes what a step of the detector returned. A tick is asked for once.
func (p *pair) took(s Step[string]) {
	p.t.Helper()
	p.events = append(p.events, s.Events...)
	if s.Next.IsZero() {
		return
	}
	if !p.next.IsZero() {
		p.t.Fatalf("at %v: a tick was asked for twice: %v, %v", p.now, p.next, s.Next)
	}
	p.next = s.Next
}

// sleep lets time pass, and with it the ticks. Those that the detector asked for come late.
func (p *pair) sleep(d, late time.Duration) {
	p.t.Helper()
	end := p.now.Add(d)
	for {
		at := p.m.tick
		if !p.next.IsZero() {
			if !at.Equal(p.next) {
				p.t.Fatalf("next tick: got %v, want %v", p.next, at)
			}
			at = at.Add(late)
		}
		if at.After(end) {
			break
		}
		p.now = at
		p.m.onTick(at)
		if !p.next.IsZero() {
			p.next = time.Time{}
			p.took(p.d.Tick(at))
		}
		p.compare()
	}
	p.now = end
}

func (p *pair) report(name string, r Result) {
	p.t.Helper()
	p.m.report(name, r, p.now)
	p.took(p.d.Report(name, r, p.now))
	p.compare()
}

func (p *pair) update(added, removed []string) {
	p.t.Helper()
	for _, name := range removed {
		p.m.remove(name)
	}
	for _, name := range added {
		p.m.add(name)
	}
	p.d.Update(added, removed)
	p.compare()
}

func (p *pair) healthCheckPassed(name string) {
	p.t.Helper()
	p.m.healthCheckPassed(name, p.now)
	p.took(p.d.HealthCheckPassed(name, p.now))
	p.compare()
}

// compare compares all that can be seen of both.
func (p *pair) compare() {
	p.t.Helper()
	if !slices.Equal(p.m.events, p.events) {
		p.fail("events", p.m.events, p.events)
	}
	p.m.events, p.events = p.m.events[:0], p.events[:0]
	for s := range Stat(StatCount) {
		want := p.m.stats[s.String()]
		if s == EjectionsActive {
			want = uint64(p.m.active())
		}
		if got := p.d.Stat(s); got != want {
			p.fail(s.String(), want, got)
		}
	}
	external, local := p.d.Averages()
	if got := [2]Average{external, local}; got != p.m.average {
		p.fail("averages", p.m.average, got)
	}
	for i := range modelHosts {
		got, gotOK := p.d.Status(hostName(i))
		want, wantOK := p.m.status(hostName(i))
		if got != want || gotOK != wantOK || p.d.Ejected(hostName(i)) != want.Ejected {
			p.fail(hostName(i), want, got)
		}
	}
}

func (p *pair) fail(what string, want, got any) {
	p.t.Helper()
	p.t.Fatalf("%s at %v (-want +got):\n%s\nconfig %+v", what, p.now, cmp.Diff(want, got), p.m.c)
}

const modelHosts = 6

func hostName(i int) string { return "host" + strconv.Itoa(i) }

// step draws one event.
func (p *pair) step(choose chooser) {
	p.t.Helper()
	host := hostName(choose(modelHosts))
	switch choose(20) {
	case 0:
		p.update([]string{host, hostName(choose(modelHosts))}, nil)
	case 1:
		p.update(nil, []string{host})
	case 2:
		p.update([]string{host}, []string{host, host})
	case 3:
		p.healthCheckPassed(host)
	case 4, 5:
		late := oneOf(choose, 0, 0, time.Millisecond, 30*time.Millisecond)
		p.sleep(oneOf(choose, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond, time.Second), late)
	default:
		r := randomResult(choose)
		for range 1 + choose(3) {
			p.report(host, r)
		}
	}
}

// settle lets time pass until the detector has nothing left to do.
func (p *pair) settle() {
	p.t.Helper()
	for range 10000 {
		p.sleep(p.m.c.Interval, 0)
		if p.next.IsZero() {
			return
		}
	}
	p.t.Fatalf("got a tick at %v after 10000 intervals without results, want none\nconfig %+v", p.next, p.m.c)
}

// TestModel plays random events through a Detector and through the model. The detector leaves
// out ticks that change nothing; the model never does.
func TestModel(t *testing.T) {
	t.Parallel()
	seeds := 400
	if testing.Short() {
		seeds = 100
	}
	for seed := range uint64(seeds) {
		choose := seeded(seed)
		p := newPair(t, randomConfig(choose), seed)
		p.update([]string{"host0", "host1", "host2", "host3"}, nil)
		for range 120 {
			p.step(choose)
		}
		p.settle()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzModel is TestModel with events drawn from the input. Whatever they are, detector and
// model agree on events, statistics, averages and the state of each host, a tick is asked for
// once, and a detector without results comes to rest.
func FuzzModel(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add([]byte("outlier"), uint64(7))
	for seed := range uint64(8) {
		data := make([]byte, 400)
		choose := seeded(seed)
		for i := range data {
			data[i] = byte(choose(256))
		}
		f.Add(data, seed)
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		choose, done := fromBytes(data)
		p := newPair(t, randomConfig(choose), seed)
		p.update([]string{"host0", "host1", "host2"}, nil)
		for !done() {
			p.step(choose)
		}
		p.settle()
	})
}
