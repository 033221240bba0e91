package cluster_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// server starts a host that responds with its name.
func server(t *testing.T, name string) (address string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Seen-Host", r.Host)
		io.WriteString(w, name)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), requests
}

// upstream makes an upstream.
func upstream(t *testing.T, policies ...pillion.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// made makes a cluster that is closed at the end of the test.
func made(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	c, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// get makes a call and returns its body.
func get(t *testing.T, u *pillion.Upstream) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes.internal/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := u.Transport(nil).RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestCluster_roundRobin sends calls to the hosts in turn, with the caller's Host.
func TestCluster_roundRobin(t *testing.T) {
	a, _ := server(t, "a")
	b, _ := server(t, "b")
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(a, b), Rand: func() uint64 { return 0 }})
	u := upstream(t, c)
	var got []string
	for range 4 {
		body, err := get(t, u)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, body)
	}
	if diff := cmp.Diff([]string{"a", "b", "a", "b"}, got); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	for _, h := range c.Hosts() {
		if h.Health != cluster.Healthy || h.Flags != "healthy" || h.Active != 0 {
			t.Errorf("got %+v, want an idle healthy host", h)
		}
	}
}

// TestCluster_noHosts refuses a call with Envoy's detail.
func TestCluster_noHosts(t *testing.T) {
	u := upstream(t, made(t, cluster.Config{}))
	ctx, info := pillion.WithInfo(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes.internal/", nil)
	_, err := u.Transport(nil).RoundTrip(req)
	if !errors.Is(err, cluster.ErrNoHosts) || err.Error() != "cluster: recipes: no healthy upstream: no host can be picked" {
		t.Errorf("got %v, want no healthy upstream", err)
	}
	if got := info.Flags().String() + " " + info.Detail().String(); got != "UH no_healthy_upstream" {
		t.Errorf("got %q, want UH no_healthy_upstream", got)
	}
}

// TestCluster_refused reports a host that does not listen as a failed connect.
func TestCluster_refused(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	address := strings.TrimPrefix(s.URL, "http://")
	s.Close()
	u := upstream(t, made(t, cluster.Config{Endpoints: cluster.Addresses(address)}))
	_, err := get(t, u)
	var failed *pillion.UpstreamError
	if !errors.As(err, &failed) || failed.Flags.String() != "UF" {
		t.Errorf("got %v, want an UpstreamError with UF", err)
	}
}

// TestCluster_limits refuses calls beyond the limits of the pool.
func TestCluster_limits(t *testing.T) {
	block, arrived := make(chan struct{}), make(chan struct{}, 1)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-block
	}))
	t.Cleanup(s.Close)
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(strings.TrimPrefix(s.URL, "http://"))})
	stat := stats{}
	u := upstream(t, stat, limits.Config{MaxConnections: 1, MaxPendingRequests: 1}, c)
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := get(t, u)
			done <- err
		}()
		if i == 0 {
			<-arrived
		}
	}
	testtime.Eventually(t, func() bool { return stat["upstream_rq_pending_active"]() == 1 })
	_, err := get(t, u)
	var full *limits.FullError
	if !errors.As(err, &full) || full.Limit != "max_pending_requests" || full.Max != 1 {
		t.Errorf("got %v, want max_pending_requests of 1", err)
	}
	close(block)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestTransport_base returns an error for a base transport together with a cluster.
func TestTransport_base(t *testing.T) {
	a, requests := server(t, "a")
	u := upstream(t, made(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	client := &http.Client{Transport: u.Transport(http.DefaultTransport)}
	if resp, err := client.Get("http://" + a); err == nil || !strings.Contains(err.Error(), "write Transport(nil)") {
		t.Errorf("got %v, %v, want an error that says what to write", resp, err)
	}
	if requests.Load() != 0 {
		t.Error("got a request, want none")
	}
}

// TestUpdate_keepsCalls replaces the hosts repeatedly. No call fails.
func TestUpdate_keepsCalls(t *testing.T) {
	a, _ := server(t, "a")
	b, _ := server(t, "b")
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(a)})
	u := upstream(t, c)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := c.Update(cluster.Addresses([]string{a, b}[i%2])); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 300 {
		if _, err := get(t, u); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-done
}

// stats is a policy that collects the statistics of the policies inside it.
type stats map[string]func() uint64

func (s stats) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stats(func(of policy.Stat) error {
		s[of.Name] = of.Read
		return nil
	})
	return next, nil
}
