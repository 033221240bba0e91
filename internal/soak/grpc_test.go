package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion/pilliongrpc"
)

// TestGRPC runs misbehaving callers and gRPC servers. The handlers of one server are under
// policies; the other server writes frames itself. Clients that write frames themselves call the
// first server too.
func TestGRPC(t *testing.T) {
	soak(t, func(r *round) {
		k := newKitchen(r)
		r.storm(400, 32, k.call)
		k.close()
		r.settle(r.ledger.complaints, r.gauges, r.totals(k.soup), r.totals(k.front), r.methods(k.soup), r.methods(k.front))
		for _, u := range []*guarded{k.soup, k.front} {
			if 0 < u.slots && u.slots <= 16 {
				r.settle(func() []string { return r.fill(u) })
			}
		}
		r.settle(r.ledger.complaints, r.gauges)
	})
}

// kitchen is the state that the callers of a round share.
type kitchen struct {
	*round
	soup, front *guarded
	address     string // of the server whose handlers are under the policies of front
	conns       []*grpc.ClientConn
}

func newKitchen(r *round) *kitchen {
	k := &kitchen{round: r, soup: r.upstream("soup", client), front: r.upstream("front", server)}
	k.address = k.serve()
	raw := r.listen(nil, playHTTP2).Addr().String()
	for _, address := range []string{k.address, k.address, raw, raw, r.refusing()} {
		k.conns = append(k.conns, k.dialClient(address))
	}
	return k
}

// serve starts a server.
func (k *kitchen) serve() string {
	guarding, err := pilliongrpc.ServerOptions(k.front)
	if err != nil {
		k.Fatal(err)
	}
	options := append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(k.recordUnary), grpc.ChainStreamInterceptor(k.recordStream),
		grpc.MaxConcurrentStreams(pick(k.dice, uint32(4), 1000)), grpc.MaxRecvMsgSize(pick(k.dice, 100, 4<<20)),
	}, guarding...)
	if k.once(3) {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: k.between(20*time.Millisecond, 200*time.Millisecond), MaxConnectionAgeGrace: 20 * time.Millisecond,
		}))
	}
	inner := k.bind()
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, &cook{kitchen: k})
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(countingListener{inner, k.ledger}) })
	k.Cleanup(func() { k.await("a server", func() { server.Stop(); running.Wait() }) })
	return inner.Addr().String()
}

// dialClient makes a connection under the policies of soup, with an interceptor inside them that
// sometimes misbehaves.
func (k *kitchen) dialClient(address string) *grpc.ClientConn {
	options := append(pilliongrpc.DialOptions(k.soup),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return k.dial(ctx, "tcp", address) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: 100 * time.Millisecond,
		}),
		grpc.WithIdleTimeout(0), // ResetConnectBackoff, with which a retry makes gRPC dial again, races with the idle timeout
	)
	if k.once(2) {
		options = append(options, grpc.WithChainUnaryInterceptor(k.rudeUnary), grpc.WithChainStreamInterceptor(k.rudeStream))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		k.Fatal(err)
	}
	return conn
}

// close closes the clients' connections.
func (k *kitchen) close() {
	for _, conn := range k.conns {
		k.await("a connection", func() { _ = conn.Close() })
	}
}

// misbehave is what an interceptor inside the policies does.
func (k *kitchen) misbehave(ctx context.Context) error {
	rec := recordOf(ctx)
	attempt, _ := strconv.ParseUint(strings.Join(metadata.ValueFromOutgoingContext(ctx, "x-envoy-attempt-count"), ""), 10, 64)
	what := newDice(k.seed, rec.n, attempt, 3).IntN(60)
	if what < 3 {
		rec.note("interceptor: %d", what)
	}
	switch what {
	case 0:
		panic("an interceptor")
	case 1:
		runtime.Goexit()
	case 2:
		return errors.New("soak: the interceptor failed")
	}
	return nil
}

func (k *kitchen) rudeUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption) error {
	if err := k.misbehave(ctx); err != nil {
		return err
	}
	return next(ctx, method, req, reply, cc, o...)
}

func (k *kitchen) rudeStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := k.misbehave(ctx); err != nil {
		return nil, err
	}
	return next(ctx, desc, cc, method, o...)
}

// recordUnary opens the record of a call that reaches the server.
func (k *kitchen) recordUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	rec := k.arrived(ctx, info.FullMethod)
	defer rec.returns("served")
	return next(rec.with(ctx), req)
}

