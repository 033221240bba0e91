package pool_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// lab is a pool in a synctest bubble whose connections are pipes to a scripted server.
type lab struct {
	*pool.Pool
	t      *testing.T
	counts *counts
	slots  *slots
	conns  atomic.Int32
	served sync.WaitGroup
	mu     sync.Mutex
	ends   []net.Conn
}

// inLab runs f with a lab in a bubble. serve is the server's end of the nth connection,
// the first being 0. Afterwards nothing may be left of the pool.
func inLab(t *testing.T, protocol pool.Protocol, cfg pool.Config, serve func(n int, c net.Conn), f func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, counts: new(counts)}
		if cfg.Template == nil {
			cfg.Template = pool.NewTemplate(&http.Transport{DialContext: l.dialer(serve)}, protocol)
		}
		if cfg.Slots == nil {
			cfg.Slots = newSlots(100, 100, 1000)
		}
		l.slots, _ = cfg.Slots.(*slots)
		cfg.Address, cfg.Observer = "lab:80", l.counts
		l.Pool = pool.New(cfg)
		f(l)
		l.Close()
		synctest.Wait()
		select {
		case <-l.Done():
		default:
			t.Errorf("got %+v after Close, want nothing left", l.Stats())
		}
		if l.slots != nil {
			checkBalanced(t, l.counts, l.slots)
		}
		for _, c := range l.ends {
			c.Close()
		}
		l.served.Wait()
		time.Sleep(10 * time.Second) // net/http keeps a timer for a dead HTTP/2 connection
	})
}

func (l *lab) dialer(serve func(int, net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		l.mu.Lock()
		l.ends = append(l.ends, server)
		l.mu.Unlock()
		n := int(l.conns.Add(1)) - 1
		l.served.Go(func() {
			defer server.Close()
			serve(n, server)
		})
		return client, nil
	}
}

// expect checks counters, after everything has come to rest.
func (l *lab) expect(want map[pool.Event]int64) {
	l.t.Helper()
	synctest.Wait()
	for e, n := range want {
		if got := l.counts.get(e); got != n {
			l.t.Errorf("got %v %d, want %d", e, got, n)
		}
	}
}

// outcome is what became of a request.
type outcome struct {
	status int
	body   string
	err    error
	resp   *http.Response
}

func (o outcome) String() string {
	if o.err != nil {
		return "error: " + o.err.Error()
	}
	return fmt.Sprintf("%d %q", o.status, o.body)
}

// get sends a GET to its end.
func (l *lab) get() outcome { return l.getWith(l.t.Context()) }

func (l *lab) getWith(ctx context.Context) outcome { return send(ctx, l.Pool, http.MethodGet, nil) }

// send sends a request to its end, as an owner of streams does.
func send(ctx context.Context, p *pool.Pool, method string, body io.Reader) outcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://lab/", body)
	if err != nil {
		return outcome{err: err}
	}
	return roundTrip(p, req)
}

func roundTrip(p *pool.Pool, req *http.Request) outcome {
	s, err := p.Stream(req.Context())
	if err != nil {
		return outcome{err: err}
	}
	resp, err := s.RoundTrip(req)
	if err != nil {
		s.Release(err)
		return outcome{err: err}
	}
	data, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	s.Release(err)
	return outcome{resp.StatusCode, string(data), err, resp}
}

// goGet begins a GET, whose outcome arrives when it has ended.
func (l *lab) goGet(ctx context.Context) <-chan outcome {
	done := make(chan outcome, 1)
	go func() { done <- l.getWith(ctx) }()
	return done
}

// want checks an outcome that must have arrived once everything is at rest.
func (l *lab) want(done <-chan outcome, text string) {
	l.t.Helper()
	synctest.Wait()
	select {
	case o := <-done:
		if !strings.Contains(o.String(), text) {
			l.t.Errorf("got %v, want %q", o, text)
		}
	default:
		l.t.Errorf("got no outcome, want %q", text)
	}
}

// script1 serves HTTP/1: one response for each request, in order, and then closes. The
// response "hang" never comes.
func script1(seen *atomic.Int32, responses ...string) func(int, net.Conn) {
	return func(_ int, c net.Conn) {
		in := bufio.NewReader(c)
		for _, response := range responses {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			seen.Add(1)
			if response == "hang" {
				in.Peek(1)
				return
			}
			io.WriteString(c, response)
		}
	}
}

const (
	okBody  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	okEmpty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	okClose = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
)

// forever1 serves HTTP/1: the same response for each request.
func forever1(response string) func(int, net.Conn) {
	return func(_ int, c net.Conn) {
		in := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, response); err != nil {
				return
			}
		}
	}
}

// peer is the server's end of an HTTP/2 connection, frame by frame.
type peer struct {
	n      int
	conn   net.Conn
	framer *http2.Framer
	out    chan func() // writes, so that reading never waits for them
	ended  chan struct{}
	held   atomic.Bool  // PINGs are acknowledged later
	pings  chan [8]byte // those to acknowledge
}

// script2 serves HTTP/2. begin is called first, and stream for each request. Writes of
// theirs go through peer.
func script2(begin func(p *peer), stream func(p *peer, id uint32)) func(int, net.Conn) {
	return func(n int, c net.Conn) {
		p := &peer{n: n, conn: c, framer: http2.NewFramer(c, c), out: make(chan func(), 1000), ended: make(chan struct{}), pings: make(chan [8]byte, 100)}
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		var writer sync.WaitGroup
		writer.Go(p.write)
		defer writer.Wait()
		defer close(p.ended)
		defer c.Close()
		if begin == nil {
			begin = func(p *peer) { p.settings() }
		}
		begin(p)
		p.read(stream)
	}
}

func (p *peer) write() {
	for {
		select {
		case f := <-p.out:
			f()
		case <-p.ended:
			return
		}
	}
}

func (p *peer) read(stream func(p *peer, id uint32)) {
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				p.do(func() { p.framer.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			switch {
			case f.IsAck():
			case p.held.Load():
				p.pings <- f.Data
			default:
				p.pong(f.Data)
			}
		case *http2.HeadersFrame:
			if stream != nil {
				stream(p, f.StreamID)
			}
		}
	}
}

// release acknowledges the PINGs that were held.
func (p *peer) release() {
	for range len(p.pings) {
		p.pong(<-p.pings)
	}
}

func (p *peer) pong(data [8]byte) { p.do(func() { p.framer.WritePing(true, data) }) }

// do has f write.
func (p *peer) do(f func()) {
	select {
	case p.out <- f:
	case <-p.ended:
	}
}

func (p *peer) settings(s ...http2.Setting) { p.do(func() { p.framer.WriteSettings(s...) }) }

func maxStreams(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

func (p *peer) goAway(last uint32) {
	p.do(func() { p.framer.WriteGoAway(last, http2.ErrCodeNo, nil) })
}

func (p *peer) reset(id uint32, code http2.ErrCode) {
	p.do(func() { p.framer.WriteRSTStream(id, code) })
}

func (p *peer) close() { p.do(func() { p.conn.Close() }) }

// head sends response headers.
func (p *peer) head(id uint32, end bool) {
	p.do(func() {
		var block bytes.Buffer
		hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
	})
}

// respond sends a whole response.
func (p *peer) respond(id uint32) {
	p.head(id, false)
	p.do(func() { p.framer.WriteData(id, true, []byte("ok")) })
}

var errBody = errors.New("the body broke")

// closer is a request body that counts how often it is closed.
type closer struct {
	io.Reader
	closed atomic.Int32
}

func (c *closer) Close() error {
	c.closed.Add(1)
	return nil
}
