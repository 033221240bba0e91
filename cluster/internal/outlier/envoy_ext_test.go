package outlier_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
	"github.com/pillion-go/pillion/internal/envoytest"
)

var update = flag.Bool("update", false, "record testdata/envoy.json anew, with the Envoy that PILLION_ENVOY names")

const envoyFile = "testdata/envoy.json"

// live is what a real Envoy made of one host.
type live struct {
	Envoy     string          `json:"envoy_version"`
	Scenarios []*liveScenario `json:"scenarios"`
}

// liveScenario is a configuration, what the host did, and what Envoy showed.
type liveScenario struct {
	Name      string         `json:"name"`
	Detection map[string]any `json:"outlier_detection"` // what is different from baseDetection
	Steps     []*liveStep    `json:"steps"`

	// Differs are statistics that differ, as the package's documentation says.
	Differs []outlier.Stat `json:"differs,omitempty"`
}

// liveStep is one request, or a wait until flags or rates change.
type liveStep struct {
	Get  string     `json:"get,omitempty"` // "wait" if empty
	Seen *liveState `json:"seen,omitempty"`
}

// liveState is what Envoy shows after a step.
type liveState struct {
	Flags string            `json:"flags"`
	Rate  string            `json:"success_rate"`
	Local string            `json:"local_origin_success_rate"`
	Stats map[string]uint64 `json:"stats"`
	GapMS float64           `json:"gap_ms,omitempty"` // how long a wait took
}

// changed reports whether a wait that began at before is over.
func (s *liveState) changed(before *liveState) bool {
	return s.Flags != before.Flags || s.Rate != before.Rate || s.Local != before.Local
}

// interval is the time between ticks. No length of an ejection is a multiple of it, so that it
// does not matter how soon after a tick an ejection begins.
const interval = time.Second

// baseDetection detects any failure, and shows the rates of the only host after each interval.
func baseDetection() map[string]any {
	return map[string]any{
		"interval": "1s", "base_ejection_time": "1.2s", "max_ejection_percent": 100., "consecutive_5xx": 1.,
		"success_rate_minimum_hosts": 1., "success_rate_request_volume": 1., "failure_percentage_request_volume": 1000.,
	}
}

func (s *liveScenario) detection() map[string]any {
	detection := baseDetection()
	maps.Copy(detection, s.Detection)
	return detection
}

// script makes steps of words: paths of requests, and "wait".
func script(words string) []*liveStep {
	var steps []*liveStep
	for word := range strings.FieldsSeq(words) {
		steps = append(steps, &liveStep{Get: strings.TrimPrefix(word, "wait")})
	}
	return steps
}

// liveScenarios are what is recorded. The first wait of each ends at a tick.
func liveScenarios() []*liveScenario {
	degraded := map[string]any{"detect_degraded_hosts": true}
	return []*liveScenario{
		{Name: "rates", Detection: map[string]any{"consecutive_5xx": 50., "consecutive_gateway_failure": 50.}, Steps: script(
			"/200 wait /200 /500 /timeout /reset /404 wait wait",
		)},
		{Name: "rates of split origins", Detection: map[string]any{"split_external_local_origin_errors": true, "consecutive_5xx": 50.}, Steps: script(
			"/200 wait /200 /200 /timeout wait /500 /reset /200 /200 wait wait",
		)},
		{Name: "ejections grow", Detection: map[string]any{"max_ejection_time": "2.8s"}, Steps: script(
			"/200 wait /500 wait wait /500 wait /500 wait /500 wait",
		)},
		{Name: "good intervals shrink ejections", Steps: script(
			"/200 wait /500 wait wait /200 wait wait /timeout wait", // two intervals: the first may not count
		)},
		{Name: "runs start anew after an ejection", Detection: map[string]any{"consecutive_5xx": 3.}, Steps: script(
			"/200 wait /500 /500 /500 /500 /500 wait wait /500 /500 /500 wait",
		)},
		{Name: "degraded", Detection: degraded, Steps: script("/200 wait /degraded/200 /degraded/200 wait /200 wait")},
		{Name: "degraded and failed", Detection: degraded, Steps: script("/200 wait /degraded/500 wait wait")},
		{Name: "degradations grow", Detection: degraded, Steps: script("/200 wait /degraded/200 wait /degraded/200 wait wait wait")},
		{Name: "degradations and ejections grow apart", Detection: degraded, Steps: script(
			"/200 wait /degraded/200 wait /500 wait /degraded/200 wait wait",
		)},
		{Name: "degraded while ejected", Detection: degraded, Steps: script("/200 wait /500 /degraded/200 wait wait /200 wait")},
		{Name: "degraded, and there is no room", Detection: map[string]any{"detect_degraded_hosts": true, "max_ejection_percent": 0.}, Steps: script(
			"/200 wait /degraded/200 /500 wait wait",
		)},
		{Name: "degraded with split origins", Detection: map[string]any{"detect_degraded_hosts": true, "split_external_local_origin_errors": true}, Steps: script(
			"/200 wait /degraded/200 /404 wait",
		)},
		{
			Name: "both failure percentages",
			Detection: map[string]any{
				"split_external_local_origin_errors": true, "consecutive_5xx": 50., "consecutive_local_origin_failure": 50.,
				"failure_percentage_request_volume": 2., "failure_percentage_minimum_hosts": 1., "failure_percentage_threshold": 40.,
				"enforcing_failure_percentage": 100., "enforcing_failure_percentage_local_origin": 100.,
			},
			Steps: script("/200 wait /500 /500 /reset /reset /reset /reset /reset /reset wait wait"),
			Differs: []outlier.Stat{
				outlier.EjectionsActive, outlier.EjectionsEnforcedTotal, outlier.EjectionsEnforcedLocalOriginFailurePercentage,
			},
		},
	}
}

