package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/retry"
)

// TestClient runs misbehaving callers and servers. The calls go through two upstreams over shared
// transports, as requests, as functions and within commands.
func TestClient(t *testing.T) {
	soak(t, func(r *round) {
		c := newClients(r)
		r.storm(400, 32, c.call)
		c.shutDown()
		soup, bread := c.upstreams[0], c.upstreams[1]
		r.settle(c.closeIdle, r.ledger.complaints, r.gauges, r.totals(soup), r.totals(bread))
		c.accepts(soup)
		c.accepts(bread)
		r.settle(c.closeIdle, r.ledger.complaints, r.gauges)
	})
}

// clients is the state that the callers of a round share.
type clients struct {
	*round
	upstreams []*guarded
	trippers  []through // half of them through the first upstream
	urls      []string
	services  []*command.Service
	pool      *command.Pool
}

// through is an upstream over a transport.
type through struct {
	http.RoundTripper
	rude bool // there is a rudeBase between them
}

func newClients(r *round) *clients {
	c := &clients{round: r, upstreams: []*guarded{r.upstream("soup", client), r.upstream("bread", client)}}
	c.urls = []string{
		"http://" + r.listen(nil, playHTTP1).Addr().String(),
		"http://" + r.listen(nil, playHTTP2).Addr().String(),
		"https://" + r.listen(serverTLS("h2", "http/1.1"), playTLS).Addr().String(),
		"https://" + r.listen(serverTLS(), playHTTP1).Addr().String(),
		"http://" + r.refusing(),
		"http://" + nowhere,
	}
	r.setup = append(r.setup, fmt.Sprintf("servers: %v", c.urls))
	h1, h2 := r.transport(false), r.transport(true)
	for _, u := range c.upstreams {
		counting := r.registry.Cluster(u.Name()).InstrumentTransport(r.transport(false))
		for _, base := range []http.RoundTripper{h1, h2, nil, counting, rudeBase{r, h1}, rudeBase{r, h2}} {
			_, rude := base.(rudeBase)
			c.trippers = append(c.trippers, through{u.Transport(base), rude})
		}
	}
	c.commands()
	return c
}

