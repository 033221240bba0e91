package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// TestTransport_attemptHeaders pins that the wire sees the headers that an attempt changes, while
// the caller's map stays the same, even for a concurrent reader.
func TestTransport_attemptHeaders(t *testing.T) {
	for name, header := range map[string]http.Header{
		"some": {"X-Mine": {"1", "2"}, "X-Gone": {"soon"}},
		"none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			var seen []http.Header
			u := newUpstream(t, quick(2), before(func(c *policy.Call) {
				h := c.Header()
				h.Set("X-Attempt", strconv.Itoa(c.Attempt()))
				h.Del("X-Gone")
				if c.Header().Get("X-Attempt") != strconv.Itoa(c.Attempt()) {
					t.Error("the second Header of an attempt is another one")
				}
				if got := c.RequestHeader("X-Attempt"); got != "" {
					t.Errorf("RequestHeader: got %q, want the caller's header unchanged", got)
				}
			}))
			base := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				seen = append(seen, req.Header)
				return answer(http.StatusServiceUnavailable, "no"), nil
			}))
			req := get(t.Context(), t)
			req.Header = header
			want := header.Clone()

			done := make(chan struct{})
			var reading sync.WaitGroup
			reading.Go(func() { // for the race detector
				for {
					select {
					case <-done:
						return
					default:
						_ = req.Header.Get("X-Mine")
					}
				}
			})
			resp, err := base.RoundTrip(req)
			close(done)
			reading.Wait()
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if diff := cmp.Diff(want, req.Header); diff != "" {
				t.Errorf("the caller's header (-want +got):\n%s", diff)
			}
			for i, got := range seen {
				want := header.Clone()
				if want == nil {
					want = http.Header{}
				}
				want.Set("X-Attempt", strconv.Itoa(i+1))
				want.Del("X-Gone")
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("header of attempt %d (-want +got):\n%s", i+1, diff)
				}
			}
			if len(seen) != 3 {
				t.Errorf("got %d attempts, want 3", len(seen))
			}
		})
	}
}

// TestTransport_request pins how an HTTP request is described to policies.
func TestTransport_request(t *testing.T) {
	build := func(method, host string) *http.Request {
		req := get(t.Context(), t)
		req.Method, req.Host = method, host
		return req
	}
	bare := build("", "")
	bare.URL = nil
	tests := []struct {
		name       string
		req        *http.Request
		want       policy.Request
		idempotent bool
		endpoint   string
	}{
		{"GET", build("GET", "recipes.test"), policy.Request{Protocol: "http", Method: "GET", Authority: "recipes.test", Path: "/soup"}, true, "recipes.test"},
		{"no method", build("", ""), policy.Request{Protocol: "http", Method: "GET", Authority: "recipes.test", Path: "/soup"}, true, "recipes.test"},
		{"POST elsewhere", build("POST", "other.test"), policy.Request{Protocol: "http", Method: "POST", Authority: "other.test", Path: "/soup"}, false, "recipes.test"},
		{"no URL", bare, policy.Request{Protocol: "http", Method: "GET"}, true, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
				if diff := cmp.Diff(test.want, c.Request()); diff != "" {
					t.Errorf("Request (-want +got):\n%s", diff)
				}
				if got := c.Idempotent(); got != test.idempotent {
					t.Errorf("Idempotent: got %v, want %v", got, test.idempotent)
				}
				if _, ok := c.ResponseHeader(&policy.Outcome{}, "X-Soup"); ok {
					t.Error("ResponseHeader without a response: got one")
				}
				o := next(ctx, c)
				for name, want := range map[string]string{"X-Soup": "leek", "X-Empty": "", "X-None": ""} {
					if got, ok := c.ResponseHeader(o, name); got != want || ok == (name == "X-None") {
						t.Errorf("ResponseHeader %s: got %q, %v, want %q", name, got, ok, want)
					}
				}
				return o
			}))
			ctx, info := pillion.WithInfo(t.Context())
			resp, err := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
				resp := answer(http.StatusOK, "soup")
				resp.Header = http.Header{"X-Soup": {"leek", "onion"}, "X-Empty": {""}}
				return resp, nil
			})).RoundTrip(test.req.WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if info.Endpoint() != test.endpoint {
				t.Errorf("endpoint: got %q, want %q", info.Endpoint(), test.endpoint)
			}
		})
	}
}

