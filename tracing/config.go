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

// NoDaemon is the daemon address that sends nothing. Segments, ids and headers are still
// made.
const NoDaemon = "off"

// The defaults of a Config.
const (
	DefaultDaemon    = "127.0.0.1:2000"
	DefaultQueueSize = 1000
)

// ContextMissing selects what happens for a call that a [Client] policy makes outside of
// any segment. The call is made in either case, without a trace header.
type ContextMissing string

// The values of ContextMissing. There is no panic: the SDK's RUNTIME_ERROR is read as
// MissingReported.
const (
	MissingIgnored  ContextMissing = ""          // nothing happens, as in the gem
	MissingReported ContextMissing = "LOG_ERROR" // OnError is called, at its bounded rate
)

// Config configures what a [Tracer] records, and where it sends it. Only Name is required.
type Config struct {
	// Name names the service's segments. Empty is an error, unless Disabled is set. X-Ray
	// allows up to 200 letters, digits, spaces and _.:/%&#=+\-@ in a name. Other characters
	// become underscores, and longer names are cut. Mirrors the gem's config.name.
	Name string `json:"name,omitempty"`

	// NameFor returns the name of a request's segment; "" means Name. It must be safe for
	// concurrent use. It should return few different names: a caller can send any host and
	// path. A panic is passed on to the caller of the handler. Mirrors the SDK's
	// SegmentNamer.
	NameFor func(*http.Request) string `json:"-"`

	// Version is the version of the service, in service.version of every document. Empty
	// means the text of the file REVISION in the working directory or, without that file,
	// the revision from which the program was built, if it is known. Mirrors the gem's
	// config.version.
	Version string `json:"version,omitempty"`

	// Daemon is the address of the X-Ray daemon: host:port, or two addresses in the SDK's
	// form "udp:host:port tcp:host:port", of which tcp serves the sampling rules. Empty
	// means 127.0.0.1:2000; NoDaemon sends nothing. A host name is resolved when the first
	// document is sent, and again after errors. Mirrors the SDK's DaemonAddr and the gem's
	// client_options.
	Daemon string `json:"daemon,omitempty"`

	// Disabled turns tracing off: no segments are made, and no headers are sent. Mirrors
	// the SDK's AWS_XRAY_SDK_DISABLED.
	Disabled bool `json:"disabled,omitempty"`

	// SamplingRate is the share of the traces that begin here which is recorded, from 0 to
	// 1. Zero means 1, and Never means none; any other value is an error. A decision
	// in the header of a request takes precedence, unless IgnoreSampled is set. Mirrors the
	// gem's config.sampling_rate.
	SamplingRate float64 `json:"sampling_rate,omitempty"`

	// Sampling, if set, decides instead of SamplingRate, which is then used only if
	// Sampling returns no decision. It is the SDK's sampling.NewLocalizedStrategy or
	// sampling.NewCentralizedStrategy, or a custom strategy. New configures the SDK's
	// centralized strategy with Daemon's address; that strategy starts goroutines that
	// never end. A panic is passed on to the caller. A nil pointer is an error.
	Sampling sampling.Strategy `json:"-"`

	// IgnoreSampled makes SamplingRate or Sampling decide also for requests whose header
	// contains a decision. If false, every caller is trusted, as in the gem and in AWS's
	// SDKs: any client can use Sampled=1 to have its request recorded, and Sampled=0 to
	// hide it. Set it at the edge of the network. A trace that the caller records may then
	// lack this service. It applies to [Tracer.Handler] and [Server], and not to
	// [Tracer.Continue].
	IgnoreSampled bool `json:"ignore_sampled,omitempty"`

	// Annotations are added to every document. Nil means {"hostname": …}; an empty map
	// means none. Keys and values are normalized as by [Segment.Annotate]. A key without a
	// legal character, a nil value, and two keys that become equal are errors. Mirrors the
	// gem's default_annotation.
	Annotations map[string]any `json:"annotations,omitempty"`

	// Metadata is added to every document, by namespace. Nil means {"tracing_sdk": {"name":
	// "pillion", "version": Version}}; an empty map means none. A value that encoding/json
	// cannot write, or whose JSON is over 16 KiB, is an error. Mirrors the gem's
	// default_metadata.
	Metadata map[string]map[string]any `json:"metadata,omitempty"`

	// ExcludedPaths are paths of requests that [Tracer.Handler] does not trace. They are
	// compared with the whole path, without the query. A path that does not begin with a
	// slash is an error, except "*" of OPTIONS. Mirrors the strings of the gem's
	// excluded_paths.
	ExcludedPaths []string `json:"excluded_paths,omitempty"`

	// ExcludedPatterns are regular expressions. [Tracer.Handler] does not trace requests if
	// one of them matches any part of the path. A pattern is an error if it is empty, does
	// not compile, or must begin with another character than a slash, and so matches no
	// path. Mirrors the expressions of the gem's excluded_paths.
	ExcludedPatterns []string `json:"excluded_patterns,omitempty"`

	// TrustedProxies are addresses and networks (CIDR) of proxies whose X-Forwarded-For and
	// X-Forwarded-Proto are trusted. Nil means loopback, private and unique local
	// addresses, as in Rack; an empty list means none. An entry that cannot be parsed is an
	// error.
	TrustedProxies []string `json:"trusted_proxies,omitempty"`

	// RecordCaller records the code that makes a call in the metadata caller of its
	// subsegment: up to 100 stack frames. It costs some microseconds per call. Mirrors the
	// gem's record_caller_of_http_requests.
	RecordCaller bool `json:"record_caller,omitempty"`

	// W3C reads traceparent and tracestate if a request has no X-Amzn-Trace-Id, and sends
	// them in addition to it, for services that OpenTelemetry traces.
	W3C bool `json:"w3c,omitempty"`

	// ContextMissing selects what happens for calls outside of any segment. Mirrors the
	// SDK's ContextMissingStrategy.
	ContextMissing ContextMissing `json:"context_missing,omitempty"`

	// QueueSize is the maximum number of documents that wait to be sent. Documents beyond
	// it are dropped and counted. Zero means 1000; negative is an error. Mirrors the gem's
	// max_queue_size.
	QueueSize int `json:"queue_size,omitempty"`

	// OnError is called with the reason why documents were lost, in one goroutine, at most
	// once per second; [Stats] counts all losses. It may block: only its next call waits. A
	// panic is recovered and reported to [slog.Default] at level Error. Nil ignores the
	// errors. Mirrors the gem's segment_sending_error_handler.
	OnError func(error) `json:"-"`
}