// transport makes a transport, whose connections are counted.
func (r *round) transport(h2c bool) *http.Transport {
	t := &http.Transport{
		DialContext: r.dial, TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true,
		DisableKeepAlives:      r.once(8),
		MaxConnsPerHost:        pick(r.dice, 0, 0, 4),
		MaxIdleConnsPerHost:    pick(r.dice, 0, 100),
		ResponseHeaderTimeout:  pick(r.dice, 0, 50*time.Millisecond),
		ExpectContinueTimeout:  pick(r.dice, 0, 5*time.Millisecond),
		TLSHandshakeTimeout:    pick(r.dice, 0, 50*time.Millisecond),
		MaxResponseHeaderBytes: pick(r.dice, 0, int64(16<<10)),
		WriteBufferSize:        pick(r.dice, 0, 100),
		HTTP2:                  &http.HTTP2Config{StrictMaxConcurrentRequests: r.once(2)},
	}
	if r.once(2) {
		t.HTTP2.SendPingTimeout, t.HTTP2.PingTimeout = 30*time.Millisecond, 30*time.Millisecond
	}
	if h2c {
		t.Protocols = &http.Protocols{}
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

// rudeBase is a round tripper inside the policies that sometimes misbehaves. It counts the open
// response bodies.
type rudeBase struct {
	round *round
	inner http.RoundTripper
}

func (b rudeBase) CloseIdleConnections() { b.inner.(*http.Transport).CloseIdleConnections() }

func (b rudeBase) RoundTrip(req *http.Request) (*http.Response, error) {
	record := recordOf(req.Context())
	attempt, _ := strconv.ParseUint(req.Header.Get("X-Envoy-Attempt-Count"), 10, 64)
	what := newDice(b.round.seed, record.n, attempt, 3).IntN(100)
	if what < 3 {
		record.note("base: %d", what)
		_ = closeBody(req)
	}
	switch what {
	case 0:
		panic("a round tripper")
	case 1:
		runtime.Goexit()
	case 2:
		return nil, nil
	}
	own := *req
	own.GetBody = nil // net/http does not close each body that GetBody returns
	resp, err := b.inner.RoundTrip(&own)
	if err != nil {
		return nil, err
	}
	record.use("response body")
	body := &countedBody{ReadCloser: resp.Body, record: record, rude: what == 3}
	resp.Body = body
	if w, ok := body.ReadCloser.(io.Writer); ok {
		resp.Body = struct {
			*countedBody
			io.Writer
		}{body, w}
	}
	return resp, nil
}

func closeBody(req *http.Request) error {
	if req.Body == nil {
		return nil
	}
	return req.Body.Close()
}

// countedBody is a response body that is counted while it is open. A rude one panics in
// Close.
type countedBody struct {
	io.ReadCloser
	record *record
	rude   bool
	once   sync.Once
}

func (b *countedBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(func() {
		b.record.free("response body")
		if b.rude {
			panic("a response body")
		}
	})
	return err
}

// call makes a call of some kind.
func (c *clients) call(n uint64, d dice) {
	switch d.IntN(8) {
	case 0:
		ctx, _ := c.impatient(c.ctx, d)
		_, _ = c.function(ctx, n, d)
	case 1:
		c.command(n, d)
	default:
		c.request(n, d)
	}
}

// impatient returns a context that ends at a random moment, if not at the end of the storm.
func (r *round) impatient(ctx context.Context, d dice) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	end := func() { cancel(errImpatient) }
	switch d.IntN(16) {
	case 0:
		end()
	case 1: // patient
	default:
		time.AfterFunc(d.upTo(400*time.Millisecond), end)
	}
	if d.once(4) {
		var other context.CancelFunc
		ctx, other = context.WithTimeout(ctx, 1+d.upTo(300*time.Millisecond))
		return ctx, func() { end(); other() }
	}
	return ctx, end
}

var errImpatient = errors.New("soak: the caller is impatient")

// request makes an HTTP request and handles its response.
func (c *clients) request(n uint64, d dice) {
	url, method := pick(d, c.urls...), pick(d, "GET", "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "CONNECT")
	rec := c.ledger.begin(n, "%s %s", method, url)
	defer func() { rec.returns("returned, recovered %v", recover()) }()
	ctx, cancel := c.impatient(rec.with(c.ctx), d)
	ctx, segment := c.within(ctx, d)
	defer segment()
	req, err := http.NewRequestWithContext(ctx, method, url+"/soup", nil)
	if err != nil {
		c.Error(err)
		return
	}
	tripper := pick(d, c.trippers...)
	c.body(req, d, rec, tripper.rude)
	c.headers(req, n, d)
	if d.once(8) {
		abandoned := make(chan struct{})
		req.Cancel = abandoned //nolint:staticcheck // callers still use it
		time.AfterFunc(d.upTo(200*time.Millisecond), func() { close(abandoned) })
	}
	before := req.Header.Clone()
	resp, err := c.send(tripper, req, d)
	if !reflect.DeepEqual(before, req.Header) {
		c.Errorf("call %d: the caller's header changed: got %v, want %v", n, req.Header, before)
	}
	if err != nil {
		rec.note("error: %v", err)
		return
	}
	rec.note("status %d", resp.StatusCode)
	c.consume(resp, d, rec, cancel)
}

// within returns ctx, sometimes in a segment and with an Info that another goroutine reads.
func (r *round) within(ctx context.Context, d dice) (context.Context, func()) {
	end := func() {}
	if d.once(2) {
		traced, segment := r.tracer.Trace(ctx, "")
		ctx, end = traced, func() { segment.End(nil) }
	}
	if d.once(2) {
		var info *pillion.Info
		ctx, info = pillion.WithInfo(ctx)
		time.AfterFunc(d.upTo(100*time.Millisecond), func() {
			_ = fmt.Sprint(info.Attempts(), info.Flags(), info.Detail(), info.Endpoint(), info.Err(), info.Done(), info.Code())
		})
	}
	if d.once(8) {
		ctx = pillion.WithIdempotent(ctx)
	}
	return ctx, end
}

// body adds a request body to two of three requests. The bodies of GetBody are counted only if
// net/http does not call GetBody.
func (c *clients) body(req *http.Request, d dice, rec *record, counted bool) {
	size := pick(d, 1, 100, 5000, 300<<10)
	switch d.IntN(6) {
	case 0, 1:
	case 2:
		body := strings.NewReader(strings.Repeat("x", size))
		req.Body, req.ContentLength = io.NopCloser(body), int64(size)
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(strings.Repeat("x", size))), nil }
	default:
		u := c.upload(rec, d, size)
		rec.note("upload of %d, kind %d at %d", size, u.how, u.left-u.awkward)
		req.Body, req.ContentLength = u, pick(d, -1, int64(size), int64(size), int64(size+1), int64(max(1, size-1)))
		if d.once(3) {
			seed, of := d.Uint64(), rec
			if !counted {
				of = c.ledger.uncounted
			}
			req.GetBody = func() (io.ReadCloser, error) { return c.upload(of, newDice(seed), size), nil }
		}
	}
}