// TestTransport_noURL pins that the error of net/http for a request without a URL is returned, and
// does not count.
func TestTransport_noURL(t *testing.T) {
	req := get(t.Context(), t)
	req.URL = nil
	ctx, info := pillion.WithInfo(t.Context())
	_, err := newUpstream(t, quick(1), pillion.Options{LocalReplies: true}).Transport(nil).RoundTrip(req.WithContext(ctx))
	if err == nil || !strings.Contains(err.Error(), "nil Request.URL") || info.Attempts() != 1 || info.Flags() != 0 {
		t.Errorf("got %v after %d attempts, %v, want net/http's error after 1", err, info.Attempts(), info.Flags())
	}
}

// TestTransport_bodyIsClosed covers cases that no server can cause.
func TestTransport_bodyIsClosed(t *testing.T) {
	panics := around(func(context.Context, *policy.Call, policy.Func) *policy.Outcome { panic(errBroken) })
	reads := func(status int) roundTripper {
		return func(req *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, req.Body)
			_ = req.Body.Close()
			return answer(status, ""), nil
		}
	}
	fails := func(err error) roundTripper {
		return func(req *http.Request) (*http.Response, error) {
			_ = req.Body.Close()
			return nil, err
		}
	}
	again := func(bodies *tally) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return newCountedBody(bodies), nil }
	}
	tests := []struct {
		name    string
		policy  pillion.Policy
		base    http.RoundTripper
		getBody func(*tally) func() (io.ReadCloser, error)
		bodies  int
		panics  bool
		err     error
	}{
		{"a policy panics", panics, reads(200), nil, 1, true, nil},
		{"an error", nil, fails(errBroken), nil, 1, false, errBroken},
		{"an error, retried", quick(1), fails(errBroken), again, 2, false, errBroken},
		{"refused", before(func(*policy.Call) {}), reads(200), again, 1, false, nil},
		{"GetBody fails", quick(3), reads(503), func(*tally) func() (io.ReadCloser, error) {
			return func() (io.ReadCloser, error) { return nil, errBroken }
		}, 1, false, errBroken},
		{"GetBody is there and not needed", quick(3), reads(200), func(*tally) func() (io.ReadCloser, error) {
			return func() (io.ReadCloser, error) { panic("asked") }
		}, 1, false, nil},
	}
	for _, test := range tests {
		for _, buffer := range []int64{0, 100} {
			t.Run(fmt.Sprintf("%s, buffer %d", test.name, buffer), func(t *testing.T) {
				bodies := newTally()
				req := newRequest(t, http.MethodPut, "http://recipes.test/", newCountedBody(bodies))
				if test.getBody != nil {
					req.GetBody = test.getBody(bodies)
				}
				u := newUpstream(t, test.policy, pillion.Options{ReplayBuffer: buffer})
				var err error
				panicked := recovered(func() {
					var resp *http.Response
					if resp, err = u.Transport(test.base).RoundTrip(req); err == nil {
						_ = resp.Body.Close()
					}
				})
				if (panicked != nil) != test.panics || !errors.Is(err, test.err) {
					t.Errorf("got %v and panic %v, want %v and a panic: %v", err, panicked, test.err, test.panics)
				}
				bodies.wantEver(t, test.bodies, test.bodies)
				if bodies.wantNone(t); t.Failed() {
					return
				}
			})
		}
	}
}