func (k *kitchen) recordStream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	rec := k.arrived(s.Context(), info.FullMethod)
	defer rec.returns("served")
	return next(srv, recordedStream{s, rec.with(s.Context())})
}

func (k *kitchen) arrived(ctx context.Context, method string) *record {
	n, _ := strconv.ParseUint(strings.Join(metadata.ValueFromIncomingContext(ctx, soakHeader), ""), 10, 32)
	return k.ledger.begin(n+serving, "serves %s", method)
}

// serving distinguishes calls that are served from calls that are made.
const serving = 1 << 31

// recordedStream is a stream whose context has the record.
type recordedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s recordedStream) Context() context.Context { return s.ctx }

// cook serves all kinds of calls with one function.
type cook struct {
	testgrpc.UnimplementedTestServiceServer
	*kitchen
}

// order is what a handler can do with any kind of call.
type order struct {
	dice
	ctx  context.Context
	head func(metadata.MD) error
	tail func(metadata.MD)
	recv func() error
	send func(size int) error
	over <-chan struct{} // closed at the end of the storm
}

func (c *cook) UnaryCall(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	err := c.cook(&order{
		ctx:  ctx,
		head: func(md metadata.MD) error { return grpc.SendHeader(ctx, md) },
		tail: func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) },
		recv: func() error { return io.EOF },
		send: func(int) error { return nil },
	})
	return &testgrpc.SimpleResponse{Username: "cook"}, err
}

func (c *cook) StreamingOutputCall(_ *testgrpc.StreamingOutputCallRequest, s testgrpc.TestService_StreamingOutputCallServer) error {
	return c.cook(&order{ctx: s.Context(), head: s.SendHeader, tail: s.SetTrailer, recv: func() error { return io.EOF }, send: sending(s)})
}

func (c *cook) StreamingInputCall(s testgrpc.TestService_StreamingInputCallServer) error {
	err := c.cook(&order{
		ctx: s.Context(), head: s.SendHeader, tail: s.SetTrailer,
		recv: func() error { _, err := s.Recv(); return err }, send: func(int) error { return nil },
	})
	if err != nil {
		return err
	}
	return s.SendAndClose(&testgrpc.StreamingInputCallResponse{})
}

func (c *cook) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	return c.cook(&order{
		ctx: s.Context(), head: s.SendHeader, tail: s.SetTrailer,
		recv: func() error { _, err := s.Recv(); return err }, send: sending(s),
	})
}

func sending(s grpc.ServerStream) func(size int) error {
	return func(size int) error {
		return s.SendMsg(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, size)}})
	}
}

// cook plays a recipe.
func (c *cook) cook(o *order) error {
	rec := recordOf(o.ctx)
	o.dice, o.over = newDice(c.seed, rec.n, 4), c.ctx.Done()
	recipe := recipes[o.IntN(len(recipes))]
	rec.note("handler: %s", recipe.name)
	return recipe.play(o)
}

// wait waits for the end of the call.
func (o *order) wait() error {
	select {
	case <-o.ctx.Done():
		return o.ctx.Err()
	case <-o.over:
		return io.ErrUnexpectedEOF
	}
}

// stream sends messages, unless a send fails or the call ends.
func (o *order) stream(messages int) error {
	for range messages {
		if err := o.send(o.IntN(5000)); err != nil {
			return err
		}
		if err := o.ctx.Err(); err != nil {
			return err
		}
		select {
		case <-o.over:
			return nil
		default:
			time.Sleep(o.upTo(5 * time.Millisecond))
		}
	}
	return nil
}

