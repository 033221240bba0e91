package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/raceflag"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// service is a server whose handler is under policies, with a client for it.
type service struct {
	*httptest.Server
	client   *http.Client
	upstream *pillion.Upstream
	ends     *ends
}

// protocols maps each protocol to whether it is HTTP/2.
var protocols = map[string]bool{"HTTP1": false, "HTTP2": true}

// serveUnder starts a service. outer, if not nil, is middleware around the guarded handler.
func serveUnder(t *testing.T, h2 bool, outer func(http.Handler) http.Handler, handler http.HandlerFunc, policies ...pillion.Policy) *service {
	t.Helper()
	s := newService(t, outer, handler, policies...)
	s.start(t, h2)
	return s
}

// newService makes a service that has not been started yet.
func newService(t *testing.T, outer func(http.Handler) http.Handler, handler http.HandlerFunc, policies ...pillion.Policy) *service {
	t.Helper()
	s := &service{ends: &ends{}}
	s.upstream = newUpstream(t, append(policies, pillion.Listener(s.ends.hear))...)
	guarded, err := s.upstream.Handler(handler)
	if err != nil {
		t.Fatal(err)
	}
	if outer != nil {
		guarded = outer(guarded)
	}
	s.Server = httptest.NewUnstartedServer(guarded)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of panics
	return s
}

// start starts the service, until the test ends.
func (s *service) start(t *testing.T, h2 bool) {
	t.Helper()
	if h2 {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	s.client = s.Client()
	t.Cleanup(s.Close)
}

// do makes a request with these pairs of header names and values.
func (s *service) do(t *testing.T, method string, header ...string) (resp *http.Response, body string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/soup", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err = s.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

// end is what listeners receive at the end of a call.
type end struct {
	Code   int
	Is     policy.Condition
	Flags  envoy.Flags
	Detail *envoy.Detail
	err    error
}

// ends records the ends of calls, and counts attempts.
type ends struct {
	mu       sync.Mutex
	list     []end // guarded by mu
	attempts int   // running; guarded by mu
}

func (e *ends) hear(_ context.Context, event policy.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch event.Kind {
	case policy.EventAttempt:
		e.attempts++
	case policy.EventAttemptEnd:
		e.attempts--
	case policy.EventEnd:
		o := event.Outcome
		e.list = append(e.list, end{o.Code, o.Conditions, o.Flags, o.Detail, o.Err})
	default:
	}
}

// count returns how many calls have ended, and how many attempts are running.
func (e *ends) count() (ended, attempts int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.list), e.attempts
}

// await returns the end of the only call, which may come after its response.
func (e *ends) await(t *testing.T) end {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		switch ended, attempts := e.count(); {
		case ended == 1 && attempts == 0:
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.list[0]
		case ended > 1:
			t.Fatalf("got %d ends, want one", ended)
		}
	}
	t.Fatalf("the call did not end within %v", patience)
	return end{}
}

// want fails the test unless the only call ended in this way.
func (e *ends) want(t *testing.T, want end) end {
	t.Helper()
	got := e.await(t)
	if got.Code != want.Code || got.Is != want.Is || got.Flags != want.Flags || got.Detail != want.Detail {
		t.Errorf("end: got %d, %b, %v, %q (%v), want %d, %b, %v, %q",
			got.Code, got.Is, got.Flags, got.Detail, got.err, want.Code, want.Is, want.Flags, want.Detail)
	}
	return got
}

