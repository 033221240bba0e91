package pool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/internal/raceflag"
)

// stage plays events against a real pool in a synctest bubble: dials succeed and servers
// respond when it says so.
type stage struct {
	t      *testing.T
	h2     bool
	pool   *pool.Pool
	counts *counts
	slots  *slots
	others int // slots for connections that other pools hold

	mu       sync.Mutex
	dials    []*stagedDial
	requests []*stagedRequest
	accept   chan net.Conn // for the server of HTTP/2
	server   *http.Server
}

type stagedDial struct {
	result chan error // nil lets the dial succeed
	server net.Conn
}

type stagedRequest struct {
	id      int
	cancel  context.CancelFunc
	respond chan bool // true closes the connection after the response
	conn    int
	end     string
}

var errStaged = errors.New("connection refused")

func newStage(t *testing.T, h2 bool, cfg pool.Config, slots *slots) *stage {
	t.Helper()
	st := &stage{t: t, h2: h2, counts: new(counts), slots: slots, accept: make(chan net.Conn)}
	protocol := pool.HTTP1
	if h2 {
		protocol = pool.HTTP2
		st.serveHTTP2()
	}
	cfg.Template = pool.NewTemplate(&http.Transport{DialContext: st.dial}, protocol)
	cfg.Address, cfg.Slots, cfg.Observer = "stage:80", slots, st.counts
	st.pool = pool.New(cfg)
	return st
}

func (st *stage) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	d := &stagedDial{result: make(chan error, 1)}
	st.mu.Lock()
	number := len(st.dials)
	st.dials = append(st.dials, d)
	st.mu.Unlock()
	select {
	case err := <-d.result:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	client, server := net.Pipe()
	d.server = server
	if st.h2 {
		st.accept <- numbered{server, number}
	} else {
		go st.serveHTTP1(server, number)
	}
	return client, nil
}

// numbered is a connection of the server's that knows its number.
type numbered struct {
	net.Conn
	number int
}

func (st *stage) serveHTTP1(conn net.Conn, number int) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		id, _ := strconv.Atoi(req.Header.Get("Id"))
		r := st.request(id)
		r.conn = number
		gone := make(chan struct{})
		go func() { // sees the client close
			defer close(gone)
			in.Peek(1)
		}()
		var last bool
		select {
		case last = <-r.respond:
		case <-gone:
			return
		}
		extra := ""
		if last {
			extra = "Connection: close\r\n"
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%sContent-Length: 2\r\n\r\nok", extra)
		<-gone
	}
}

func (st *stage) serveHTTP2() {
	type key struct{}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	st.server = &http.Server{
		Protocols: &protocols,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, key{}, c.(numbered).number)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			id, _ := strconv.Atoi(req.Header.Get("Id"))
			r := st.request(id)
			r.conn = req.Context().Value(key{}).(int)
			select {
			case <-r.respond:
				io.WriteString(w, "ok")
			case <-req.Context().Done():
			}
		}),
	}
	go st.server.Serve(pipeListener(st.accept))
}

type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (st *stage) request(id int) *stagedRequest {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.requests[id]
}

// send begins a request.
func (st *stage) send() {
	ctx, cancel := context.WithCancel(st.t.Context())
	st.mu.Lock()
	r := &stagedRequest{id: len(st.requests), cancel: cancel, respond: make(chan bool, 1), conn: -1}
	st.requests = append(st.requests, r)
	st.mu.Unlock()
	go func() {
		defer cancel()
		r.end = st.exchange(ctx, r.id)
	}()
}

