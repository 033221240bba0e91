package parity

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// habit is a behavior of the library that differs from Envoy's.
type habit uint

// The habits that change the result of a call. Each belongs to a rule.
const (
	limitsIncludeConnecting habit = 1 << iota
	skipsUselessWaits
	showsInformational
	passesTrailers
	readsLengths
	readsHeads
	disconnects
	resendsRefused
	hasNoHTTPStatus
	needsNoBuffer
	findsMalformed
	makesStatuses
	wantsWholeMessages
	reportsBroken
	countsReceivedMessages
	cancels
	countsNoAttemptsOfErrors
)

// model is a simple simulation of Envoy: it simulates the calls of a scenario with one
// host, one after another. With habits it simulates the library.
type model struct {
	scenario *Scenario
	habits   habit
	played   map[string]int // the number of attempts of each call in the play, for results that depend on chance
	parts    *fragments
	script   *script
}

// course is the simulated result of a call.
type course struct {
	name     string // name of the case
	request  Request
	made     int     // number of attempts
	attempts []tried // as the upstream sees them
	end      ending
	stats    map[string]int // the statistics that it counts
	known    bool           // false if the model cannot simulate the call
	dialed   time.Duration  // when the connection that the call waits for fails
}

// tried is one attempt as the upstream sees it.
type tried struct {
	step   Step
	number int // number of the attempt; equal for a stream that gRPC's client resends
	cut    bool
}

// ending is the end of an attempt; that of the last attempt is the end of the call.
type ending struct {
	step      Step
	code      int    // status of the response; 0 if there was none
	reason    string // reason of a reset or local reply, in Envoy's terms
	flags     []string
	details   string
	local     int  // status of the local reply
	after     bool // the response had begun
	connected bool
	took      time.Duration
	status    string // grpc-status in the header
	overflow  bool
	gone      bool // the caller was canceled
}

// play simulates all calls.
func (m *model) play() []*course {
	var all []*course
	m.script = newScript(m.scenario.Upstream)
	for i, r := range m.scenario.requests() {
		c := &course{name: caseName(i), request: r, stats: map[string]int{}, known: true}
		m.call(c)
		all = append(all, c)
	}
	return all
}

func (m *model) has(h habit) bool { return m.habits&h != 0 }

func (m *model) grpc() bool {
	all, _ := speaksGRPC(m.scenario)
	return all
}

// plan is the configuration that applies to a call.
type plan struct {
	words          []string
	policy         *envoyRetryPolicy
	retries        int
	perTry, idle   time.Duration
	total, connect time.Duration
	leaves         time.Duration // when the caller is canceled; 0 for never
	abandoned      bool          // the request exceeds the buffer
}

// plan returns the plan for a call.
func (m *model) plan(r Request) plan {
	route, vh := m.route(r.path()), m.parts.virtualHost
	p := plan{policy: route.RetryPolicy, total: 15 * time.Second, connect: 500 * time.Millisecond, leaves: ms(r.ClientTimeout)}
	if p.policy == nil {
		p.policy = vh.RetryPolicy
	}
	if p.policy == nil {
		p.policy = &envoyRetryPolicy{}
	}
	if route.Timeout != nil {
		p.total = time.Duration(*route.Timeout)
	}
	if t := m.parts.cluster.ConnectTimeout; t != nil {
		p.connect = time.Duration(*t)
	}
	p.perTry, p.idle = time.Duration(p.policy.PerTryTimeout), time.Duration(p.policy.PerTryIdleTimeout)
	p.words, p.retries = wordsOf(p.policy.RetryOn), 1
	if p.policy.NumRetries != nil {
		p.retries = *p.policy.NumRetries
	}
	if !m.parts.external {
		p.applyHeaders(r)
	}
	if p.total > 0 && p.perTry >= p.total {
		p.perTry = 0
	}
	if len(p.policy.RetriableRequestHeaders) > 0 && !slices.ContainsFunc(p.policy.RetriableRequestHeaders, r.matches) {
		p.words = nil
	}
	limit := int64(defaultBuffer)
	if vh.PerRequestBufferLimit != nil {
		limit = *vh.PerRequestBufferLimit
	}
	p.abandoned = len(p.words) > 0 && int64(r.size()) > limit
	return p
}