// TestTransport_getBodyFails pins that a body that cannot be read again ends the call, as the
// caller's own failure.
func TestTransport_getBodyFails(t *testing.T) {
	asked := 0
	req := newRequest(t, http.MethodPut, "http://recipes.test/", strings.NewReader("order"))
	req.GetBody = func() (io.ReadCloser, error) {
		asked++
		return nil, errBroken
	}
	ctx, info := pillion.WithInfo(t.Context())
	u := newUpstream(t, quick(5), pillion.Options{LocalReplies: true})
	resp, err := u.Transport(answers(http.StatusServiceUnavailable, "no")).RoundTrip(req.WithContext(ctx))
	if resp != nil || !errors.Is(err, errBroken) || asked != 1 {
		t.Errorf("got %v, %v, asked %d times, want errBroken after one", resp, err, asked)
	}
	if info.Attempts() != 2 || info.Flags() != 0 || info.Detail() != nil {
		t.Errorf("got %d attempts, %v, %v, want 2 and nothing against the upstream", info.Attempts(), info.Flags(), info.Detail())
	}
}

// TestTransport_bodyIsGone pins the error of a policy that retries without asking, if the body
// cannot be read again.
func TestTransport_bodyIsGone(t *testing.T) {
	for buffer, want := range map[int64]string{
		0: "pillion: the request's body cannot be sent again: it has no GetBody",
		3: "pillion: the request's body cannot be sent again: it exceeds Options.ReplayBuffer",
	} {
		u := newUpstream(t, pillion.Options{ReplayBuffer: buffer}, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			if !c.Replayable() {
				t.Error("not replayable before it was sent")
			}
			next(ctx, c).Discard()
			if c.Replayable() {
				t.Error("replayable once it was sent")
			}
			return next(ctx, c.Next())
		}))
		attempts := 0
		_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			attempts++
			_, _ = io.Copy(io.Discard, req.Body)
			_ = req.Body.Close()
			return answer(http.StatusServiceUnavailable, "no"), nil
		})).RoundTrip(newRequest(t, http.MethodPut, "http://recipes.test/", newCountedBody(newTally())))
		if err == nil || err.Error() != want || attempts != 1 {
			t.Errorf("buffer %d: got %v after %d attempts, want %s after 1", buffer, err, attempts, want)
		}
	}
}

// TestTransport_badBase pins that errors name a round tripper that breaks its contract.
func TestTransport_badBase(t *testing.T) {
	answerWith := func(change func(resp *http.Response)) roundTripper {
		return func(*http.Request) (*http.Response, error) {
			resp := answer(http.StatusOK, "soup")
			change(resp)
			return resp, nil
		}
	}
	nilBody := func(length int64) roundTripper {
		return answerWith(func(resp *http.Response) { resp.Body, resp.ContentLength = nil, length })
	}
	tests := []struct {
		name   string
		method string
		base   http.RoundTripper
		want   string // the error, "" for none
	}{
		{
			"nothing at all", http.MethodGet, roundTripper(func(*http.Request) (*http.Response, error) { return nil, nil }),
			"pillion_test.roundTripper returned neither a response nor an error",
		},
		{"nil body", http.MethodGet, nilBody(4), "pillion_test.roundTripper returned a response with content length 4 but a nil body"},
		{"nil body of no length", http.MethodGet, nilBody(0), ""},
		{"nil body of unknown length", http.MethodGet, nilBody(-1), ""},
		{"nil body of a HEAD", http.MethodHead, nilBody(4), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req := get(t.Context(), t)
			req.Method = test.method
			ctx, info := pillion.WithInfo(t.Context())
			resp, err := newUpstream(t, limits.Config{}).Transport(test.base).RoundTrip(req.WithContext(ctx))
			switch {
			case test.want != "":
				if err == nil || !strings.HasSuffix(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			case err != nil:
				t.Error(err)
			case resp.Body != http.NoBody:
				t.Errorf("got a body of %T, want http.NoBody", resp.Body)
			}
			if !info.Done() {
				t.Error("the call has not ended")
			}
		})
	}
}