// silent waits until the request's context ends, and writes nothing.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// TestHandler_deadline pins the deadline that a handler has.
func TestHandler_deadline(t *testing.T) {
	const expected, grpc, none = "X-Envoy-Expected-Rq-Timeout-Ms", "Grpc-Timeout", time.Duration(-1)
	tests := []struct {
		name   string
		total  time.Duration // the total limit of a timeout policy; 0 for none
		header []string
		want   time.Duration
	}{
		{name: "nothing is said", want: none},
		{name: "expected", header: []string{expected, "1500"}, want: 1500 * time.Millisecond},
		{name: "expected 0", header: []string{expected, "0"}, want: none},
		{name: "expected, junk", header: []string{expected, "soon"}, want: none},
		{name: "expected, a fraction", header: []string{expected, "1.5"}, want: none},
		{name: "expected, negative", header: []string{expected, "-5"}, want: none},
		{name: "expected, the largest", header: []string{expected, "4294967295"}, want: 4294967295 * time.Millisecond},
		{name: "expected, too large", header: []string{expected, "4294967296"}, want: none},
		{name: "grpc, hours", header: []string{grpc, "2H"}, want: 2 * time.Hour},
		{name: "grpc, minutes", header: []string{grpc, "3M"}, want: 3 * time.Minute},
		{name: "grpc, seconds", header: []string{grpc, "4S"}, want: 4 * time.Second},
		{name: "grpc, milliseconds", header: []string{grpc, "5m"}, want: 5 * time.Millisecond},
		{name: "grpc, microseconds", header: []string{grpc, "6000u"}, want: 6 * time.Millisecond},
		{name: "grpc, nanoseconds", header: []string{grpc, "99999999n"}, want: 99999999},
		{name: "grpc, unit alone", header: []string{grpc, "S"}, want: none},
		{name: "grpc, no unit", header: []string{grpc, "12"}, want: none},
		{name: "grpc, unknown unit", header: []string{grpc, "1s"}, want: none},
		{name: "grpc, a sign", header: []string{grpc, "+1S"}, want: none},
		{name: "grpc, nine digits", header: []string{grpc, "100000000n"}, want: none},
		{name: "grpc, for ever", header: []string{grpc, "99999999H"}, want: 100 * 365 * 24 * time.Hour},
		{name: "both, expected is shorter", header: []string{expected, "1000", grpc, "2S"}, want: time.Second},
		{name: "both, grpc is shorter", header: []string{expected, "3000", grpc, "2S"}, want: 2 * time.Second},
		{name: "both, expected is junk", header: []string{expected, "x", grpc, "2S"}, want: 2 * time.Second},
		{name: "both, grpc is junk", header: []string{expected, "3000", grpc, "x"}, want: 3 * time.Second},
		{name: "the policy's alone", total: time.Second, want: time.Second},
		{name: "the policy's is shorter", total: time.Second, header: []string{expected, "3000"}, want: time.Second},
		{name: "the client's is shorter", total: time.Second, header: []string{expected, "300"}, want: 300 * time.Millisecond},
		// Its sum with the clock overflowed, and the policy's limit was lost.
		{name: "the policy's, not for ever", total: time.Second, header: []string{grpc, "99999999H"}, want: time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var policies []pillion.Policy
				if test.total != 0 {
					policies = append(policies, timeout.Config{Total: test.total})
				}
				got := none
				guarded, err := newUpstream(t, policies...).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if d, ok := r.Context().Deadline(); ok {
						got = time.Until(d)
					}
				}))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(48 * time.Hour) // the clock is not at zero
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/soup", nil)
				for i := 0; i < len(test.header); i += 2 {
					r.Header.Set(test.header[i], test.header[i+1])
				}
				guarded.ServeHTTP(httptest.NewRecorder(), r)
				if got != test.want {
					t.Errorf("%v: got %v, want %v", test.header, got, test.want)
				}
			})
		})
	}
}

