package metrics

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestWire makes one call over real sockets, through the upstream's own transport, and compares the
// statistics of broken attempts with those of Envoy 1.40.0 for the same call.
func TestWire(t *testing.T) {
	const local, remote, both = "upstream_cx_destroy_local_with_active_rq", "upstream_cx_destroy_remote_with_active_rq", "upstream_cx_destroy_with_active_rq"
	hang := func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }
	reset := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
	for _, tc := range []struct {
		name  string
		http2 bool
		serve http.HandlerFunc
		want  map[string]uint64
	}{
		{"a good response", false, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") }, nil},
		{"timed out", false, hang, map[string]uint64{local: 1, both: 1}},
		{"timed out over HTTP/2", true, hang, map[string]uint64{"upstream_rq_tx_reset": 1}},
		{"reset", false, reset, map[string]uint64{remote: 1, both: 1}},
		{"reset over HTTP/2", true, reset, map[string]uint64{"upstream_rq_rx_reset": 1}},
		{"malformed", false, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "SOUP\r\n\r\n")
			_ = conn.Close()
		}, map[string]uint64{local: 1, both: 1, "upstream_cx_protocol_error": 1}},
		{"cut short", false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "soup")
		}, map[string]uint64{remote: 1, both: 1, "upstream_cx_protocol_error": 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(tc.serve)
			server.Config.Protocols = &http.Protocols{}
			server.Config.Protocols.SetHTTP1(!tc.http2)
			server.Config.Protocols.SetUnencryptedHTTP2(tc.http2)
			server.Start()
			defer server.Close()
			r := registry(t, Settings{})
			u := upstream(t, Config{Registry: r}, timeout.Config{Total: 300 * time.Millisecond})
			base := &http.Transport{Protocols: server.Config.Protocols}
			counted := r.Cluster("recipes").InstrumentTransport(base)
			defer counted.CloseIdleConnections()
			fetch(t, u.Transport(counted), server.URL)
			got := map[string]uint64{}
			for name, n := range nonzero(r.Cluster("recipes")) {
				if strings.Contains(name, "active_rq") || strings.HasSuffix(name, "x_reset") || strings.HasSuffix(name, "protocol_error") {
					got[name] = n
				}
			}
			want := tc.want
			if want == nil {
				want = map[string]uint64{}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-Envoy +here):\n%s", diff)
			}
		})
	}
}

// fetch makes a request and ignores its result.
func fetch(t *testing.T, rt http.RoundTripper, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// TestWire_discarded checks that the connection of a response discarded for a retry is kept. Envoy
// closes it.
func TestWire_discarded(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "soup")
	}))
	defer server.Close()
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r}, pillion.Options{}, retry.Config{On: "5xx", NumRetries: 1, BaseInterval: time.Millisecond})
	fetch(t, u.Transport(nil), server.URL)
	found := nonzero(r.Cluster("recipes"))
	for name, want := range map[string]uint64{
		"upstream_rq_total": 2, "upstream_cx_total": 1, "upstream_cx_destroy_with_active_rq": 0, "upstream_rq_200": 1, "retry.upstream_rq_503": 1,
	} {
		if found[name] != want {
			t.Errorf("got %d of %s, want %d", found[name], name, want)
		}
	}
}