// TestTransport_responseAndError pins the result of a base that returns both: the response's body
// is closed, and the error is returned.
func TestTransport_responseAndError(t *testing.T) {
	bodies := newTally()
	resp, err := newUpstream(t).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, _ := streams(newCountedBody(bodies))(req)
		return resp, errBroken
	})).RoundTrip(get(t.Context(), t))
	if resp != nil || !errors.Is(err, errBroken) {
		t.Errorf("got %v, %v, want errBroken", resp, err)
	}
	bodies.wantEver(t, 1, 1)
	bodies.wantNone(t)
}

// TestTransport_noResponse pins that the error names what a policy returned in place of a response.
func TestTransport_noResponse(t *testing.T) {
	var none *http.Response
	for value, want := range map[any]string{
		nil:    "pillion: recipes: a policy returned a <nil> in place of a response",
		"soup": "pillion: recipes: a policy returned a string in place of a response",
		none:   "pillion: recipes: a policy returned a *http.Response in place of a response",
	} {
		bodies := newTally()
		u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			o.Discard()
			o.Value = value
			return o
		}))
		resp, err := u.Transport(streams(newCountedBody(bodies))).RoundTrip(get(t.Context(), t))
		if resp != nil || err == nil || err.Error() != want {
			t.Errorf("%T: got %v, %v, want %q", value, resp, err, want)
		}
		bodies.wantNone(t)
	}
}

// TestTransport_valueRemoved pins that a call ends if a policy replaces a response by an error and
// removes its value.
func TestTransport_valueRemoved(t *testing.T) {
	u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		o.Value, o.Err = nil, errBroken
		return o
	}), needCancel)
	ctx, info := pillion.WithInfo(t.Context())
	var sent *http.Request
	_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = req
		return answer(http.StatusOK, "soup"), nil
	})).RoundTrip(get(ctx, t))
	if !errors.Is(err, errBroken) || !info.Done() || sent.Context().Err() == nil {
		t.Errorf("got %v, done %v, context %v, want errBroken of a call that has ended", err, info.Done(), sent.Context().Err())
	}
}

