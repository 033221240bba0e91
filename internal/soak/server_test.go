package soak

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/tracing"
)

// TestServer runs misbehaving clients, and misbehaving handlers under the policies of a service.
func TestServer(t *testing.T) {
	soak(t, func(r *round) {
		s := newService(r)
		r.storm(400, 32, s.call)
		r.settle(s.closeIdle, r.ledger.complaints, r.gauges, r.totals(s.front))
		if 0 < s.front.slots && s.front.slots <= 16 {
			r.settle(func() []string { return r.fill(s.front) })
		}
		r.settle(s.closeIdle, r.ledger.complaints, r.gauges)
	})
}

// service is the service that the clients of a round call.
type service struct {
	*round
	front   *guarded
	plain   string // address of a server without TLS, for HTTP/1 and HTTP/2
	secure  string // address of one with TLS
	clients []*http.Client
}

func newService(r *round) *service {
	s := &service{round: r, front: r.upstream("front", server)}
	handler, err := s.front.Handler(http.HandlerFunc(s.handle))
	if err != nil {
		r.Fatal(err)
	}
	if r.once(2) {
		handler = r.tracer.Handler(handler)
	}
	s.plain, s.secure = s.serve(s.recorded(handler), nil), s.serve(s.recorded(handler), serverTLS("h2", "http/1.1"))
	for _, h2c := range []bool{false, true} {
		base := r.transport(h2c)
		base.MaxResponseHeaderBytes, base.TLSHandshakeTimeout = 0, 0
		s.clients = append(s.clients, &http.Client{Transport: base})
	}
	return s
}

// serve starts a server with random timeouts.
func (s *service) serve(handler http.Handler, cfg *tls.Config) (address string) {
	limit := func() time.Duration { return pick(s.dice, 0, 0, s.between(20*time.Millisecond, 200*time.Millisecond)) }
	inner := s.bind()
	counting := countingListener{inner, s.ledger}
	server := &http.Server{
		Handler: handler, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: cfg, Protocols: &http.Protocols{},
		ReadTimeout: limit(), WriteTimeout: limit(), IdleTimeout: limit(), ReadHeaderTimeout: limit(),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	var serving sync.WaitGroup
	serving.Go(func() {
		if cfg != nil {
			_ = server.ServeTLS(counting, "", "")
		} else {
			_ = server.Serve(counting)
		}
	})
	s.Cleanup(func() {
		_ = server.Close()
		s.await("a server", serving.Wait)
	})
	return inner.Addr().String()
}

// countingListener counts the connections that a server has open.
type countingListener struct {
	net.Listener
	ledger *ledger
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	kind := "the server at " + l.Addr().String()
	l.ledger.use(kind)
	return &served{TCPConn: conn.(*net.TCPConn), ended: sync.OnceFunc(func() { l.ledger.free(kind) })}, nil
}

// served is a connection of a server, with all methods of a *net.TCPConn.
type served struct {
	*net.TCPConn
	ended func()
}

func (c *served) Close() error {
	c.ended()
	return c.TCPConn.Close()
}

// recorded opens the record of each request that reaches the service.
func (s *service) recorded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseUint(r.Header.Get(soakHeader), 10, 32)
		rec := s.ledger.begin(n, "%s %s over %s", r.Method, r.URL, r.Proto)
		defer func() {
			p := recover()
			rec.returns("served, recovered %v", p)
			if p != nil {
				panic(p)
			}
		}()
		next.ServeHTTP(w, r.WithContext(rec.with(r.Context())))
	})
}

// handle plays an act.
func (s *service) handle(w http.ResponseWriter, r *http.Request) {
	rec := recordOf(r.Context())
	h := &handling{service: s, dice: newDice(s.seed, rec.n, 4), w: w, r: r}
	act := handlers[h.IntN(len(handlers))]
	rec.note("handler: %s", act.name)
	act.play(h)
}

// handling is a request that is being handled.
type handling struct {
	*service
	dice
	w http.ResponseWriter
	r *http.Request
}

func (h *handling) IntN(n int) int { return h.dice.IntN(n) }

func (h *handling) control() *http.ResponseController { return http.NewResponseController(h.w) }

func (h *handling) write(most int) error {
	_, err := io.WriteString(h.w, filler(h.dice, most)+"x")
	return err
}

// stream writes parts, unless a write fails, or the request or the storm ends.
func (h *handling) stream(parts int) {
	for range parts {
		if h.write(10000) != nil || h.control().Flush() != nil || h.r.Context().Err() != nil || h.ctx.Err() != nil {
			return
		}
		time.Sleep(h.upTo(5 * time.Millisecond))
	}
}

// wait waits for the end of the request, or of the storm: net/http does not notice that a
// client disconnects while the request's body has not been read.
func (h *handling) wait() {
	select {
	case <-h.r.Context().Done():
	case <-h.ctx.Done():
	}
}

