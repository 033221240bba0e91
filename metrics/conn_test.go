package metrics

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
)

// pipe returns a dialer whose connections are pipes, and the far ends of the pipes.
func pipe() (DialFunc, chan net.Conn) {
	far := make(chan net.Conn, 10)
	return func(context.Context, string, string) (net.Conn, error) {
		near, other := net.Pipe()
		far <- other
		return near, nil
	}, far
}

// talk writes to a connection and returns its far end.
type talk func(c net.Conn, text string) net.Conn

func talkOver(t *testing.T, far chan net.Conn) talk {
	t.Helper()
	return func(c net.Conn, text string) net.Conn {
		other := <-far
		go func() { _, _ = io.WriteString(c, text) }()
		if _, err := io.ReadFull(other, make([]byte, len(text))); err != nil {
			t.Error(err)
		}
		return other
	}
}

// TestInstrumentDial checks that connections count as in Envoy.
func TestInstrumentDial(t *testing.T) {
	for _, tc := range []struct {
		name string
		dial DialFunc // nil for a pipe
		live func(talk talk, c net.Conn)
		want map[string]uint64
	}{
		{
			name: "open",
			live: func(talk talk, c net.Conn) { talk(c, "GET / HTTP/1.1") },
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_active": 1, "upstream_cx_http1_total": 1,
				"upstream_cx_tx_bytes_total": 14, "upstream_cx_connect_ms": 1,
			},
		},
		{
			name: "closed locally, twice",
			live: func(talk talk, c net.Conn) {
				talk(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
				_ = c.Close()
				_ = c.Close()
				_, _ = c.Read(make([]byte, 1))
			},
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_http2_total": 1, "upstream_cx_tx_bytes_total": 24,
				"upstream_cx_destroy": 1, "upstream_cx_destroy_local": 1, "upstream_cx_connect_ms": 1, "upstream_cx_length_ms": 1,
			},
		},
		{
			name: "closed by the upstream",
			live: func(talk talk, c net.Conn) {
				other := talk(c, "CONNECT x:443 HTTP/1.1")
				go func() {
					_, _ = io.WriteString(other, "bye")
					_ = other.Close()
				}()
				_, _ = io.ReadAll(c)
				_ = c.Close()
			},
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_tx_bytes_total": 22, "upstream_cx_rx_bytes_total": 3,
				"upstream_cx_destroy": 1, "upstream_cx_destroy_remote": 1, "upstream_cx_connect_ms": 1, "upstream_cx_length_ms": 1,
			},
		},
		{
			name: "local deadline",
			live: func(talk talk, c net.Conn) {
				talk(c, "\x16\x03\x01")
				_ = c.SetReadDeadline(time.Now())
				_, _ = c.Read(make([]byte, 1))
				_ = c.Close()
			},
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_tx_bytes_total": 3, "upstream_cx_destroy": 1, "upstream_cx_destroy_local": 1,
				"upstream_cx_connect_ms": 1, "upstream_cx_length_ms": 1,
			},
		},
		{
			name: "refused",
			dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") },
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_connect_fail": 1, "upstream_cx_destroy": 1, "upstream_cx_destroy_remote": 1,
				"upstream_cx_length_ms": 1,
			},
		},
		{
			name: "connect timeout",
			dial: func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrDeadlineExceeded },
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_connect_fail": 1, "upstream_cx_connect_timeout": 1, "upstream_cx_destroy": 1,
				"upstream_cx_destroy_local": 1, "upstream_cx_length_ms": 1,
			},
		},
		{
			name: "canceled",
			dial: func(context.Context, string, string) (net.Conn, error) { return nil, context.Canceled },
			want: map[string]uint64{
				"upstream_cx_total": 1, "upstream_cx_connect_fail": 1, "upstream_cx_destroy": 1, "upstream_cx_destroy_local": 1,
				"upstream_cx_length_ms": 1,
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial, far := pipe()
				if tc.dial != nil {
					dial = tc.dial
				}
				c := registry(t, Settings{}).Cluster("recipes")
				conn, err := c.InstrumentDial(dial)(t.Context(), "tcp", "x:80")
				if (err != nil) != (tc.dial != nil) {
					t.Fatal(err)
				}
				if tc.live != nil {
					tc.live(talkOver(t, far), conn)
				}
				synctest.Wait()
				if diff := cmp.Diff(tc.want, nonzero(c)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if conn != nil {
					_ = conn.Close()
				}
			})
		})
	}
}

// TestNoConnections checks that the rows of connections are absent if the library sees none.
func TestNoConnections(t *testing.T) {
	r := registry(t, Settings{})
	if _, err := pillion.New("recipes", Config{Registry: r}); err != nil {
		t.Fatal(err)
	}
	if got := page(t, r, "/stats?filter=upstream_cx"); got != "" {
		t.Errorf("got %q without counted connections, want nothing", got)
	}
}