// TestHandler_over makes requests whose time has passed before they begin.
func TestHandler_over(t *testing.T) {
	s := serveUnder(t, false, nil, func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") })
	resp, body, err := s.do(t, http.MethodGet, "Grpc-Timeout", "0S")
	if err != nil || resp.StatusCode != http.StatusGatewayTimeout || body != "upstream request timeout" {
		t.Errorf("got %v %q, %v, want 504", resp, body, err)
	}
}

// localResponse is a local reply as a client receives it.
type localResponse struct {
	Status                                       int
	Body, Type, Length, Overloaded, GRPC, Detail string
	Outer, Handlers                              string
}

func replyOf(resp *http.Response, body string) localResponse {
	h := resp.Header
	return localResponse{
		Status: resp.StatusCode, Body: body, Type: h.Get("Content-Type"), Length: h.Get("Content-Length"),
		Overloaded: h.Get("X-Envoy-Overloaded"), GRPC: h.Get("Grpc-Status"), Detail: h.Get("Grpc-Message"),
		Outer: h.Get("X-Outer"), Handlers: h.Get("X-Handlers") + h.Get("Etag"),
	}
}

// TestHandler_localReply makes requests that are refused or time out before anything was written:
// the reply has no headers of the handler, and keeps those of outer middleware.
func TestHandler_localReply(t *testing.T) {
	const overflow = "upstream connect error or disconnect/reset before headers. reset reason: overflow"
	const late = "upstream request timeout"
	full := limits.Config{MaxRequests: limits.Zero}
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	refusal := func(d *envoy.Detail) pillion.Policy {
		return around(func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
			return c.Refuse(errBroken, d)
		})
	}
	failure := around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		o.Err = errBroken
		return o
	})
	suppress := pillion.Options{SuppressEnvoyHeaders: true}
	text := func(status int, body, overloaded string) localResponse {
		return localResponse{Status: status, Body: body, Type: "text/plain", Length: strconv.Itoa(len(body)), Overloaded: overloaded, Outer: "1"}
	}
	inGRPC := func(status, message, overloaded string) localResponse {
		return localResponse{Status: 200, Type: "application/grpc", Length: "0", Overloaded: overloaded, GRPC: status, Detail: message, Outer: "1"}
	}
	tests := []struct {
		name     string
		method   string
		content  string
		policies []pillion.Policy
		header   []string
		want     localResponse
	}{
		{name: "limit", policies: []pillion.Policy{full}, want: text(503, overflow, "true")},
		{name: "breaker", policies: []pillion.Policy{open}, want: text(503, overflow, "true")},
		{name: "limit, headers suppressed", policies: []pillion.Policy{full, suppress}, want: text(503, overflow, "")},
		{name: "limit, gRPC", content: "application/grpc", policies: []pillion.Policy{full}, want: inGRPC("14", overflow, "true")},
		{name: "limit, gRPC with a codec", content: "application/grpc+proto", policies: []pillion.Policy{full}, want: inGRPC("14", overflow, "true")},
		{name: "limit, gRPC-Web", content: "application/grpc-web", policies: []pillion.Policy{full}, want: text(503, overflow, "true")},
		{name: "no endpoint", policies: []pillion.Policy{refusal(envoy.NoHealthyUpstream)}, want: text(503, "no healthy upstream", "")},
		{name: "refused without a word", policies: []pillion.Policy{refusal(nil)}, want: text(503, "Service Unavailable", "")},
		{name: "refused with an unknown word", policies: []pillion.Policy{refusal(envoy.NewDetail(envoy.DetailSpec{Text: "unknown"}))}, want: text(503, "Service Unavailable", "")},
		{name: "failed by a policy", policies: []pillion.Policy{failure}, want: text(500, "Internal Server Error", "")},
		{name: "failed by a policy, gRPC", content: "application/grpc", policies: []pillion.Policy{failure}, want: inGRPC("2", "Internal Server Error", "")},
		{name: "total", policies: []pillion.Policy{timeout.Config{Total: time.Millisecond}}, want: text(504, late, "")},
		{name: "per try", policies: []pillion.Policy{timeout.Config{PerTry: time.Millisecond}}, want: text(504, late, "")},
		{name: "idle", policies: []pillion.Policy{timeout.Config{Idle: time.Millisecond}}, want: text(504, late, "")},
		{name: "the client's", header: []string{"X-Envoy-Expected-Rq-Timeout-Ms", "1"}, want: text(504, late, "")},
		{name: "the client's, POST", method: http.MethodPost, header: []string{"Grpc-Timeout", "1m"}, want: text(504, late, "")},
		{name: "the client's, gRPC", content: "application/grpc", header: []string{"Grpc-Timeout", "1m"}, want: inGRPC("14", late, "")},
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Handlers", "soup")
		w.Header().Set("Etag", `"soup"`)
		w.Header().Set("X-Outer", "2")
		if _, limited := r.Context().Deadline(); limited || r.Header.Get("X-Wait") != "" {
			<-r.Context().Done()
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					s := serveUnder(t, h2, withOuterHeader, handler, test.policies...)
					header := append([]string{"Content-Type", test.content}, test.header...)
					if strings.HasPrefix(test.name, "per try") || test.name == "idle" {
						header = append(header, "X-Wait", "yes")
					}
					method := test.method
					if method == "" {
						method = http.MethodGet
					}
					resp, body, err := s.do(t, method, header...)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(test.want, replyOf(resp, body)); diff != "" {
						t.Errorf("reply (-want +got):\n%s", diff)
					}
					resp, body, err = s.do(t, http.MethodHead, header...)
					if err != nil {
						t.Fatal(err)
					}
					want := test.want
					want.Body = ""
					got := replyOf(resp, body)
					if want.GRPC != "" {
						got.Length = want.Length // net/http does not send an optional length
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("reply to HEAD (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

// withOuterHeader is middleware that sets a header.
func withOuterHeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Outer", "1")
		next.ServeHTTP(w, r)
	})
}

// head writes the headers of a response.
func head(codes ...int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for _, code := range codes {
			w.WriteHeader(code)
		}
	}
}

// TestHandler_begun fires a timeout after the handler has begun its response: nothing is added to
// it, and its status stays.
func TestHandler_begun(t *testing.T) {
	tests := []struct {
		name  string
		outer func(http.Handler) http.Handler
		write func(w http.ResponseWriter)
		code  int
		body  string
	}{
		{"WriteHeader", nil, head(201), 201, ""},
		{"WriteHeader twice", nil, head(201, 202), 201, ""},
		{"Write", nil, func(w http.ResponseWriter) { _, _ = w.Write([]byte("part")) }, 200, "part"},
		{"WriteString", nil, func(w http.ResponseWriter) { _, _ = io.WriteString(w, "part") }, 200, "part"},
		{"ReadFrom", nil, func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("part")) }, 200, "part"},
		{"Flush", nil, func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, 200, ""},
		{"ResponseController", nil, func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, 200, ""},
		// The controller bypassed the writer: a second response followed the first.
		{"ResponseController behind a wrapper", unwrappable, func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, 200, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					s := serveUnder(t, h2, test.outer, func(w http.ResponseWriter, r *http.Request) {
						test.write(w)
						<-r.Context().Done()
					}, timeout.Config{Total: 20 * time.Millisecond})
					resp, body, err := s.do(t, http.MethodGet)
					if err != nil || resp.StatusCode != test.code || body != test.body {
						t.Errorf("got %v %q, %v, want %d %q", resp, body, err, test.code, test.body)
					}
					s.ends.want(t, end{Code: test.code, Is: policy.Timeout, Flags: envoy.UT, Detail: envoy.ResponseTimeout})
				})
			}
		})
	}
}

