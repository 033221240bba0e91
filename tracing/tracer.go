package tracing

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"regexp"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
	"github.com/aws/aws-xray-sdk-go/v2/xray"

	"github.com/pillion-go/pillion/tracing/internal/daemonenv"
)

// At this point the SDK is initialized, so the hidden value is put back.
var _ = daemonenv.Restore()

// Tracer makes segments and sends them to the X-Ray daemon. A process has one for each of
// its services, usually one. It is safe for concurrent use. [Tracer.Close] ends its
// goroutines. The zero value is not usable: use [New].
type Tracer struct {
	off           bool
	name          string
	nameFor       func(*http.Request) string
	rate          float64
	strategy      sampling.Strategy
	exact         map[string]struct{}
	patterns      []*regexp.Regexp
	proxies       []netip.Prefix
	w3c           bool
	ignoreSampled bool
	recordCaller  bool
	missing       ContextMissing
	sdk           xray.Config // the configuration that the SDK reads from the first segment of a trace
	emitter       *emitter
}

// New makes a tracer, and starts its goroutines. The error joins all errors in the
// configuration. New does not read the environment: [FromEnv] does.
//
// With a version of the X-Ray SDK other than v2.0.3, subsegments that the SDK made within
// its own subsegments may not be accessible. They are then not sent, and New reports this
// once per process, to [slog.Default] at level Warn.
func New(c Config) (*Tracer, error) { return newTracer(c, dialUDP) }

// newTracer makes a tracer that sends over connections of dial.
func newTracer(c Config, dial dialer) (*Tracer, error) {
	checked, err := c.check()
	if err != nil {
		return nil, err
	}
	reportUnknownSDK()
	t := &Tracer{
		off: c.Disabled, name: c.Name, nameFor: c.NameFor, rate: checked.rate, strategy: c.Sampling,
		exact: map[string]struct{}{}, patterns: checked.patterns, proxies: checked.proxies,
		w3c: c.W3C, ignoreSampled: c.IgnoreSampled, recordCaller: c.RecordCaller, missing: c.ContextMissing,
	}
	for _, path := range c.ExcludedPaths {
		t.exact[path] = struct{}{}
	}
	if t.sdk, err = sdkConfig(c); err != nil {
		return nil, err
	}
	if err := t.loadDaemon(checked.daemon); err != nil {
		return nil, err
	}
	if c.Disabled {
		checked.daemon.udp = ""
	}
	t.emitter = newEmitter(settings{
		address: checked.daemon.udp, dial: dial, size: checked.queue, onError: c.OnError,
		defaults: newDefaults(c),
	})
	return t, nil
}

// sdkConfig returns the configuration that the SDK's functions read from a segment when
// they make a subsegment of it or record an error.
func sdkConfig(c Config) (xray.Config, error) {
	exceptions, err := newExceptionStrategy()
	if err != nil {
		return xray.Config{}, err
	}
	streaming, err := xray.NewDefaultStreamingStrategy()
	if err != nil {
		return xray.Config{}, err
	}
	return xray.Config{
		ServiceVersion:              c.Version,
		ExceptionFormattingStrategy: exceptions,
		StreamingStrategy:           streaming,
		ContextMissingStrategy:      missingStrategy{},
		SamplingStrategy:            keepAll{},
	}, nil
}

// keepAll is the sampling strategy of a segment that exists already.
type keepAll struct{}

// ShouldTrace returns a decision to sample.
func (keepAll) ShouldTrace(*sampling.Request) *sampling.Decision {
	return &sampling.Decision{Sample: true}
}

// missingStrategy does nothing if the SDK finds no segment.
type missingStrategy struct{}

// ContextMissing does nothing.
func (missingStrategy) ContextMissing(any) {}

// Flush waits until all documents that ended before the call are sent or dropped, or until
// ctx ends. It returns an error if t or ctx is nil.
func (t *Tracer) Flush(ctx context.Context) error {
	if err := t.canWait(ctx, "Flush"); err != nil {
		return err
	}
	return t.emitter.flush(ctx)
}

// Close sends the waiting documents, as Flush does, and ends the tracer's goroutines. If
// ctx ends first, the remaining documents are dropped and counted. Call Close after the
// server was shut down. Segments that end later are dropped and counted. A second Close
// does nothing. Close returns an error if t or ctx is nil.
func (t *Tracer) Close(ctx context.Context) error {
	if err := t.canWait(ctx, "Close"); err != nil {
		return err
	}
	return t.emitter.close(ctx)
}

// Stats returns the current counts. It is cheap. It panics if t is nil.
func (t *Tracer) Stats() Stats {
	t.mustBeMade("Stats")
	return t.emitter.stats()
}

// hostname returns the default annotations. It returns nil if the machine has no name.
func hostname() map[string]any {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return nil
	}
	return map[string]any{"hostname": name}
}

var errNoSegment = errors.New("tracing: the call is outside of any segment")
