package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-go/pillion/cluster"
)

// waitLimit bounds the wait for an event that must happen.
const waitLimit = 5 * time.Second

// notice is the time for a client to notice that a connection has ended, after the call which that
// ended.
const notice = 20 * time.Millisecond

// Played contains the observations of one play.
type Played struct {
	Observed
	Timing Timing
	Late   time.Duration // the maximum delay of a step that has a time in the scenario
}

// Play plays the scenario with a new upstream, and makes its calls through the Side that
// start returns.
func (c *Case) Play(ctx context.Context, start StartFunc) (*Played, error) {
	up, err := startUpstream(ctx, c.Scenario.Upstream)
	if err != nil {
		return nil, err
	}
	defer up.close()
	return c.playAt(ctx, up, start)
}

// playAt plays the scenario with an upstream that no other play has used.
func (c *Case) playAt(ctx context.Context, up *upstream, start StartFunc) (*Played, error) {
	scenario := c.Scenario
	scenario.first = c.firstHost()
	side, err := start(ctx, &scenario, up.addresses)
	if err != nil {
		return nil, err
	}
	defer side.Close()
	p := &player{side: side, clock: up.script, snapshots: map[string]map[string]uint64{}, began: time.Now()}
	defer p.keepTime()()
	for _, op := range c.Scenario.Downstream.Ops {
		if err := p.do(ctx, op); err != nil {
			return nil, fmt.Errorf("%s: %w", op.Op, err)
		}
	}
	up.settled(waitLimit)
	time.Sleep(max(c.Scenario.idles(), notice))
	return p.finish(ctx, up)
}

// firstHost is the host that the first call was sent to first, by its place in the scenario: hosts
// take turns, and chance decides where they begin. A host that does not listen sees no attempt.
func (c *Case) firstHost() int {
	hosts := c.Scenario.Upstream.Hosts
	place := func(id string) int { return slices.IndexFunc(hosts, func(h Host) bool { return h.ID == id }) }
	first := 0
	switch {
	case len(c.Observed.AccessLog) == 0:
	case listensNot("refuse", "blackhole")(&c.Scenario):
		l := c.Observed.AccessLog[0]
		first = place(strings.TrimPrefix(l.Host, "host:")) - l.Attempts + 1
	case len(c.Observed.Attempts) > 0:
		first = place(c.Observed.Attempts[0].Host)
	}
	return (first%len(hosts) + len(hosts)) % len(hosts)
}

// idles is how long connections must be idle to be closed, with time to spare, 0 for longer than a
// play: recordings were read after that.
func (s *Scenario) idles() time.Duration {
	f, err := readFragments(s.Envoy)
	if err != nil {
		return 0
	}
	var made cluster.Config
	if err := f.cluster.protocol(&made); err != nil || made.IdleTimeout > time.Second {
		return 0
	}
	return 2 * made.IdleTimeout
}

// keepTime records the delay of timers on this machine, until it is stopped.
func (p *player) keepTime() (stop func()) {
	const beat = 5 * time.Millisecond
	done := make(chan struct{})
	var keeping sync.WaitGroup
	keeping.Go(func() {
		tick := time.NewTimer(beat)
		defer tick.Stop()
		for {
			tick.Reset(beat)
			began := time.Now()
			select {
			case <-done:
				return
			case <-tick.C:
				p.clock.was(began, beat)
			}
		}
	})
	return func() {
		close(done)
		keeping.Wait()
	}
}

// player makes the calls.
type player struct {
	side      Side
	clock     *script // records delays
	began     time.Time
	snapshots map[string]map[string]uint64

	mu      sync.Mutex
	answers []Answer  // guarded by mu
	elapsed []float64 // guarded by mu
}

// finish collects the observations.
func (p *player) finish(ctx context.Context, up *upstream) (*Played, error) {
	played := &Played{}
	played.Downstream, played.Snapshots = p.answers, p.snapshots
	played.Attempts, played.Timing.Attempts = up.seen(p.began)
	played.Timing.Calls = p.elapsed
	if _, ok := p.side.(*grpcLibrary); ok {
		withoutTheClient(played.Attempts)
	}
	played.Late = up.lateness()
	played.Connections = up.connections()
	var err error
	if played.AccessLog, err = p.side.Log(ctx, p.answers); err != nil {
		return nil, err
	}
	for i, l := range played.AccessLog {
		if id, ok := up.hosts[l.Host]; ok {
			played.AccessLog[i].Host = "host:" + id
		}
	}
	played.Stats, played.Histograms, err = p.side.Stats(ctx)
	return played, err
}

