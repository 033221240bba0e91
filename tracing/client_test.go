package tracing

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestEndsWithTheBody checks that the subsegment lasts as long as the response's body.
func TestEndsWithTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracer, sent := newTestTracer(t, Config{})
		s := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			time.Sleep(3 * time.Second)
			_, _ = io.WriteString(w, "soup")
		}))
		defer s.Close()
		ctx, seg := tracer.Trace(t.Context(), "")
		if _, err := read(t, upstream(t, Client{Tracer: tracer, Traced: true}).Transport(s), get(ctx, "http://recipes/1?secret=2")); err != nil {
			t.Fatal(err)
		}
		seg.End(nil)
		call := find(t, sent.documents(t, tracer), "recipes")
		if took := call.at("end_time").(float64) - call.at("start_time").(float64); took < 2.999 || took > 3.001 {
			t.Errorf("got %vs, want 3s", took)
		}
		want := map[string]any{
			"request":  map[string]any{"method": "GET", "url": "http://recipes/1", "traced": true},
			"response": map[string]any{"status": 200.0},
		}
		if diff := cmp.Diff(want, call["http"]); diff != "" {
			t.Errorf("http (-want +got):\n%s", diff)
		}
		if call.str("namespace") != "remote" || call.str("parent_id") != seg.ID() {
			t.Errorf("got %v, want it remote, below the segment", call)
		}
		if err := tracer.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestBrokenBody checks that a response whose body breaks off is a fault with the