// handlers are what a handler does with a request.
var handlers = []struct {
	name string
	play func(h *handling)
}{
	{"nothing", func(*handling) {}},
	{"ok", func(h *handling) { _ = h.write(2000) }},
	{"ok, read", func(h *handling) { _, _ = io.Copy(io.Discard, h.r.Body); _ = h.write(100) }},
	{"echo", func(h *handling) { _, _ = io.Copy(h.w, h.r.Body) }},
	{"partly read", func(h *handling) { _, _ = io.CopyN(io.Discard, h.r.Body, h.Int64N(5000)); _ = h.write(100) }},
	{"a bad status", func(h *handling) { h.w.WriteHeader(pick(h.dice, 404, 429, 500, 503, 304, 204)); _ = h.write(100) }},
	{"two heads", func(h *handling) { h.w.WriteHeader(200); h.w.WriteHeader(500) }},
	{"an impossible status", func(h *handling) { h.w.WriteHeader(pick(h.dice, 0, 99, 1000)) }},
	{"large", func(h *handling) { _ = h.write(2 << 20) }},
	{"slow", func(h *handling) { h.stream(10) }},
	{"endless", func(h *handling) { h.stream(1 << 20) }},
	{"more than its length", func(h *handling) { h.w.Header().Set("Content-Length", "3"); _ = h.write(100) }},
	{"less than its length", func(h *handling) { h.w.Header().Set("Content-Length", "3000"); _ = h.write(100) }},
	{"trailers", func(h *handling) {
		h.w.Header().Set("Trailer", "X-End")
		_ = h.write(100)
		h.w.Header().Set("X-End", "1")
		h.w.Header().Set(http.TrailerPrefix+"X-More", "2")
	}},
	{"waits for the end", func(h *handling) { h.wait() }},
	{"reads, and waits for the end", func(h *handling) { _, _ = io.Copy(io.Discard, h.r.Body); h.wait() }},
	{"waits, then responds", func(h *handling) { h.wait(); _ = h.write(100) }},
	{"ignores the end", func(h *handling) { time.Sleep(h.upTo(100 * time.Millisecond)); _ = h.write(100) }},
	{"panics", func(*handling) { panic("a handler") }},
	{"panics with an error", func(*handling) { panic(io.ErrUnexpectedEOF) }},
	{"aborts", func(*handling) { panic(http.ErrAbortHandler) }},
	{"panics in the body", func(h *handling) { h.stream(2); panic("a handler") }},
	{"exits", func(*handling) { runtime.Goexit() }},
	{"exits in the body", func(h *handling) { h.stream(2); runtime.Goexit() }},
	{"1xx", func(h *handling) {
		if h.r.ProtoMajor == 2 {
			return // net/http may read the header after WriteHeader: a later change would be a race
		}
		for range 1 + h.IntN(3) {
			h.w.Header().Set("Link", "</soup>")
			h.w.WriteHeader(pick(h.dice, 100, 102, 103))
		}
		_ = h.write(100)
	}},
	{"hijacks", func(h *handling) {
		conn, both, err := h.control().Hijack()
		if err != nil {
			_ = h.write(100)
			return
		}
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: soup\r\nConnection: Upgrade\r\n\r\n"))
		if h.once(3) {
			h.leave(func() { _ = conn.Close() })
			return
		}
		_ = conn.SetDeadline(time.Now().Add(h.upTo(50 * time.Millisecond)))
		_, _ = io.Copy(conn, both)
		_ = conn.Close()
		if h.once(2) {
			panic("a handler")
		}
	}},
	{"reads from", func(h *handling) {
		_, err := io.Copy(h.w, io.LimitReader(failing{h.Int64N(3)}, h.Int64N(100000)+1))
		if err != nil {
			http.Error(h.w, "soup", http.StatusBadGateway)
		}
	}},
	{"deadlines", func(h *handling) {
		_ = h.control().SetReadDeadline(time.Now().Add(h.upTo(20 * time.Millisecond)))
		_ = h.control().SetWriteDeadline(time.Now().Add(h.upTo(20 * time.Millisecond)))
		_, _ = io.Copy(io.Discard, h.r.Body)
		h.stream(5)
	}},
	{"both ways", func(h *handling) {
		_ = h.control().EnableFullDuplex()
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.Discard, h.r.Body) })
		h.stream(3)
		_ = h.r.Body.Close()
		reading.Wait()
	}},
	{"pushes", func(h *handling) {
		if p, ok := h.w.(http.Pusher); ok {
			_ = p.Push("/pushed", nil)
		}
		_ = h.write(100)
	}},
	{"is notified", func(h *handling) {
		n, ok := h.w.(http.CloseNotifier) //nolint:staticcheck // handlers still use it
		if !ok {
			return
		}
		timer := time.NewTimer(h.upTo(100 * time.Millisecond))
		defer timer.Stop()
		select {
		case <-n.CloseNotify():
		case <-timer.C:
		}
		_ = h.write(100)
	}},
	{"calls in its trace", func(h *handling) {
		ctx, segment := tracing.StartSubsegment(h.r.Context(), "soup")
		defer segment.End(nil)
		rec := h.ledger.begin(0, "a function in a handler")
		defer rec.returns("returned")
		_, _ = pillion.Do(rec.with(ctx), h.front.Upstream, func(context.Context) (int, error) { return 0, nil })
	}},
}