// TestHandler_late runs a handler that does not honor its context and responds too late: its
// response is sent, and reported with its status.
func TestHandler_late(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told ends
		u := newUpstream(t, timeout.Config{Total: time.Second}, pillion.Listener(told.hear))
		guarded, err := u.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(2 * time.Second)
			_, _ = io.WriteString(w, "cold soup")
		}))
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		if w.Code != 200 || w.Body.String() != "cold soup" {
			t.Errorf("got %d %q, want what the handler wrote", w.Code, w.Body)
		}
		told.want(t, end{Is: policy.Timeout, Flags: envoy.UT, Detail: envoy.ResponseTimeout})
	})
}

// TestHandler_body pins that limits until the response headers do not end the body, and that the
// total limit does.
func TestHandler_body(t *testing.T) {
	const sec = time.Second
	tests := []struct {
		name   string
		cfg    timeout.Config
		caller time.Duration // the deadline of the request's context; 0 for none
		want   time.Duration // when the body is cut; 0 for never
	}{
		{"per try", timeout.Config{Total: timeout.Unlimited, PerTry: 2 * sec}, 0, 0},
		{"idle", timeout.Config{Total: timeout.Unlimited, Idle: 2 * sec}, 0, 0},
		{"total", timeout.Config{Total: 5 * sec}, 0, 5 * sec},
		{"per try and total", timeout.Config{Total: 5 * sec, PerTry: 2 * sec}, 0, 5 * sec},
		{"idle and total", timeout.Config{Total: 5 * sec, Idle: 2 * sec}, 0, 5 * sec},
		{"per try and a far total", timeout.Config{Total: 50 * sec, PerTry: 2 * sec}, 0, 0},
		{"per try and the context's", timeout.Config{PerTry: 2 * sec}, 5 * sec, 5 * sec},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.caller != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.caller)
					defer cancel()
				}
				began := time.Now()
				var cut time.Duration
				guarded, err := newUpstream(t, test.cfg).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(sec)
					w.WriteHeader(http.StatusOK)
					if d, ok := r.Context().Deadline(); ok && time.Until(d) < 4*sec {
						t.Errorf("after the head: got a deadline in %v, want that of the body", time.Until(d))
					}
					timer := time.NewTimer(10 * sec)
					defer timer.Stop()
					select {
					case <-r.Context().Done():
						cut = time.Since(began)
					case <-timer.C:
					}
				}))
				if err != nil {
					t.Fatal(err)
				}
				guarded.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
				if cut != test.want {
					t.Errorf("cut off: got %v, want %v", cut, test.want)
				}
			})
		})
	}
}

// TestHandler_headersAtTheLimit sends the response headers at the instant at which the timeout
// fires: both orders are fine.
func TestHandler_headersAtTheLimit(t *testing.T) {
	for range 200 {
		s := newUpstream(t, timeout.Config{Total: time.Minute}, before(func(c *policy.Call) { c.LimitPerTry(100 * time.Microsecond) }))
		guarded, err := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
				runtime.Gosched()
			}
			w.WriteHeader(http.StatusCreated)
		}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, info := pillion.WithInfo(t.Context())
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		good := info.Code() == http.StatusCreated && info.Err() == nil
		late := info.Code() == 0 && scopeOf(info.Err()) == policy.ScopePerTry
		if w.Code != http.StatusCreated || !good && !late {
			t.Fatalf("got %d, reported as %d, %v, want 201, reported as 201 or as a timeout", w.Code, info.Code(), info.Err())
		}
	}
}

