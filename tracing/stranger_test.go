package tracing

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/retry"
)

// TestCallerNames checks that X-Aws-Xray-Name names a call only if CallerNames is set, and
// that the header is never sent.
func TestCallerNames(t *testing.T) {
	for _, tc := range []struct {
		name   string
		client bool
		ctx    func(context.Context) context.Context
		want   []string // attempt, call
	}{
		{"ignored", false, nil, []string{"recipes", "recipes"}},
		{"set", true, nil, []string{"payments-db", "payments-db"}},
		{"Overwrite comes first", true, func(ctx context.Context) context.Context { return Overwrite(ctx, "soups") }, []string{"payments-db", "soups"}},
		{"Overwrite without it", false, func(ctx context.Context) context.Context { return Overwrite(ctx, "soups") }, []string{"recipes", "soups"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			u := upstream(t, Client{Tracer: tracer, CallerNames: tc.client}, retry.Config{}, Attempts{Tracer: tracer, CallerNames: tc.client})
			var out http.Header
			rt := u.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
				out = r.Header
				return respond(200, "")(r)
			}))
			docs := serve(t, tracer, sent, http.Header{NameHeader: {"payments-db"}}, func(_ http.ResponseWriter, r *http.Request) {
				ctx := r.Context()
				if tc.ctx != nil {
					ctx = tc.ctx(ctx)
				}
				req := get(ctx, "http://recipes/")
				req.Header = r.Header.Clone() // as a reverse proxy does
				if _, err := read(t, rt, req); err != nil {
					t.Error(err)
				}
			})
			if diff := cmp.Diff(append(tc.want, "test-app"), names(docs)); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if _, sentOn := out[NameHeader]; sentOn {
				t.Error("the naming header was sent")
			}
		})
	}
}

// TestIgnoreSampled checks whether the decisions of callers are trusted, with each header
// and each server.
func TestIgnoreSampled(t *testing.T) {
	const traceparent = "00-5759e988bd862e3fe1be46a994272793-00f067aa0ba902b7-0"
	for _, tc := range []struct {
		name   string
		rate   float64
		header http.Header
		said   bool
	}{
		{"Sampled=1", Never, http.Header{HeaderName: {"Root=" + someRoot + ";Sampled=1"}}, true},
		{"Sampled=0", 1, http.Header{HeaderName: {"Root=" + someRoot + ";Sampled=0"}}, false},
		{"traceparent 01", Never, http.Header{TraceParentName: {traceparent + "1"}}, true},
		{"traceparent 00", 1, http.Header{TraceParentName: {traceparent + "0"}}, false},
	} {
		for _, ignore := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, " ignored: ", ignore), func(t *testing.T) {
				want := tc.said != ignore
				tracer, sent := newTestTracer(t, Config{SamplingRate: tc.rate, W3C: true, IgnoreSampled: ignore})
				docs := serve(t, tracer, sent, tc.header, func(_ http.ResponseWriter, r *http.Request) {
					if seg := Current(r.Context()); seg.Sampled() != want || (seg.TraceID() != someRoot) == (tc.header[HeaderName] != nil) {
						t.Errorf("got %v of trace %s, want sampled: %v, and the caller's trace", seg.Sampled(), seg.TraceID(), want)
					}
				})
				if (len(docs) != 0) != want {
					t.Errorf("got %v, want sampled: %v", docs, want)
				}
				s := Server{Tracer: tracer}
				if h := s.Tracer.withDecision(ParseHeader(tc.header.Get(HeaderName))); ignore && h.Sampled != Undecided {
					t.Errorf("got %v, want no decision", h.Sampled)
				}
			})
		}
	}
	tracer, _ := newTestTracer(t, Config{SamplingRate: Never, IgnoreSampled: true})
	if _, seg := tracer.Continue(t.Context(), "", Header{Sampled: Sampled}); !seg.Sampled() {
		t.Error("Continue ignored the decision in its header")
	}
}

