package health_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster/internal/health"
	"github.com/pillion-go/pillion/internal/envoytest"
)

var update = flag.Bool("update", false, "record testdata/envoy.json anew, with the Envoy that PILLION_ENVOY names")

const goldenFile = "testdata/envoy.json"

// golden is what a real Envoy did with one host and its HTTP health check.
type golden struct {
	Envoy     string      `json:"envoy_version"`
	Scenarios []*scenario `json:"scenarios"`
}

// scenario is a configuration, what the host did, and what Envoy made of that.
type scenario struct {
	Name      string         `json:"name"`
	Check     map[string]any `json:"health_check"`         // what is different from baseCheck
	IgnoreNew bool           `json:"ignore_new,omitempty"` // ignore_new_hosts_until_first_hc
	NoTraffic bool           `json:"no_traffic,omitempty"` // whether there is never a request
	Steps     []*checkStep   `json:"steps"`
	Initial   *observation   `json:"initial,omitempty"` // before the first check ends
}

// checkStep is the host's response to one check, or to a request of ordinary traffic.
type checkStep struct {
	Passive bool              `json:"passive,omitempty"` // traffic: the response has the header that fails the host
	Status  int               `json:"status,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
	Action  string            `json:"action,omitempty"` // "hang" or "reset"
	Seen    *observation      `json:"seen,omitempty"`
}

// observation is what Envoy shows after a step.
type observation struct {
	Flags string            `json:"flags"`
	Stats map[string]uint64 `json:"stats"`
	GapMS float64           `json:"gap_ms,omitempty"` // from the end of the check to the next
}

// baseCheck has a different time for each interval, so that a gap says which one it was.
func baseCheck() map[string]any {
	return map[string]any{
		"timeout": "0.4s", "interval": "0.1s", "unhealthy_threshold": 2., "healthy_threshold": 3.,
		"unhealthy_interval": "0.2s", "unhealthy_edge_interval": "0.3s", "healthy_edge_interval": "0.4s",
		"no_traffic_interval": "0.5s", "no_traffic_healthy_interval": "0.6s",
		"http_health_check": map[string]any{"path": "/check"},
	}
}

func (s *scenario) check() map[string]any {
	check := baseCheck()
	maps.Copy(check, s.Check)
	return check
}

func ok() *checkStep             { return &checkStep{Status: 200} }
func status(code int) *checkStep { return &checkStep{Status: code} }
func action(a string) *checkStep { return &checkStep{Action: a} }
func with(code int, headers ...string) *checkStep {
	s := &checkStep{Status: code, Headers: map[string]string{}}
	for _, h := range headers {
		s.Headers[h] = "true"
	}
	return s
}

func httpCheck(fields map[string]any) map[string]any {
	fields["path"] = "/check"
	return map[string]any{"http_health_check": fields}
}

// scenarios are what is recorded.
func scenarios() []*scenario {
	const degraded, immediate = "x-envoy-degraded", "x-envoy-immediate-health-check-fail"
	statuses := httpCheck(map[string]any{
		"expected_statuses":  []any{map[string]any{"start": 200., "end": 300.}, map[string]any{"start": 404., "end": 405.}},
		"retriable_statuses": []any{map[string]any{"start": 200., "end": 203.}, map[string]any{"start": 500., "end": 504.}},
	})
	one := map[string]any{"unhealthy_threshold": 1., "healthy_threshold": 1.}
	return []*scenario{
		{Name: "the first check passes", Steps: []*checkStep{ok(), ok(), ok()}},
		{Name: "the first check fails", Steps: []*checkStep{status(503), ok(), ok(), status(503), ok(), ok(), ok(), ok()}},
		{Name: "network failures add up", Steps: []*checkStep{ok(), action("reset"), ok(), action("reset"), action("reset"), action("reset"), ok(), ok(), ok(), ok()}},
		{Name: "a status is believed immediately", Steps: []*checkStep{ok(), status(500), status(500), ok(), action("reset"), ok(), ok(), ok()}},
		{Name: "timeouts", Steps: []*checkStep{ok(), action("hang"), action("hang"), action("hang"), action("reset"), action("hang"), ok(), ok(), ok()}},
		{Name: "the first check times out", Steps: []*checkStep{action("hang"), action("hang"), ok(), ok(), ok()}},
		{Name: "failures of two kinds", Steps: []*checkStep{ok(), action("reset"), action("hang"), ok(), ok(), ok(), action("hang"), status(503)}},
		{Name: "expected and retriable statuses", Check: statuses, Steps: []*checkStep{
			status(204), status(404), status(500), status(299), status(503), action("reset"), ok(), status(200), status(202), status(404), status(504),
		}},
		{Name: "thresholds of one", Check: one, Steps: []*checkStep{ok(), action("reset"), ok(), action("hang"), ok(), status(503), ok()}},
		{Name: "degraded", Steps: []*checkStep{
			with(200, degraded), with(200, degraded), ok(), with(200, degraded), with(503, degraded), with(200, degraded), ok(), with(200, degraded), ok(), ok(),
		}},
		{Name: "degraded while failed", Steps: []*checkStep{status(503), with(200, degraded), with(200, degraded), with(200, degraded), ok()}},
		{Name: "immediate failure", Steps: []*checkStep{ok(), with(503, immediate), status(503), ok(), ok(), ok(), with(200, immediate)}},
		{Name: "immediate failure with a retriable status", Check: statuses, Steps: []*checkStep{
			ok(), with(500, immediate), ok(), ok(), with(504, immediate), ok(), ok(), ok(),
		}},
		{Name: "traffic fails the host", Steps: []*checkStep{ok(), {Passive: true}, {Passive: true}, ok(), ok(), ok(), ok()}},
		{Name: "service name", Check: httpCheck(map[string]any{"service_name_matcher": map[string]any{"prefix": "soup"}}), Steps: []*checkStep{
			{Status: 200, Headers: map[string]string{"x-envoy-upstream-healthchecked-cluster": "soup-v1"}},
			ok(), status(503),
			{Status: 200, Headers: map[string]string{"x-envoy-upstream-healthchecked-cluster": "salad"}},
			{Status: 200, Headers: map[string]string{"x-envoy-upstream-healthchecked-cluster": "soup", degraded: ""}},
		}},
		{Name: "body", Check: httpCheck(map[string]any{
			"receive": []any{map[string]any{"text": "6f6b"}, map[string]any{"text": "21"}}, "response_buffer_size": 8.,
		}), Steps: []*checkStep{
			{Status: 200, Body: "it is ok!"},
			{Status: 200, Body: "ok, so!"},
			{Status: 200, Body: "! ok"},
			{Status: 200, Body: "12345 ok!"},
			{Status: 200, Body: "1234 ok!"},
			{Status: 503, Body: "ok!"},
			{Status: 503, Body: "no", Headers: map[string]string{immediate: ""}},
		}},
		{Name: "no traffic", NoTraffic: true, Steps: []*checkStep{ok(), ok(), action("reset"), ok(), status(503), ok()}},
		{Name: "new hosts wait for their first check", IgnoreNew: true, Steps: []*checkStep{status(503), ok(), ok(), ok()}},
		{Name: "new hosts wait, and pass", IgnoreNew: true, Steps: []*checkStep{ok(), ok()}},
	}
}

// TestGolden replays what a real Envoy did: the same flags, statistics and intervals must come
// of the same checks.
func TestGolden(t *testing.T) {
	data, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	documented, failing := 0, 0
	for _, s := range g.Scenarios {
		t.Run(s.Name, func(t *testing.T) {
			switch different := replay(t, s, true); {
			case t.Failed():
				failing++
			case different:
				documented++
			}
		})
	}
	if got, want := len(g.Scenarios), len(scenarios()); got != want {
		t.Errorf("got %d recorded scenarios, want %d", got, want)
	}
	same := len(g.Scenarios) - documented - failing
	t.Logf("golden health: %d cases, %d same, %d documented differences, 0 not yet, %d failing", len(g.Scenarios), same, documented, failing)
	if documented == 0 {
		t.Error("got no difference of the gauge of degraded hosts, want some: does Envoy count them now?")
	}
}

// TestEnvoy plays the scenarios with the Envoy that PILLION_ENVOY names. Intervals are not
// compared, because the machine may be busy. With -update it records the golden file.
func TestEnvoy(t *testing.T) {
	envoy := envoytest.Binary(t)
	version, err := exec.CommandContext(t.Context(), envoy, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(strings.TrimSpace(string(version)), "version: ")
	g := golden{Envoy: text, Scenarios: scenarios()}
	t.Run("scenarios", func(t *testing.T) {
		for _, s := range g.Scenarios {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				for attempt := 1; !play(t, s) || !s.punctual(); attempt++ {
					if attempt == 12 {
						t.Fatal("the machine was too busy to look between two checks, twelve times")
					}
				}
				replay(t, s, false)
			})
		}
	})
	if *update && !t.Failed() {
		data, err := json.MarshalIndent(g, "", " ")
		if err == nil {
			err = os.WriteFile(goldenFile, append(data, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// punctual reports whether no check timed out only because the machine was busy: Envoy counts a
// network failure for each step that hangs or resets, and for no other.
func (s *scenario) punctual() bool {
	var failures uint64
	for _, step := range s.Steps {
		if step.Action != "" {
			failures++
		}
		if step.Seen != nil && step.Seen.Stats["network_failure"] > failures {
			return false
		}
	}
	return true
}

// duration reads a duration of a configuration.
func duration(t *testing.T, v any) time.Duration {
	t.Helper()
	text, ok := v.(string)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ranges(v any) []health.StatusRange {
	var all []health.StatusRange
	list, _ := v.([]any)
	for _, r := range list {
		r := r.(map[string]any)
		all = append(all, health.StatusRange{Start: int(r["start"].(float64)), End: int(r["end"].(float64))})
	}
	return all
}

// configs makes this package's configurations of Envoy's.
func (s *scenario) configs(t *testing.T) (health.Config, health.HTTPConfig) {
	t.Helper()
	check := s.check()
	c := health.Config{
		Timeout: duration(t, check["timeout"]), Interval: duration(t, check["interval"]),
		UnhealthyThreshold: uint32(check["unhealthy_threshold"].(float64)), HealthyThreshold: uint32(check["healthy_threshold"].(float64)),
		UnhealthyInterval: duration(t, check["unhealthy_interval"]), UnhealthyEdgeInterval: duration(t, check["unhealthy_edge_interval"]),
		HealthyEdgeInterval: duration(t, check["healthy_edge_interval"]), NoTrafficInterval: duration(t, check["no_traffic_interval"]),
		NoTrafficHealthyInterval: duration(t, check["no_traffic_healthy_interval"]),
	}
	http := check["http_health_check"].(map[string]any)
	h := health.HTTPConfig{
		Path: http["path"].(string), ExpectedStatuses: ranges(http["expected_statuses"]), RetriableStatuses: ranges(http["retriable_statuses"]),
	}
	if m, ok := http["service_name_matcher"].(map[string]any); ok {
		h.ServiceName = func(name string) bool { return strings.HasPrefix(name, m["prefix"].(string)) }
	}
	if n, ok := http["response_buffer_size"].(float64); ok {
		h.ResponseBufferSize = int64(n)
	}
	segments, _ := http["receive"].([]any)
	for _, segment := range segments {
		var b []byte
		if _, err := fmt.Sscanf(segment.(map[string]any)["text"].(string), "%x", &b); err != nil {
			t.Fatal(err)
		}
		h.Receive = append(h.Receive, b)
	}
	return c, h
}

// replay plays a scenario through a session and compares with what was seen. It reports whether
// there was a difference of the documented kind.
func replay(t *testing.T, s *scenario, gaps bool) (different bool) {
	t.Helper()
	c, h := s.configs(t)
	checker, err := health.New(c, func() uint64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	initial := health.NewHost()
	initial.Pending = s.IgnoreNew
	r := &replayed{t: t, checker: checker, session: checker.Session(initial)}
	now := r.session.Start(time.Unix(0, 0))
	for i, step := range s.Steps {
		if step.Passive {
			r.took(r.session.Fail())
			r.compare(fmt.Sprintf("step %d, passive", i), step.Seen)
			continue
		}
		attempt, _ := r.session.Begin(now)
		if i == 0 {
			r.compare("before the first check ends", s.Initial)
		}
		if step.Action == "hang" {
			now = attempt.Deadline
		}
		next := r.took(attempt.Done(step.verdict(h), now)).Next
		if i == 0 && !s.NoTraffic {
			checker.Traffic()
		}
		r.compare(fmt.Sprintf("step %d, %d %s", i, step.Status, step.Action), step.Seen)
		seen := time.Duration(step.Seen.GapMS * float64(time.Millisecond))
		if got := next.Sub(now); gaps && seen != 0 && (seen < got-5*time.Millisecond || seen > got+70*time.Millisecond) {
			t.Errorf("step %d: got an interval of %v, Envoy's was %v", i, got, seen)
		}
		now = next
	}
	return r.different
}

// replayed is the state of a replay.
type replayed struct {
	t         *testing.T
	checker   *health.Checker
	session   *health.Session
	degraded  uint64 // how often the host became degraded
	different bool
}

func (r *replayed) took(step health.Step, ok bool) health.Step {
	r.t.Helper()
	if !ok {
		r.t.Fatal("got a session that is closed or a check that is over")
	}
	for _, e := range step.Events {
		if e.Kind == health.BecameDegraded {
			r.degraded++
		}
	}
	return step
}

// compare compares flags and statistics. One difference is documented: Envoy's gauge of
// degraded hosts never falls as long as the host is there.
func (r *replayed) compare(when string, want *observation) {
	r.t.Helper()
	got := observation{Flags: r.session.Status().String(), Stats: map[string]uint64{}, GapMS: want.GapMS}
	for stat := range health.Stat(health.StatCount) {
		if value := r.checker.Stat(stat); value != 0 {
			got.Stats[stat.String()] = value
		}
	}
	const degraded = "degraded"
	if want.Stats[degraded] != got.Stats[degraded] {
		r.different = true
	}
	if want.Stats[degraded] == r.degraded {
		delete(got.Stats, degraded)
		if r.degraded > 0 {
			got.Stats[degraded] = r.degraded
		}
	}
	if now := r.session.Status().Degraded; now != (r.checker.Stat(health.StatDegraded) == 1) {
		r.t.Errorf("%s: got %d degraded hosts, want it to be 1 only if %v", when, r.checker.Stat(health.StatDegraded), now)
	}
	if diff := cmp.Diff(*want, got); diff != "" {
		r.t.Errorf("%s (-Envoy +got):\n%s", when, diff)
	}
}

// verdict is what a prober makes of the step.
func (s *checkStep) verdict(h health.HTTPConfig) health.Verdict {
	switch s.Action {
	case "hang":
		return health.Broken(nil, true)
	case "reset":
		return health.Broken(nil, false)
	}
	header := http.Header{}
	for name, value := range s.Headers {
		header.Set(name, value)
	}
	body := s.Body
	if h.ResponseBufferSize > 0 {
		body = body[:min(len(body), int(h.ResponseBufferSize))]
	}
	return h.Judge(s.Status, header, []byte(body))
}

// host is the upstream of a scenario.
type host struct {
	t       *testing.T
	s       *scenario
	server  *httptest.Server
	stopped chan struct{}
	checks  chan *checkStep // the steps of checks that arrived
	started chan struct{}   // closed when the first check may end

	mu    sync.Mutex
	steps []*checkStep // guarded by mu
	ended time.Time    // when the last response was sent; guarded by mu
	last  *checkStep   // the step of that; guarded by mu
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/check" {
		if r.URL.Path == "/fail" {
			w.Header().Set("x-envoy-immediate-health-check-fail", "true")
		}
		return
	}
	h.mu.Lock()
	if h.last != nil && h.last.Seen != nil {
		h.last.Seen.GapMS = float64(time.Since(h.ended).Microseconds()) / 1000
		h.last = nil
	}
	if len(h.steps) == 0 {
		h.mu.Unlock()
		<-h.stopped
		return
	}
	step := h.steps[0]
	h.steps = h.steps[1:]
	step.Seen = &observation{}
	h.mu.Unlock()
	h.checks <- step
	<-h.started
	h.respond(w, r, step)
	h.mu.Lock()
	h.ended, h.last = time.Now(), step
	h.mu.Unlock()
}

func (h *host) respond(w http.ResponseWriter, r *http.Request, step *checkStep) {
	switch step.Action {
	case "hang":
		<-r.Context().Done()
	case "reset":
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			h.t.Error(err)
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	default:
		for name, value := range step.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(step.Status)
		_, _ = io.WriteString(w, step.Body)
		_ = http.NewResponseController(w).Flush()
	}
}

// play plays a scenario with a real Envoy and notes what it shows. It is false if a check ended
// before the one before it was looked at.
func play(t *testing.T, s *scenario) bool {
	t.Helper()
	h := &host{t: t, s: s, stopped: make(chan struct{}), started: make(chan struct{}), checks: make(chan *checkStep, 1)}
	var script []*checkStep
	for _, step := range s.Steps {
		if !step.Passive {
			script = append(script, step)
		}
	}
	h.steps = script
	h.server = httptest.NewServer(h)
	defer h.server.Close()
	defer close(h.stopped)
	p := startEnvoy(t, s, h.server.Listener.Addr().String())
	checks := uint64(0)
	for i, step := range s.Steps {
		if step.Passive {
			p.request("/fail")
			checks++
			if step.Seen = p.observe(checks); step.Seen == nil {
				return false
			}
			continue
		}
		select {
		case <-h.checks:
		case <-time.After(10 * time.Second):
			t.Fatalf("step %d: Envoy made no check", i)
		}
		if i == 0 {
			envoytest.Eventually(p.t, "an attempt", func() bool { return p.stats()["attempt"] > 0 })
			if s.Initial = p.observe(0); s.Initial == nil {
				return false
			}
			close(h.started)
		}
		checks++
		seen := p.observe(checks)
		if seen == nil {
			return false
		}
		h.mu.Lock()
		step.Seen.Flags, step.Seen.Stats = seen.Flags, seen.Stats
		h.mu.Unlock()
		if i == 0 && !s.NoTraffic {
			p.request("/") // Envoy serves when the first check is over
		}
	}
	return true
}

// process is a running Envoy.
type process struct {
	t *testing.T
	*envoytest.Envoy
}

func startEnvoy(t *testing.T, s *scenario, upstream string) *process {
	t.Helper()
	kind := "STATIC"
	if s.IgnoreNew {
		kind = "STRICT_DNS"
	}
	return &process{t, envoytest.Run(t, envoytest.Bootstrap([]envoytest.Object{{
		"name": "upstream", "type": kind, "connect_timeout": "1s", "health_checks": []any{s.check()},
		"common_lb_config": envoytest.Object{"ignore_new_hosts_until_first_hc": s.IgnoreNew, "update_merge_window": "0s"},
		"load_assignment":  envoytest.Assignment("upstream", upstream),
	}}, []envoytest.Object{{
		"match": envoytest.Object{"prefix": "/"}, "route": envoytest.Object{"cluster": "upstream"},
	}}))}
}

// request makes one request, as soon as Envoy listens.
func (p *process) request(path string) {
	p.t.Helper()
	if err := p.Listen(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	response, err := http.Get("http://" + p.Egress + path)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

// stats returns what Envoy has counted, apart from 0.
func (p *process) stats() map[string]uint64 {
	p.t.Helper()
	stats := map[string]uint64{}
	for name, n := range p.MustStats(p.t, "cluster.upstream.health_check") {
		if n != 0 {
			stats[name[strings.LastIndexByte(name, '.')+1:]] = n
		}
	}
	return stats
}

// observe waits until so many results have been counted, and returns what Envoy shows, or nil
// if there are more already.
func (p *process) observe(results uint64) *observation {
	p.t.Helper()
	seen := &observation{}
	counted := func() uint64 {
		seen.Stats = p.stats()
		return seen.Stats["success"] + seen.Stats["failure"]
	}
	envoytest.Eventually(p.t, fmt.Sprintf("%d results", results), func() bool { return counted() >= results })
	text := p.MustPage(p.t, "/clusters")
	i := slices.IndexFunc(strings.Split(text, "\n"), func(line string) bool { return strings.Contains(line, "::health_flags::") })
	if i >= 0 {
		_, seen.Flags, _ = strings.Cut(strings.Split(text, "\n")[i], "::health_flags::")
	}
	if counted() != results {
		return nil
	}
	return seen
}