// all receives until the end.
func (o *order) all() error {
	for {
		if err := o.recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// recipes are what a handler does with a call.
var recipes = []struct {
	name string
	play func(o *order) error
}{
	{"nothing", func(*order) error { return nil }},
	{"ok", func(o *order) error { return o.stream(1) }},
	{"ok, read", func(o *order) error { return errors.Join(o.all(), o.stream(2)) }},
	{"a status", func(o *order) error { return status.Error(codes.Code(o.IntN(18)), "soup") }},
	{"a status behind a header", func(o *order) error {
		_ = o.head(metadata.Pairs("x-again", "1"))
		return status.Error(codes.Code(o.IntN(18)), "soup")
	}},
	{"a status, and when to come again", func(o *order) error {
		o.tail(metadata.Pairs("grpc-retry-pushback-ms", pick(o.dice, "0", "5", "-1", "x")))
		return status.Error(codes.Unavailable, "soup")
	}},
	{"an error", func(*order) error { return io.ErrUnexpectedEOF }},
	{"two headers", func(o *order) error { _ = o.head(nil); return o.head(metadata.Pairs("a", "b")) }},
	{"panics", func(*order) error { panic("a handler") }},
	{"panics behind a message", func(o *order) error { _ = o.stream(1); panic("a handler") }},
	{"exits", func(*order) error { runtime.Goexit(); return nil }},
	{"waits for the end", func(o *order) error { return o.wait() }},
	{"a header, then waits for the end", func(o *order) error { _ = o.head(metadata.Pairs("a", "b")); return o.wait() }},
	{"ignores the end", func(o *order) error { time.Sleep(o.upTo(100 * time.Millisecond)); return nil }},
	{"slow", func(o *order) error { time.Sleep(o.upTo(50 * time.Millisecond)); return o.stream(10) }},
	{"endless", func(o *order) error { return o.stream(1 << 20) }},
	{"receives", func(o *order) error { return o.recv() }},
	{"receives to the end", func(o *order) error { return o.all() }},
	{"large", func(o *order) error { return o.send(5 << 20) }},
	{"trailers", func(o *order) error { o.tail(metadata.Pairs("a", "b")); return o.stream(2) }},
	{"echoes", func(o *order) error {
		for {
			if err := o.recv(); err != nil {
				return nil
			}
			if err := o.send(100); err != nil {
				return err
			}
		}
	}},
}

// call makes a call of some kind.
func (k *kitchen) call(n uint64, d dice) {
	if d.once(8) {
		k.raw(n, d)
		return
	}
	kind := d.IntN(5)
	rec := k.ledger.begin(n, "kind %d", kind)
	whole := false
	defer func() {
		rec.returns("returned, recovered %v", recover())
		if !whole {
			rec.forget("OnFinish") // as in gRPC, where an interceptor panics or exits
		}
	}()
	ctx, cancel := k.impatient(rec.with(k.ctx), d)
	ctx, end := k.within(ctx, d)
	defer end()
	md := metadata.Pairs(soakHeader, strconv.FormatUint(n, 10))
	d.headers(8, func(name, value string) { md.Append(name, value) },
		"idempotency-key|1", "x-envoy-retry-grpc-on|unavailable,internal", "x-envoy-retry-grpc-on|cancelled",
		"x-envoy-max-retries|0", "x-envoy-max-retries|3", "x-envoy-upstream-rq-timeout-ms|0", "x-envoy-upstream-rq-timeout-ms|20",
		"x-envoy-expected-rq-timeout-ms|1", "x-envoy-expected-rq-timeout-ms|20", "bad-bin|\x00\xff",
		"x-amzn-trace-id|Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1",
	)
	ctx = metadata.NewOutgoingContext(ctx, md)
	conn := pick(d, k.conns...)
	rec.note("to %s", conn.Target())
	c := testgrpc.NewTestServiceClient(conn)
	w := &wish{kitchen: k, dice: d, rec: rec, ctx: ctx, cancel: cancel, options: k.options(d, rec)}
	switch kind {
	case 0, 1:
		w.unary(c)
	case 2:
		w.output(c)
	case 3:
		w.input(c)
	case 4:
		w.duplex(c)
	}
	whole = true
}

// options returns random call options. OnFinish must be called once.
func (k *kitchen) options(d dice, rec *record) []grpc.CallOption {
	rec.use("OnFinish")
	options := []grpc.CallOption{grpc.OnFinish(func(error) { rec.free("OnFinish") })}
	if d.once(4) {
		options = append(options, grpc.WaitForReady(true))
	}
	if d.once(8) {
		options = append(options, grpc.MaxCallRecvMsgSize(1000))
	}
	return options
}

// wish is a call while it is being made.
type wish struct {
	*kitchen
	dice
	rec     *record
	ctx     context.Context
	cancel  context.CancelFunc
	options []grpc.CallOption
}

func (w *wish) IntN(n int) int                         { return w.dice.IntN(n) }
func (w *wish) once(n int) bool                        { return w.dice.once(n) }
func (w *wish) upTo(limit time.Duration) time.Duration { return w.dice.upTo(limit) }

func (w *wish) payload() *testgrpc.Payload {
	return &testgrpc.Payload{Body: make([]byte, pick(w.dice, 0, 10, 200, 5000))}
}

func (w *wish) unary(c testgrpc.TestServiceClient) {
	var header, trailer metadata.MD
	var from peer.Peer
	options := append(w.options, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
	var err error
	if w.once(6) {
		_, err = c.UnimplementedCall(w.ctx, &testgrpc.Empty{}, options...)
	} else {
		_, err = c.UnaryCall(w.ctx, &testgrpc.SimpleRequest{Payload: w.payload()}, options...)
	}
	w.rec.note("result: %v, header %v, trailer %v, peer %v", err, header, trailer, from.Addr)
}

func (w *wish) output(c testgrpc.TestServiceClient) {
	s, err := c.StreamingOutputCall(w.ctx, &testgrpc.StreamingOutputCallRequest{Payload: w.payload()}, w.options...)
	if err != nil {
		w.rec.note("error: %v", err)
		return
	}
	w.receive(s, func() error { _, err := s.Recv(); return err })
}

func (w *wish) input(c testgrpc.TestServiceClient) {
	s, err := c.StreamingInputCall(w.ctx, w.options...)
	if err != nil {
		w.rec.note("error: %v", err)
		return
	}
	w.send(func() error { return s.Send(&testgrpc.StreamingInputCallRequest{Payload: w.payload()}) })
	if w.once(4) {
		return // abandoned
	}
	_, err = s.CloseAndRecv()
	w.rec.note("result: %v, trailer %v", err, s.Trailer())
}

func (w *wish) duplex(c testgrpc.TestServiceClient) {
	s, err := c.FullDuplexCall(w.ctx, w.options...)
	if err != nil {
		w.rec.note("error: %v", err)
		return
	}
	var other sync.WaitGroup
	defer other.Wait()
	sender := &wish{kitchen: w.kitchen, dice: newDice(w.Uint64())}
	other.Go(func() {
		defer func() { _ = recover() }()
		sender.send(func() error { return s.Send(&testgrpc.StreamingOutputCallRequest{Payload: sender.payload()}) })
		if !sender.once(4) {
			_ = s.CloseSend()
		}
	})
	w.receive(s, func() error { _, err := s.Recv(); return err })
}

// send sends some messages.
func (w *wish) send(one func() error) {
	for range w.IntN(6) {
		if one() != nil {
			return
		}
		time.Sleep(w.upTo(5 * time.Millisecond))
	}
}

// receive receives from a stream, or does not.
func (w *wish) receive(s grpc.ClientStream, one func() error) {
	var other sync.WaitGroup
	defer other.Wait()
	if w.once(3) {
		other.Go(func() {
			defer func() { _ = recover() }()
			_, _ = s.Header()
			_ = peerOf(s)
		})
	}
	var err error
	what := w.IntN(6)
	w.rec.note("receives: %d", what)
	switch what {
	case 0: // abandoned
		return
	case 1:
		w.cancel()
		return
	case 2:
		_ = one()
		w.cancel()
		err = one()
	case 3:
		_ = one()
		return
	default:
		for err == nil {
			err = one()
		}
	}
	if err != nil {
		w.rec.note("end: %v, trailer %v", err, s.Trailer())
	}
}

func peerOf(s grpc.ClientStream) string {
	p, ok := peer.FromContext(s.Context())
	if !ok {
		return ""
	}
	return fmt.Sprint(p.Addr)
}

// raw writes gRPC frames to a connection.
func (k *kitchen) raw(n uint64, d dice) {
	conn, err := dial(k.ctx, "tcp", k.address)
	if err != nil {
		return
	}
	raw := conn.(*net.TCPConn)
	_ = conn.SetDeadline(time.Now().Add(d.between(20*time.Millisecond, 300*time.Millisecond)))
	c := newH2client(conn)
	streams := uint32(1 + d.IntN(4))
	for i := range streams {
		c.request(n, 2*i+1, d, ":path", "/grpc.testing.TestService/"+pick(d, "UnaryCall", "StreamingInputCall", "FullDuplexCall", "Soup"),
			"content-type", "application/grpc", "te", "trailers")
	}
	for range d.IntN(6) {
		time.Sleep(d.upTo(10 * time.Millisecond))
		if id := 1 + 2*d.Uint32N(streams); d.once(3) {
			_ = c.framer.WriteData(id, d.once(2), []byte{0, 0, 0, 0, byte(d.IntN(3))})
		} else {
			c.disturb(id, d)
		}
	}
	c.await(d.upTo(100 * time.Millisecond))
	k.hangUp(conn, raw, d)
}
