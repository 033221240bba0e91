package pool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// The hook of net/http does not run after a response without a body, and yet the
// connection is usable.
func TestResponseWithoutBodyKeepsConnection(t *testing.T) {
	for _, response := range []string{okEmpty, okBody, "HTTP/1.1 204 No Content\r\n\r\n"} {
		inLab(t, pool.HTTP1, pool.Config{}, forever1(response), func(l *lab) {
			for range 5 {
				if o := l.get(); o.err != nil {
					l.t.Fatalf("got %v", o)
				}
			}
			l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.RqTotal: 5, pool.RqPendingTotal: 1, pool.CxActive: 1})
		})
	}
}

// A transport sends an idempotent request again if the server closed the connection before
// it responded. The pool does not.
func TestNeverResends(t *testing.T) {
	var seen atomic.Int32
	serve := script1(&seen, okBody, "") // and closes without a response to the second
	inLab(t, pool.HTTP1, pool.Config{}, serve, func(l *lab) {
		if o := l.get(); o.body != "ok" {
			l.t.Fatalf("got %v", o)
		}
		if o := l.get(); o.err == nil {
			l.t.Errorf("got %v, want an error", o)
		}
		if got := seen.Load(); got != 2 {
			l.t.Errorf("the server saw %d requests, want 2", got)
		}
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxDestroyRemoteWithActiveRq: 1})
	})
	t.Run("but a transport does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var seen atomic.Int32
			l := &lab{}
			base := &http.Transport{DialContext: l.dialer(script1(&seen, okBody, ""))}
			for range 2 {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://lab/", nil)
				if resp, err := base.RoundTrip(req); err == nil {
					finishBody(resp)
				}
			}
			base.CloseIdleConnections()
			l.served.Wait()
			if got := seen.Load(); got != 3 {
				t.Errorf("the server saw %d requests, want 3: the test no longer shows what the pool avoids", got)
			}
		})
	})
}

// The same with HTTP/2, whose GOAWAY says that the stream was not processed.
func TestNeverResendsHTTP2(t *testing.T) {
	var seen atomic.Int32
	serve := script2(nil, func(p *peer, _ uint32) {
		seen.Add(1)
		p.goAway(0)
	})
	inLab(t, pool.HTTP2, pool.Config{}, serve, func(l *lab) {
		if o := l.get(); o.err == nil {
			l.t.Errorf("got %v, want an error", o)
		}
		synctest.Wait()
		if got := seen.Load(); got != 1 {
			l.t.Errorf("the server saw %d requests, want 1", got)
		}
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxDestroyLocal: 1, pool.RqRxReset: 0, pool.RqTxReset: 0, pool.CxDestroyWithActiveRq: 0})
	})
}

// http.ClientConn does not close the body of a request that it does not begin to send.
func TestBodyIsClosedOnce(t *testing.T) {
	type setup struct {
		name   string
		change func(ctx context.Context, cancel func(), req *http.Request)
		fails  bool
	}
	setups := []setup{
		{"sent", func(context.Context, func(), *http.Request) {}, false},
		{"invalid header", func(_ context.Context, _ func(), req *http.Request) { req.Header["a b"] = []string{""} }, true},
		{"no host", func(_ context.Context, _ func(), req *http.Request) { req.URL.Host = "" }, true},
		{"body breaks", func(_ context.Context, _ func(), req *http.Request) {
			req.Body.(*closer).Reader = io.MultiReader(strings.NewReader("half"), brokenReader{})
		}, true},
		{"canceled before", func(_ context.Context, cancel func(), _ *http.Request) { cancel() }, true},
		{"canceled while it is sent", func(ctx context.Context, cancel func(), req *http.Request) {
			req.Body.(*closer).Reader = readerFunc(func([]byte) (int, error) {
				cancel()
				<-ctx.Done()
				return 0, ctx.Err()
			})
		}, true},
	}
	for _, s := range setups {
		respond := func(p *peer, id uint32) {
			if !s.fails {
				p.respond(id)
			}
		}
		for name, serve := range map[pool.Protocol]func(int, net.Conn){pool.HTTP1: forever1(okBody), pool.HTTP2: script2(nil, respond)} {
			t.Run(fmt.Sprint(s.name, " ", name), func(t *testing.T) {
				inLab(t, name, pool.Config{}, serve, func(l *lab) {
					ctx, cancel := context.WithCancel(l.t.Context())
					defer cancel()
					body := &closer{Reader: strings.NewReader("soup")}
					req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/", body)
					stream, err := l.Stream(ctx)
					if err != nil {
						l.t.Fatal(err)
					}
					s.change(ctx, cancel, req)
					resp, err := stream.RoundTrip(req)
					if err == nil {
						finishBody(resp)
					}
					stream.Release(err)
					if (err != nil) != s.fails {
						l.t.Errorf("got error %v, want one: %v", err, s.fails)
					}
					synctest.Wait()
					if got := body.closed.Load(); got != 1 {
						l.t.Errorf("the body was closed %d times, want once", got)
					}
				})
			})
		}
	}
}