// headers adds headers that the library and the servers honor.
func (c *clients) headers(req *http.Request, n uint64, d dice) {
	req.Header.Set(soakHeader, strconv.FormatUint(n, 10))
	d.headers(8, req.Header.Set,
		"Idempotency-Key|1", "Idempotency-Key|",
		"X-Envoy-Retry-On|5xx", "X-Envoy-Retry-On|reset,retriable-4xx", "X-Envoy-Retry-On|soup",
		"X-Envoy-Max-Retries|0", "X-Envoy-Max-Retries|3", "X-Envoy-Max-Retries|4294967296",
		"X-Envoy-Upstream-Rq-Timeout-Ms|0", "X-Envoy-Upstream-Rq-Timeout-Ms|20", "X-Envoy-Upstream-Rq-Timeout-Ms|9223372036854775807",
		"X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms|1", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms|100",
		"X-Envoy-Upstream-Alt-Stat-Name|alt", "X-Envoy-Upstream-Alt-Stat-Name|alt.other",
		"X-Envoy-Retriable-Status-Codes|200,404",
		"X-Amzn-Trace-Id|Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", "X-Amzn-Trace-Id|;;=", "X-Amzn-Trace-Id|Foo=\xc3\xa9",
		"Expect|100-continue", "Content-Type|application/grpc", "Content-Type|text/plain",
	)
}

// send sends a request with an http.Client, or without one.
func (c *clients) send(tripper http.RoundTripper, req *http.Request, d dice) (*http.Response, error) {
	if d.once(3) {
		return tripper.RoundTrip(req)
	}
	hc := &http.Client{Transport: tripper}
	if d.once(8) {
		hc.Timeout = 1 + d.upTo(200*time.Millisecond)
	}
	return hc.Do(req)
}

// consume reads a response, or does not. Its body is closed at the end of the storm at the
// latest.
func (r *round) consume(resp *http.Response, d dice, rec *record, cancel context.CancelFunc) {
	body := resp.Body
	r.leave(func() { _ = body.Close() })
	read := func() { _, _ = io.CopyN(io.Discard, body, d.Int64N(20000)) }
	what := d.IntN(10)
	rec.note("consumes it: %d", what)
	switch what {
	case 0, 1, 2:
		_, _ = io.Copy(io.Discard, body)
	case 3: // closed late
		return
	case 4:
		read()
		return
	case 5:
		read()
		cancel()
		_, _ = io.Copy(io.Discard, body)
	case 6:
		var other sync.WaitGroup
		defer other.Wait()
		pause := d.upTo(20 * time.Millisecond)
		other.Go(func() {
			defer func() { _ = recover() }()
			time.Sleep(pause)
			_ = body.Close()
		})
		_, _ = io.Copy(io.Discard, body)
	case 7:
		cancel()
		return
	case 8:
		r.exchange(body)
	case 9:
		read()
		runtime.Goexit()
	}
	_ = body.Close()
	_ = body.Close()
	read()
}