func (st *stage) exchange(ctx context.Context, id int) string {
	s, err := st.pool.Stream(ctx)
	if err != nil {
		return endOf(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://stage/", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Id", strconv.Itoa(id))
	resp, err := s.RoundTrip(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	s.Release(err)
	switch {
	case err == nil:
		return "ok"
	case ctx.Err() != nil:
		return "canceled"
	}
	return "reset"
}

// endOf returns the model's word for an error of Stream.
func endOf(err error) string {
	var refused *pool.RefusedError
	var connect *pool.ConnectError
	switch {
	case errors.Is(err, pool.ErrClosed):
		return "closed"
	case errors.As(err, &refused) && refused.Limit == pool.Pending:
		return "pending overflow"
	case errors.As(err, &refused) && refused.Limit == pool.Request:
		return "request overflow"
	case errors.As(err, &connect) && connect.Timeout():
		return "connect timeout"
	case errors.As(err, &connect):
		return "connect"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return err.Error()
}

// finish ends everything that the stage began.
func (st *stage) finish() {
	for _, r := range st.requests {
		r.cancel()
	}
	st.takeOthers(-st.others)
	st.pool.Close()
	synctest.Wait() // no dial begins any more
	for _, d := range st.dials {
		select {
		case d.result <- errStaged:
		default:
		}
	}
	synctest.Wait()
	for _, d := range st.dials {
		if d.server != nil {
			d.server.Close()
		}
	}
	if st.server != nil {
		close(st.accept)
		st.server.Close()
	}
}

// A script plays random events. It is made from bytes, so that a fuzzer can shrink it.
type script struct{ in []byte }

func (s *script) next(n int) int {
	if len(s.in) == 0 || n <= 0 {
		return 0
	}
	b := s.in[0]
	s.in = s.in[1:]
	return int(b) % n
}

// play compares the pool with the model, event by event.
func play(t *testing.T, data []byte) {
	t.Helper()
	s := &script{data}
	h2 := s.next(2) == 1
	m := &model{
		h2: h2, perConn: 1 << 29, streams: 1, keep: s.next(2) == 1,
		limit: [3]int{pool.Connection: 1 + s.next(4), pool.Pending: s.next(5), pool.Request: 1 + s.next(6)},
		idle:  61 * time.Second, age: 97 * time.Second, connect: 10 * time.Second,
		conns: map[int]*modelConn{}, requests: map[int]*modelRequest{},
	}
	if h2 {
		m.streams = 1 + s.next(3)
	}
	cfg := pool.Config{IdleTimeout: m.idle, MaxConnectionDuration: m.age, ConnectTimeout: m.connect, KeepDials: m.keep, MaxConcurrentStreams: m.streams}
	if n := s.next(4); n > 0 {
		m.perConn, cfg.MaxRequestsPerConnection = n, n
	}
	st := newStage(t, h2, cfg, newSlots(int64(m.limit[0]), int64(m.limit[1]), int64(m.limit[2])))
	var log []string
	for len(s.in) > 0 {
		what := step(s, m, st)
		log = append(log, what)
		synctest.Wait()
		if diff := compare(m, st); diff != "" {
			t.Errorf("after %v (h2 %v, %+v): model against pool:\n%s", log, h2, cfg.MaxRequestsPerConnection, diff)
			break
		}
	}
	st.finish()
	synctest.Wait()
	checkEmpty(t, st)
}

// step plays one event, and returns its name.
func step(s *script, m *model, st *stage) string {
	var open, waiting []int
	for id, r := range m.requests {
		switch {
		case r.end != "":
		case r.conn >= 0:
			open = append(open, id)
		default:
			waiting = append(waiting, id)
		}
	}
	slices.Sort(open)
	slices.Sort(waiting)
	up := append(slices.Clone(m.ready), m.busy...)
	slices.Sort(up)
	kind := s.next(16)
	switch {
	case kind < 5:
		m.request(len(st.requests))
		st.send()
		return "request"
	case kind < 8 && len(m.dialing) > 0:
		id := m.dialing[s.next(len(m.dialing))]
		m.dialed(id)
		st.dials[id].result <- nil
		return fmt.Sprint("dialed ", id)
	case kind == 8 && len(m.dialing) > 0:
		id := m.dialing[s.next(len(m.dialing))]
		m.dialFailed(id, false)
		st.dials[id].result <- errStaged
		return fmt.Sprint("dial fails ", id)
	case kind < 11 && len(open) > 0:
		id := open[s.next(len(open))]
		m.respond(id)
		st.requests[id].respond <- false
		return fmt.Sprint("response ", id)
	case kind == 11 && len(open) > 0 && !m.h2:
		id := open[s.next(len(open))]
		m.respondClose(id)
		st.requests[id].respond <- true
		return fmt.Sprint("last response ", id)
	case kind == 12 && len(open)+len(waiting) > 0:
		id := append(open, waiting...)[s.next(len(open)+len(waiting))]
		m.cancel(id)
		st.requests[id].cancel()
		return fmt.Sprint("cancel ", id)
	case kind == 13 && len(up) > 0:
		id := up[s.next(len(up))]
		m.serverCloses(id)
		st.dials[id].server.Close()
		return fmt.Sprint("server closes ", id)
	case kind == 14:
		return rare(s, m, st)
	default:
		d := time.Duration(1+s.next(6)) * 7 * time.Second
		m.pass(d)
		time.Sleep(d)
		return fmt.Sprint("after ", d)
	}
}

func rare(s *script, m *model, st *stage) string {
	switch n := s.next(8); {
	case n == 1:
		m.close()
		st.pool.Close()
		return "close"
	case n < 4:
		m.drain()
		st.pool.Drain()
		return "drain"
	}
	change := m.limit[pool.Connection]
	if st.others > 0 {
		change = -change
	}
	m.others(change)
	st.takeOthers(change)
	return fmt.Sprint("others take ", change)
}

func (st *stage) takeOthers(n int) {
	st.others += n
	st.slots.used[pool.Connection].Add(int64(n))
}

// compare returns how the pool differs from the model.
func compare(m *model, st *stage) string {
	type view struct {
		Counts   map[string]int64
		Stats    pool.Stats
		Used     [3]int64
		Requests []string
	}
	want, got := view{Counts: map[string]int64{}}, view{Counts: map[string]int64{}}
	for e := range pool.Event(pool.NumEvents) {
		switch e {
		case pool.CxConnectTime, pool.CxLength, pool.CxRxBytes, pool.CxTxBytes:
		default:
			want.Counts[e.String()], got.Counts[e.String()] = m.n[e], st.counts.get(e)
		}
	}
	for k := range want.Used {
		want.Used[k], got.Used[k] = int64(m.used[k]), st.slots.used[k].Load()
	}
	active := 0
	for id := range len(m.requests) {
		r := m.requests[id]
		if r.conn >= 0 && r.end == "" {
			active++
		}
		played := st.requests[id]
		want.Requests = append(want.Requests, fmt.Sprintf("%d on %d: %s", id, r.conn, r.end))
		got.Requests = append(got.Requests, fmt.Sprintf("%d on %d: %s", id, played.conn, played.end))
	}
	want.Stats = pool.Stats{Connecting: len(m.dialing), Ready: len(m.ready), Busy: len(m.busy), Pending: len(m.waiting), Active: active}
	got.Stats = st.pool.Stats()
	return cmp.Diff(want, got)
}

// checkEmpty checks that nothing is left of a pool that was closed.
func checkEmpty(t *testing.T, st *stage) {
	t.Helper()
	select {
	case <-st.pool.Done():
	default:
		t.Errorf("got a pool that is not done: %+v", st.pool.Stats())
	}
	if got := st.pool.Stats(); got != (pool.Stats{}) {
		t.Errorf("got %+v, want nothing left", got)
	}
	checkBalanced(t, st.counts, st.slots)
}

// checkBalanced checks that gauges and slots are back at zero and that sums agree.
func checkBalanced(t *testing.T, c *counts, p *slots) {
	t.Helper()
	for _, e := range []pool.Event{pool.CxActive, pool.RqActive, pool.RqPendingActive} {
		if got := c.get(e); got != 0 {
			t.Errorf("got %v %d, want 0", e, got)
		}
	}
	for k := range p.used {
		if got := p.used[k].Load(); got != 0 {
			t.Errorf("got %d of %v in use, want 0", got, pool.Kind(k))
		}
	}
	sums := [][2]int64{
		{c.get(pool.CxTotal), c.get(pool.CxDestroy)},
		{c.get(pool.CxDestroy), c.get(pool.CxDestroyLocal) + c.get(pool.CxDestroyRemote)},
		{c.get(pool.CxDestroyWithActiveRq), c.get(pool.CxDestroyLocalWithActiveRq) + c.get(pool.CxDestroyRemoteWithActiveRq)},
		{c.get(pool.RqTotal), c.get(pool.RqPerCx)},
	}
	spoken := c.get(pool.CxHTTP1Total) + c.get(pool.CxHTTP2Total) // unknown of a connect that failed before ALPN
	if total := c.get(pool.CxTotal); spoken > total || spoken < total-c.get(pool.CxConnectFail) {
		t.Errorf("got %d protocols of %d connections", spoken, total)
	}
	for i, sum := range sums {
		if sum[0] != sum[1] {
			t.Errorf("sum %d: got %d, want %d", i, sum[1], sum[0])
		}
	}
}

// TestModel plays random events against the pool and the model.
func TestModel(t *testing.T) {
	games := 300
	switch {
	case testing.Short():
		games = 30
	case raceflag.Enabled:
		games = 60
	}
	for seed := range games {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(seed), 8))
			data := make([]byte, 200)
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			synctest.Test(t, func(t *testing.T) { play(t, data) })
			if t.Failed() {
				t.FailNow()
			}
		})
		if t.Failed() {
			return
		}
	}
}

// FuzzModel plays what the fuzzer thinks of. The pool and the model agree after every
// event on all counters, all slots in use, which connection each request is on, and how it
// ended; at the end nothing is left.
func FuzzModel(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x02\x03\x00\x00\x00\x05\x09"))
	f.Add([]byte("\x01\x00\x01\x02\x03\x01\x00\x00\x00\x05\x0d"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 400 {
			t.Skip("long scripts find nothing more")
		}
		synctest.Test(t, func(t *testing.T) { play(t, data) })
	})
}