// The same on a connection that died between attach and RoundTrip, with bodies that may be
// closed twice as well.
func TestBodyIsClosedOnDeadConnection(t *testing.T) {
	for _, protocol := range []pool.Protocol{pool.HTTP1, pool.HTTP2} {
		t.Run(protocol.String(), func(t *testing.T) {
			var end net.Conn
			serve := forever1(okBody)
			if protocol == pool.HTTP2 {
				serve = script2(nil, nil)
			}
			inLab(t, protocol, pool.Config{}, func(n int, c net.Conn) { end = c; serve(n, c) }, func(l *lab) {
				for range 50 { // net/http may or may not begin to send the request
					s, err := l.Stream(l.t.Context())
					if err != nil {
						l.t.Fatal(err)
					}
					synctest.Wait()
					end.Close()
					synctest.Wait()
					body := &closer{Reader: strings.NewReader("soup")}
					ctx, cancel := context.WithCancel(l.t.Context())
					req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/", body)
					_, err = s.RoundTrip(req)
					s.Release(err)
					cancel()
					synctest.Wait()
					if err == nil || body.closed.Load() != 1 {
						l.t.Fatalf("got error %v, and a body closed %d times; want an error and once", err, body.closed.Load())
					}
				}
				l.expect(map[pool.Event]int64{pool.CxDestroyRemote: 50, pool.CxTotal: 50})
			})
		})
	}
}

// RoundTrip on a stream that was used closes the body, too.
func TestStreamIsUsedOnce(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{}, forever1(okBody), func(l *lab) {
		s, err := l.Stream(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		for i := range 3 {
			body := &closer{Reader: strings.NewReader("soup")}
			req, _ := http.NewRequestWithContext(l.t.Context(), http.MethodPost, "http://lab/", body)
			resp, err := s.RoundTrip(req)
			if i == 0 {
				finishBody(resp)
				continue
			}
			if !errors.Is(err, pool.ErrUnusable) || body.closed.Load() != 1 {
				l.t.Errorf("use %d: got %v, body closed %d times", i, err, body.closed.Load())
			}
			s.Release(nil)
		}
		s.Release(nil)
		l.expect(map[pool.Event]int64{pool.RqTotal: 1, pool.RqActive: 0, pool.CxActive: 1})
	})
}

// countingContext counts the children it has.
type countingContext struct {
	context.Context
	children atomic.Int32
}

func (c *countingContext) AfterFunc(f func()) func() bool {
	c.children.Add(1)
	stop := context.AfterFunc(c.Context, f)
	return func() bool { c.children.Add(-1); return stop() }
}

