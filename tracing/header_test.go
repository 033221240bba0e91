package tracing

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	someRoot   = "1-67891233-abcdef012345678912345678"
	someParent = "53995c3f42cd8ad8"
)

// TestParseHeader parses headers that the recorded cases do not cover.
func TestParseHeader(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   string
		want Header
	}{
		{"nothing", "", Header{}},
		{"later field wins, at the position of the first", "a=1;b=2;a=3", Header{Fields: []Field{{"a", "3"}, {"b", "2"}}}},
		{"control characters", "a=\x00;b=\n;c=\x7f;\rd=1;e=ok", Header{Fields: []Field{{"e", "ok"}}}},
		{"over the limit", "big=" + strings.Repeat("x", maxFieldBytes) + ";a=1", Header{Fields: []Field{{"a", "1"}}}},
		{"replaced by one over the limit", "a=1;a=" + strings.Repeat("x", maxFieldBytes), Header{Fields: []Field{{"a", "1"}}}},
		{"binary", "\xff\xfe=\x80;e=ok", Header{Fields: []Field{{"e", "ok"}}}},
		{"tabs", "\ta=1;b=\t;e=ok", Header{Fields: []Field{{"e", "ok"}}}},
		{"UTF-8", "a=é;é=1;e=ok", Header{Fields: []Field{{"e", "ok"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, ParseHeader(tc.in)); diff != "" {
				t.Errorf("ParseHeader(%q) (-want +got):\n%s", tc.in, diff)
			}
		})
	}
}

// TestHostileHeaders parses headers that must not be expensive and must not cause a
// failure.
func TestHostileHeaders(t *testing.T) {
	var many strings.Builder
	for i := range 5000 {
		many.WriteString(";k" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + "=v")
	}
	for name, in := range map[string]string{
		"64 KiB":              "Root=" + someRoot + ";x=" + strings.Repeat("y", 64<<10),
		"thousands of fields": "Root=" + someRoot + many.String(),
		"64 KiB of root":      "Root=" + strings.Repeat("1", 64<<10),
		"semicolons":          strings.Repeat(";", 64<<10),
		"equals signs":        strings.Repeat("=", 64<<10),
		"spaces":              strings.Repeat(" ", 64<<10),
		"binary":              string([]byte{0, 1, 2, 0xff, ';', '=', 0x80}),
	} {
		t.Run(name, func(t *testing.T) {
			h := ParseHeader(in)
			if len(h.Fields) > maxFields || len(restOf(h.Fields)) > maxFieldBytes {
				t.Errorf("got %d fields of %d bytes, want at most %d of %d", len(h.Fields), len(restOf(h.Fields)), maxFields, maxFieldBytes)
			}
			tracer, sent := newTestTracer(t, Config{})
			_, seg := tracer.Continue(t.Context(), "", h)
			if out := seg.Downstream().String(); len(out) > 2000 {
				t.Errorf("got a header of %d bytes, want a small one", len(out))
			}
			seg.End(nil)
			sent.documents(t, tracer)
		})
	}
}

// FuzzParseHeader checks that parsing never fails; that a written header parses to the same
// Header; that it is not longer than the parsed text, except for an equals sign for each
// field without one; and that net/http would send it if its ids are legal.
func FuzzParseHeader(f *testing.F) {
	for _, s := range []string{
		"Root=" + someRoot + ";Parent=" + someParent + ";Sampled=1", "Root=;Parent=;Sampled=", ";;=;=x;Foo", "Self=1;Root=r;Lineage=a:1|b:2",
		" R oot = 1 ; Sampled = 0 ", "a=\x00\n\xff", "Root=" + someRoot + ",Parent=x", "a=1;a=2;a=", "Sampled=?;Sampled=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		h := ParseHeader(in)
		out := h.String()
		if diff := cmp.Diff(h, ParseHeader(out)); diff != "" {
			t.Errorf("%q is written as %q, which parses differently (-first +second):\n%s", in, out, diff)
		}
		if len(h.Fields) > maxFields || len(restOf(h.Fields)) > maxFieldBytes || len(out) > len(in)+len(h.Fields) {
			t.Errorf("%q: got %q", in, out)
		}
		if h.Root = someRoot; !isSegmentID(h.Parent) {
			h.Parent = ""
		}
		if !sendable(h.String()) {
			t.Errorf("%q: %q cannot be sent", in, h.String())
		}
		if tp := h.TraceParent(); tp != "" {
			if back, ok := ParseTraceParent(tp, ""); !ok || back.Root != h.Root || !strings.EqualFold(back.Parent, h.Parent) {
				t.Errorf("%+v: traceparent %q reads as %+v", h, tp, back)
			}
		}
	})
}

