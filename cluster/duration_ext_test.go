package cluster_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
)

// TestMaxStreamDuration ends attempts that exceed the limit before or during their response.
func TestMaxStreamDuration(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "so far")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	stat := stats{}
	u := upstream(t, stat, made(t, cluster.Config{Endpoints: cluster.Addresses(strings.TrimPrefix(s.URL, "http://")), MaxStreamDuration: 30 * time.Millisecond}))
	for n, path := range []string{"/", "/body"} {
		ctx, info := pillion.WithInfo(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes"+path, nil)
		resp, err := u.Transport(nil).RoundTrip(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil || info.Flags().String() != "UMSDR" || info.Detail() != cluster.MaxStreamDuration {
			t.Errorf("%s: got %v, %v, want UMSDR", path, err, info.Flags())
		}
		if got := stat["upstream_rq_max_duration_reached"](); got != uint64(n+1) {
			t.Errorf("%s: got %d, want %d", path, got, n+1)
		}
	}
	if stat["upstream_rq_active"]() != 0 {
		t.Error("got an active request, want none")
	}
}