// TestTransport_noBody pins that a call without a response body ends with the response headers.
func TestTransport_noBody(t *testing.T) {
	wantNoLeaks(t)
	server, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "4")
		}
	})
	client := newClient(t, append(all(), limits.Config{MaxRequests: 1}, pillion.AnyOrder{})...)
	tests := []struct {
		method, path string
		status       int
		length       int64
	}{
		{http.MethodHead, "/", http.StatusOK, 4},
		{http.MethodGet, "/204", http.StatusNoContent, 0},
		{http.MethodGet, "/304", http.StatusNotModified, 0},
	}
	for range 2 { // the second needs the first one's slot, although its body was not closed
		for _, test := range tests {
			ctx, info := pillion.WithInfo(t.Context())
			resp, err := client.Do(newRequest(t, test.method, server.URL+test.path, nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.status || resp.Body != http.NoBody || resp.ContentLength != test.length || !info.Done() {
				t.Errorf("%s %s: got %d, %T, length %d, done %v, want %d, http.NoBody, %d, true", test.method, test.path,
					resp.StatusCode, resp.Body, resp.ContentLength, info.Done(), test.status, test.length)
			}
		}
	}
}

// duplex is a body that can be written to.
type duplex struct {
	io.ReadCloser
	strings.Builder
}

// TestTransport_writableBody pins that a body that can be written to stays one.
func TestTransport_writableBody(t *testing.T) {
	both := &duplex{ReadCloser: io.NopCloser(strings.NewReader("soup"))}
	resp, err := newUpstream(t, limits.Config{}).Transport(streams(both)).RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	w, ok := resp.Body.(io.Writer)
	if !ok {
		t.Fatalf("got a %T, want one that can be written to", resp.Body)
	}
	if _, err := io.WriteString(w, "salt"); err != nil || both.String() != "salt" {
		t.Errorf("got %q, %v, want salt", both.String(), err)
	}
	if text, err := io.ReadAll(resp.Body); string(text) != "soup" || err != nil {
		t.Errorf("got %q, %v, want soup", text, err)
	}
	_ = resp.Body.Close()
}

// TestTransport_defaultBase pins the default base.
func TestTransport_defaultBase(t *testing.T) {
	wantNoLeaks(t)
	server, conns := serve(t, failFirst(0, 0, "soup"))
	u := newUpstream(t)
	for range 2 { // both share a base
		client := &http.Client{Transport: u.Transport(nil)}
		send(t, client, newRequest(t, http.MethodGet, server.URL, nil))
	}
	conns.wantEver(t, 1, 1)
	other := &http.Client{Transport: newUpstream(t).Transport(nil)}
	send(t, other, newRequest(t, http.MethodGet, server.URL, nil))
	conns.wantEver(t, 2, 2) // another upstream has another base
	http.DefaultClient.CloseIdleConnections()
	send(t, &http.Client{Transport: u.Transport(nil)}, newRequest(t, http.MethodGet, server.URL, nil))
	conns.wantEver(t, 2, 2) // and so has the default transport
	(&http.Client{Transport: u.Transport(nil)}).CloseIdleConnections()
	other.CloseIdleConnections()
	conns.wantNone(t)
}

// TestTransport_replacedDefault pins that a program's own http.DefaultTransport is used unchanged.
func TestTransport_replacedDefault(t *testing.T) {
	standard := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = standard })
	http.DefaultTransport = answers(http.StatusTeapot, "tea")
	client := &http.Client{Transport: newUpstream(t).Transport(nil)}
	if resp, body := send(t, client, get(t.Context(), t)); resp.StatusCode != http.StatusTeapot || body != "tea" {
		t.Errorf("got %d %q, want the program's own response", resp.StatusCode, body)
	}
}

// TestTransport_concurrent makes many calls concurrently, over reused storage.
func TestTransport_concurrent(t *testing.T) {
	u := newUpstream(t, append(all(), numbered(&journal{}, 5)...)...)
	var served atomic.Int64
	client := &http.Client{Transport: u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		if served.Add(1)%3 == 0 {
			return answer(http.StatusServiceUnavailable, "no"), nil
		}
		return answer(http.StatusOK, req.URL.Query().Get("n")), nil
	}))}
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for n := range 50 {
				text := fmt.Sprint(i, "-", n)
				ctx, info := pillion.WithInfo(t.Context())
				req := get(ctx, t)
				req.URL.RawQuery = "n=" + text
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				if ok := resp.StatusCode == http.StatusOK; err != nil || (ok && string(body) != text) || resp.Request.URL.RawQuery != req.URL.RawQuery {
					t.Errorf("got %q, %v, want %q", body, err, text)
				}
				if info.Code() != resp.StatusCode || !info.Done() {
					t.Errorf("info: got %d, done %v, want %d", info.Code(), info.Done(), resp.StatusCode)
				}
				_ = resp.Body.Close()
			}
		})
	}
	callers.Wait()
}

// reply is Envoy's local reply, as in its documentation and its responses.
type reply struct {
	status     int
	body       string
	retried    string // after a retry, if it differs
	overloaded bool
	flags      string
}

func reset503(reason, flags string) reply {
	return reply{
		503, "upstream connect error or disconnect/reset before headers. reset reason: " + reason,
		"upstream connect error or disconnect/reset before headers. retried and the latest reset reason: " + reason, false, flags,
	}
}