// do executes one operation.
func (p *player) do(ctx context.Context, op Op) error {
	switch op.Op {
	case "request":
		return p.oneByOne(ctx, op)
	case "concurrent":
		return p.together(ctx, op)
	case "sleep":
		time.Sleep(time.Duration(op.MS) * time.Millisecond)
		return nil
	case "snapshot":
		return p.snapshot(ctx, op.Name)
	}
	return errors.New("unknown")
}

// oneByOne makes calls one after another.
func (p *player) oneByOne(ctx context.Context, op Op) error {
	for i := range max(1, op.Count) {
		if i > 0 {
			time.Sleep(time.Duration(op.GapMS) * time.Millisecond)
		}
		if err := p.call(ctx, *op.Request, p.reserve()); err != nil {
			return err
		}
	}
	return nil
}

// together makes each call at its time.
func (p *player) together(ctx context.Context, op Op) error {
	requests := op.Requests
	for i := 1; i < op.Count; i++ {
		more := requests[0]
		more.StartMS += i * op.GapMS
		requests = append(slices.Clip(requests), more)
	}
	failed := make([]error, len(requests)+1)
	var calls sync.WaitGroup
	began := time.Now()
	for i, r := range requests {
		n := p.reserve()
		calls.Go(func() {
			p.sleepUntil(began, r.StartMS)
			failed[i] = p.call(ctx, r, n)
		})
	}
	if op.Name != "" {
		p.sleepUntil(began, op.SnapshotAt)
		failed[len(requests)] = p.snapshot(ctx, op.Name)
	}
	calls.Wait()
	return errors.Join(failed...)
}

// sleepUntil sleeps until the given duration after began.
func (p *player) sleepUntil(began time.Time, ms int) {
	after := time.Duration(ms) * time.Millisecond
	time.Sleep(time.Until(began.Add(after)))
	p.clock.was(began, after)
}

func (p *player) snapshot(ctx context.Context, name string) error {
	numbers, _, err := p.side.Stats(ctx)
	p.snapshots[name] = numbers
	return err
}

// reserve returns the number of a new call, from 0.
func (p *player) reserve() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = append(p.answers, Answer{Case: fmt.Sprintf("r%03d", len(p.answers)+1)})
	p.elapsed = append(p.elapsed, 0)
	return len(p.answers) - 1
}

// call makes one call. A caller with a timeout closes the connection, and does not announce
// the timeout: a sidecar sees only that the connection is closed.
func (p *player) call(ctx context.Context, r Request, n int) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	if r.ClientTimeout > 0 {
		defer time.AfterFunc(time.Duration(r.ClientTimeout)*time.Millisecond, leave).Stop()
	}
	p.mu.Lock()
	a := p.answers[n]
	p.mu.Unlock()
	req, err := r.request(traced(ctx, &a), a.Case)
	if err != nil {
		return err
	}
	began := time.Now()
	resp, err := p.side.Send(req)
	a.take(resp, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[n], p.elapsed[n] = a, milliseconds(time.Since(began))
	return nil
}

// traced records the informational responses.
func traced(ctx context.Context, a *Answer) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			a.Informational = append(a.Informational, code)
			return nil
		},
	})
}

// anyHost is the host of requests that name no host.
const anyHost = "svc"

// request returns the request. Its body can be read only once, as that of a proxy.
func (r Request) request(ctx context.Context, id string) (*http.Request, error) {
	text := r.Body
	if r.BodyBytes > 0 {
		text = strings.Repeat("x", r.BodyBytes)
	}
	method, path := r.Method, r.Path
	if method == "" {
		method = http.MethodGet
	}
	if r.GRPC {
		method, text = http.MethodPost, "\x00\x00\x00\x00\x00"
	}
	switch {
	case path == "" && r.GRPC:
		path = "/pkg.Svc/Method"
	case path == "":
		path = "/"
	}
	var body io.Reader
	if text != "" {
		body = io.MultiReader(strings.NewReader(text))
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+anyHost+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(text))
	if r.GRPC {
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
	}
	for name, value := range r.Headers {
		if strings.EqualFold(name, "host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	req.Header.Set(caseHeader, id)
	return req, nil
}

// take records the response, and reads it to its end.
func (a *Answer) take(resp *http.Response, err error) {
	if err != nil {
		a.Error = err.Error()
		return
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // the body was read
	if err != nil {
		a.Error = "body: " + err.Error()
	}
	a.Status, a.Body = resp.StatusCode, string(body)
	a.Headers, a.Trailers = flat(resp.Header), flat(resp.Trailer)
	delete(a.Headers, "date")
}

// flat joins the values of each header.
func flat(h http.Header) map[string]string {
	if len(h) == 0 {
		return nil
	}
	all := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		all[strings.ToLower(name)] = strings.Join(h[name], ",")
	}
	return all
}
