package metrics

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Connections with one optional method each.
type (
	bare     struct{ net.Conn }
	halfRead struct{ calls *[]string }
	halfSend struct{ calls *[]string }
	raw      struct{ calls *[]string }
)

func (h halfRead) CloseRead() error  { *h.calls = append(*h.calls, "CloseRead"); return nil }
func (h halfSend) CloseWrite() error { *h.calls = append(*h.calls, "CloseWrite"); return nil }
func (r raw) SyscallConn() (syscall.RawConn, error) {
	*r.calls = append(*r.calls, "SyscallConn")
	return nil, nil
}

// counting returns a counted connection over c, and its cluster.
func countingConn(t *testing.T, c net.Conn) (net.Conn, *ClusterStats) {
	t.Helper()
	cluster := registry(t, Settings{}).Cluster("recipes")
	counted, err := cluster.InstrumentDial(func(context.Context, string, string) (net.Conn, error) { return c, nil })(t.Context(), "tcp", "x:80")
	if err != nil {
		t.Fatal(err)
	}
	return counted, cluster
}

// TestConn_abilities checks that counted connections have the optional methods of their connections,
// and no others.
func TestConn_abilities(t *testing.T) {
	var calls []string
	b, r, w, s := bare{}, halfRead{&calls}, halfSend{&calls}, raw{&calls}
	for want, c := range map[string]net.Conn{
		"": b,
		"CloseRead": struct {
			bare
			halfRead
		}{b, r},
		"CloseWrite": struct {
			bare
			halfSend
		}{b, w},
		"SyscallConn": struct {
			bare
			raw
		}{b, s},
		"CloseRead CloseWrite": struct {
			bare
			halfRead
			halfSend
		}{b, r, w},
		"CloseRead SyscallConn": struct {
			bare
			halfRead
			raw
		}{b, r, s},
		"CloseWrite SyscallConn": struct {
			bare
			halfSend
			raw
		}{b, w, s},
		"CloseRead CloseWrite SyscallConn": struct {
			bare
			halfRead
			halfSend
			raw
		}{b, r, w, s},
	} {
		calls = nil
		counted, _ := countingConn(t, c)
		if r, ok := counted.(readCloser); ok {
			_ = r.CloseRead()
		}
		if w, ok := counted.(writeCloser); ok {
			_ = w.CloseWrite()
		}
		if s, ok := counted.(syscall.Conn); ok {
			_, _ = s.SyscallConn()
		}
		if got := strings.Join(calls, " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if n, ok := counted.(interface{ NetConn() net.Conn }); !ok || n.NetConn() != c {
			t.Errorf("%q: NetConn is not the connection", want)
		}
	}
}