// failing is a reader that fails after some parts.
type failing struct{ parts int64 }

func (f failing) Read(p []byte) (int, error) {
	if f.parts == 0 {
		return 0, errors.New("soak: nothing to read")
	}
	return copy(p, "soup"), nil
}

// call makes a request with a client of some kind.
func (s *service) call(n uint64, d dice) {
	switch d.IntN(4) {
	case 0:
		s.raw1(n, d)
	case 1:
		s.raw2(n, d)
	default:
		s.request(n, d)
	}
}

// closeIdle closes the connections that are not in use. It has the form of a check.
func (s *service) closeIdle() []string {
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
	return nil
}

// request makes a request with a client of net/http.
func (s *service) request(n uint64, d dice) {
	hc, url := s.clients[0], "https://"+s.secure
	switch d.IntN(3) {
	case 0:
		url = "http://" + s.plain
	case 1:
		hc, url = s.clients[1], "http://"+s.plain
	}
	ctx, cancel := s.impatient(s.ctx, d)
	req, err := http.NewRequestWithContext(ctx, pick(d, "GET", "HEAD", "PUT", "POST"), url+"/soup", nil)
	if err != nil {
		s.Error(err)
		return
	}
	if size := pick(d, 0, 1, 5000, 300<<10); size != 0 {
		u := s.upload(s.ledger.uncounted, d, size)
		if u.how == uploadPanics { // this client is without the library: the panic would end the process
			u.how = uploadFails
		}
		req.Body, req.ContentLength = u, pick(d, -1, int64(size))
	}
	req.Header.Set(soakHeader, strconv.FormatUint(n, 10))
	d.headers(8, req.Header.Set,
		"Grpc-Timeout|1n", "Grpc-Timeout|10m", "Grpc-Timeout|99999999H", "Grpc-Timeout|x",
		"X-Envoy-Expected-Rq-Timeout-Ms|0", "X-Envoy-Expected-Rq-Timeout-Ms|1", "X-Envoy-Expected-Rq-Timeout-Ms|20",
		"X-Envoy-Expected-Rq-Timeout-Ms|9223372036854775807", "X-Envoy-Upstream-Rq-Timeout-Ms|0", "X-Envoy-Upstream-Rq-Timeout-Ms|20",
		"X-Envoy-Upstream-Alt-Stat-Name|alt", "Expect|100-continue", "Content-Type|application/grpc",
		"X-Amzn-Trace-Id|Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", "X-Amzn-Trace-Id|Sampled=?;;Foo=\xc3\xa9",
	)
	resp, err := hc.Do(req)
	if err == nil {
		s.consume(resp, d, s.ledger.uncounted, cancel)
	}
}

// rude1 are what clients of HTTP/1 send. The first %d is the number of the call.
var rude1 = []string{
	"GET / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\n\r\n",
	"GET / HTTP/1.0\r\nX-Soak: %d\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\n\r\nGET / HTTP/1.1\r\nHost: soup\r\n\r\nPOST / HTTP/1.1\r\nHost: soup\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nUpgrade: soup\r\nConnection: Upgrade\r\n\r\nsoup",
	"POST / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nContent-Length: 10000\r\n\r\nsoup",
	"POST / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nContent-Length: 10000\r\nExpect: 100-continue\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsoup\r\n",
	"POST / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"POST / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\nX: y\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: soup\r\nX-Soak: %d\r\nCut: he",
	"GET / HTTP/1.1\r\nX-Soak: %d\r\n\r\n",
	"SOUP %d\r\n\r\n",
}

// raw1 writes a request to a connection, reads some of the response, and ends the connection
// in one of many ways.
func (s *service) raw1(n uint64, d dice) {
	conn, raw := s.connect(d, "http/1.1")
	if conn == nil {
		return
	}
	request := fmt.Sprintf(pick(d, rude1...), n)
	if d.once(4) { // byte by byte
		for i := range min(len(request), 20) {
			_, _ = conn.Write([]byte{request[i]})
			time.Sleep(d.upTo(time.Millisecond))
		}
		request = request[min(len(request), 20):]
	}
	_, _ = io.WriteString(conn, request)
	if d.once(3) {
		_, _ = io.WriteString(conn, filler(d, 8000))
	}
	if d.once(4) {
		_ = raw.CloseWrite()
	}
	if !d.once(3) {
		_, _ = io.CopyN(io.Discard, conn, d.Int64N(100000))
	} else {
		time.Sleep(d.upTo(100 * time.Millisecond))
	}
	s.hangUp(conn, raw, d)
}