// checked is a Config after validation, with its defaults filled in.
type checked struct {
	rate     float64
	daemon   daemon
	patterns []*regexp.Regexp
	proxies  []netip.Prefix
	queue    int
}

// check returns the validated configuration, and all errors in it.
func (c Config) check() (checked, error) {
	var (
		v     checked
		wrong problems
		err   error
	)
	if c.Name == "" && !c.Disabled {
		wrong.add("Name", errors.New("it is empty; write the service's name"))
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
		wrong.add("ContextMissing", fmt.Errorf("%q is unknown; write MissingReported, or omit it", c.ContextMissing))
	}
	if v.queue = c.QueueSize; v.queue == 0 {
		v.queue = DefaultQueueSize
	}
	if v.queue < 0 {
		wrong.add("QueueSize", fmt.Errorf("%d is negative; omit it for %d documents", c.QueueSize, DefaultQueueSize))
	}
	return v, errors.Join(wrong...)
}

// problems are the errors of a configuration.
type problems []error

// add adds err, which concerns field, unless err is nil.
func (p *problems) add(field string, err error) {
	if err != nil {
		*p = append(*p, within(field, err))
	}
}

// within returns err with the name of the field that it concerns. It adds the name to each
// error that err joins.
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

// checkPath reports a path that no request can have.
func checkPath(path string) error {
	switch {
	case path == "*" || (strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?#")):
		return nil
	case strings.HasPrefix(path, "/"):
		return fmt.Errorf("%q has a query, which is not part of a path; write %q", path, withoutQuery(path))
	case path == "":
		return errors.New(`"" is not the path of a request; write "/", or omit it`)
	}
	return fmt.Errorf("%q is not the path of a request; write %q", path, "/"+withoutQuery(path))
}

// parsePattern compiles a pattern of excluded paths.
func parsePattern(p string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(p)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w; write a regular expression that package regexp accepts", err)
	case p == "":
		return nil, errors.New(`"" matches every path; omit it, or set Disabled`)
	case matchesNoPath(p):
		return nil, fmt.Errorf("%q matches no path, since paths begin with a slash; write \"^/…\"", p)
	}
	return re, nil
}

// matchesNoPath reports whether p can match only at the start of the text, with a character
// other than a slash.
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

// checkAnnotations reports annotations that would be dropped.
func checkAnnotations(annotations map[string]any) error {
	var wrong []error
	keys := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		legal := annotationKey(key)
		switch other, twice := keys[legal]; {
		case legal == "":
			wrong = append(wrong, fmt.Errorf("key %q has no legal character; use letters, digits and underscores", key))
		case annotations[key] == nil:
			wrong = append(wrong, fmt.Errorf("the value of %q is nil; write a string, a number or a boolean, or omit it", key))
		case twice:
			wrong = append(wrong, fmt.Errorf("%q and %q are both sent as %q; omit one", other, key, legal))
		}
		keys[legal] = key
	}
	return errors.Join(wrong...)
}

// maxDefault is the maximum size of a value of default metadata, in bytes. Every document
// contains it.
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
	case float32, float64: // including NaN
		return nil
	}
	text, err := tryMarshal(value)
	if err != nil {
		return fmt.Errorf("%w; use a value that encoding/json can write", err)
	}
	if len(text) > maxDefault {
		return fmt.Errorf("its JSON has %d bytes; write at most %d, since every document contains it", len(text), maxDefault)
	}
	return nil
}

// daemon holds the addresses of a daemon. An empty udp means that nothing is sent.
type daemon struct{ udp, tcp string }

// parseDaemon parses an address in the SDK's forms.
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
			return daemon{}, fmt.Errorf("%q is neither host:port nor udp:host:port tcp:host:port; write it like 127.0.0.1:2000, or NoDaemon", s)
		}
	}
	return d, errors.Join(checkAddress(d.udp), checkAddress(d.tcp))
}

// checkAddress reports what is wrong with host:port. It does not resolve the host.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port; write it like 127.0.0.1:2000", s)
	}
	if host == "" || strings.ContainsAny(host, " \t/") {
		return fmt.Errorf("%q has no legal host; write it like 127.0.0.1:2000", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return fmt.Errorf("%q has no port from 1 to 65535; write it like 127.0.0.1:2000", s)
	}
	return nil
}

// loadDaemon sets the address from which the SDK's centralized sampling strategy reads its
// rules.
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

// version returns the version of the service, or its default.
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