// TestConn_sockets checks the optional methods of counted sockets of each kind.
func TestConn_sockets(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	trusting, _ := server.Client().Transport.(*http.Transport)
	plain, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for name, dial := range map[string]DialFunc{
		"tcp": func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
		"unix": func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", plain.Addr().String())
		},
		"tls": func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: trusting.TLSClientConfig}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	} {
		c := registry(t, Settings{}).Cluster("recipes")
		conn, err := c.InstrumentDial(dial)(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		_, read := conn.(readCloser)
		_, system := conn.(syscall.Conn)
		_, secure := conn.(interface{ ConnectionState() tls.ConnectionState })
		if read != (name != "tls") || system != (name != "tls") || secure != (name == "tls") {
			t.Errorf("%s: CloseRead %v, SyscallConn %v, ConnectionState %v", name, read, system, secure)
		}
		below := conn.(interface{ NetConn() net.Conn }).NetConn()
		if _, ok := below.(*net.TCPConn); ok != (name != "unix") {
			t.Errorf("%s: NetConn is a %T", name, below)
		}
		if err := conn.(writeCloser).CloseWrite(); err != nil {
			t.Errorf("%s: CloseWrite: %v", name, err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
		if got := nonzero(c)["upstream_cx_destroy"]; got != 1 {
			t.Errorf("%s: got %d destroyed, want 1", name, got)
		}
	}
}

// TestConn_copies copies from and to counted connections, with and without ReadFrom and WriteTo.
func TestConn_copies(t *testing.T) {
	for name, fast := range map[string]bool{"TCP": true, "plain": false} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			far, bad := l.Accept()
			if bad == nil {
				_, bad = io.Copy(far, far)
				_ = far.Close()
			}
			served <- bad
		}()
		dialed, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = dialed.SetDeadline(time.Now().Add(10 * time.Second))
		tcp, _ := dialed.(*net.TCPConn)
		if !fast {
			dialed = struct {
				bare
				writeCloser
			}{bare{tcp}, tcp}
		}
		conn, c := countingConn(t, dialed)
		const soup = "a soup of leeks"
		sent, err := conn.(io.ReaderFrom).ReadFrom(strings.NewReader(soup))
		if err != nil {
			t.Error(err)
		}
		if err = conn.(writeCloser).CloseWrite(); err != nil {
			t.Error(err)
		}
		var b strings.Builder
		read, err := io.Copy(&b, conn)
		if err != nil || b.String() != soup || sent != int64(len(soup)) || read != sent {
			t.Errorf("%s: got %q, %v; sent %d, read %d", name, b.String(), err, sent, read)
		}
		_ = conn.Close()
		found := nonzero(c)
		if found["upstream_cx_tx_bytes_total"] != uint64(sent) || found["upstream_cx_rx_bytes_total"] != uint64(sent) {
			t.Errorf("%s: got %d and %d bytes, want %d", name, found["upstream_cx_tx_bytes_total"], found["upstream_cx_rx_bytes_total"], sent)
		}
		if found["upstream_cx_destroy_remote"] != 1 {
			t.Errorf("%s: got %v, want an end by the peer", name, found)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = l.Close()
	}
}

// TestUpgradeKeepsHalfClose closes one half of an upgraded connection of the upstream's own
// transport, and reads from the other.
func TestUpgradeKeepsHalfClose(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		text, err := io.ReadAll(rw) // until the half-close
		_, _ = conn.Write(append(text, " all read"...))
		if err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := u.Transport(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %d and a %T", resp.StatusCode, resp.Body)
	}
	if _, err = io.WriteString(rw, "soup,"); err != nil {
		t.Fatal(err)
	}
	half, ok := rw.(writeCloser)
	if !ok {
		t.Fatalf("a %T has no CloseWrite", rw)
	}
	if err = half.CloseWrite(); err != nil {
		t.Fatalf("CloseWrite: %v", err)
	}
	text, err := bufio.NewReader(rw).ReadString('d')
	if err != nil || text != "soup, all read" {
		t.Errorf("got %q and %v, want the server's response after the half-close", text, err)
	}
}

// TestInstrumentDial_breaks checks the statistics of a dialer that breaks its contract.
func TestInstrumentDial_breaks(t *testing.T) {
	c := registry(t, Settings{}).Cluster("recipes")
	nothing := c.InstrumentDial(func(context.Context, string, string) (net.Conn, error) { return nil, nil })
	if conn, err := nothing(t.Context(), "tcp", "x:80"); conn != nil || !errors.Is(err, errDial) {
		t.Errorf("nothing: got %v, %v; want %v", conn, err, errDial)
	}
	func() {
		defer func() {
			if got := recover(); got != "soup" {
				t.Errorf("got panic %v, want soup", got)
			}
		}()
		_, _ = c.InstrumentDial(func(context.Context, string, string) (net.Conn, error) { panic("soup") })(t.Context(), "tcp", "x:80")
	}()
	found := nonzero(c)
	for name, want := range map[string]uint64{"upstream_cx_total": 2, "upstream_cx_connect_fail": 2, "upstream_cx_destroy": 2, "upstream_cx_active": 0} {
		if found[name] != want {
			t.Errorf("got %d of %s, want %d", found[name], name, want)
		}
	}
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	conn, err := c.InstrumentDial(nil)(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatalf("a nil dialer: %v", err)
	}
	_ = conn.Close()
}

// TestNeverRows checks the rows of things that net/http never does to connections. A row is absent
// if net/http could do it unseen.
func TestNeverRows(t *testing.T) {
	for limit, want := range map[int]bool{0: true, 5: false} {
		r := registry(t, Settings{})
		r.Cluster("recipes").InstrumentTransport(&http.Transport{MaxConnsPerHost: limit})
		text := page(t, r, "/stats")
		for _, name := range neverConnections {
			if !strings.Contains(text, "cluster.recipes."+name+": 0\n") {
				t.Errorf("no row of %s", name)
			}
		}
		if got := strings.Contains(text, "cluster.recipes.upstream_cx_overflow: 0\n"); got != want {
			t.Errorf("upstream_cx_overflow with a limit of %d: got %v, want %v", limit, got, want)
		}
	}
	r := registry(t, Settings{})
	upstream(t, Config{Registry: r})
	text := page(t, r, "/stats")
	for _, name := range neverCalls {
		if !strings.Contains(text, "cluster.recipes."+name+": 0\n") {
			t.Errorf("no row of %s", name)
		}
	}
}
