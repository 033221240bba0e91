package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// kitchen returns a server in memory. It responds with its statuses, one after the other, and then
// with 200.
func kitchen(statuses ...int) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		status := http.StatusOK
		if len(statuses) != 0 {
			status, statuses = statuses[0], statuses[1:]
		}
		return &http.Response{StatusCode: status, Request: req, Body: io.NopCloser(strings.NewReader("soup"))}, nil
	})
}

// order gets a URL, and prints the response.
func order(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/soup", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body) // the call ends with its body
	if err != nil {
		return err
	}
	fmt.Println(resp.StatusCode, string(body))
	return nil
}

// An upstream is a name and the policies for its calls, from the outside in.
func ExampleNew() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
		retry.Config{On: "5xx,reset,connect-failure", NumRetries: 2, BaseInterval: time.Millisecond},
		limits.Config{MaxRequests: 200},
		breaker.Config{Threshold: 0.5, Sleep: time.Second},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503, 500))}
	if err := order(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	// Output: 200 soup
}

// The error of New contains every bad field, and every order that makes no sense.
func ExampleNew_errors() {
	_, err := pillion.New("recipes",
		breaker.Config{Threshold: 0.5},
		retry.Config{NumRetries: -7},
		limits.Config{MaxRequests: -2},
	)
	fmt.Println(err)
	// Output:
	// upstream "recipes": pillion: order: breaker outside retry would hide failed attempts from the breaker; write them in the order retry, breaker, limits, or put AnyOrder among the policies if you mean it
	// retry: Config.NumRetries: -7 is negative; write 1 or more, 0 for 1, or retry.Never for none
	// limits: Config.MaxRequests: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none
}

// AnyOrder allows a breaker that sees whole calls instead of attempts.
func ExampleAnyOrder() {
	_, err := pillion.New("recipes", breaker.Config{Threshold: 0.5}, retry.Config{}, pillion.AnyOrder{})
	fmt.Println(err)
	// Output: <nil>
}

// A transport composes with other round trippers, on either side.
func ExampleUpstream_Transport() {
	recipes, err := pillion.New("recipes", retry.Config{BaseInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := kitchen(503)
	loud := roundTripper(func(req *http.Request) (*http.Response, error) {
		fmt.Println("attempt:", req.URL.Path)
		return server.RoundTrip(req)
	})
	client := &http.Client{Transport: recipes.Transport(loud)}
	if err := order(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	// Output:
	// attempt: /soup
	// attempt: /soup
	// 200 soup
}

// Do guards calls without an adapter: a database, a queue, a client library.
func ExampleDo() {
	database, err := pillion.New("database",
		timeout.Config{Total: time.Second},
		retry.Config{On: "5xx", NumRetries: 3, BaseInterval: time.Millisecond}, // "5xx" is any failure
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	attempts := 0
	name, err := pillion.Do(context.Background(), database, func(context.Context) (string, error) {
		if attempts++; attempts < 3 {
			return "", errors.New("deadlock found")
		}
		return "leek soup", nil
	})
	fmt.Println(name, err, attempts)
	// Output: leek soup <nil> 3
}

// An Info reports what happened to a call, successful ones too.
func ExampleWithInfo() {
	recipes, err := pillion.New("recipes", retry.Config{BaseInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503, 503))}
	ctx, info := pillion.WithInfo(context.Background())
	if err := order(ctx, client); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(info.Attempts(), info.Endpoint(), info.Flags(), info.Detail(), info.Done())
	// Output:
	// 503 soup
	// 2 recipes URX via_upstream true
}

// Log writes the end of each call and, at debug level, every event.
func ExampleLog() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey { // it differs each time
				return slog.Attr{}
			}
			return a
		},
	}))
	recipes, err := pillion.New("recipes", pillion.Log(logger), limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen())}
	if err := order(context.Background(), client); errors.Is(err, limits.ErrFull) {
		fmt.Println("too many")
	}
	// Output:
	// level=WARN msg="call end" upstream_cluster=recipes method=GET path=/soup upstream_request_attempt_count=1 response_code=0 response_flags=UO response_code_details=upstream_reset_before_response_started{overflow} error="limits: recipes: max_requests of 0 reached"
	// too many
}

