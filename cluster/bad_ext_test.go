package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// raw starts a host that calls a function with each connection, and then closes the connection.
func raw(t *testing.T, serve func(c *net.TCPConn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return listener.Addr().String()
}

// TestBadHosts calls hosts that misbehave, and a good host, which serves each call in the end. No
// connection or slot remains in use.
func TestBadHosts(t *testing.T) {
	request := func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) }
	http1 := map[string]func(c *net.TCPConn){
		"never responds":       func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) },
		"closes immediately":   func(*net.TCPConn) {},
		"resets":               func(c *net.TCPConn) { c.SetLinger(0) },
		"closes after request": func(c *net.TCPConn) { request(c) },
		"half-closes":          func(c *net.TCPConn) { request(c); c.CloseWrite(); _, _ = io.Copy(io.Discard, c) },
		"half a response":      func(c *net.TCPConn) { request(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le") },
		"garbage":              func(c *net.TCPConn) { request(c); io.WriteString(c, "220 mail\r\n") },
		"two responses": func(c *net.TCPConn) {
			request(c)
			io.WriteString(c, strings.Repeat("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 2))
		},
	}
	http2 := map[string]func(c *net.TCPConn){
		"never speaks":       func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) },
		"closes immediately": func(*net.TCPConn) {},
		"resets":             func(c *net.TCPConn) { c.SetLinger(0) },
		"speaks HTTP/1": func(c *net.TCPConn) {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
		"never responds": onStream(func(*http2peer, uint32) {}),
		"goes away":      onStream(func(p *http2peer, _ uint32) { _ = p.WriteGoAway(0, 0, nil) }),
		"resets streams": onStream(func(p *http2peer, id uint32) { _ = p.WriteRSTStream(id, xhttp2.ErrCodeRefusedStream) }),
		"half-closes":    onStream(func(p *http2peer, _ uint32) { p.conn.CloseWrite() }),
		"a bad frame":    onStream(func(p *http2peer, _ uint32) { _ = p.WriteRawFrame(xhttp2.FrameData, 0, 0, []byte("soup")) }),
	}
	for name, serve := range http1 {
		t.Run("HTTP/1 "+name, func(t *testing.T) { badHost(t, cluster.HTTP1, serve) })
	}
	for name, serve := range http2 {
		t.Run("HTTP/2 "+name, func(t *testing.T) { badHost(t, cluster.HTTP2, serve) })
	}
}

func badHost(t *testing.T, protocol cluster.Protocol, serve func(c *net.TCPConn)) {
	t.Helper()
	good := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "good") }))
	good.Config.Protocols = new(http.Protocols)
	good.Config.Protocols.SetHTTP1(protocol == cluster.HTTP1)
	good.Config.Protocols.SetUnencryptedHTTP2(protocol == cluster.HTTP2)
	good.Start()
	t.Cleanup(good.Close)
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(raw(t, serve), good.Listener.Addr().String()), Protocol: protocol})
	stat := stats{}
	u := upstream(t, stat, timeout.Config{Total: 20 * time.Second, PerTry: 200 * time.Millisecond}, retry.Config{On: "5xx", NumRetries: 3, BaseInterval: time.Millisecond, Budget: &retry.Budget{Disabled: true}}, limits.Config{}, c)
	for range 6 {
		if body, err := get(t, u); err != nil || body != "good" {
			t.Errorf("got %q, %v, want the good host", body, err)
		}
	}
	c.Close()
	for _, name := range []string{"upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active"} {
		testtime.Eventually(t, func() bool { return stat[name]() == 0 })
	}
}

// http2peer is the host's end of a connection of HTTP/2.
type http2peer struct {
	*xhttp2.Framer

	conn *net.TCPConn
}

// onStream serves HTTP/2, and does this with each stream.
func onStream(do func(p *http2peer, id uint32)) func(c *net.TCPConn) {
	return func(c *net.TCPConn) {
		if _, err := io.ReadFull(c, make([]byte, len(xhttp2.ClientPreface))); err != nil {
			return
		}
		p := &http2peer{xhttp2.NewFramer(c, c), c}
		_ = p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 200})
		for {
			frame, err := p.ReadFrame()
			if err != nil {
				return
			}
			switch f := frame.(type) {
			case *xhttp2.SettingsFrame:
				if !f.IsAck() {
					_ = p.WriteSettingsAck()
				}
			case *xhttp2.PingFrame:
				if !f.IsAck() {
					_ = p.WritePing(true, f.Data)
				}
			case *xhttp2.HeadersFrame:
				do(p, f.StreamID)
			}
		}
	}
}