// TestFieldsAreSendable checks that only fields that HTTP and gRPC accept are sent on,
// whatever their source.
func TestFieldsAreSendable(t *testing.T) {
	var many []Field
	for i := range 2 * maxFields {
		many = append(many, Field{fmt.Sprint("k", i), "v"})
	}
	for _, tc := range []struct {
		name string
		in   Header
		want string // the fields
	}{
		{"a tab", ParseHeader("A=1;B=a\tb;\tC=1"), ";A=1"},
		{"UTF-8", ParseHeader("A=1;B=é;é=1"), ";A=1"},
		{"bytes", ParseHeader("A=1;B=\x80;\xff=1"), ";A=1"},
		{"control bytes", ParseHeader("A=1;B=\x00;C=\x1f;D=\x7f;E=\r\n"), ";A=1"},
		{"twice", ParseHeader("A=1;B=2;A=3;A=é"), ";A=3;B=2"},
		{"too long", ParseHeader("A=1;B=" + strings.Repeat("x", maxFieldBytes)), ";A=1"},
		{"by hand", Header{Fields: []Field{{"A", "1"}, {"B", "é"}, {"C;D", "1"}, {"E=", "1"}, {"F", "1;Root=x"}, {"", "1"}, {"Root", "x"}, {"G", "\r\n"}}}, ";A=1"},
		{"by hand, many", Header{Fields: many}, restOf(many[:maxFields])},
		{"by hand, long", Header{Fields: []Field{{"A", strings.Repeat("x", maxFieldBytes)}, {"B", "1"}}}, ";B=1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, _ := newTestTracer(t, Config{})
			_, seg := tracer.Continue(t.Context(), "", tc.in)
			for _, h := range []Header{seg.Header(), seg.Downstream()} {
				if got := restOf(h.Fields); got != tc.want || !sendable(h.String()) {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			}
			seg.End(nil)
		})
	}
	tracer, _ := newTestTracer(t, Config{W3C: true})
	for _, state := range []string{"a=é", "a=\t", "a=\n", strings.Repeat("a", maxTraceState+1)} {
		if _, seg := tracer.Continue(t.Context(), "", Header{State: state}); seg.Downstream().State != "" {
			t.Errorf("got tracestate %q sent on", state)
		}
	}
}

// TestStrangersHeapIsBounded queues requests with large strings. They keep only the
// recorded parts in memory.
func TestStrangersHeapIsBounded(t *testing.T) {
	const requests, each = 20, 1 << 18
	held := make(chan struct{})
	sent := &recorder{}
	tracer, err := newTracer(Config{Name: "front", NameFor: func(r *http.Request) string { return r.URL.Path[1:9] }},
		func(ctx context.Context, address string) (io.WriteCloser, error) {
			<-held
			return sent.dial(ctx, address)
		})
	if err != nil {
		t.Fatal(err)
	}
	h := tracer.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seg := Current(r.Context())
		seg.Annotate("path", r.URL.Path[:10])
		seg.Annotate(r.URL.Path[:10], 1)
		seg.SetUser(r.UserAgent())
		seg.AddMetadata("agent", r.UserAgent())
		seg.AddMetadata("list", []string{r.UserAgent()})
		_, sub := StartSubsegment(r.Context(), r.UserAgent())
		sub.SetRequest(Request{Method: r.Method, URL: r.URL.String(), UserAgent: r.UserAgent()})
		sub.SetSQL(SQL{User: r.UserAgent(), DatabaseType: r.UserAgent()})
		sub.End(nil)
	}))
	before := heap()
	for i := range requests {
		h.ServeHTTP(httptest.NewRecorder(), largeRequest(i, each))
	}
	// Each request adds 64 KiB of metadata three times; metadata is the user's choice and
	// not bounded.
	if grown := heap() - before; grown > requests*300<<10 {
		t.Errorf("%d requests of %d KiB hold %d KiB, want less", requests, 6*each>>10, grown>>10)
	}
	close(held)
	for _, d := range sent.documents(t, tracer) {
		url, agent := d.str("http", "request", "url"), d.str("http", "request", "user_agent")
		if len(url) > maxURL || len(agent) > maxURL || len(d.str("http", "request", "method")) > maxShort {
			t.Errorf("got %d bytes of URL, %d of user agent", len(url), len(agent))
		}
	}
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// largeRequest returns a request whose strings have n bytes each and are substrings of
// larger ones, as in net/http.
func largeRequest(i, n int) *http.Request {
	large := strings.Repeat(string(rune('a'+i%26)), n)
	line := "GET /" + large + " HTTP/1.1"
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Method, r.URL.Path = line[:3], line[4:n]
	r.RemoteAddr = "10.0.0.1:1"
	r.Header.Set("User-Agent", large+"ua")
	r.Header.Set("X-Forwarded-For", "203.0.113.1"+strings.Repeat(",10.0.0.1", n/9))
	r.Header.Set(HeaderName, "Root="+someRoot+";Parent="+someParent+";Sampled=1;A=1;B="+large)
	r.Header.Set(NameHeader, large)
	return r
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestIncomingIsCut checks that a trace header is kept unchanged, but cut if it is large.
func TestIncomingIsCut(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"Root=" + someRoot + "; Sampled=1", "Root=" + someRoot + "; Sampled=1"},
		{strings.Repeat("x", maxHeader+1), strings.Repeat("x", maxHeader)},
		{strings.Repeat("é", maxHeader), strings.Repeat("é", maxHeader/2)},
	} {
		tracer, sent := newTestTracer(t, Config{})
		serve(t, tracer, sent, http.Header{HeaderName: {tc.in}}, func(_ http.ResponseWriter, r *http.Request) {
			if got := Current(r.Context()).Incoming(); got != tc.want {
				t.Errorf("got %d bytes, want %d", len(got), len(tc.want))
			}
		})
	}
}