// results returns what Envoy's router reports of a request.
func (s *liveStep) results() []outlier.Result {
	connected := outlier.Result{Outcome: outlier.ConnectSuccess}
	degraded := strings.HasPrefix(s.Get, "/degraded/")
	code, _ := strconv.Atoi(s.Get[strings.LastIndexByte(s.Get, '/')+1:])
	result := outlier.Response(code)
	switch {
	case s.Get == "/timeout":
		result = outlier.Result{Outcome: outlier.Timeout, Code: http.StatusGatewayTimeout}
	case s.Get == "/reset":
		result = outlier.Result{Outcome: outlier.ConnectFailed}
	case degraded && result.Outcome == outlier.RequestSuccess:
		result.Outcome = outlier.RequestDegraded
	}
	return []outlier.Result{connected, result}
}

// TestRecorded replays what a real Envoy did: the same flags, rates, statistics and times must
// come of the same responses.
func TestRecorded(t *testing.T) {
	data, err := os.ReadFile(envoyFile)
	if err != nil {
		t.Fatal(err)
	}
	var recorded live
	if err := json.Unmarshal(data, &recorded); err != nil {
		t.Fatal(err)
	}
	documented, failing := 0, 0
	for _, s := range recorded.Scenarios {
		if !t.Run(s.Name, func(t *testing.T) { s.replay(t, true) }) {
			failing++
		} else if len(s.Differs) > 0 {
			documented++
		}
	}
	if got, want := len(recorded.Scenarios), len(liveScenarios()); got != want {
		t.Errorf("got %d recorded scenarios, want %d", got, want)
	}
	t.Logf("recorded outlier: %d cases, %d documented differences, %d failing", len(recorded.Scenarios), documented, failing)
}

// replay plays a scenario through a detector. A wait is a number of ticks.
func (s *liveScenario) replay(t *testing.T, gaps bool) {
	t.Helper()
	var r recording
	r.Scenario.Envoy.Cluster.Detection = s.detection()
	k := newClock(t, r.config(t), "host")
	aligned := false
	before := state(k)
	for i, step := range s.Steps {
		began := k.now
		if step.Get != "" {
			k.report("host", step.results()...)
		} else {
			for range 100 {
				if k.sleep(interval); state(k).changed(before) {
					break
				}
			}
		}
		before = state(k)
		s.compare(t, fmt.Sprintf("step %d, %q", i, step.Get), step.Seen, before)
		seen := time.Duration(step.Seen.GapMS * float64(time.Millisecond))
		if took := k.now.Sub(began); gaps && aligned && (seen < took-interval/2 || seen > took+interval/2) {
			t.Errorf("step %d: got a wait of %v, Envoy's was %v", i, took, seen)
		}
		aligned = aligned || step.Get == ""
	}
}

func (s *liveScenario) compare(t *testing.T, when string, want, got *liveState) {
	t.Helper()
	expected := *want
	expected.GapMS, expected.Stats = 0, maps.Clone(want.Stats)
	for _, stat := range s.Differs {
		if delete(expected.Stats, stat.String()); got.Stats[stat.String()] != 0 {
			expected.Stats[stat.String()] = got.Stats[stat.String()]
		}
	}
	if diff := cmp.Diff(&expected, got); diff != "" {
		t.Errorf("%s (-Envoy +got):\n%s", when, diff)
	}
}