// A failed HTTP/1 round trip leaves a child in the request's context. If the request has a
// context of its own, as RoundTrip demands, the caller's context is clean afterwards.
func TestContextOfRequestIsLeftClean(t *testing.T) {
	var seen atomic.Int32
	inLab(t, pool.HTTP1, pool.Config{}, script1(&seen, "garbage\r\n\r\n"), func(l *lab) {
		parent, cancel := context.WithCancel(l.t.Context())
		defer cancel()
		counting := &countingContext{Context: parent}
		for range 50 {
			if o := l.getWith(counting); o.err == nil {
				l.t.Fatalf("got %v", o)
			}
		}
		synctest.Wait()
		if got := counting.children.Load(); got != 0 {
			l.t.Errorf("got %d children left in the caller's context, want 0", got)
		}
	})
}

// net/http does not call the hooks of a connection's choice, so the pool does.
func TestTraceGotConn(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{}, forever1(okBody), func(l *lab) {
		var asked []string
		var got []httptrace.GotConnInfo
		ctx := httptrace.WithClientTrace(l.t.Context(), &httptrace.ClientTrace{
			GetConn: func(address string) { asked = append(asked, address) },
			GotConn: func(info httptrace.GotConnInfo) { got = append(got, info) },
		})
		l.getWith(ctx)
		time.Sleep(7 * time.Second)
		l.getWith(ctx)
		if len(asked) != 2 || asked[0] != "lab:80" {
			l.t.Errorf("GetConn: got %q, want lab:80 twice", asked)
		}
		if len(got) != 2 {
			l.t.Fatalf("GotConn: got %d calls, want 2", len(got))
		}
		if first := got[0]; first.Reused || first.WasIdle || first.IdleTime != 0 || first.Conn == nil {
			l.t.Errorf("got %+v for the first request", first)
		}
		if second := got[1]; !second.Reused || !second.WasIdle || second.IdleTime != 7*time.Second || second.Conn != got[0].Conn {
			l.t.Errorf("got %+v for the second request", second)
		}
	})
}

// A panic of GotConn goes on to the caller, and the connection is free again.
func TestTracePanics(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{}, forever1(okBody), func(l *lab) {
		ctx := httptrace.WithClientTrace(l.t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { panic("soup") }})
		func() {
			defer func() {
				if got := recover(); got != "soup" {
					l.t.Errorf("got panic %v, want soup", got)
				}
			}()
			l.Stream(ctx)
		}()
		l.expect(map[pool.Event]int64{pool.RqActive: 0, pool.CxActive: 1})
		if o := l.get(); o.body != "ok" {
			l.t.Errorf("got %v", o)
		}
		l.expect(map[pool.Event]int64{pool.CxTotal: 1})
	})
}

// The caller's request is not changed, and the response names it.
func TestRequestIsNotCloned(t *testing.T) {
	for _, body := range []io.ReadCloser{nil, http.NoBody, io.NopCloser(strings.NewReader("soup")), &closer{Reader: strings.NewReader("soup")}} {
		inLab(t, pool.HTTP1, pool.Config{}, forever1(okBody), func(l *lab) {
			ctx, cancel := context.WithCancel(l.t.Context())
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/", body)
			before := *req
			o := roundTrip(l.Pool, req)
			if o.body != "ok" || o.resp.Request != req {
				l.t.Errorf("body %T: got %v for request %p, want %p", body, o, o.resp.Request, req)
			}
			if req.Body != before.Body || req.URL != before.URL || len(req.Header) != 0 {
				l.t.Errorf("body %T: the request was changed: %+v", body, req)
			}
		})
	}
}

// A response with "Connection: close" is whole before its connection ends.
func TestConnectionClose(t *testing.T) {
	for _, response := range []string{okClose, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"} {
		inLab(t, pool.HTTP1, pool.Config{}, func(_ int, c net.Conn) {
			in := bufio.NewReader(c)
			http.ReadRequest(in)
			io.WriteString(c, response)
			in.Peek(1) // the client closes
		}, func(l *lab) {
			for range 3 {
				if o := l.get(); o.body != "ok" {
					l.t.Fatalf("got %v", o)
				}
			}
			l.expect(map[pool.Event]int64{
				pool.CxTotal: 3, pool.CxDestroy: 3, pool.CxDestroyLocal: 3, pool.CxDestroyWithActiveRq: 0,
				pool.CxCloseNotify: 3, pool.RqPendingTotal: 3,
			})
		})
	}
}