// TestBareURL checks that parts of a URL that may be secret are removed.
func TestBareURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://h/p?q#f":           "https://h/p",
		"https://u:secret@h/p?q#f":  "https://h/p",
		"https://u@h/":              "https://h/",
		"https://u:secret@h":        "https://h",
		"https://u:secret@h?x=/":    "https://h",
		"https://u:secret@h#/a":     "https://h",
		"//u:secret@h/p":            "//h/p",
		"u:secret@h/p":              "h/p",
		"u:secret@h":                "h",
		"u:secret@tcp(h:3306)/db?x": "tcp(h:3306)/db",
		"x:u:secret@h":              "h",
		"mailto:u@example.org":      "example.org",
		"jdbc:mysql://u:secret@h/d": "jdbc:mysql://h/d",
		"https:/u:secret@h/p":       "https:/h/p",
		`https:\\u:secret@h\p`:      `https:\\h\p`,
		"https:///u:secret@h/p":     "https:///h/p",
		"https://u:sec/ret@h/p":     "https://h/p",
		"https://u:sec?ret@h/p":     "https://h/p",
		"https://u:sec#ret@h/p?q":   "https://h/p",
		`https://u:sec\ret@h/p`:     "https://h/p",
		"https://a@u:secret@h/p":    "https://h/p",
		"https://[::1]:80/@scope":   "https://[::1]:80/@scope",
		"https://h:8080/@scope/p":   "https://h:8080/@scope/p",
		"https://h/@scope?a=b@c":    "https://h/@scope",
		"/p/@scope?q=u@h":           "/p/@scope",
		"h/p":                       "h/p",
		"h:80/p":                    "h:80/p",
		"?q":                        "",
		"":                          "",
		"*":                         "*",
	} {
		if got := bareURL(in); got != want {
			t.Errorf("bareURL(%q): got %q, want %q", in, got, want)
		}
	}
	if got := urlOf("http", "u:secret@h", "/p"); got != "http://h/p" {
		t.Errorf("got %q, want the host alone", got)
	}
}

// TestPanicsOfOwnCode checks that a panic of a configured function is passed on to the
// caller whose goroutine runs it, and that the tracer still works.
func TestPanicsOfOwnCode(t *testing.T) {
	off := true
	may := func() {
		if off {
			panic("own code")
		}
	}
	for name, cfg := range map[string]Config{
		"NameFor":  {NameFor: func(*http.Request) string { may(); return "named" }},
		"Sampling": {Name: "named", Sampling: strategy(func(*samplingRequest) *samplingDecision { may(); return &samplingDecision{Sample: true} })},
	} {
		t.Run(name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, cfg)
			off = true
			var p any
			var docs []sentDocument
			func() {
				defer func() { p = recover() }()
				docs = serve(t, tracer, sent, nil, func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") })
			}()
			if p != "own code" || len(docs) != 0 {
				t.Errorf("got panic %v and %v, want the function's panic", p, docs)
			}
			off = false
			if docs := serve(t, tracer, sent, nil, func(http.ResponseWriter, *http.Request) {}); len(docs) != 1 || docs[0].str("name") != "named" {
				t.Errorf("got %v, want the next request's segment", docs)
			}
		})
	}
}

// rudeError is an error whose methods all panic.
type rudeError struct{}

func (rudeError) Error() string         { panic("no text") }
func (rudeError) As(any) bool           { panic("no type") }
func (rudeError) StackTrace() []uintptr { panic("no stack") }

type rudeStackError struct{ error }

func (rudeStackError) StackTrace() []uintptr { panic("no stack") }

// TestRudeErrors records errors whose methods panic.
func TestRudeErrors(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	for _, err := range []error{rudeError{}, rudeStackError{errBroken}} {
		ctx, seg := tracer.Trace(t.Context(), "")
		_ = Capture(ctx, "sub", func(context.Context) error { return err })
		seg.SetError(err)
		seg.End(nil)
	}
	for _, d := range sent.documents(t, tracer) {
		if d.at("fault") != true || d.at("cause", "exceptions", "stack") == nil {
			t.Errorf("got %v, want a fault with a stack", d)
		}
	}
}
