package tracing

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/aws/aws-xray-sdk-go/v2/daemoncfg"
	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
)

// NoDaemon is a daemon address that sends nothing: segments, ids and headers are
// made all the same.
const NoDaemon = "off"

// The values of a Config that names none.
const (
	DefaultDaemon    = "127.0.0.1:2000"
	DefaultQueueSize = 1000
)

// ContextMissing says what to do about a call through a [Client] policy that is
// made outside of any segment. The call is made in any case, without a trace header.
type ContextMissing string

// What can be done. A panic is none of it: the SDK's RUNTIME_ERROR is read as
// MissingReported.
const (
	MissingIgnored  ContextMissing = ""          // nothing: the gem's way
	MissingReported ContextMissing = "LOG_ERROR" // OnError hears of it, at its bounded rate
)

// Config says what a [Tracer] records, and where to. Only Name is needed.
type Config struct {
	// Name names the service's segments. Empty is an error, unless Disabled. X-Ray allows
	// letters, digits, spaces and _.:/%&#=+\-@ in a name, and 200 of them; others become an
	// underscore, and the rest is cut. Mirrors the gem's config.name.
	Name string `json:"name,omitempty"`

	// NameFor names the segment of a request; "" stands for Name. It must be safe for
	// concurrent use, and should not give many names. Mirrors the SDK's SegmentNamer.
	NameFor func(*http.Request) string `json:"-"`

	// Version is the version of the service, in service.version of every document. Empty
	// stands for the text of a file REVISION in the working directory, else for the revision
	// that the program was built from, if it knows it. Mirrors the gem's config.version.
	Version string `json:"version,omitempty"`

	// Daemon is the address of the X-Ray daemon, host:port, or two of them in the SDK's form
	// "udp:host:port tcp:host:port", where tcp is asked for sampling rules. Empty means
	// 127.0.0.1:2000; NoDaemon sends nothing. A host is looked up when the first document is
	// sent, and again after errors. Mirrors the SDK's DaemonAddr, the gem's client_options.
	Daemon string `json:"daemon,omitempty"`

	// Disabled turns tracing off: no segments, no headers, no work. Mirrors the SDK's
	// AWS_XRAY_SDK_DISABLED.
	Disabled bool `json:"disabled,omitempty"`

	// SamplingRate is the share of traces beginning here that is recorded, up to 1. Zero
	// means 1, NeverSample none; any other negative value is an error. A decision that comes
	// with a request is kept. Mirrors the gem's config.sampling_rate.
	SamplingRate float64 `json:"sampling_rate,omitempty"`

	// Sampling, if set, decides in place of SamplingRate: the SDK's
	// sampling.NewLocalizedStrategy or sampling.NewCentralizedStrategy, or one's own. The
	// SDK's centralized strategy is given Daemon's address, and starts goroutines that never
	// end.
	Sampling sampling.Strategy `json:"-"`

	// Annotations are on every document. Nil means {"hostname": …}; an empty map means none.
	// Keys and values are made legal as by [Segment.Annotate]. Mirrors the gem's
	// default_annotation.
	Annotations map[string]any `json:"annotations,omitempty"`

	// Metadata is on every document, by namespace. Nil means {"tracing_sdk": {"name": "pillion",
	// "version": …}}; an empty map means none. Mirrors the gem's default_metadata.
	Metadata map[string]map[string]any `json:"metadata,omitempty"`

	// ExcludedPaths are paths of requests that [Tracer.Handler] passes on untouched. They must
	// be equal. Mirrors the strings of the gem's excluded_paths.
	ExcludedPaths []string `json:"excluded_paths,omitempty"`

	// ExcludedPatterns are regular expressions that do so where they match any part of the
	// path; one that cannot be compiled is an error. Mirrors the expressions of the gem's
	// excluded_paths.
	ExcludedPatterns []string `json:"excluded_patterns,omitempty"`

	// TrustedProxies are addresses and networks (CIDR) of proxies whose X-Forwarded-* headers
	// are believed. Nil means loopback, private and unique local ones, as in Rack; an empty list
	// means none. One that cannot be read is an error.
	TrustedProxies []string `json:"trusted_proxies,omitempty"`

	// RecordCaller notes in a call's subsegment which code made it: up to 100 frames, in
	// metadata.caller. It costs some microseconds. Mirrors the gem's
	// record_caller_of_http_requests.
	RecordCaller bool `json:"record_caller,omitempty"`

	// W3C reads traceparent and tracestate where a request has no X-Amzn-Trace-Id, and sends
	// them beside it, for services that are traced by OpenTelemetry.
	W3C bool `json:"w3c,omitempty"`

	// ContextMissing says what to do about calls outside of any segment. Mirrors the SDK's
	// ContextMissingStrategy.
	ContextMissing ContextMissing `json:"context_missing,omitempty"`

	// QueueSize is how many documents may wait to be sent; what does not fit is dropped and
	// counted. Zero means 1000; negative is an error. Mirrors the gem's max_queue_size.
	QueueSize int `json:"queue_size,omitempty"`

	// OnError hears why documents were lost, from one goroutine, at most once a second; what
	// it misses is counted in [Stats]. It may take its time: nothing but sending waits for it.
	// Nil means silence. Mirrors the gem's segment_sending_error_handler.
	OnError func(error) `json:"-"`
}