// TestHandler_panic pins that panics reach the server unchanged, after the policies have received
// the end.
func TestHandler_panic(t *testing.T) {
	const crash = policy.Failed | policy.Status5xx
	tests := []struct {
		name  string
		value any
		begun bool
		is    policy.Condition
	}{
		{"a text", "burnt", false, crash},
		{"an error", errBroken, false, crash},
		{"within the body", errBroken, true, crash},
		{"what cannot be compared", []int{1}, false, crash},
		{"ErrAbortHandler", http.ErrAbortHandler, false, policy.Failed | policy.Reset},
		{"ErrAbortHandler within the body", http.ErrAbortHandler, true, policy.Failed | policy.Reset},
		{"ErrAbortHandler, wrapped", fmt.Errorf("so: %w", http.ErrAbortHandler), false, crash},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					seen := make(chan any, 1)
					watch := func(next http.Handler) http.Handler {
						return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							defer func() {
								p := recover()
								seen <- p
								panic(p)
							}()
							next.ServeHTTP(w, r)
						})
					}
					guard := newBreaker(t)
					s := serveUnder(t, h2, watch, func(w http.ResponseWriter, _ *http.Request) {
						if test.begun {
							_, _ = io.WriteString(w, "part")
							_ = http.NewResponseController(w).Flush()
						}
						panic(test.value)
					}, limits.Config{MaxRequests: 1}, guard)
					if _, body, err := s.do(t, http.MethodGet); err == nil {
						t.Errorf("got %q, want a broken connection", body)
					}
					if got := wantSoon(t, seen, "the request"); fmt.Sprintf("%p%v", got, got) != fmt.Sprintf("%p%v", test.value, test.value) {
						t.Errorf("the server got %v, want %v", got, test.value)
					}
					told := s.ends.want(t, end{Is: test.is})
					var panicked *pillion.PanicError
					if !errors.As(told.err, &panicked) || !strings.Contains(string(panicked.Stack), "TestHandler_panic") {
						t.Errorf("end: got %v, want a PanicError with the handler's stack", told.err)
					}
					if err, ok := test.value.(error); ok && !errors.Is(told.err, err) {
						t.Errorf("end: got %v, want it to wrap %v", told.err, err)
					}
					if got := guard.Status().Failure; got != 1 {
						t.Errorf("breaker: got %d failures, want 1", got)
					}
					if _, _, err := s.do(t, http.MethodGet); err == nil { // its slot is free again: no 503
						t.Error("the second request: got a response, want a panic again")
					}
				})
			}
		})
	}
}

func newBreaker(t *testing.T) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(breaker.Config{NonBreakCount: 100})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHandler_goexit ends the goroutine of a handler: its slot is free again, listeners receive the
// end, and the server closes the connection.
func TestHandler_goexit(t *testing.T) {
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			s := serveUnder(t, h2, nil, func(http.ResponseWriter, *http.Request) { runtime.Goexit() },
				timeout.Config{Total: time.Hour}, limits.Config{MaxRequests: 1})
			if _, body, err := s.do(t, http.MethodGet); err == nil {
				t.Errorf("got %q, want a broken connection", body)
			}
			s.ends.want(t, end{Is: policy.Failed | policy.Status5xx})
			if resp, _, err := s.do(t, http.MethodGet); err == nil {
				t.Errorf("the second request: got %v, want a broken connection again", resp)
			}
		})
	}
}

// TestHandler_informational sends a 1xx, which is no final response: a local reply may still follow
// it.
func TestHandler_informational(t *testing.T) {
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			for name, want := range map[string]int{"with a response": http.StatusNoContent, "without a response": http.StatusGatewayTimeout} {
				t.Run(name, func(t *testing.T) {
					s := serveUnder(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Link", "</style.css>")
						w.WriteHeader(http.StatusEarlyHints)
						if want == http.StatusNoContent {
							w.WriteHeader(want)
							return
						}
						<-r.Context().Done()
					}, timeout.Config{Total: 20 * time.Millisecond})
					var hints atomic.Int32
					req := requestTo(t, s.URL)
					req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
						Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
							hints.Add(int32(code))
							return nil
						},
					}))
					resp, err := s.client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					_ = resp.Body.Close()
					if resp.StatusCode != want || hints.Load() != http.StatusEarlyHints {
						t.Errorf("got %d after %d, want %d after 103", resp.StatusCode, hints.Load(), want)
					}
					if got := s.ends.await(t); want == http.StatusNoContent && got.Code != want {
						t.Errorf("end: got %d, want %d", got.Code, want)
					}
				})
			}
		})
	}
}

// TestHandler_clientGone disconnects clients at different points: that does not count as a failure.
func TestHandler_clientGone(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer origin.Close()
	target, err := url.Parse(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		part    bool // the client disconnects after the first part
		code    int
	}{
		{"before the head", silent, false, 0},
		{"within the body", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			for err := error(nil); err == nil; { // the first writes may still fit into a buffer
				if _, err = w.Write(make([]byte, 1<<16)); err == nil {
					err = http.NewResponseController(w).Flush()
				}
			}
		}, true, 200},
		// It panics with http.ErrAbortHandler, which counted as a failure of the service.
		{"within the body, through a proxy", proxy.ServeHTTP, true, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					began := make(chan struct{})
					guard := newBreaker(t)
					s := serveUnder(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
						close(began)
						test.handler(w, r)
					}, timeout.Config{Total: time.Hour}, limits.Config{}, guard)
					ctx, leave := context.WithCancel(t.Context())
					defer leave()
					if !test.part {
						context.AfterFunc(t.Context(), leave)
						go func() {
							<-began
							leave()
						}()
					}
					resp, err := s.client.Do(requestTo(t, s.URL).WithContext(ctx))
					if err == nil {
						if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
							t.Error(err)
						}
						leave()
						_ = resp.Body.Close()
					}
					s.ends.want(t, end{Code: test.code, Is: policy.Cancelled, Flags: envoy.DC, Detail: envoy.CallerGone})
					if got := guard.Status(); got != (breaker.Status{}) {
						t.Errorf("breaker: got %+v, want nothing counted", got)
					}
				})
			}
		})
	}
}

