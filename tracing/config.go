package tracing

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"regexp/syntax"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-xray-sdk-go/v2/daemoncfg"
	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
)

// NoDaemon is a daemon address that sends nothing: segments, ids and headers are still
// made.
const NoDaemon = "off"

// The values of a Config that names none.
const (
	DefaultDaemon    = "127.0.0.1:2000"
	DefaultQueueSize = 1000
)

// ContextMissing says what to do about a call through a [Client] policy that is
// made outside of any segment. The call is made in any case, without a trace header.
type ContextMissing string

// What can be done. There is no panic: the SDK's RUNTIME_ERROR is read as
// MissingReported.
const (
	MissingIgnored  ContextMissing = ""          // nothing: the gem's way
	MissingReported ContextMissing = "LOG_ERROR" // OnError receives it, at its bounded rate
)

// Config says what a [Tracer] records, and where to. Only Name is needed.
type Config struct {
	// Name names the service's segments. Empty is an error, unless Disabled. X-Ray allows
	// letters, digits, spaces and _.:/%&#=+\-@ in a name, and 200 of them; others become an
	// underscore, and the rest is cut. Mirrors the gem's config.name.
	Name string `json:"name,omitempty"`

	// NameFor names the segment of a request; "" stands for Name. It must be safe for
	// concurrent use, and should return few names: a caller can send any host and path. A
	// panic goes on to the caller of the handler. Mirrors the SDK's SegmentNamer.
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
	// means 1, Never none; any other value outside of 0 to 1 is an error. A decision
	// that comes with a request holds, unless IgnoreSampled is set. Mirrors the gem's
	// config.sampling_rate.
	SamplingRate float64 `json:"sampling_rate,omitempty"`

	// Sampling, if set, decides in place of SamplingRate, which then only counts if it
	// returns no decision: the SDK's sampling.NewLocalizedStrategy or
	// sampling.NewCentralizedStrategy, or a custom one. The SDK's centralized strategy is
	// configured with Daemon's address, and starts goroutines that never end. A panic goes on
	// to the caller. A nil pointer is an error.
	Sampling sampling.Strategy `json:"-"`

	// IgnoreSampled has SamplingRate or Sampling decide also for requests whose header brings
	// a decision. False believes every caller, as the gem and AWS's SDKs do: then a stranger's
	// Sampled=1 has a request recorded, and Sampled=0 hides it. Set it at the edge of the
	// network. A trace that the caller records may then lack this service. It concerns
	// [Tracer.Handler] and [Server]; [Tracer.Continue] is passed a decision by its caller.
	IgnoreSampled bool `json:"ignore_sampled,omitempty"`

	// Annotations are on every document. Nil means {"hostname": …}; an empty map means none.
	// Keys and values are made legal as by [Segment.Annotate]. A key without a legal
	// character, a nil value, and two keys that become the same are errors. Mirrors the gem's
	// default_annotation.
	Annotations map[string]any `json:"annotations,omitempty"`

	// Metadata is on every document, by namespace. Nil means {"tracing_sdk": {"name": "pillion",
	// "version": …}}; an empty map means none. A value that encoding/json cannot write, or
	// over 16 KiB, is an error. Mirrors the gem's default_metadata.
	Metadata map[string]map[string]any `json:"metadata,omitempty"`

	// ExcludedPaths are paths of requests that [Tracer.Handler] passes on untouched. They must
	// be equal, without the query. A path that does not begin with a slash is an error, but
	// for "*" of OPTIONS. Mirrors the strings of the gem's excluded_paths.
	ExcludedPaths []string `json:"excluded_paths,omitempty"`

	// ExcludedPatterns are regular expressions that do so where they match any part of the
	// path. One that is empty, that cannot be compiled, or that can match no path, since it
	// must begin otherwise than with a slash, is an error. Mirrors the expressions of the gem's excluded_paths.
	ExcludedPatterns []string `json:"excluded_patterns,omitempty"`

	// TrustedProxies are addresses and networks (CIDR) of proxies whose X-Forwarded-For and
	// X-Forwarded-Proto are believed. Nil means loopback, private and unique local ones, as in Rack; an empty list
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

	// OnError is called with the reason why documents were lost, in one goroutine, at most
	// once a second; [Stats] counts the others. It may block: only further calls of it wait. A
	// panic is recovered and reported to [slog.Default] at level Error. Nil means silence.
	// Mirrors the gem's segment_sending_error_handler.
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

// check returns what the configuration means, and all that is wrong with it.
func (c Config) check() (checked, error) {
	var (
		v     checked
		wrong problems
		err   error
	)
	if c.Name == "" && !c.Disabled {
		wrong.add("Name", errors.New("it is empty: write the service's name"))
	}
	v.rate, err = checkRate(c.SamplingRate)
	wrong.add("SamplingRate", err)
	wrong.add("Sampling", checkStrategy(c.Sampling))
	v.daemon, err = parseDaemon(c.Daemon)
	wrong.add("Daemon", err)
	for _, path := range c.ExcludedPaths {
		wrong.add("ExcludedPaths", checkPath(path))
	}
	for _, p := range c.ExcludedPatterns {
		re, bad := parsePattern(p)
		wrong.add("ExcludedPatterns", bad)
		v.patterns = append(v.patterns, re)
	}
	v.proxies, err = parseProxies(c.TrustedProxies)
	wrong.add("TrustedProxies", err)
	wrong.add("Annotations", checkAnnotations(c.Annotations))
	wrong.add("Metadata", checkMetadata(c.Metadata))
	if c.ContextMissing != MissingIgnored && c.ContextMissing != MissingReported {
		wrong.add("ContextMissing", fmt.Errorf("%q is unknown: write MissingReported, or leave it out", c.ContextMissing))
	}
	if v.queue = c.QueueSize; v.queue == 0 {
		v.queue = DefaultQueueSize
	}
	if v.queue < 0 {
		wrong.add("QueueSize", fmt.Errorf("%d is negative: leave it out for %d documents", c.QueueSize, DefaultQueueSize))
	}
	return v, errors.Join(wrong...)
}

// problems are errors of a configuration.
type problems []error

// add adds what is wrong with a field, if err is not nil.
func (p *problems) add(field string, err error) {
	if err != nil {
		*p = append(*p, within(field, err))
	}
}

// within returns err with the field that it is about, or each error that it joins.
func within(field string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("tracing: Config.%s: %w", field, err)
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, within(field, e))
	}
	return errors.Join(all...)
}