// checked is what a Config comes to.
type checked struct {
	rate     float64
	daemon   daemon
	patterns []*regexp.Regexp
	proxies  []netip.Prefix
	queue    int
}

// check gives what the configuration means, and all that is wrong with it.
func (c Config) check() (checked, error) {
	var (
		v   checked
		bad []error
	)
	say := func(err error) {
		if err != nil {
			bad = append(bad, err)
		}
	}
	if c.Name == "" && !c.Disabled {
		say(errNoName)
	}
	var err error
	v.rate, err = checkRate(c.SamplingRate)
	say(err)
	v.daemon, err = parseDaemon(c.Daemon)
	say(within("Daemon", err))
	for _, p := range c.ExcludedPatterns {
		re, wrong := regexp.Compile(p)
		say(within("ExcludedPatterns", wrong))
		v.patterns = append(v.patterns, re)
	}
	v.proxies, err = parseProxies(c.TrustedProxies)
	say(within("TrustedProxies", err))
	if c.ContextMissing != MissingIgnored && c.ContextMissing != MissingReported {
		say(fmt.Errorf("tracing: Config.ContextMissing: %q is unknown", c.ContextMissing))
	}
	if v.queue = c.QueueSize; v.queue == 0 {
		v.queue = DefaultQueueSize
	}
	if v.queue < 0 {
		say(fmt.Errorf("tracing: Config.QueueSize: %d is negative", c.QueueSize))
	}
	return v, errors.Join(bad...)
}

func within(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tracing: Config.%s: %w", field, err)
}

// daemon is where a daemon listens; an empty udp means nowhere.
type daemon struct{ udp, tcp string }

// parseDaemon reads an address in the SDK's forms.
func parseDaemon(s string) (daemon, error) {
	switch s {
	case "":
		return daemon{DefaultDaemon, DefaultDaemon}, nil
	case NoDaemon:
		return daemon{tcp: DefaultDaemon}, nil
	}
	first, second, both := strings.Cut(s, " ")
	if !both {
		return daemon{s, s}, checkAddress(s)
	}
	var d daemon
	for _, part := range []string{first, second} {
		if address, ok := strings.CutPrefix(part, "udp:"); ok && d.udp == "" {
			d.udp = address
		} else if address, ok := strings.CutPrefix(part, "tcp:"); ok && d.tcp == "" {
			d.tcp = address
		} else {
			return daemon{}, fmt.Errorf("%q is neither host:port nor udp:host:port tcp:host:port", s)
		}
	}
	return d, errors.Join(checkAddress(d.udp), checkAddress(d.tcp))
}

// checkAddress reports what is wrong with host:port. It looks nothing up.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if host == "" || strings.ContainsAny(host, " \t/") {
		return fmt.Errorf("%q has no legal host", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return fmt.Errorf("%q has no port from 1 to 65535", s)
	}
	return nil
}

// loadDaemon tells the SDK's centralized sampling strategy where its rules are.
func (t *Tracer) loadDaemon(d daemon) error {
	centralized, ok := t.strategy.(*sampling.CentralizedStrategy)
	if !ok {
		return nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", d.tcp)
	if err != nil {
		return within("Daemon", err)
	}
	centralized.LoadDaemonEndpoints(&daemoncfg.DaemonEndpoints{TCPAddr: tcp})
	return nil
}

// version gives what Version stands for.
func (c Config) version() string {
	if c.Version != "" {
		return c.Version
	}
	if text, err := os.ReadFile("REVISION"); err == nil {
		return strings.TrimSpace(string(text))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}