// TestHandler_errors pins the errors of Handler.
func TestHandler_errors(t *testing.T) {
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, u := range []*pillion.Upstream{nil, {}} {
		if guarded, err := u.Handler(ok); err == nil || guarded != nil || !strings.Contains(err.Error(), "pillion: Handler: the Upstream is nil or zero") {
			t.Errorf("%v: got %v, %v, want no handler and an error", u, guarded, err)
		}
	}
	tests := []struct {
		name   string
		next   http.Handler
		policy pillion.Policy
		want   string
	}{
		{"nil handler", nil, nil, `upstream "recipes": pillion: Handler: nil handler`},
		{"nil function", http.HandlerFunc(nil), nil, `upstream "recipes": pillion: Handler: nil handler`},
		{"retry", ok, retry.Config{}, "a server cannot retry or hedge a request; leave out retry and hedge"},
		{"retry that never does", ok, retry.Config{NumRetries: retry.Never}, "cannot retry or hedge"},
		{"retryable", ok, retry.Retryable{}, "cannot retry or hedge"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			guarded, err := newUpstream(t, test.policy).Handler(test.next)
			if err == nil || guarded != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, %v, want no handler and %q", guarded, err, test.want)
			}
		})
	}
}

// TestHandler_nilParts serves requests that no server makes: they are served, or one clear message
// names what is missing.
func TestHandler_nilParts(t *testing.T) {
	request := func(change func(r *http.Request)) *http.Request {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/soup", nil)
		change(r)
		return r
	}
	tests := []struct {
		name string
		w    http.ResponseWriter
		r    *http.Request
		want any // the panic
	}{
		{"no writer", nil, request(func(*http.Request) {}), "pillion: Handler: ServeHTTP was called with a nil ResponseWriter or Request"},
		{"no request", httptest.NewRecorder(), nil, "pillion: Handler: ServeHTTP was called with a nil ResponseWriter or Request"},
		{"no URL", httptest.NewRecorder(), request(func(r *http.Request) { r.URL = nil }), nil},
		{"no header", httptest.NewRecorder(), request(func(r *http.Request) { r.Header = nil }), nil},
		{"no body", httptest.NewRecorder(), request(func(r *http.Request) { r.Body = nil }), nil},
		{"an empty request", httptest.NewRecorder(), &http.Request{}, nil},
		{"a writer without a header", headless{httptest.NewRecorder()}, request(func(*http.Request) {}), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for name, policies := range map[string][]pillion.Policy{
				"served":  {timeout.Config{EnvoyHeaders: true}, before(func(c *policy.Call) { _ = c.Request(); c.Header().Set("X-Added", "1") })},
				"refused": {limits.Config{MaxRequests: limits.Zero}, pillion.Log(slog.New(slog.DiscardHandler))},
			} {
				guarded, err := newUpstream(t, policies...).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, "soup")
				}))
				if err != nil {
					t.Fatal(err)
				}
				func() {
					defer func() {
						if got := recover(); got != test.want {
							t.Errorf("%s: got panic %v, want %v", name, got, test.want)
						}
					}()
					guarded.ServeHTTP(test.w, test.r)
				}()
			}
		})
	}
}

// headless is a writer without a header.
type headless struct{ http.ResponseWriter }

func (headless) Header() http.Header { return nil }