// A body that ends with its connection is closed by the server.
func TestBodyEndsWithConnection(t *testing.T) {
	var seen atomic.Int32
	inLab(t, pool.HTTP1, pool.Config{}, script1(&seen, "HTTP/1.1 200 OK\r\n\r\nok"), func(l *lab) {
		if o := l.get(); o.body != "ok" {
			l.t.Fatalf("got %v", o)
		}
		l.expect(map[pool.Event]int64{pool.CxDestroyRemote: 1, pool.CxDestroyWithActiveRq: 0})
	})
}

// A server that responds before it has read the upload costs the connection.
func TestResponseBeforeUpload(t *testing.T) {
	inLab(t, pool.HTTP1, pool.Config{}, func(_ int, c net.Conn) {
		in := bufio.NewReader(c)
		http.ReadRequest(in)
		io.WriteString(c, okBody)
		io.Copy(io.Discard, in)
	}, func(l *lab) {
		release := make(chan struct{})
		body := readerFunc(func([]byte) (int, error) { <-release; return 0, io.EOF })
		o := send(l.t.Context(), l.Pool, http.MethodPost, body)
		if o.body != "ok" {
			l.t.Fatalf("got %v", o)
		}
		close(release)
		l.expect(map[pool.Event]int64{pool.CxDestroyLocal: 1, pool.CxDestroyLocalWithActiveRq: 1, pool.CxActive: 0})
	})
}

// After a change of protocols the connection is the caller's, until Release.
func TestSwitchingProtocols(t *testing.T) {
	ended := make(chan string, 1)
	inLab(t, pool.HTTP1, pool.Config{}, func(_ int, c net.Conn) {
		in := bufio.NewReader(c)
		http.ReadRequest(in)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: soup\r\nConnection: Upgrade\r\n\r\n")
		line, _ := in.ReadString('\n')
		io.WriteString(c, "you said "+line)
		_, err := in.ReadByte()
		ended <- fmt.Sprint(err)
	}, func(l *lab) {
		s, err := l.Stream(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		req, _ := http.NewRequestWithContext(l.t.Context(), http.MethodGet, "http://lab/", nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "soup")
		resp, err := s.RoundTrip(req)
		if err != nil {
			l.t.Fatal(err)
		}
		l.expect(map[pool.Event]int64{pool.CxActive: 1, pool.RqActive: 1})
		both := resp.Body.(io.ReadWriteCloser)
		go io.WriteString(both, "leek\n")
		if line, err := bufio.NewReader(both).ReadString('\n'); line != "you said leek\n" {
			l.t.Errorf("got %q, %v", line, err)
		}
		s.Release(nil) // the body was not closed
		l.expect(map[pool.Event]int64{pool.CxActive: 0, pool.CxDestroyLocal: 1, pool.CxDestroyWithActiveRq: 0})
		if got := <-ended; got != "EOF" {
			l.t.Errorf("the server's end: got %v, want EOF", got)
		}
	})
}

// Bytes that no request asked for are a protocol error; the server's FIN and its 408 are not.
func TestIdleConnectionEnds(t *testing.T) {
	tests := map[string]struct {
		after string
		want  map[pool.Event]int64
	}{
		"closed":      {"", map[pool.Event]int64{pool.CxDestroyRemote: 1, pool.CxProtocolError: 0}},
		"unsolicited": {okBody, map[pool.Event]int64{pool.CxDestroyLocal: 1, pool.CxProtocolError: 1}},
		"408":         {"HTTP/1.1 408 Request Timeout\r\n\r\n", map[pool.Event]int64{pool.CxDestroy: 1, pool.CxProtocolError: 0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			silence(t)
			inLab(t, pool.HTTP1, pool.Config{}, func(_ int, c net.Conn) {
				http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, okBody)
				time.Sleep(time.Second)
				io.WriteString(c, test.after)
			}, func(l *lab) {
				if o := l.get(); o.body != "ok" {
					l.t.Fatalf("got %v", o)
				}
				time.Sleep(2 * time.Second)
				test.want[pool.CxActive] = 0
				test.want[pool.CxDestroyWithActiveRq] = 0
				l.expect(test.want)
				if got := l.Stats(); got != (pool.Stats{}) {
					l.t.Errorf("got %+v, want an empty pool", got)
				}
			})
		})
	}
}