// A Listener receives each event when it happens.
func ExampleListener() {
	listener := func(_ context.Context, e policy.Event) {
		fmt.Println(e.Kind, e.Call.Attempt(), e.Outcome.Code)
	}
	recipes, err := pillion.New("recipes", pillion.Listener(listener), retry.Config{BaseInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503))}
	if err := order(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	// Output:
	// attempt 1 0
	// retry scheduled 1 503
	// attempt end 1 503
	// retry 1 503
	// attempt 2 0
	// retry success 2 200
	// attempt end 2 200
	// end 1 200
	// 200 soup
}

// LocalReplies returns the responses that a sidecar would have sent, in place of errors.
func ExampleOptions() {
	recipes, err := pillion.New("recipes", pillion.Options{LocalReplies: true}, limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen())}
	if err := order(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	// Output: 503 upstream connect error or disconnect/reset before headers. reset reason: overflow
}

// A body without GetBody is kept while it is sent, if there is a buffer.
func ExampleOptions_replayBuffer() {
	recipes, err := pillion.New("recipes",
		pillion.Options{ReplayBuffer: 64 << 10},
		retry.Config{BaseInterval: time.Millisecond},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := kitchen(503)
	eager := roundTripper(func(req *http.Request) (*http.Response, error) {
		defer func() { _ = req.Body.Close() }()
		var body strings.Builder
		if _, failed := io.Copy(&body, req.Body); failed != nil {
			return nil, failed
		}
		fmt.Printf("received %q\n", body.String())
		return server.RoundTrip(req)
	})
	stream := io.MultiReader(strings.NewReader("leek and "), strings.NewReader("potato"))
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPut, "http://recipes/soup", stream)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := recipes.Transport(eager).RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.StatusCode, resp.Body.Close())
	// Output:
	// received "leek and potato"
	// received "leek and potato"
	// 200 <nil>
}

// inFlight is a policy that counts the running calls.
type inFlight struct{ calls *int }

// Wrap makes the hook once, for all calls.
func (p inFlight) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	if p.calls == nil {
		return nil, errors.New("inFlight: calls is nil")
	}
	ended := func(c *policy.Call, end *policy.Outcome) {
		*p.calls--
		fmt.Println("end of", c.Request().Path, end.Code)
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		*p.calls++
		o := next(ctx, c)
		o.OnEnd(c, ended) // when the body has been read, not when the headers have arrived
		return o
	}, nil
}

// A custom policy wraps the others, and registers end hooks with OnEnd.
func ExamplePolicy() {
	calls := 0
	recipes, err := pillion.New("recipes", inFlight{&calls})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen())}
	resp, err := client.Get("http://recipes/soup")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("under way:", calls)
	if err := resp.Body.Close(); err != nil {
		fmt.Println(err)
	}
	fmt.Println("under way:", calls)
	// Output:
	// under way: 1
	// end of /soup 200
	// under way: 0
}

// pigeon is an Exchange: a call by carrier pigeon. Its responses arrive whole, so it needs no
// Discard.
type pigeon struct{ message string }

func (p *pigeon) Request() policy.Request {
	return policy.Request{Protocol: "pigeon", Method: "FLY", Path: "/" + p.message}
}

func (p *pigeon) Try(_ context.Context, c *policy.Attempt, o *policy.Outcome) {
	if c.Call().Attempt() == 1 {
		o.Err = errors.New("lost to a hawk")
		return
	}
	o.Value, o.Detail = strings.ToUpper(p.message), envoy.ViaUpstream
}

// Classify sets the meaning of an error: here, that the message may not have arrived.
func (p *pigeon) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	o.Err, o.Conditions, o.Flags, o.Detail = err, policy.Reset, envoy.UC, envoy.ConnectionTermination
}

func (p *pigeon) Unary() bool                                     { return true }
func (p *pigeon) RequestHeader(string) []string                   { return nil }
func (p *pigeon) Header(*policy.Attempt) policy.Header            { return http.Header{} }
func (p *pigeon) Idempotent() bool                                { return true }
func (p *pigeon) Replayable() bool                                { return true }
func (p *pigeon) ResponseHeader(*policy.Outcome, string) []string { return nil }

