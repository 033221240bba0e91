package parity

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Case is a scenario and the observations of a real Envoy.
type Case struct {
	Format       int                          `json:"format"`
	EnvoyVersion string                       `json:"envoy_version"`
	Scenario     Scenario                     `json:"scenario"`
	Observed     Observed                     `json:"observed"`
	TimingRuns   []Timing                     `json:"timing_runs"`
	Volatile     map[string][]json.RawMessage `json:"volatile"`
	Runs         int                          `json:"runs"`
}

// Scenario describes a play.
type Scenario struct {
	Name        string                     `json:"name"`
	Description string                     `json:"description"`
	Tags        []string                   `json:"tags"`
	Notes       string                     `json:"notes"`
	Statistical bool                       `json:"statistical"` // compare proportions
	Envoy       map[string]json.RawMessage `json:"envoy"`       // fragments of Envoy's configuration
	Upstream    UpstreamScript             `json:"upstream"`
	Downstream  Calls                      `json:"downstream"`

	first int // the host that chance put first
}

// UpstreamScript describes the behavior of the upstream.
type UpstreamScript struct {
	Protocol string            `json:"protocol"` // http1, h2
	Hosts    []Host            `json:"hosts"`
	Script   []Step            `json:"script"`
	ByPath   map[string][]Step `json:"by_path"`
	Scope    string            `json:"scope"` // host: steps are counted separately for each host
}

// Host is one address of the upstream.
type Host struct {
	ID     string `json:"id"`
	Listen string `json:"listen"` // accept, refuse, accept_reset, blackhole
	Script []Step `json:"script"`
}

// Step is the reaction of the upstream to one request.
type Step struct {
	Action        string          `json:"action"`
	Code          string          `json:"code"` // of an RST_STREAM
	Status        int             `json:"status"`
	Headers       [][2]string     `json:"headers"`
	Body          string          `json:"body"`
	Trailers      [][2]string     `json:"trailers"`
	DelayMS       int             `json:"delay_ms"`      // before the response headers
	BodyDelayMS   int             `json:"body_delay_ms"` // between response headers and body
	Informational []Informational `json:"informational"`
	Close         bool            `json:"close"`
	Repeat        int             `json:"repeat"`
}

// Informational is a 1xx response before the response.
type Informational struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
}

// Calls describes the calls.
type Calls struct {
	Protocol string `json:"protocol"` // the protocol between the caller and a sidecar
	Ops      []Op   `json:"ops"`
}

// Op is one operation. It begins after the previous one.
type Op struct {
	Op         string    `json:"op"` // request, concurrent, sleep, snapshot
	Request    *Request  `json:"request"`
	Requests   []Request `json:"requests"`
	Count      int       `json:"count"`
	GapMS      int       `json:"gap_ms"`
	MS         int       `json:"ms"`
	Name       string    `json:"name"`
	SnapshotAt int       `json:"snapshot_at_ms"`
}

// Request is one call.
type Request struct {
	Method        string            `json:"method"`
	Path          string            `json:"path"`
	Headers       map[string]string `json:"headers"`
	Body          string            `json:"body"`
	BodyBytes     int               `json:"body_bytes"`
	GRPC          bool              `json:"grpc"`
	ClientTimeout int               `json:"client_timeout_ms"`
	StartMS       int               `json:"start_ms"`
}

// Observed contains the observations of a play.
type Observed struct {
	Downstream  []Answer                     `json:"downstream"`
	AccessLog   []Logged                     `json:"access_log"`
	Attempts    []Attempt                    `json:"upstream_attempts"`
	Connections map[string]int               `json:"upstream_connections"`
	Stats       map[string]uint64            `json:"stats_nonzero"`
	Histograms  map[string]uint64            `json:"histogram_counts"`
	Prometheus  []string                     `json:"prometheus_nonzero"`
	Snapshots   map[string]map[string]uint64 `json:"snapshots"`
	Health      []string                     `json:"admin_clusters_health"`
	Summary     *Summary                     `json:"summary"` // instead of the lists if they are long
}

// Answer is the response that a caller received.
type Answer struct {
	Case          string            `json:"case"`
	Status        int               `json:"status"`
	Headers       map[string]string `json:"headers"`
	Body          string            `json:"body"`
	Trailers      map[string]string `json:"trailers"`
	Informational []int             `json:"informational"`
	Error         string            `json:"error"`
}