// response's status.
func TestBrokenBody(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := respond(200, "")(r)
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("so"), failing{}))
		return resp, err
	})
	ctx, seg := tracer.Trace(t.Context(), "")
	if _, err := read(t, upstream(t, Client{Tracer: tracer}).Transport(base), get(ctx, "http://recipes/")); err == nil {
		t.Error("the body did not break")
	}
	seg.End(nil)
	call := find(t, sent.documents(t, tracer), "recipes")
	if call.at("fault") != true || call.at("http", "response", "status") != 200.0 || call.at("cause") == nil || call.str("annotations", "response_flags") == "" {
		t.Errorf("got %v, want a fault", call)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

// TestRetries checks that a call is recorded once, with each attempt if Attempts is used,
// and that each attempt carries the trace.
func TestRetries(t *testing.T) {
	for _, attempts := range []bool{false, true} {
		tracer, sent := newTestTracer(t, Config{})
		policies := []policy.Policy{Client{Tracer: tracer, CallerNames: true}, retry.Config{On: "5xx", NumRetries: 2, Rand: func() float64 { return 0 }}}
		if attempts {
			policies = append(policies, Attempts{Tracer: tracer, Traced: true})
		}
		var parents []string
		base := roundTripper(func(r *http.Request) (*http.Response, error) {
			h := ParseHeader(r.Header.Get(HeaderName))
			parents = append(parents, h.Parent)
			if r.Header.Get(NameHeader) != "" {
				t.Error("the naming header was sent")
			}
			if len(parents) < 3 {
				return respond(503, "no")(r)
			}
			return respond(200, "soup")(r)
		})
		ctx, seg := tracer.Trace(t.Context(), "")
		req := get(ctx, "http://recipes/")
		req.Header.Set(NameHeader, "soups")
		before := maps.Clone(req.Header)
		if _, err := read(t, upstream(t, policies...).Transport(base), req); err != nil {
			t.Fatal(err)
		}
		seg.End(nil)
		if diff := cmp.Diff(before, req.Header); diff != "" {
			t.Errorf("the caller's header was changed (-want +got):\n%s", diff)
		}
		docs := sent.documents(t, tracer)
		call := docs[len(docs)-2]
		if call.at("annotations", "attempts") != 3.0 || call.at("http", "response", "status") != 200.0 || call.at("fault") != nil {
			t.Errorf("attempts %v: got %v for the call", attempts, call)
		}
		if !attempts {
			if diff := cmp.Diff([]string{call.str("id"), call.str("id"), call.str("id")}, parents); diff != "" || call.str("namespace") != "remote" {
				t.Errorf("parents in the headers (-want +got):\n%s", diff)
			}
			continue
		}
		if call.at("namespace") != nil {
			t.Errorf("got %v, want only the attempts to be remote", call)
		}
		for i, d := range docs[:3] {
			if d.str("parent_id") != call.str("id") || d.str("id") != parents[i] || d.at("annotations", "attempt") != float64(i+1) ||
				d.str("namespace") != "remote" || d.at("http", "request", "traced") != true || (d.at("fault") == true) != (i < 2) {
				t.Errorf("got %v for attempt %d", d, i+1)
			}
		}
	}
}

// TestOutcomes covers the other ways in which calls end.
func TestOutcomes(t *testing.T) {
	const never = 1000 * time.Hour
	waits := roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: never})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	for _, tc := range []struct {
		name     string
		policies []policy.Policy
		base     http.RoundTripper
		caller   time.Duration
		url      string
		flags    string // X-Ray's flag
		notes    map[string]any
		detail   string
	}{
		{"total limit", []policy.Policy{timeout.Config{Total: time.Second}}, waits, never, "http://recipes/", "fault", map[string]any{"response_flags": "UT"}, "response_timeout"},
		{"caller's deadline", nil, waits, time.Second, "http://recipes/", "fault", map[string]any{"response_flags": "UT"}, "response_timeout"},
		{"caller canceled", nil, waits, 0, "http://recipes/", "", map[string]any{"response_flags": "DC"}, "downstream_remote_disconnect"},
		{"breaker", []policy.Policy{open}, waits, never, "http://recipes/", "fault", map[string]any{"response_flags": "UO", "refused": true}, "circuit_breaker_open"},
		{"limit", []policy.Policy{limits.Config{MaxRequests: limits.Zero}}, waits, never, "http://recipes/", "fault", map[string]any{"response_flags": "UO", "refused": true}, "upstream_reset_before_response_started{overflow}"},
		{"429", nil, respond(429, ""), never, "http://recipes/", "throttle", nil, ""},
		{"404", nil, respond(404, ""), never, "http://recipes/", "error", nil, ""},
		{"unsendable", nil, &http.Transport{}, never, "ftp://recipes/", "error", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracer, sent := newTestTracer(t, Config{})
				ctx, seg := tracer.Trace(t.Context(), "")
				u := upstream(t, append([]policy.Policy{Client{Tracer: tracer}}, tc.policies...)...)
				inner, cancel := context.WithCancel(ctx)
				if tc.caller > 0 {
					inner, cancel = context.WithTimeout(ctx, tc.caller)
				} else {
					cancel()
				}
				_, err := read(t, u.Transport(tc.base), get(inner, tc.url))
				cancel()
				seg.End(nil)
				call := find(t, sent.documents(t, tracer), "recipes")
				got := ""
				for _, f := range []string{"throttle", "error", "fault"} {
					if call.at(f) == true {
						got = f
						break
					}
				}
				if got != tc.flags || (call.at("cause") != nil) != (tc.flags != "") {
					t.Errorf("got %q after %v, want %q with a cause: %v", got, err, tc.flags, call)
				}
				notes := call.at("annotations").(map[string]any)
				delete(notes, "hostname")
				if diff := cmp.Diff(tc.notes, notes); diff != "" && len(tc.notes)+len(notes) != 0 {
					t.Errorf("annotations (-want +got):\n%s", diff)
				}
				if got := call.str("metadata", "pillion", "response_code_details"); got != tc.detail {
					t.Errorf("got detail %q, want %q", got, tc.detail)
				}
				if err := tracer.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestFunction records a plain function, and what is recorded within it.
func TestFunction(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	u := upstream(t, Client{Tracer: tracer}, retry.Config{On: "5xx", Rand: func() float64 { return 0 }}, Attempts{Tracer: tracer})
	ctx, seg := tracer.Trace(t.Context(), "")
	n := 0
	_, err := pillion.Do(ctx, u, func(ctx context.Context) (int, error) {
		_, sub := StartSubsegment(ctx, "query")
		sub.SetSQL(SQL{URL: "mysql://db", Query: "SELECT ?", DatabaseType: "MySQL", Preparation: "statement"})
		sub.End(nil)
		if n++; n == 1 {
			return 0, errBroken
		}
		return n, nil
	})
	seg.End(&err)
	docs := sent.documents(t, tracer)
	if diff := cmp.Diff([]string{"query", "recipes", "query", "recipes", "recipes", "test-app"}, names(docs)); diff != "" {
		t.Fatalf("documents (-want +got):\n%s", diff)
	}
	if docs[0].str("parent_id") != docs[1].str("id") || docs[2].str("parent_id") != docs[3].str("id") || docs[1].at("fault") != true || docs[4].at("http") != nil {
		t.Errorf("got %v", docs)
	}
}

// TestPanickingTransport checks that a call that panics is recorded, and that the panic is
// passed on.
func TestPanickingTransport(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	ctx, seg := tracer.Trace(t.Context(), "")
	func() {
		defer func() {
			if p := recover(); p != "soup is off" {
				t.Errorf("got %v, want the panic", p)
			}
		}()
		base := roundTripper(func(*http.Request) (*http.Response, error) { panic("soup is off") })
		_, _ = read(t, upstream(t, Client{Tracer: tracer}).Transport(base), get(ctx, "http://recipes/"))
	}()
	seg.End(nil)
	if d := find(t, sent.documents(t, tracer), "recipes"); d.at("fault") != true || d.str("cause", "exceptions", "message") != "soup is off" {
		t.Errorf("got %v, want the panic recorded", d)
	}
}

// TestUntraced makes calls outside of any segment, in a context of Disable, and with a
// disabled tracer.
func TestUntraced(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cfg     Config
		ctx     func(ctx context.Context, tracer *Tracer) context.Context
		missing uint64
	}{
		{"no segment", Config{}, func(ctx context.Context, _ *Tracer) context.Context { return ctx }, 1},
		{"disabled call", Config{}, func(ctx context.Context, tracer *Tracer) context.Context {
			ctx, _ = tracer.Trace(ctx, "")
			return Disable(ctx)
		}, 0},
		{"tracer off", Config{Disabled: true}, func(ctx context.Context, tracer *Tracer) context.Context {
			ctx, _ = tracer.Trace(ctx, "")
			return ctx
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reported := make(chan error, 10)
			tc.cfg.OnError = func(err error) { reported <- err }
			tc.cfg.ContextMissing = MissingReported
			tracer, sent := newTestTracer(t, tc.cfg)
			u := upstream(t, Client{Tracer: tracer}, Attempts{Tracer: tracer})
			base := roundTripper(func(r *http.Request) (*http.Response, error) {
				if len(r.Header) != 0 {
					t.Errorf("got header %v, want none", r.Header)
				}
				return respond(200, "soup")(r)
			})
			if body, err := read(t, u.Transport(base), get(tc.ctx(t.Context(), tracer), "http://recipes/")); err != nil || body != "soup" {
				t.Errorf("got %q and %v, want the call to work", body, err)
			}
			if docs := sent.documents(t, tracer); len(docs) != 0 {
				t.Errorf("got %v, want no documents", docs)
			}
			if got := tracer.Stats().Missing; (got != 0) != (tc.missing != 0) {
				t.Errorf("got %d missing, want %d", got, tc.missing)
			}
			if tc.missing != 0 {
				if err := <-reported; !errors.Is(err, errNoSegment) {
					t.Errorf("got %v, want it reported", err)
				}
			}
		})
	}
}

// TestPlaces checks that New refuses the policies where they would record wrong data.
func TestPlaces(t *testing.T) {
	tracer, _ := newTestTracer(t, Config{})
	for name, policies := range map[string][]policy.Policy{
		"Client inside retry":     {retry.Config{}, Client{Tracer: tracer}},
		"Client without tracer":   {Client{}},
		"Attempts without tracer": {Attempts{}},
	} {
		if _, err := pillion.New("recipes", policies...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestAllocations limits the allocations that a traced call adds, including its segment.
// They do not depend on the number of policies or fields.
func TestAllocations(t *testing.T) {
	count := func(rate float64, policies func(*Tracer) []policy.Policy) float64 {
		tracer, err := newTracer(Config{Name: "x", SamplingRate: rate, Daemon: NoDaemon}, nil)
		if err != nil {
			t.Fatal(err)
		}
		rt, req := upstream(t, policies(tracer)...).Transport(noBody{}), get(context.Background(), "http://recipes/")
		return testing.AllocsPerRun(1000, func() {
			ctx, seg := tracer.Trace(context.Background(), "")
			resp, err := rt.RoundTrip(req.WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			seg.End(nil)
		})
	}
	none := func(*Tracer) []policy.Policy { return nil }
	client := func(t *Tracer) []policy.Policy { return []policy.Policy{Client{Tracer: t}} }
	for _, tc := range []struct {
		name string
		rate float64
		most float64
	}{{"sampled", 1, 10}, {"not sampled", Never, 5}} {
		if added := count(tc.rate, client) - count(tc.rate, none); added > tc.most {
			t.Errorf("%s: got %v allocations added by the policy, want at most %v", tc.name, added, tc.most)
		}
	}
}

type noBody struct{}

func (noBody) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Request: r, Body: http.NoBody}, nil
}