// TestHandler_noSecrets causes errors and panics that contain secrets, and reads everything that
// the server sends: it contains none of them.
func TestHandler_noSecrets(t *testing.T) {
	const secret = "hunter2"
	refusal := around(func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
		return c.Refuse(errors.New(secret), nil)
	})
	failure := around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		o.Err = errors.New(secret)
		return o
	})
	opened := func() pillion.Policy {
		b, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := map[string]struct {
		policies []pillion.Policy
		handler  http.HandlerFunc
		status   string // the status of the last response; empty for none
	}{
		"a panic":                {nil, func(http.ResponseWriter, *http.Request) { panic(secret) }, ""},
		"a panic with an error":  {nil, func(http.ResponseWriter, *http.Request) { panic(errors.New(secret)) }, ""},
		"panics open a breaker":  {[]pillion.Policy{opened()}, func(http.ResponseWriter, *http.Request) { panic(secret) }, "503"},
		"a refusal":              {[]pillion.Policy{refusal}, silent, "503"},
		"an error":               {[]pillion.Policy{failure}, func(http.ResponseWriter, *http.Request) {}, "500"},
		"an error and a timeout": {[]pillion.Policy{failure, timeout.Config{Total: time.Millisecond}}, silent, "504"},
		"headers of a failed handler": {[]pillion.Policy{timeout.Config{Total: time.Millisecond}}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Session", secret)
			silent(w, r)
		}, "504"},
	}
	for name, test := range tests {
		for _, content := range []string{"text/plain", "application/grpc"} {
			t.Run(name+", "+content, func(t *testing.T) {
				s := serveUnder(t, false, nil, test.handler, test.policies...)
				var last []byte
				for range 3 {
					conn, err := net.Dial("tcp", s.Listener.Addr().String())
					if err != nil {
						t.Fatal(err)
					}
					_ = conn.SetDeadline(time.Now().Add(patience))
					_, _ = io.WriteString(conn, "GET /soup HTTP/1.1\r\nHost: x\r\nContent-Type: "+content+"\r\nConnection: close\r\n\r\n")
					last, err = io.ReadAll(conn)
					if err != nil {
						t.Fatal(err)
					}
					_ = conn.Close()
					if strings.Contains(string(last), secret) {
						t.Errorf("got %q, want no secrets in it", last)
					}
				}
				want := "HTTP/1.1 " + test.status
				if content == "application/grpc" && test.status != "" {
					want = "HTTP/1.1 200"
				}
				if test.status == "" && len(last) != 0 || !strings.HasPrefix(string(last), want) && test.status != "" {
					t.Errorf("got %q, want %q", last, test.status)
				}
			})
		}
	}
}

// TestHandler_countsAfterwards ends handlers in all ways: immediately afterwards gauges and slots
// are back, and the end of each attempt and call has been reported.
func TestHandler_countsAfterwards(t *testing.T) {
	handlers := map[string]http.HandlerFunc{
		"returns":         func(http.ResponseWriter, *http.Request) {},
		"writes":          func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") },
		"panics":          func(http.ResponseWriter, *http.Request) { panic("burnt") },
		"panics late":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup"); panic("burnt") },
		"aborts":          func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"ends":            func(http.ResponseWriter, *http.Request) { runtime.Goexit() },
		"ends late":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup"); runtime.Goexit() },
		"is too slow":     silent,
		"panics too late": func(w http.ResponseWriter, r *http.Request) { silent(w, r); panic("burnt") },
		"ends too late":   func(w http.ResponseWriter, r *http.Request) { silent(w, r); runtime.Goexit() },
	}
	for name, handler := range handlers {
		t.Run(name, func(t *testing.T) {
			registry, err := metrics.NewRegistry(metrics.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			var told ends
			u := newUpstream(t, metrics.Config{Registry: registry}, timeout.Config{Total: 5 * time.Millisecond},
				limits.Config{MaxRequests: 1}, breaker.Config{NonBreakCount: 100}, pillion.Listener(told.hear))
			guarded, err := u.Handler(handler)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("leek"))
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					guarded.ServeHTTP(httptest.NewRecorder(), r)
				}()
				_ = wantSoon(t, done, "the handler")
				active := registry.Cluster("recipes").Gauge("upstream_rq_active").Value()
				if ended, attempts := told.count(); ended != i+1 || attempts != 0 || active != 0 {
					t.Errorf("%d: got %d ends, %d attempts under way, upstream_rq_active %d, want %d, 0, 0", i, ended, attempts, active, i+1)
				}
			}
			for i, e := range told.list {
				if e.Is.Any(policy.Refused) {
					t.Errorf("%d: got %v, want a free slot", i, e.err)
				}
			}
		})
	}
}

// TestHandler_allocations pins what serving a request may allocate, in addition to the handler.
func TestHandler_allocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	limited := []pillion.Policy{timeout.Config{Total: time.Hour}, limits.Config{}, breaker.Config{}}
	tests := []struct {
		name     string
		policies []pillion.Policy
		body     io.ReadCloser
		most     float64
	}{
		{"unlimited", []pillion.Policy{limits.Config{}, breaker.Config{}}, http.NoBody, 3},
		{"unlimited, body", []pillion.Policy{limits.Config{}, breaker.Config{}}, blank{}, 4},
		{"limited", limited, http.NoBody, 7},
		{"limited, body", limited, blank{}, 7},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, buffer := []byte("soup"), make([]byte, 1)
			guarded, err := newUpstream(t, test.policies...).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = r.Body.Read(buffer)
				_, _ = w.Write(text)
			}))
			if err != nil {
				t.Fatal(err)
			}
			w := sink{}
			r := &http.Request{Method: http.MethodPost, Header: http.Header{}, Body: test.body}
			if got := testing.AllocsPerRun(500, func() { guarded.ServeHTTP(w, r) }); got > test.most {
				t.Errorf("got %v allocations, want at most %v", got, test.most)
			}
		})
	}
}

// sink is a writer that discards everything.
type sink struct{}

func (sink) Header() http.Header         { return nil }
func (sink) Write(p []byte) (int, error) { return len(p), nil }
func (sink) WriteHeader(int)             {}
func (sink) Flush()                      {}