// connect makes a connection whose reads and writes end soon. It returns nil if it fails.
func (s *service) connect(d dice, protocol string) (net.Conn, *net.TCPConn) {
	address := pick(d, s.plain, s.secure)
	conn, err := dial(s.ctx, "tcp", address)
	if err != nil {
		return nil, nil
	}
	raw := conn.(*net.TCPConn)
	_ = conn.SetDeadline(time.Now().Add(d.between(20*time.Millisecond, 300*time.Millisecond)))
	if address == s.secure {
		cfg := clientTLS()
		cfg.NextProtos, cfg.ServerName = []string{protocol}, "127.0.0.1"
		conn = tls.Client(conn, cfg)
	}
	return conn, raw
}

// hangUp ends a connection, immediately or at the end of the storm.
func (r *round) hangUp(conn net.Conn, raw *net.TCPConn, d dice) {
	switch d.IntN(4) {
	case 0:
		_ = raw.SetLinger(0)
		_ = raw.Close()
	case 1:
		r.leave(func() { _ = raw.Close() })
	case 2:
		_ = raw.Close()
	default:
		_ = conn.Close()
	}
}

// impossible are bytes that are not HTTP.
var impossible = strings.Repeat("\x00\xff", 100)

// raw2 writes HTTP/2 frames to a connection.
func (s *service) raw2(n uint64, d dice) {
	conn, raw := s.connect(d, "h2")
	if conn == nil {
		return
	}
	c := newH2client(conn)
	if d.once(20) {
		_, _ = io.WriteString(conn, impossible)
	}
	streams := uint32(1 + d.IntN(4))
	for i := range streams {
		c.request(n, 2*i+1, d, ":path", "/soup")
	}
	for range d.IntN(6) {
		time.Sleep(d.upTo(10 * time.Millisecond))
		c.disturb(1+2*d.Uint32N(streams), d)
	}
	if d.once(2) {
		c.await(d.upTo(100 * time.Millisecond))
	}
	s.hangUp(conn, raw, d)
}

// h2client is the client's end of a connection to which it writes HTTP/2 frames.
type h2client struct {
	framer  *http2.Framer
	head    bytes.Buffer
	encoder *hpack.Encoder
	done    chan struct{} // closed when the server has ended the connection, or its time has passed
}

func newH2client(conn net.Conn) *h2client {
	c := &h2client{framer: http2.NewFramer(conn, conn), done: make(chan struct{})}
	c.encoder = hpack.NewEncoder(&c.head)
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = c.framer.WriteSettings()
	go func() {
		defer close(c.done)
		_, _ = io.Copy(io.Discard, conn)
	}()
	return c
}

// request begins a stream, with additional pairs of names and values in its headers.
func (c *h2client) request(n uint64, id uint32, d dice, pairs ...string) {
	c.head.Reset()
	pairs = append([]string{":method", pick(d, "POST", "POST", "GET", "SOUP"), ":scheme", "http", ":authority", "soup"}, pairs...)
	pairs = append(pairs, strings.ToLower(soakHeader), strconv.FormatUint(n, 10))
	if d.once(4) {
		pairs = append(pairs, "grpc-timeout", pick(d, "1n", "10m"))
	}
	for i := 0; i < len(pairs); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head.Bytes(), EndHeaders: true, EndStream: d.once(2)})
}

// disturb writes a frame that is unexpected or invalid.
func (c *h2client) disturb(id uint32, d dice) {
	switch d.IntN(8) {
	case 0, 1:
		_ = c.framer.WriteRSTStream(id, http2.ErrCode(d.IntN(16)))
	case 2:
		_ = c.framer.WriteData(id, d.once(2), make([]byte, d.IntN(8000)))
	case 3:
		_ = c.framer.WriteWindowUpdate(pick(d, 0, id), 1<<31-1)
	case 4:
		_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: pick(d, uint32(0), 1, 1<<20)})
	case 5:
		_ = c.framer.WriteGoAway(0, http2.ErrCode(d.IntN(14)), nil)
	case 6:
		_ = c.framer.WritePing(false, [8]byte{})
	case 7:
		_ = c.framer.WriteRawFrame(http2.FrameContinuation, 0, id, []byte("soup"))
	}
}

// await waits for the end of the connection, at most for limit.
func (c *h2client) await(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
}