// respond sends a status of 200, and the body "good".
func (p *http2peer) respond(id uint32) {
	const status200 = 0x88 // in HPACK's static table
	_ = p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{status200}, EndHeaders: true})
	_ = p.WriteData(id, true, []byte("good"))
}

// TestGoAway has the only host go away in the middle of 100 streams: it serves the first 60, and the
// others are served over another connection.
func TestGoAway(t *testing.T) {
	const streams, served = 100, 60
	var connections, late atomic.Int32
	address := raw(t, func(c *net.TCPConn) {
		first := connections.Add(1) == 1
		var ids []uint32
		onStream(func(p *http2peer, id uint32) {
			ids = append(ids, id)
			switch {
			case !first:
				late.Add(1)
				p.respond(id)
			case len(ids) == streams:
				_ = p.WriteGoAway(ids[served-1], xhttp2.ErrCodeNo, nil)
				for _, id := range ids[:served] {
					p.respond(id)
				}
			}
		})(c)
	})
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(address), Protocol: cluster.HTTP2})
	stat := stats{}
	u := upstream(t, stat, retry.Config{On: "reset", BaseInterval: time.Millisecond, Budget: &retry.Budget{Disabled: true}}, limits.Config{MaxRetries: streams}, c)
	var calls sync.WaitGroup
	for range streams {
		calls.Go(func() {
			if body, err := get(t, u); err != nil || body != "good" {
				t.Errorf("got %q, %v, want each call to be served", body, err)
			}
		})
	}
	calls.Wait()
	if got := connections.Load(); got != 2 || late.Load() != streams-served {
		t.Errorf("got %d connections, and %d calls over the second one, want 2 and %d", got, late.Load(), streams-served)
	}
	c.Close()
	for _, name := range []string{"upstream_cx_active", "upstream_rq_active"} {
		testtime.Eventually(t, func() bool { return stat[name]() == 0 })
	}
}

// TestHTTPS returns an error for the scheme https without TLS.
func TestHTTPS(t *testing.T) {
	a, requests := server(t, "a")
	u := upstream(t, made(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	for url, want := range map[string]string{
		"https://recipes/": "set Config.TLS", "ftp://recipes/": "unsupported protocol scheme", "http:///": "no Host in request URL",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Transport(nil).RoundTrip(req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
	if requests.Load() != 0 {
		t.Error("got a request, want none")
	}
}

// TestPeakEWMA prefers a host that responds quickly to a slow one and to one that fails quickly.
func TestPeakEWMA(t *testing.T) {
	for name, slow := range map[string]http.HandlerFunc{
		"slow":  func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) },
		"fails": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	} {
		s := httptest.NewServer(slow)
		good, requests := server(t, "good")
		c := made(t, cluster.Config{Endpoints: cluster.Addresses(s.Listener.Addr().String(), good), LBPolicy: cluster.PeakEWMA})
		u := upstream(t, c)
		for range 40 {
			if _, err := get(t, u); err != nil {
				t.Error(err)
			}
		}
		if got := requests.Load(); got < 30 {
			t.Errorf("%s: got %d of 40 calls at the good host, want most", name, got)
		}
		s.Close()
	}
}

// TestClosed refuses calls after Close. Current calls continue.
func TestClosed(t *testing.T) {
	arrived, respond := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-respond
		io.WriteString(w, "served")
	}))
	t.Cleanup(s.Close)
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(s.Listener.Addr().String())})
	u := upstream(t, c)
	served := make(chan string, 1)
	go func() {
		body, _ := get(t, u)
		served <- body
	}()
	<-arrived
	c.Close()
	if _, err := get(t, u); !errors.Is(err, cluster.ErrClosed) {
		t.Errorf("got %v, want closed", err)
	}
	if err := c.Update(nil); !errors.Is(err, cluster.ErrClosed) {
		t.Errorf("got %v, want closed", err)
	}
	close(respond)
	if got := <-served; got != "served" {
		t.Errorf("got %q, want the call to be served", got)
	}
}

// TestFunctions pins that a cluster has no effect on functions.
func TestFunctions(t *testing.T) {
	u := upstream(t, limits.Config{MaxRequests: 1}, made(t, cluster.Config{}))
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 7, nil }); got != 7 || err != nil {
		t.Errorf("got %d, %v, want 7", got, err)
	}
}