// state shows a detector's only host as Envoy does.
func state(k *clock) *liveState {
	s, _ := k.d.Status("host")
	seen := &liveState{Rate: show(s.SuccessRate), Local: show(s.LocalOriginSuccessRate), Stats: map[string]uint64{}}
	if s.Ejected {
		seen.Flags += "/failed_outlier_check"
	}
	if s.Degraded {
		seen.Flags += "/degraded_outlier_detection"
	}
	if seen.Flags == "" {
		seen.Flags = "healthy"
	}
	for stat := range outlier.Stat(outlier.StatCount) {
		if value := k.d.Stat(stat); value != 0 {
			seen.Stats[stat.String()] = value
		}
	}
	return seen
}

// show formats a rate as Envoy does.
func show(rate float64) string { return strconv.FormatFloat(rate, 'g', -1, 64) }

// TestEnvoy plays the scenarios with the Envoy that PILLION_ENVOY names. Times are not
// compared, because the machine may be busy. With -update it records the file.
func TestEnvoy(t *testing.T) {
	envoy := envoytest.Binary(t)
	version, err := exec.CommandContext(t.Context(), envoy, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(strings.TrimSpace(string(version)), "version: ")
	recorded := live{Envoy: text, Scenarios: liveScenarios()}
	t.Run("scenarios", func(t *testing.T) {
		for _, s := range recorded.Scenarios {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				for attempt := 1; !s.play(t); attempt++ {
					if attempt == 5 {
						t.Fatal("the machine was too busy for the requests of one interval, five times")
					}
				}
				s.replay(t, false)
			})
		}
	})
	if *update && !t.Failed() {
		data, err := json.MarshalIndent(recorded, "", " ")
		if err == nil {
			err = os.WriteFile(envoyFile, append(data, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// play plays a scenario with a real Envoy and notes what it shows. It is false if requests that
// belong to one interval took too long for that.
func (s *liveScenario) play(t *testing.T) bool {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(serve))
	defer server.Close()
	p := startEnvoy(t, s.detection(), server.Listener.Addr().String())
	envoytest.Eventually(t, "its host", func() bool { return p.observe().Flags != "" })
	last, began, aligned := p.observe(), time.Now(), false
	for _, step := range s.Steps {
		if step.Get != "" {
			p.request(step.Get)
			step.Seen = p.observe()
			if step.Seen.Rate != last.Rate || aligned && time.Since(began) > interval*3/4 {
				return false
			}
		} else {
			waited := time.Now()
			envoytest.Eventually(t, "a change", func() bool {
				step.Seen = p.observe()
				return step.Seen.changed(last)
			})
			began, aligned = time.Now(), true
			step.Seen.GapMS = float64(began.Sub(waited).Microseconds()) / 1000
		}
		last = step.Seen
	}
	return true
}

// serve does what the path says.
func serve(w http.ResponseWriter, r *http.Request) {
	code, _ := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	switch {
	case r.URL.Path == "/timeout":
		<-r.Context().Done()
	case r.URL.Path == "/reset":
		panic(http.ErrAbortHandler)
	case strings.HasPrefix(r.URL.Path, "/degraded/"):
		w.Header().Set("x-envoy-degraded", "true")
		fallthrough
	default:
		w.WriteHeader(code)
	}
}

// process is a running Envoy.
type process struct {
	t *testing.T
	*envoytest.Envoy
}

func startEnvoy(t *testing.T, detection map[string]any, upstream string) *process {
	t.Helper()
	return &process{t, envoytest.RunListening(t, envoytest.Bootstrap([]envoytest.Object{{
		"name": "upstream", "type": "STATIC", "connect_timeout": "1s", "outlier_detection": detection,
		"common_lb_config": envoytest.Object{"update_merge_window": "0s"}, "load_assignment": envoytest.Assignment("upstream", upstream),
	}}, []envoytest.Object{{
		"match": envoytest.Object{"prefix": "/"}, "route": envoytest.Object{"cluster": "upstream", "timeout": "0.1s"},
	}}))}
}

// request makes one request.
func (p *process) request(path string) {
	p.t.Helper()
	response, err := http.Get("http://" + p.Egress + path)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

// observe returns what Envoy shows of its host.
func (p *process) observe() *liveState {
	p.t.Helper()
	seen := &liveState{Stats: map[string]uint64{}}
	for line := range strings.Lines(p.MustPage(p.t, "/clusters")) {
		parts := strings.Split(strings.TrimSpace(line), "::")
		if len(parts) < 4 {
			continue
		}
		for name, field := range map[string]*string{"health_flags": &seen.Flags, "success_rate": &seen.Rate, "local_origin_success_rate": &seen.Local} {
			if parts[2] == name {
				*field = parts[3]
			}
		}
	}
	for name, n := range p.MustStats(p.t, "cluster.upstream.outlier_detection") {
		if n != 0 {
			seen.Stats[name[strings.LastIndexByte(name, '.')+1:]] = n
		}
	}
	return seen
}