// route returns the route of a path.
func (m *model) route(path string) envoyRouteAction {
	for _, r := range m.parts.routes {
		if strings.HasPrefix(path, r.Match.Prefix) {
			return r.Route
		}
	}
	return m.parts.route
}

// applyHeaders applies the request headers of a trusted caller.
func (p *plan) applyHeaders(r Request) {
	isGRPC := func(word string) bool { return grpcWords[word] != "" }
	for _, word := range wordsOf(r.Headers["x-envoy-retry-on"]) {
		if !isGRPC(word) {
			p.words = append(p.words, word)
		}
	}
	for _, word := range wordsOf(r.Headers["x-envoy-retry-grpc-on"]) {
		if isGRPC(word) {
			p.words = append(p.words, word)
		}
	}
	if n, err := strconv.Atoi(r.Headers["x-envoy-max-retries"]); err == nil {
		p.retries = n
	}
	if n, err := strconv.Atoi(r.Headers["x-envoy-upstream-rq-timeout-ms"]); err == nil {
		p.total = ms(n)
	}
	if n, err := strconv.Atoi(r.Headers["x-envoy-upstream-rq-per-try-timeout-ms"]); err == nil {
		p.perTry = ms(n)
	}
	p.addRetriable(r)
}

// addRetriable adds the statuses and the headers that a request names to those of the policy.
func (p *plan) addRetriable(r Request) {
	policy := *p.policy
	policy.RetriableStatusCodes, policy.RetriableHeaders = slices.Clone(policy.RetriableStatusCodes), slices.Clone(policy.RetriableHeaders)
	for _, text := range wordsOf(r.Headers["x-envoy-retriable-status-codes"]) {
		if code, err := strconv.Atoi(text); err == nil {
			policy.RetriableStatusCodes = append(policy.RetriableStatusCodes, code)
		}
	}
	for _, name := range wordsOf(r.Headers["x-envoy-retriable-header-names"]) {
		policy.RetriableHeaders = append(policy.RetriableHeaders, envoyHeaderMatcher{Name: name})
	}
	p.policy = &policy
}