// checkPath reports a path that no request has.
func checkPath(path string) error {
	switch {
	case path == "*" || (strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?#")):
		return nil
	case strings.HasPrefix(path, "/"):
		return fmt.Errorf("%q has a query, which is no part of a path: write %q", path, withoutQuery(path))
	case path == "":
		return errors.New(`"" is the path of no request: write "/", or leave it out`)
	}
	return fmt.Errorf("%q is the path of no request: write %q", path, "/"+withoutQuery(path))
}

// parsePattern compiles a pattern of excluded paths.
func parsePattern(p string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(p)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: write a regular expression of package regexp", err)
	case p == "":
		return nil, errors.New(`"" matches every path: leave it out, or set Disabled`)
	case matchesNoPath(p):
		return nil, fmt.Errorf("%q matches no path, which begins with a slash: write \"^/…\"", p)
	}
	return re, nil
}

// matchesNoPath reports whether p must begin at the start of the text, with a character
// that no path begins with.
func matchesNoPath(p string) bool {
	tree, err := syntax.Parse(p, syntax.Perl)
	if err != nil {
		return false
	}
	parts := tree.Simplify().Sub
	if tree.Op != syntax.OpConcat || len(parts) < 2 || parts[0].Op != syntax.OpBeginText || parts[1].Op != syntax.OpLiteral {
		return false
	}
	first := parts[1].Rune[0]
	return first != '/' && first != '*'
}

// checkAnnotations reports annotations that would be left out.
func checkAnnotations(annotations map[string]any) error {
	var wrong []error
	keys := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		legal := annotationKey(key)
		switch other, twice := keys[legal]; {
		case legal == "":
			wrong = append(wrong, fmt.Errorf("key %q has no legal character: write letters, digits and underscores", key))
		case annotations[key] == nil:
			wrong = append(wrong, fmt.Errorf("the value of %q is nil: write a string, a number or a boolean, or leave it out", key))
		case twice:
			wrong = append(wrong, fmt.Errorf("%q and %q are both sent as %q: leave one out", other, key, legal))
		}
		keys[legal] = key
	}
	return errors.Join(wrong...)
}

// maxDefault is how many bytes a value of default metadata may have: it is in every
// document.
const maxDefault = 16 << 10

// checkMetadata reports metadata that cannot be written.
func checkMetadata(metadata map[string]map[string]any) error {
	var wrong []error
	for _, namespace := range slices.Sorted(maps.Keys(metadata)) {
		for _, key := range slices.Sorted(maps.Keys(metadata[namespace])) {
			if err := checkDefault(metadata[namespace][key]); err != nil {
				wrong = append(wrong, fmt.Errorf("%q in %q: %w", key, namespace, err))
			}
		}
	}
	return errors.Join(wrong...)
}

func checkDefault(value any) error {
	switch value.(type) {
	case float32, float64: // also NaN
		return nil
	}
	text, err := tryMarshal(value)
	if err != nil {
		return fmt.Errorf("%w: write what encoding/json can write", err)
	}
	if len(text) > maxDefault {
		return fmt.Errorf("its JSON has %d bytes: write at most %d, since every document has it", len(text), maxDefault)
	}
	return nil
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
			return daemon{}, fmt.Errorf("%q is neither host:port nor udp:host:port tcp:host:port: write it like 127.0.0.1:2000, or NoDaemon", s)
		}
	}
	return d, errors.Join(checkAddress(d.udp), checkAddress(d.tcp))
}

// checkAddress reports what is wrong with host:port. It looks nothing up.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port: write it like 127.0.0.1:2000", s)
	}
	if host == "" || strings.ContainsAny(host, " \t/") {
		return fmt.Errorf("%q has no legal host: write it like 127.0.0.1:2000", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return fmt.Errorf("%q has no port from 1 to 65535: write it like 127.0.0.1:2000", s)
	}
	return nil
}

// loadDaemon sets where the SDK's centralized sampling strategy finds its rules.
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

// version returns what Version stands for.
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