// replies contains every Detail; those without a reply have only flags.
func replies() map[*envoy.Detail]reply {
	overflow, malformed := reset503("overflow", "UO"), reset503("protocol error", "UPE")
	overflow.overloaded = true
	malformed.status = 502
	return map[*envoy.Detail]reply{
		nil:                              {flags: "-"},
		envoy.ViaUpstream:                {flags: "-"},
		envoy.ConnectionRefused:          reset503("remote connection failure", "UF"),
		envoy.ConnectionFailure:          reset503("remote connection failure", "UF"),
		envoy.ConnectionTimeout:          reset503("connection timeout", "UF"),
		envoy.DNSFailure:                 {503, "DNS resolution failure", "", false, "DF"},
		envoy.ConnectionTermination:      reset503("connection termination", "UC"),
		envoy.RemoteReset:                reset503("remote reset", "UR"),
		envoy.RemoteRefusedStream:        reset503("remote refused stream reset", "UR"),
		envoy.MalformedResponse:          malformed,
		envoy.ConnectionTerminationAfter: {flags: "UC"},
		envoy.RemoteResetAfter:           {flags: "UR"},
		envoy.MalformedResponseAfter:     {flags: "UPE"},
		limits.Overflow:                  overflow,
		breaker.CircuitOpen:              overflow,
		envoy.ResponseTimeout:            {504, "upstream request timeout", "", false, "UT"},
		envoy.PerTryTimeout:              {504, "upstream request timeout", "", false, "UT"},
		envoy.PerTryIdleTimeout:          {504, "upstream request timeout", "", false, "UT"},
		envoy.CallerGone:                 {flags: "DC"},
		envoy.NoHealthyUpstream:          {503, "no healthy upstream", "", false, "UH"},
	}
}

func TestTransport_localReplies(t *testing.T) {
	for detail, want := range replies() {
		for _, retried := range []bool{false, true} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				t.Run(fmt.Sprintf("%v, retried %v, %s", detail, retried, method), func(t *testing.T) {
					refuse := around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
						if retried && c.Attempt() == 1 {
							return next(ctx, c)
						}
						return c.Refuse(errBroken, detail)
					})
					base := answers(http.StatusServiceUnavailable, "no")
					req := get(t.Context(), t)
					req.Method = method

					resp, err := newUpstream(t, quick(1), refuse).Transport(base).RoundTrip(req)
					if resp != nil || !errors.Is(err, errBroken) {
						t.Fatalf("without LocalReplies: got %v, %v, want errBroken", resp, err)
					}
					ctx, info := pillion.WithInfo(t.Context())
					req = req.WithContext(ctx)
					resp, err = newUpstream(t, quick(1), refuse, pillion.Options{LocalReplies: true}).Transport(base).RoundTrip(req)
					if got := info.Flags().String(); got != want.flags {
						t.Errorf("flags: got %s, want %s", got, want.flags)
					}
					if want.status == 0 {
						if resp != nil || !errors.Is(err, errBroken) {
							t.Errorf("got %v, %v, want errBroken", resp, err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Error(err)
					}
					_ = resp.Body.Close()
					text := want.body
					if retried && want.retried != "" {
						text = want.retried
					}
					header := http.Header{"Content-Length": {strconv.Itoa(len(text))}, "Content-Type": {"text/plain"}}
					if want.overloaded {
						header["X-Envoy-Overloaded"] = []string{"true"}
					}
					if diff := cmp.Diff(header, resp.Header); diff != "" {
						t.Errorf("header (-want +got):\n%s", diff)
					}
					if resp.ContentLength != int64(len(text)) || resp.StatusCode != want.status ||
						resp.Status != fmt.Sprint(want.status, " ", http.StatusText(want.status)) || resp.Request != req || !resp.ProtoAtLeast(1, 1) {
						t.Errorf("got %+v, want %d for the caller's request", resp, want.status)
					}
					if method == http.MethodHead {
						text = ""
					}
					if string(body) != text {
						t.Errorf("body: got %q, want %q", body, text)
					}
				})
			}
		}
	}
}