// exchange writes to a connection that was upgraded.
func (r *round) exchange(body io.ReadCloser) {
	w, ok := body.(io.Writer)
	if !ok {
		return
	}
	_, _ = io.WriteString(w, "soup")
	if half, ok := body.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// function makes a call of a function.
func (c *clients) function(ctx context.Context, n uint64, d dice) (int, error) {
	u, what := pick(d, c.upstreams...), d.IntN(10)
	rec := c.ledger.begin(n, "a function, kind %d", what)
	defer func() {
		p := recover()
		rec.returns("returned, recovered %v", p)
		if p != nil {
			panic(p)
		}
	}()
	ctx, segment := c.within(rec.with(ctx), d)
	defer segment()
	pause := d.upTo(50 * time.Millisecond)
	return pillion.Do(ctx, u.Upstream, func(ctx context.Context) (int, error) { return work(ctx, what, pause) })
}

// work is what a function does.
func work(ctx context.Context, what int, pause time.Duration) (int, error) {
	switch what {
	case 0:
		panic("a function")
	case 1:
		runtime.Goexit()
	case 2:
		return 0, io.ErrUnexpectedEOF
	case 3:
		return 0, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	case 4:
		<-ctx.Done()
		return 0, ctx.Err()
	case 5:
		time.Sleep(pause) // ignores ctx
		return 0, context.Cause(ctx)
	case 6:
		return 0, errors.New("a failure")
	}
	return what, nil
}

// commands makes two services on one pool.
func (c *clients) commands() {
	var cfg command.PoolConfig
	if !c.once(4) {
		cfg.MaxThreads, cfg.MaxQueue = 1+c.IntN(8), pick(c.dice, command.Zero, 0, 4)
	}
	if cfg.MaxQueue != 0 {
		cfg.Overflow = pick(c.dice, command.Abort, command.CallerRuns, command.Discard)
	}
	pool, err := command.NewPool(cfg)
	if err != nil {
		c.Fatal(err)
	}
	c.pool = pool
	for range 2 {
		s, err := command.NewService(command.ServiceConfig{
			Executor: pool, NonBreakCount: 1 + c.IntN(20), Sleep: 10 * time.Millisecond,
			HookPanic: func(*command.PanicError) {},
		})
		if err != nil {
			c.Fatal(err)
		}
		c.services = append(c.services, s)
	}
}

// command makes calls of functions in commands that depend on each other.
func (c *clients) command(n uint64, d dice) {
	ctx, _ := c.impatient(c.ctx, d)
	cfg := func() command.Config {
		return command.Config{Service: pick(d, c.services...), Timeout: pick(d, 0, 1+d.upTo(50*time.Millisecond))}
	}
	one, two, three := newDice(d.Uint64()), newDice(d.Uint64()), newDice(d.Uint64())
	first := command.New(cfg(), func(ctx context.Context) (int, error) { return c.function(ctx, n, one) })
	second := command.Chain(cfg(), first, func(ctx context.Context, _ int) (int, error) { return c.function(ctx, n, two) })
	third := command.New2(cfg(), first, second, func(ctx context.Context, _, _ int) (int, error) { return c.function(ctx, n, three) })
	if d.once(2) {
		what := 5 + d.IntN(5)
		_ = second.SetFallback(func(context.Context, error) (int, error) { return work(ctx, what, 0) })
	}
	if d.once(4) {
		_ = third.OnComplete(func(int, error) { panic("a hook") })
	}
	if d.once(4) {
		_ = third.StartWithRetry(ctx, retry.Retryable{Tries: 3, Sleep: time.Millisecond})
	} else if d.once(4) {
		_ = third.Run(ctx)
	} else {
		_ = third.Start(ctx)
	}
	if d.once(2) {
		_, _ = second.Get(ctx)
		_ = third.Wait(ctx)
	}
}

// shutDown ends the commands.
func (c *clients) shutDown() {
	c.await("the commands", func() { _ = c.pool.Shutdown(context.Background()) })
	if running, waiting := c.pool.Load(); running != 0 || waiting != 0 {
		c.Errorf("commands: %d run and %d wait after the shutdown", running, waiting)
	}
}

// closeIdle closes the connections that are not in use. It has the form of a check.
func (c *clients) closeIdle() []string {
	for _, t := range c.trippers {
		(&http.Client{Transport: t.RoundTripper}).CloseIdleConnections()
	}
	return nil
}

// accepts checks that all slots of u are free, and calls a server that behaves.
func (c *clients) accepts(u *guarded) {
	c.Helper()
	if 0 < u.slots && u.slots <= 16 {
		c.settle(func() []string { return c.fill(u) })
	}
	tripper := c.trippers[0]
	if u == c.upstreams[1] {
		tripper = c.trippers[len(c.trippers)/2]
	}
	c.settle(func() []string { return c.ask(tripper) })
}

// fill is a check: as many functions as there are slots run concurrently. It may fail
// several times first: an open breaker must close, and a policy can interfere.
func (r *round) fill(u *guarded) []string {
	var entered atomic.Int64
	var calls sync.WaitGroup
	told, leave := make(chan struct{}, u.slots), make(chan struct{})
	for range u.slots {
		calls.Go(func() {
			rec := r.ledger.begin(0, "a function that takes a slot")
			tell := sync.OnceFunc(func() { told <- struct{}{} })
			defer func() { rec.returns("returned, recovered %v", recover()); tell() }()
			_, _ = pillion.Do(rec.with(r.Context()), u.Upstream, func(context.Context) (int, error) {
				entered.Add(1)
				tell()
				<-leave
				return 0, nil
			})
		})
	}
	for range u.slots {
		<-told
	}
	got := int(entered.Load())
	close(leave)
	calls.Wait()
	if got < u.slots {
		return []string{fmt.Sprintf("%s: %d of %d slots can be taken", u.Name(), got, u.slots)}
	}
	return nil
}

// ask is a check: a call to a server that behaves succeeds. An open breaker must admit a trial.
func (c *clients) ask(tripper http.RoundTripper) []string {
	result := make(chan string, 1)
	go func() {
		wrong := "panicked, or ended its goroutine"
		rec := c.ledger.begin(0, "a request for a good response")
		defer func() {
			rec.returns("returned: %s, recovered %v", wrong, recover())
			result <- wrong
		}()
		wrong = c.get(rec, tripper)
	}()
	if wrong := <-result; wrong != "" {
		return []string{"a server that behaves: " + wrong}
	}
	return nil
}

// get makes a request for a good response, and returns what is wrong with the response.
func (c *clients) get(rec *record, tripper http.RoundTripper) string {
	ctx, cancel := context.WithTimeout(rec.with(c.Context()), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.urls[0]+"/soup", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set(behaveHeader, "yes")
	resp, err := tripper.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return ""
}