// A request that waits for a stream of HTTP/2 waits in the pool, where it is counted and
// can be refused; not in net/http.
func TestHTTP2WaitIsSeen(t *testing.T) {
	inDesk(t, pool.Config{Slots: newSlots(1, 1, 100)}, allow(1), func(l *lab, d *desk) {
		all := l.getN(2)
		l.expect(map[pool.Event]int64{pool.RqActive: 1, pool.RqPendingActive: 1, pool.CxOverflow: 1})
		isRefused(l.t, l.goGet(l.t.Context()), pool.Pending)
		d.serve(2)
		l.wantAll(all, "ok")
		l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.RqTotal: 2, pool.RqPendingTotal: 2})
	})
}

// A stream whose owner sends nothing returns its slot.
func TestUnsentStreamIsReturned(t *testing.T) {
	serve := script2(func(p *peer) { p.settings(maxStreams(1)) }, func(p *peer, id uint32) { p.respond(id) })
	for protocol, serve := range map[pool.Protocol]func(int, net.Conn){pool.HTTP1: forever1(okBody), pool.HTTP2: serve} {
		inLab(t, protocol, pool.Config{Slots: newSlots(1, 5, 5)}, serve, func(l *lab) {
			for range 5 {
				ctx, cancel := context.WithCancel(l.t.Context())
				s, err := l.Stream(ctx)
				if err != nil {
					l.t.Fatal(err)
				}
				cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://lab/", nil)
				if _, err := s.RoundTrip(req); !errors.Is(err, context.Canceled) {
					l.t.Errorf("got %v, want canceled", err)
				}
				s.Release(nil)
				synctest.Wait()
			}
			if o := l.get(); o.body != "ok" {
				l.t.Errorf("got %v", o)
			}
			l.expect(map[pool.Event]int64{pool.CxTotal: 1, pool.CxDestroy: 0, pool.RqTotal: 6, pool.RqTxReset: 0})
		})
	}
}

// GOAWAY on an idle connection that stays open: the next request finds it unusable.
func TestGoAwayWhileIdle(t *testing.T) {
	serve := script2(nil, func(p *peer, id uint32) {
		p.respond(id)
		time.AfterFunc(time.Second, func() { p.goAway(1<<31 - 1) })
	})
	inLab(t, pool.HTTP2, pool.Config{}, serve, func(l *lab) {
		for range 3 {
			if o := l.get(); o.body != "ok" {
				l.t.Fatalf("got %v", o)
			}
			time.Sleep(2 * time.Second)
		}
		l.expect(map[pool.Event]int64{pool.CxTotal: 3, pool.CxCloseNotify: 2, pool.CxDestroyLocal: 2, pool.CxDestroyWithActiveRq: 0})
	})
}

// The Available of an HTTP/2 connection that was closed before its first request is 100.
func TestClosedUnusedHTTP2(t *testing.T) {
	serve := script2(nil, func(p *peer, id uint32) { p.respond(id) })
	inLab(t, pool.HTTP2, pool.Config{KeepDials: true}, func(n int, c net.Conn) {
		if n == 0 {
			script2(func(p *peer) { p.settings(); p.close() }, nil)(n, c)
			return
		}
		serve(n, c)
	}, func(l *lab) {
		s, err := l.Stream(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		synctest.Wait()
		s.Release(nil)
		if o := l.get(); o.body != "ok" {
			l.t.Errorf("got %v", o)
		}
		l.expect(map[pool.Event]int64{pool.CxTotal: 2, pool.CxDestroyRemote: 1})
	})
}

// brokenReader fails, and readerFunc reads as it says.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBody }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