// TestHandler_statuses pins what policies receive for each kind of response.
func TestHandler_statuses(t *testing.T) {
	const failed = policy.Status5xx
	tests := []struct {
		name  string
		write func(w http.ResponseWriter)
		want  end
	}{
		{"nothing written", func(http.ResponseWriter) {}, end{Code: 200}},
		{"204", head(204), end{Code: 204}},
		{"304 with a body", func(w http.ResponseWriter) { head(304)(w); _, _ = io.WriteString(w, "not sent") }, end{Code: 304}},
		{"404", func(w http.ResponseWriter) { http.Error(w, "none left", http.StatusNotFound) }, end{Code: 404}},
		{"409", head(409), end{Code: 409, Is: policy.Retriable4xx}},
		{"500", head(500), end{Code: 500, Is: failed}},
		{"503", head(503), end{Code: 503, Is: failed | policy.GatewayError}},
		{"799", head(799), end{Code: 799}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					var header string
					s := serveUnder(t, h2, nil, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("X-Soup", "leek")
						test.write(w)
					}, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
						want := policy.Request{Protocol: "http", Method: "GET", Authority: c.Request().Authority, Path: "/soup"}
						if got := c.Request(); got != want || got.Authority == "" {
							t.Errorf("Request: got %+v, want %+v", got, want)
						}
						if c.Idempotent() || c.Replayable() || c.Attempts() != 1 {
							t.Error("got a request that can be sent again")
						}
						o := next(ctx, c)
						header, _ = c.ResponseHeader(o, "x-soup")
						return o
					}))
					resp, _, err := s.do(t, http.MethodGet)
					if err != nil || resp.StatusCode != test.want.Code || header != "leek" {
						t.Errorf("got %v, %v, header %q, want %d with one", resp, err, header, test.want.Code)
					}
					test.want.Detail = envoy.ViaUpstream
					s.ends.want(t, test.want)
				})
			}
		})
	}
}

// TestHandler_requestHeader changes the request's header in a policy, and consumes some of it in
// others: the handler receives the rest, and the server's own header stays unchanged.
func TestHandler_requestHeader(t *testing.T) {
	var seen http.Header
	s := newUpstream(t, timeout.Config{EnvoyHeaders: true}, before(func(c *policy.Call) { c.Header().Set("X-Added", "1") }))
	guarded, err := s.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header = http.Header{"X-Envoy-Upstream-Rq-Timeout-Ms": {"5000"}, "X-Own": {"1"}}
	before := r.Header.Clone()
	guarded.ServeHTTP(httptest.NewRecorder(), r)
	if diff := cmp.Diff(http.Header{"X-Own": {"1"}, "X-Added": {"1"}}, seen); diff != "" {
		t.Errorf("the handler's (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, r.Header); diff != "" {
		t.Errorf("the server's (-want +got):\n%s", diff)
	}
}

// TestHandler_timeoutHandler uses the deadline of other middleware, which sends the response
// itself: the reported end is the caller's deadline.
func TestHandler_timeoutHandler(t *testing.T) {
	s := serveUnder(t, false, func(next http.Handler) http.Handler {
		return http.TimeoutHandler(next, 20*time.Millisecond, "too slow")
	}, silent)
	resp, body, err := s.do(t, http.MethodGet)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || body != "too slow" {
		t.Errorf("got %v %q, %v, want the middleware's 503", resp, body, err)
	}
	told := s.ends.want(t, end{Is: policy.Timeout, Flags: envoy.UT, Detail: envoy.ResponseTimeout})
	if scopeOf(told.err) != policy.ScopeCaller {
		t.Errorf("end: got %v, want the caller's deadline", told.err)
	}
}

// TestHandler_crowd serves many requests concurrently, some of which are refused, disconnect,
// panic, or time out: at the end every slot is free.
func TestHandler_crowd(t *testing.T) {
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			var told ends
			s := serveUnder(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
				switch r.Header.Get("X-Do") {
				case "panic":
					panic("burnt")
				case "wait":
					<-r.Context().Done()
				default:
					_, _ = io.WriteString(w, "soup")
				}
			}, timeout.Config{Total: 5 * time.Millisecond}, limits.Config{MaxRequests: 4}, pillion.Listener(told.hear))
			var clients sync.WaitGroup
			for i := range 100 {
				clients.Go(func() { _, _, _ = s.do(t, http.MethodGet, "X-Do", []string{"", "panic", "wait"}[i%3]) })
			}
			clients.Wait()
			s.Close()                                                      // all handlers have returned
			if got, underWay := told.count(); underWay != 0 || got < 100 { // net/http resends some that were cut off
				t.Errorf("got %d ends, %d attempts under way, want 100 and none", got, underWay)
			}
			w := httptest.NewRecorder()
			s.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			if w.Code != 200 {
				t.Errorf("after the crowd: got %d, want a free slot", w.Code)
			}
		})
	}
}