// Logged is a line of Envoy's access log.
type Logged struct {
	Case              string `json:"case"`
	Code              int    `json:"response_code"`
	Details           string `json:"response_code_details"`
	Flags             string `json:"response_flags"`
	LongFlags         string `json:"response_flags_long"`
	Cluster           string `json:"upstream_cluster"`
	Host              string `json:"upstream_host"`
	Attempts          int    `json:"upstream_request_attempt_count"`
	TransportFailure  string `json:"upstream_transport_failure_reason"`
	GRPCStatus        string `json:"grpc_status"`
	GRPCStatusNumeric *int   `json:"grpc_status_number"`
}

// Attempt is the observation of an attempt at the upstream.
type Attempt struct {
	Seq     int               `json:"seq"`
	Case    string            `json:"case"`
	Host    string            `json:"host"`
	Conn    int               `json:"conn"`
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	BodyLen int               `json:"body_len"`
	Step    string            `json:"step"`
	Outcome string            `json:"outcome"` // sent, aborted_by_peer
}

// Summary counts equal entries.
type Summary struct {
	Downstream map[string]int `json:"downstream"`
	AccessLog  map[string]int `json:"access_log"`
	Attempts   map[string]int `json:"upstream_attempts"`
}

// Timing contains the times of one play.
type Timing struct {
	Attempts []float64 `json:"attempt_t_ms"` // since the start of the calls
	Calls    []float64 `json:"downstream_elapsed_ms"`
}

// Load reads all cases of a directory, in the order of their names: files *.json, or
// compressed *.json.gz. A file with an unknown part is an error, and so is a directory
// without cases.
func Load(dir string) ([]*Case, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var cases []*Case
	var bad []error
	for _, e := range entries {
		name, zipped := strings.CutSuffix(e.Name(), ".gz")
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		c, err := loadFile(filepath.Join(dir, e.Name()), zipped)
		if err == nil && c.Scenario.Name != strings.TrimSuffix(name, ".json") {
			err = fmt.Errorf("it contains the scenario %q", c.Scenario.Name)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", e.Name(), err))
			continue
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 && len(bad) == 0 {
		bad = append(bad, fmt.Errorf("%s: no case found", dir))
	}
	return cases, errors.Join(bad...)
}

func loadFile(path string, zipped bool) (*Case, error) {
	f, err := os.Open(path) //nolint:gosec // the caller chooses the path
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // the file was read
	var r io.Reader = f
	if zipped {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	return read(r)
}

// read decodes one case.
func read(r io.Reader) (*Case, error) {
	c := &Case{}
	if err := strict(r, c); err != nil {
		return nil, err
	}
	return c, c.check()
}

// strict decodes JSON. A field that into does not have is an error.
func strict(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("unexpected data after the end")
	}
	return nil
}

func strictBytes(text []byte, into any) error { return strict(bytes.NewReader(text), into) }

// check returns an error for the parts that the player does not support.
func (c *Case) check() error {
	u := c.Scenario.Upstream
	bad := []error{
		oneOf("format", strconv.Itoa(c.Format), "1"),
		oneOf("upstream.protocol", u.Protocol, "http1", "h2"),
		oneOf("upstream.scope", u.Scope, "", "host"),
		oneOf("downstream.protocol", c.Scenario.Downstream.Protocol, "http1", "h2"),
		checkSteps(u.Script),
	}
	for _, h := range u.Hosts {
		bad = append(bad, oneOf("listen", h.Listen, "", "accept", "refuse", "accept_reset", "blackhole"), checkSteps(h.Script))
	}
	for _, steps := range u.ByPath {
		bad = append(bad, checkSteps(steps))
	}
	for _, op := range c.Scenario.Downstream.Ops {
		bad = append(bad, oneOf("op", op.Op, "request", "concurrent", "sleep", "snapshot"))
		if (op.Op == "request") != (op.Request != nil) {
			bad = append(bad, fmt.Errorf("op %s: request", op.Op))
		}
	}
	return errors.Join(bad...)
}

func checkSteps(steps []Step) error {
	var bad []error
	for _, s := range steps {
		bad = append(bad, oneOf("action", s.Action, "", "respond", "reset", "fin", "hang", "reset_after_headers", "rst_stream", "garbage"))
		if _, ok := errorCode(s.Code); !ok && s.Action == "rst_stream" {
			bad = append(bad, fmt.Errorf("code: %q is unknown", s.Code))
		}
	}
	return errors.Join(bad...)
}

func oneOf(what, got string, known ...string) error {
	if slices.Contains(known, got) {
		return nil
	}
	return fmt.Errorf("%s: %q is unknown", what, got)
}