func wordsOf(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// call simulates a call: attempts, until one is not retried.
func (m *model) call(c *course) {
	p := m.plan(c.request)
	if p.abandoned && m.has(needsNoBuffer) && m.grpc() {
		p.abandoned = false
	}
	if p.abandoned {
		c.stats["retry_or_shadow_abandoned"]++
	}
	var clock time.Duration
	for n := 1; ; n++ {
		c.made = n
		e := m.attempt(c, &p, n, clock)
		clock += e.took
		c.end = e
		if e.connected {
			c.stats["upstream_rq_total"]++
		}
		if !m.again(c, &p, n, clock) {
			break
		}
		clock += p.wait(n) / 2
	}
	m.count(c)
}

// again reports whether the call is retried, and counts the decision.
func (m *model) again(c *course, p *plan, n int, clock time.Duration) bool {
	e := &c.end
	switch {
	case p.abandoned || !m.retriable(e, p):
		if n > 1 && !p.abandoned && !e.gone && e.details != "response_timeout" && len(e.step.Informational) == 0 {
			c.stats["upstream_rq_retry_success"]++
		}
		return false
	case n > p.retries:
		c.stats["upstream_rq_retry_limit_exceeded"]++
		e.flags = append([]string{"URX"}, e.flags...)
		return false
	case m.has(skipsUselessWaits) && m.timeIsOver(c, p, n, clock):
		return false
	case !m.mayRetry(e):
		c.stats["upstream_rq_retry_overflow"]++
		e.flags = append([]string{"UO"}, e.flags...)
		return false
	case m.timeIsOver(c, p, n, clock):
		return false
	}
	if e.code != 0 {
		count(c.stats, "retry.", e.code)
	}
	c.stats["upstream_rq_retry"]++
	c.stats["upstream_rq_retry_backoff_"+p.kind(e.step)]++
	return true
}

// timeIsOver reports whether the back-off after the nth attempt exceeds the remaining time.
// If that depends on chance, it follows the play.
func (m *model) timeIsOver(c *course, p *plan, n int, clock time.Duration) bool {
	least, most := p.waits(n, c.end.step)
	left := p.total - clock
	switch {
	case p.total <= 0 || most+slack < left:
		return false
	case least < left && n != m.played[c.name]:
		return false
	case m.has(skipsUselessWaits):
		return true
	}
	if c.end.code != 0 {
		count(c.stats, "retry.", c.end.code)
	}
	c.end = ending{step: c.end.step, flags: []string{"UT"}, details: "response_timeout", local: http.StatusGatewayTimeout, reason: "-"}
	return true
}

// slack is the time that steps may take which take no time in the model.
const slack = 25 * time.Millisecond

// waits returns the shortest and the longest back-off after the nth attempt.
func (p *plan) waits(n int, step Step) (least, most time.Duration) {
	if d, ok := p.rateLimited(step); ok {
		return d, d * 3 / 2
	}
	return 0, p.wait(n)
}

// wait returns the longest exponential back-off after the nth attempt.
func (p *plan) wait(n int) time.Duration {
	base, most := time.Duration(p.policy.RetryBackOff.BaseInterval), time.Duration(p.policy.RetryBackOff.MaxInterval)
	if base == 0 {
		base = 25 * time.Millisecond
	}
	if most == 0 {
		most = 10 * base
	}
	return min(most, base<<min(n-1, 10))
}

// rateLimited returns the wait that a response asks for.
func (p *plan) rateLimited(step Step) (time.Duration, bool) {
	most := time.Duration(p.policy.RateLimitedRetryBackOff.MaxInterval)
	if most == 0 {
		most = 300 * time.Second
	}
	for _, h := range p.policy.RateLimitedRetryBackOff.ResetHeaders {
		n, err := strconv.Atoi(step.header(h.Name))
		if err == nil && h.Format != "UNIX_TIMESTAMP" && n > 0 && time.Duration(n)*time.Second <= most {
			return time.Duration(n) * time.Second, true
		}
	}
	return 0, false
}

// kind returns the name of the back-off.
func (p *plan) kind(step Step) string {
	if _, ok := p.rateLimited(step); ok {
		return "ratelimited"
	}
	return "exponential"
}

// mayRetry reports whether the circuit breaker of retries permits one.
func (m *model) mayRetry(e *ending) bool {
	for _, t := range m.parts.cluster.CircuitBreakers.Thresholds {
		switch {
		case t.RetryBudget != nil:
			return t.RetryBudget.allows(m.active(e))
		case t.MaxRetries != nil:
			return *t.MaxRetries > 0
		}
	}
	return true
}

// active returns the number of active requests while a retry is decided. An HTTP/2 stream
// that has ended is not active.
func (m *model) active(e *ending) float64 {
	if m.scenario.Upstream.Protocol == "h2" && e.connected && (e.code == 0 || e.step.Body == "") && e.local != http.StatusGatewayTimeout {
		return 0
	}
	return 1
}

func (b *envoyBudget) allows(active float64) bool {
	percent, least := 20.0, 3
	if b.BudgetPercent != nil {
		percent = b.BudgetPercent.Value
	}
	if b.MinRetryConcurrency != nil {
		least = *b.MinRetryConcurrency
	}
	return max(least, int(math.Floor(active*percent/100))) > 0
}

// attempt simulates an attempt.
func (m *model) attempt(c *course, p *plan, n int, clock time.Duration) ending {
	left := p.left(clock)
	switch m.scenario.Upstream.Hosts[0].Listen {
	case "refuse":
		return failed("UF", "remote_connection_failure|delayed_connect_error:_Connection_refused", http.StatusServiceUnavailable)
	case "blackhole":
		return m.connecting(c, p, left, clock)
	case "accept_reset":
		c.known = false
	}
	if m.full() {
		return overflow(false)
	}
	return m.sent(c, p, n, left)
}

// full reports whether all requests are refused.
func (m *model) full() bool {
	return slices.ContainsFunc(m.parts.cluster.CircuitBreakers.Thresholds, func(t envoyThresholds) bool {
		return t.MaxRequests != nil && *t.MaxRequests == 0
	})
}

func overflow(connected bool) ending {
	e := failed("UO", "overflow", http.StatusServiceUnavailable)
	e.overflow, e.connected = true, connected
	return e
}

// failed returns the end of an attempt without a response.
func failed(flag, reason string, local int) ending {
	return ending{flags: []string{flag}, reason: reason, local: local, details: "upstream_reset_before_response_started{" + reason + "}"}
}

// limited returns the end of an attempt that a limit ends.
func limited(details string, took time.Duration) ending {
	return ending{flags: []string{"UT"}, details: details, reason: "-", local: http.StatusGatewayTimeout, took: took, connected: true}
}

// left returns the remaining time of the call, the minimum of its timeout and its caller's.
type left struct {
	total  time.Duration
	caller time.Duration
}

const forever = time.Duration(math.MaxInt64)

func (p *plan) left(clock time.Duration) left {
	l := left{forever, forever}
	if p.total > 0 {
		l.total = p.total - clock
	}
	if p.leaves > 0 {
		l.caller = p.leaves - clock
	}
	return l
}

// connecting simulates an attempt that gets no connection. It waits for the connection that an
// earlier attempt began to make, if that goes on.
func (m *model) connecting(c *course, p *plan, l left, clock time.Duration) ending {
	if c.dialed <= clock {
		c.dialed = clock + p.connect
	}
	e := failed("UF", "connection_timeout", http.StatusServiceUnavailable)
	e.took = c.dialed - clock
	if m.has(limitsIncludeConnecting) {
		e = p.firstLimit(e, l)
	} else {
		e = (&plan{}).firstLimit(e, l)
	}
	e.connected = false
	m.tally(c, e)
	return e
}

// tally counts a limit that fired.
func (m *model) tally(c *course, e ending) {
	switch e.details {
	case "upstream_per_try_timeout":
		c.stats["upstream_rq_per_try_timeout"]++
	case "upstream_per_try_idle_timeout":
		c.stats["upstream_rq_per_try_idle_timeout"]++
	case "response_timeout":
		c.stats["upstream_rq_timeout"]++
	}
}

// firstLimit returns e, or the end by a limit that fires earlier.
func (p *plan) firstLimit(e ending, l left) ending {
	if p.perTry > 0 && p.perTry < e.took {
		e = limited("upstream_per_try_timeout", p.perTry)
	}
	if p.idle > 0 && p.idle < e.took {
		e = limited("upstream_per_try_idle_timeout", p.idle)
	}
	if l.total < e.took {
		e = limited("response_timeout", l.total)
	}
	if l.caller < e.took {
		e = ending{gone: true, took: l.caller, connected: true}
	}
	return e
}

// sent simulates an attempt that has a connection.
func (m *model) sent(c *course, p *plan, n int, l left) ending {
	step := m.next(c, n)
	if s := step.status(); step.Action == "" && m.scenario.Upstream.Protocol == "http1" && (s/100 == 1 || (step.header("transfer-encoding") != "" && hasBody(s))) {
		c.known = false // the body is parsed as something else
	}
	if step.Action == "rst_stream" && step.Code == "REFUSED_STREAM" && m.has(resendsRefused) && m.grpc() {
		step = m.next(c, n)
	}
	e := m.met(step, c.request.Method)
	e.step, e.connected = step, true
	early := p.firstLimit(e, l)
	early.step = step
	if early.took < e.took {
		c.attempts[len(c.attempts)-1].cut = step.Action == "hang" || step.DelayMS > 0
		m.tally(c, early)
		return early
	}
	if e.code != 0 {
		e = m.body(c, e, l)
	}
	return e
}

// next returns the next step.
func (m *model) next(c *course, n int) Step {
	step := m.script.next(m.scenario.Upstream.Hosts[0], c.request.path())
	c.attempts = append(c.attempts, tried{step: step, number: n})
	return step
}

// met returns the end of an attempt that meets a step.
func (m *model) met(step Step, method string) ending {
	switch step.Action {
	case "hang":
		return ending{took: forever}
	case "garbage":
		return later(step, m.garbage())
	case "reset", "fin":
		return later(step, failed("UC", "connection_termination", http.StatusServiceUnavailable))
	case "rst_stream":
		return later(step, rst(step.Code))
	}
	if e, bad := m.refused(step, method); bad {
		return later(step, e)
	}
	return later(step, ending{code: m.codeOf(step), status: step.header("grpc-status"), details: "via_upstream"})
}

// garbage returns the end of an attempt whose response is not HTTP. HTTP/2 parses the bytes
// as the beginning of a frame.
func (m *model) garbage() ending {
	if m.scenario.Upstream.Protocol == "h2" {
		return failed("UC", "connection_termination", http.StatusServiceUnavailable)
	}
	return failed("UPE", "protocol_error", http.StatusBadGateway)
}

func later(step Step, e ending) ending {
	e.took = step.delay()
	return e
}

func rst(code string) ending {
	switch code {
	case "REFUSED_STREAM":
		return failed("UR", "remote_refused_stream_reset", http.StatusServiceUnavailable)
	case "PROTOCOL_ERROR":
		return failed("UPE", "protocol_error", http.StatusBadGateway)
	}
	return failed("UR", "remote_reset", http.StatusServiceUnavailable)
}

// body simulates the rest of a response that has begun.
func (m *model) body(c *course, e ending, l left) ending {
	flag, reason := m.broken(e.step, c.request.Method)
	if flag != "" {
		e.flags, e.after = []string{flag}, true
		e.details = "upstream_reset_after_response_started{" + reason + "}"
	}
	if d := e.took + e.step.bodyDelay(); e.step.Body != "" && d > 0 {
		switch {
		case l.caller < d:
			e.gone, e.took = true, l.caller
		case l.total < d:
			e.flags, e.after, e.details, e.took = []string{"UT"}, true, "response_timeout", l.total
		}
	}
	return e
}

// broken returns the flag and the reason of a response that breaks off.
func (m *model) broken(step Step, method string) (flag, reason string) {
	h2 := m.scenario.Upstream.Protocol == "h2"
	switch {
	case step.Action == "reset_after_headers":
		return m.cut(step, method)
	case m.grpc() && m.has(findsMalformed) && cutShort(step):
		return "UPE", "protocol_error"
	case h2:
		return m.brokenLength(step, method)
	}
	return "", ""
}

// retriable reports whether a condition of the policy permits another attempt.
func (m *model) retriable(e *ending, p *plan) bool {
	if e.gone || e.overflow || e.details == "response_timeout" || len(e.step.Informational) > 0 {
		return false
	}
	return slices.ContainsFunc(p.words, func(word string) bool { return m.meets(word, e, p) })
}

// meets reports whether the end of an attempt meets a condition.
func (m *model) meets(word string, e *ending, p *plan) bool {
	none := e.code == 0
	if !none && e.step.header("x-envoy-ratelimited") != "" {
		return word == "envoy-ratelimited"
	}
	switch word {
	case "5xx":
		return none || e.code/100 == 5
	case "gateway-error":
		return none || (e.code >= 502 && e.code <= 504)
	case "reset":
		return none
	case "connect-failure":
		return slices.Contains(e.flags, "UF")
	case "reset-before-request":
		return none && !e.connected && e.local != http.StatusGatewayTimeout
	case "refused-stream":
		return e.reason == "remote_refused_stream_reset"
	case "retriable-4xx":
		return e.code == http.StatusConflict
	case "retriable-status-codes":
		if m.grpc() && m.has(hasNoHTTPStatus) && !e.after && isGRPCType(e.step.header("content-type")) {
			return false
		}
		return slices.Contains(p.policy.RetriableStatusCodes, e.code)
	case "retriable-headers":
		return !none && slices.ContainsFunc(p.policy.RetriableHeaders, e.step.matches)
	}
	return !none && e.status != "" && e.status == grpcWords[word] && m.mayBeStatus(e.step)
}

// mayBeStatus reports whether a grpc-status in the header counts.
func (m *model) mayBeStatus(step Step) bool {
	return step.status() == http.StatusOK || isGRPCType(step.header("content-type"))
}

// grpcWords maps conditions to gRPC statuses.
//
//nolint:gochecknoglobals // a read-only table
var grpcWords = map[string]string{
	"cancelled": "1", "deadline-exceeded": "4", "resource-exhausted": "8", "internal": "13", "unavailable": "14",
}

// count counts the end of a call.
func (m *model) count(c *course) {
	e := &c.end
	whole := e.code != 0 && !e.after && !e.gone
	switch {
	case e.gone && e.code == 0:
	case e.code != 0 || e.details != "response_timeout" || c.stats["upstream_rq_timeout"] > 0:
		m.finally(c, max(e.code, 0)+e.local*b2i(e.code == 0), whole)
	}
	if e.overflow {
		c.stats["upstream_rq_active_overflow"]++
	}
	for _, i := range e.step.Informational {
		if !m.has(showsInformational) && e.code != 0 {
			m.inform1xx(c, i.Status)
		}
	}
	if m.parts.cluster.TrackClusterStats.TimeoutBudgets {
		c.stats[histogram+"upstream_rq_timeout_budget_per_try_percent_used"] += c.made - c.stats["upstream_rq_timeout"]
		if whole || e.details == "response_timeout" || e.local == http.StatusGatewayTimeout {
			c.stats[histogram+"upstream_rq_timeout_budget_percent_used"]++
		}
	}
	if m.parts.filters.grpcStats {
		m.countGRPC(c)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// finally counts the last code of a call, in all categories.
func (m *model) finally(c *course, code int, whole bool) {
	for _, category := range m.categories(c) {
		count(c.stats, category, code)
		if whole {
			c.stats[histogram+strings.ReplaceAll(category, ".", "_")+"upstream_rq_time"]++
		}
	}
}

// inform1xx counts an informational response. It is not canary, whatever the response after it is.
func (m *model) inform1xx(c *course, code int) {
	for _, category := range m.categories(c) {
		if category != "canary." {
			count(c.stats, category, code)
		}
	}
}

// histogram marks the names of histograms.
const histogram = "histogram "

// categories returns the categories in which a call is counted.
func (m *model) categories(c *course) []string {
	origin := "internal."
	if m.parts.external {
		origin = "external."
	}
	all := []string{"", origin}
	if c.end.code != 0 && c.end.step.header("x-envoy-upstream-canary") == "true" {
		all = append(all, "canary.")
	}
	if c.request.Headers["x-envoy-upstream-alt-stat-name"] != "" && !m.parts.external {
		all = append(all, "alt.", "alt."+origin)
	}
	return all
}

// count counts a code.
func count(stats map[string]int, category string, code int) {
	name := category + "upstream_rq_"
	stats[name+"completed"]++
	if code < 100 || code > 599 {
		return // upstream_rq_unknown is not compared
	}
	stats[name+strconv.Itoa(code)]++
	stats[name+strconv.Itoa(code/100)+"xx"]++
}

// codeOf returns the status as which a response counts. gRPC's client does not show the
// status of a response whose content type is gRPC's.
func (m *model) codeOf(step Step) int {
	if m.grpc() && m.has(makesStatuses) && isGRPCType(step.header("content-type")) {
		return http.StatusOK
	}
	return step.status()
}

// path returns the path of the request.
func (r Request) path() string {
	path, _, _ := strings.Cut(r.Path, "?")
	switch {
	case path == "" && r.GRPC:
		return "/pkg.Svc/Method"
	case path == "":
		return "/"
	}
	return path
}

// size returns the length of the body.
func (r Request) size() int {
	switch {
	case r.GRPC:
		return len("\x00\x00\x00\x00\x00")
	case r.BodyBytes > 0:
		return r.BodyBytes
	}
	return len(r.Body)
}

// matches reports whether a header of the request matches.
func (r Request) matches(m envoyHeaderMatcher) bool {
	for name, value := range r.Headers {
		if strings.EqualFold(name, m.Name) {
			return m.matches(value, true)
		}
	}
	return m.matches("", false)
}

// matches reports whether a header of the response matches.
func (s Step) matches(m envoyHeaderMatcher) bool {
	value, there := joined(s.Headers)[strings.ToLower(m.Name)]
	return m.matches(value, there)
}

// matches reports whether a value exists and matches.
func (m envoyHeaderMatcher) matches(value string, there bool) bool {
	match := m.StringMatch
	if match.Exact+match.Prefix+match.Suffix+match.Contains == "" {
		return there != m.InvertMatch
	}
	ok := (match.Exact == "" || value == match.Exact) && strings.HasPrefix(value, match.Prefix) &&
		strings.HasSuffix(value, match.Suffix) && strings.Contains(value, match.Contains)
	return there && ok != m.InvertMatch
}

// caseName returns the name of the nth call, from 0.
func caseName(n int) string { return fmt.Sprintf("r%03d", n+1) }
