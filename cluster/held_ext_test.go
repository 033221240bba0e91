package cluster_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
)

// TestMaxStreamDuration_notRead frees the slot of a response whose caller neither reads nor closes it.
func TestMaxStreamDuration_notRead(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "so far")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	stat := stats{}
	u := upstream(t, stat, limits.Config{MaxRequests: 1},
		made(t, cluster.Config{Endpoints: cluster.Addresses(strings.TrimPrefix(s.URL, "http://")), MaxStreamDuration: 30 * time.Millisecond}))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes/", nil)
	resp, err := u.Transport(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for deadline := time.Now().Add(5 * time.Second); stat["upstream_rq_active"]() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the attempt holds its slot after its time is over")
		}
	}
	if got := stat["upstream_rq_max_duration_reached"](); got != 1 {
		t.Errorf("got %d, want 1", got)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("got no error of the body")
	}
}
