package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/awsxrayreceiver"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// menuTree is the expected result of examples/tracing: for each span its name, kind and
// status, and the attributes that distinguish it from others, each below its parent. A
// segment is a Server span, an attempt of a call (namespace remote) a Client span; the call
// as a whole and other work of a service are Internal spans. A 503 is the fault of the
// attempt and of the segment that returned it; the call as a whole succeeded.
const menuTree = `front Server Unset GET 200
  recipe Internal Unset GET 200 attempts=2
    recipe Client Error GET 503 attempt=1
      recipe Server Error GET 503
    recipe Client Unset GET 200 attempt=2
      recipe Server Unset GET 200
        choose Internal Unset dish=soup
        user Internal Unset GET 200
          user Client Unset GET 200 attempt=1
            user Server Unset GET 200
`

// TestReceiver_tree has the OpenTelemetry collector's X-Ray receiver read the packets that
// examples/tracing sends from a separate process: it must accept each, and receive exactly
// the whole tree.
func TestReceiver_tree(t *testing.T) {
	r := startReceiver(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", "./examples/tracing", "-daemon", r.address)
	cmd.Dir = ".." // the library's module, which has the dependencies of its examples
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_XRAY_") })
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("examples/tracing: got error %v, want none:\n%s", err, out)
	}

	spans := r.take(t, strings.Count(menuTree, "\n"))
	for _, entry := range r.log.All() {
		t.Errorf("the receiver logged %q %v, want no warnings", entry.Message, entry.ContextMap())
	}
	if got := tree(spans); got != menuTree {
		t.Errorf("got spans\n%swant\n%s", got, menuTree)
	}
	traces := map[pcommon.TraceID]int{}
	for _, s := range spans {
		traces[s.TraceID()]++
	}
	if len(traces) != 1 || traces[pcommon.TraceID{}] != 0 {
		t.Errorf("got spans by trace %v, want all in one", traces)
	}
}

// xrayReceiver is the collector's receiver, with the spans that it made of the packets.
type xrayReceiver struct {
	address string // UDP
	docs    chan ptrace.Traces
	log     *observer.ObservedLogs // warnings and errors
}

// startReceiver runs the receiver until the test ends.
func startReceiver(t *testing.T) *xrayReceiver {
	t.Helper()
	wantNoLeaks(t)
	core, log := observer.New(zapcore.WarnLevel)
	x := &xrayReceiver{docs: make(chan ptrace.Traces, 100), log: log}
	running := x.listen(t, zap.New(core))
	ctx := context.WithoutCancel(t.Context()) // it outlives the test's context
	if err := running.Start(ctx, componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: got error %v, want none", err)
		}
	})
	return x
}

// listen makes the receiver, which opens its socket. The port must be chosen in advance,
// because the receiver does not report it. If another process takes the port first, another
// port is used.
func (x *xrayReceiver) listen(t *testing.T, log *zap.Logger) receiver.Traces {
	t.Helper()
	sink, err := consumer.NewTraces(func(_ context.Context, doc ptrace.Traces) error {
		x.docs <- doc
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	factory := awsxrayreceiver.NewFactory()
	settings := receivertest.NewNopSettings(factory.Type())
	settings.Logger = log
	for range 10 {
		x.address = freeUDP(t)
		config := factory.CreateDefaultConfig().(*awsxrayreceiver.Config)
		config.Endpoint = x.address
		config.ProxyServer.Endpoint = "127.0.0.1:0" // for sampling rules, which are not requested
		config.ProxyServer.Region = "us-east-1"
		config.ProxyServer.LocalMode = true // makes no requests to the cloud
		var made receiver.Traces
		if made, err = factory.CreateTraces(t.Context(), settings, config, sink); err == nil {
			return made
		}
	}
	t.Fatalf("no receiver on any of ten ports: %v", err)
	return nil
}

// freeUDP returns an address at which nothing listens for packets at the moment.
func freeUDP(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	conn, err := config.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// fence is a document that is sent after all others.
const fence = `{"format": "json", "version": 1}
{"name": "fence", "id": "00000000000000fe", "trace_id": "1-00000001-000000000000000000000001", "start_time": 1, "end_time": 2}`

// take returns the spans of all packets that have been sent: n if all arrive. It sends a
// fence after them, so that additional spans are received too. It returns fewer than n
// spans after twice the waitLimit.
func (x *xrayReceiver) take(t *testing.T, n int) (spans []ptrace.Span) {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "udp", x.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, fence); err != nil {
		t.Fatal(err)
	}
	enough := time.NewTimer(2 * waitLimit)
	defer enough.Stop()
	for fenced := false; !fenced || len(spans) < n; { // two goroutines read, so the fence may overtake a span
		select {
		case doc := <-x.docs:
			for _, s := range spansOf(doc) {
				if s.Name() == "fence" {
					fenced = true
				} else {
					spans = append(spans, s)
				}
			}
		case <-enough.C:
			t.Errorf("got %d spans within %v (fence: %t), want %d", len(spans), 2*waitLimit, fenced, n)
			return spans
		}
	}
	return spans
}

func spansOf(doc ptrace.Traces) (spans []ptrace.Span) {
	for _, resource := range doc.ResourceSpans().All() {
		for _, scope := range resource.ScopeSpans().All() {
			for _, s := range scope.Spans().All() {
				spans = append(spans, s)
			}
		}
	}
	return spans
}

// tree prints spans below their parents, siblings in the order of their text. Spans whose
// parent is missing come last, below the ID of the parent.
func tree(spans []ptrace.Span) string {
	known := map[pcommon.SpanID]bool{{}: true} // no parent
	below := map[pcommon.SpanID][]ptrace.Span{}
	for _, s := range spans {
		known[s.SpanID()] = true
		below[s.ParentSpanID()] = append(below[s.ParentSpanID()], s)
	}
	var text strings.Builder
	text.WriteString(branches(below, pcommon.SpanID{}, ""))
	for parent := range below {
		if !known[parent] {
			fmt.Fprintf(&text, "(missing %s)\n%s", parent, branches(below, parent, "  "))
		}
	}
	return text.String()
}

// branches prints the spans below a span, and removes them from the map.
func branches(below map[pcommon.SpanID][]ptrace.Span, parent pcommon.SpanID, indent string) string {
	children := below[parent]
	delete(below, parent)
	texts := make([]string, 0, len(children))
	for _, s := range children {
		texts = append(texts, indent+describe(s)+"\n"+branches(below, s.SpanID(), indent+"  "))
	}
	slices.Sort(texts)
	return strings.Join(texts, "")
}

// describe returns a span's name, kind, status, request and annotations.
func describe(s ptrace.Span) string {
	words := []string{s.Name(), s.Kind().String(), s.Status().Code().String()}
	for _, key := range []string{"http.method", "http.status_code"} {
		if v, ok := s.Attributes().Get(key); ok {
			words = append(words, v.AsString())
		}
	}
	for _, key := range []string{"attempt", "attempts", "dish"} {
		if v, ok := s.Attributes().Get(key); ok {
			words = append(words, key+"="+v.AsString())
		}
	}
	return strings.Join(words, " ")
}