// Invoke makes calls of any protocol under the policies.
func ExampleChain_Invoke() {
	loft, err := pillion.New("loft", retry.Config{BaseInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, info := pillion.WithInfo(context.Background())
	o := loft.Chain().Invoke(ctx, &pigeon{"hello"})
	fmt.Println(o.Value, o.Err, info.Attempts())
	// Output: HELLO <nil> 2
}

// A TimeoutError contains the limit that fired.
func ExampleTimeoutError() {
	database, err := pillion.New("database", timeout.Config{Total: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pillion.Do(context.Background(), database, func(ctx context.Context) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
	if limit, ok := errors.AsType[*pillion.TimeoutError](err); ok {
		fmt.Println(limit.Upstream, limit.Scope, limit.Limit, errors.Is(err, context.DeadlineExceeded))
	}
	// Output: database total 1ms true
}

// An UpstreamError contains Envoy's description of a failure of the network or the upstream.
func ExampleUpstreamError() {
	recipes, err := pillion.New("recipes")
	if err != nil {
		fmt.Println(err)
		return
	}
	closing := roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.EOF })
	err = order(context.Background(), &http.Client{Transport: recipes.Transport(closing)})
	if wire, ok := errors.AsType[*pillion.UpstreamError](err); ok {
		fmt.Println(wire.Upstream, wire.Flags, wire.Flags.Long(), wire.Detail)
	}
	// Output: recipes UC UpstreamConnectionTermination upstream_reset_before_response_started{connection_termination}
}

// WithIdempotent declares that a call is safe to send twice, although its method does not say so.
func ExampleWithIdempotent() {
	recipes, err := pillion.New("recipes", retry.Config{BaseInterval: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503, 200, 503))}
	ctx := context.Background()
	for _, ctx := range []context.Context{pillion.WithIdempotent(ctx), ctx} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://recipes/soup", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(resp.StatusCode, resp.Body.Close())
	}
	// Output:
	// 200 <nil>
	// 503 <nil>
}

// byTenant is a Resolver that has an upstream for each tenant.
type byTenant map[string]*pillion.Upstream

func (b byTenant) Resolve(_ context.Context, t pillion.Target) (*pillion.Upstream, error) {
	if u := b[t.Header("x-tenant")]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("no upstream for %s%s", t.Authority, t.Path)
}

// A Resolver finds the upstream of each call, for adapters such as package pilliongrpc.
func ExampleResolver() {
	east, err := pillion.New("east")
	if err != nil {
		fmt.Println(err)
		return
	}
	var resolver pillion.Resolver = byTenant{"tenant-1": east}
	for _, tenant := range []string{"tenant-1", "tenant-2"} {
		u, err := resolver.Resolve(context.Background(), pillion.Target{
			Request: policy.Request{Authority: "recipes", Path: "/soup"},
			Header:  http.Header{"X-Tenant": {tenant}}.Get,
		})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(u.Name())
	}
	// Output:
	// east
	// no upstream for recipes/soup
}

// local is a policy that sends all requests of an upstream to a local server.
type local struct{ address string }

func (local) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) { return next, nil }

func (l local) OwnTransport(upstream string, t *http.Transport) *http.Transport {
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		fmt.Println("dial", upstream)
		var d net.Dialer
		return d.DialContext(ctx, network, l.address)
	}
	return t
}

// A policy can configure the transport that an upstream makes for a nil base.
func ExampleTransportOwner() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") }))
	defer server.Close()
	recipes, err := pillion.New("recipes", local{server.Listener.Addr().String()})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(nil)}
	defer client.CloseIdleConnections()
	if err := order(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	// Output:
	// dial recipes
	// 200 soup
}

// A StatusError stands for a response that counts against the upstream, where an error is needed.
func ExampleStatusError() {
	recipes, err := pillion.New("recipes", retry.Retryable{
		Sleep: retry.Zero,
		LogMethod: func(retries int, err error) {
			if status, ok := errors.AsType[*pillion.StatusError](err); ok {
				fmt.Println("retry", retries, "after", status.Code)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503))}
	if err := order(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	// Output:
	// retry 1 after 503
	// 200 soup
}

// Chain returns the policies with their state, here to list them. New adds the Options.
func ExampleUpstream_Chain() {
	recipes, err := pillion.New("recipes", retry.Config{}, limits.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range recipes.Chain().Policies() {
		fmt.Printf("%T\n", p)
	}
	// Output:
	// retry.Config
	// limits.Config
	// pillion.Options
}