// TestInstrumentTransport uses all protocols through counted transports, over real sockets, and checks
// that counting does not change the protocol.
func TestInstrumentTransport(t *testing.T) {
	for _, tc := range []struct {
		name  string
		tls   bool
		base  func(*http.Transport) *http.Transport // made from one that trusts the server
		major int
		want  map[string]uint64
	}{
		{
			name: "HTTP/1", base: func(t *http.Transport) *http.Transport { return t }, major: 1,
			want: map[string]uint64{"upstream_cx_http1_total": 1},
		},
		{
			name: "the default", base: func(*http.Transport) *http.Transport { return nil }, major: 1,
			want: map[string]uint64{"upstream_cx_http1_total": 1},
		},
		{
			name: "zero", base: func(*http.Transport) *http.Transport { return &http.Transport{} }, major: 1,
			want: map[string]uint64{"upstream_cx_http1_total": 1},
		},
		{
			name: "TLS", tls: true, major: 2,
			base: func(t *http.Transport) *http.Transport { return t },
			want: map[string]uint64{"upstream_cx_http2_total": 1},
		},
		{
			name: "TLS, HTTP/1", tls: true, major: 1,
			base: func(t *http.Transport) *http.Transport {
				t.ForceAttemptHTTP2 = false
				t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
				t.TLSClientConfig.NextProtos = nil
				return t
			},
			want: map[string]uint64{"upstream_cx_http1_total": 1},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(w, req.Body)
			}))
			if tc.tls {
				server.EnableHTTP2 = true
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			r := registry(t, Settings{})
			u, err := pillion.New("recipes", Config{Registry: r})
			if err != nil {
				t.Fatal(err)
			}
			trusting, _ := server.Client().Transport.(*http.Transport)
			transport := r.Cluster("recipes").InstrumentTransport(tc.base(trusting))
			client := &http.Client{Transport: u.Transport(transport)}
			for range 3 {
				resp, err := client.Post(server.URL, "text/plain", strings.NewReader("soup"))
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(text) != "soup" || resp.ProtoMajor != tc.major {
					t.Fatalf("got %q, %v and HTTP/%d, want soup and HTTP/%d", text, err, resp.ProtoMajor, tc.major)
				}
			}
			transport.CloseIdleConnections()
			got := nonzero(r.Cluster("recipes"))
			for name, want := range map[string]uint64{"upstream_cx_total": 1, "upstream_cx_destroy_local": 1, "upstream_rq_total": 3} {
				if name != "upstream_cx_destroy_local" && got[name] != want {
					t.Errorf("got %d of %s, want %d", got[name], name, want)
				}
			}
			for _, name := range []string{"upstream_cx_http1_total", "upstream_cx_http2_total"} {
				if got[name] != tc.want[name] {
					t.Errorf("got %d of %s, want %d", got[name], name, tc.want[name])
				}
			}
			if got["upstream_cx_tx_bytes_total"] == 0 || got["upstream_cx_rx_bytes_total"] == 0 {
				t.Error("got no bytes counted, want some")
			}
		})
	}
}

// TestInstrumentTransportVerifies checks that the base's VerifyConnection is still called.
func TestInstrumentTransportVerifies(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	base, _ := server.Client().Transport.(*http.Transport)
	base.TLSClientConfig.VerifyConnection = func(tls.ConnectionState) error { return errors.New("not this one") }
	transport := registry(t, Settings{}).Cluster("recipes").InstrumentTransport(base)
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err == nil {
		resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "not this one") {
		t.Errorf("got %v, want the base's own error", err)
	}
}

// TestOldDial checks that the base's Dial is still called.
func TestOldDial(t *testing.T) {
	base := &http.Transport{Dial: func(string, string) (net.Conn, error) { return nil, errors.New("my own") }} //nolint:staticcheck // programs may use it
	transport := registry(t, Settings{}).Cluster("recipes").InstrumentTransport(base)
	resp, err := (&http.Client{Transport: transport}).Get("http://recipes/")
	if err == nil {
		resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "my own") {
		t.Errorf("got %v, want the base's own error", err)
	}
}

// TestSendFile copies a file to a counted connection.
func TestSendFile(t *testing.T) {
	dial, far := pipe()
	c := registry(t, Settings{}).Cluster("recipes")
	conn, err := c.InstrumentDial(dial)(t.Context(), "tcp", "x:80")
	if err != nil {
		t.Fatal(err)
	}
	other := <-far
	read := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, other)
		read <- n
	}()
	n, err := io.Copy(conn, strings.NewReader(strings.Repeat("x", 100000)))
	_ = conn.Close()
	if got := <-read; n != 100000 || err != nil || got != n || nonzero(c)["upstream_cx_tx_bytes_total"] != 100000 {
		t.Errorf("got %d, %v and %d bytes, counted %d; want 100000 of each", n, err, got, nonzero(c)["upstream_cx_tx_bytes_total"])
	}
}