func TestTraceParent(t *testing.T) {
	good := Header{Root: "1-5759e988-bd862e3fe1be46a994272793", Parent: "00f067aa0ba902b7", Sampled: Sampled}
	unsampled := good
	unsampled.Sampled = NotSampled
	for _, tc := range []struct {
		name string
		in   string
		want Header
		ok   bool
	}{
		{"sampled", "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01", good, true},
		{"not sampled", "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-00", unsampled, true},
		{"other flags", "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-03", good, true},
		{"later version with more", "cc-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01-what-else", good, true},
		{"version 0 with more", "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01-x", Header{}, false},
		{"version ff", "ff-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01", Header{}, false},
		{"capitals", "00-5759E988BD862E3FE1BE46A994272793-00f067aa0ba902b7-01", Header{}, false},
		{"zero trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", Header{}, false},
		{"zero parent", "00-5759e988bd862e3fe1be46a994272793-0000000000000000-01", Header{}, false},
		{"short", "00-5759e988-00f067aa0ba902b7-01", Header{}, false},
		{"no flags", "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7", Header{}, false},
		{"empty", "", Header{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := ParseTraceParent(tc.in, "")
			if diff := cmp.Diff(tc.want, got); diff != "" || ok != tc.ok {
				t.Errorf("ParseTraceParent(%q): got ok %v (-want +got):\n%s", tc.in, ok, diff)
			}
		})
	}
	if got, want := good.TraceParent(), "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, h := range []Header{
		{},
		{Root: someRoot, Parent: "x", Sampled: Sampled},
		{Root: "x", Parent: someParent, Sampled: Sampled},
		{Root: someRoot, Parent: someParent},
		{Root: someRoot, Parent: "0000000000000000", Sampled: NotSampled},
		{Root: "1-00000000-000000000000000000000000", Parent: someParent, Sampled: NotSampled},
	} {
		if got := h.TraceParent(); got != "" {
			t.Errorf("got %q for %+v, want none", got, h)
		}
	}
}

// TestW3C reads traceparent if there is no X-Amzn-Trace-Id, and sends both.
func TestW3C(t *testing.T) {
	const traceparent, tracestate = "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-01", "vendor=1"
	for _, tc := range []struct {
		name   string
		w3c    bool
		header http.Header
		root   string // of the trace; "" for a new one
		parent string
		state  string
	}{
		{"read", true, http.Header{TraceParentName: {traceparent}, TraceStateName: {tracestate}}, "1-5759e988-bd862e3fe1be46a994272793", "00f067aa0ba902b7", tracestate},
		{"X-Ray's comes first", true, http.Header{TraceParentName: {traceparent}, HeaderName: {"Root=" + someRoot + ";Parent=" + someParent + ";Sampled=1"}}, someRoot, someParent, ""},
		{"not enabled", false, http.Header{TraceParentName: {traceparent}}, "", "", ""},
		{"nonsense", true, http.Header{TraceParentName: {"nonsense"}}, "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{W3C: tc.w3c})
			var out http.Header
			base := roundTripper(func(r *http.Request) (*http.Response, error) {
				out = r.Header
				return respond(200, "")(r)
			})
			u := upstream(t, Client{Tracer: tracer})
			d := serve(t, tracer, sent, tc.header, func(_ http.ResponseWriter, r *http.Request) {
				if _, err := read(t, u.Transport(base), get(r.Context(), "http://recipes/")); err != nil {
					t.Error(err)
				}
			})
			seg := find(t, d, "test-app")
			if (tc.root != "" && seg.str("trace_id") != tc.root) || seg.str("parent_id") != tc.parent {
				t.Errorf("got %v, want trace %q below %q", seg, tc.root, tc.parent)
			}
			got, ok := ParseTraceParent(out.Get(TraceParentName), "")
			if ok != tc.w3c || (ok && (got.Root != seg.str("trace_id") || got.Parent != find(t, d, "recipes").str("id"))) {
				t.Errorf("got traceparent %q for %v", out.Get(TraceParentName), seg)
			}
			if got := out.Get(TraceStateName); got != tc.state {
				t.Errorf("got tracestate %q, want %q", got, tc.state)
			}
		})
	}
}
